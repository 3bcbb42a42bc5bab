//! One admin request: its options, its queue, and the one event that answers it.
//!
//! Its invariant: each is freed once, when the request is dropped, also where the answer comes too late. It knows no operation.

use std::ffi::c_char;
use std::time::Duration;

use rdkafka::bindings::{self, rd_kafka_admin_op_t, rd_kafka_event_t, rd_kafka_queue_t};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::{ErrorText, Failure, text};

/// librdkafka reports on time; this is for a call that it lost.
const GRACE: Duration = Duration::from_secs(2);

/// Options and queue of one admin request.
pub(super) struct Request {
    pub(super) options: *mut bindings::rd_kafka_AdminOptions_t,
    pub(super) queue: *mut rd_kafka_queue_t,
    timeout: Duration,
}

impl Request {
    pub(super) fn new<C: ClientContext>(
        client: &Client<C>,
        operation: rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let creates = matches!(operation, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS);
        // SAFETY: the client is alive for the whole of a request, since every caller borrows it for as long.
        let request = unsafe {
            Self {
                options: bindings::rd_kafka_AdminOptions_new(client.native_ptr(), operation),
                queue: bindings::rd_kafka_queue_new(client.native_ptr()),
                timeout,
            }
        };
        if request.options.is_null() || request.queue.is_null() {
            return Err(Failure::invalid("librdkafka does not know the request"));
        }
        let millis = millis(timeout);
        // SAFETY: options and buffer are alive for the call, and the length is the buffer's.
        request.set(|options, said, len| unsafe {
            bindings::rd_kafka_AdminOptions_set_request_timeout(options, millis, said, len)
        })?;
        if creates {
            // SAFETY: as above; this operation has the option.
            request.set(|options, said, len| unsafe {
                bindings::rd_kafka_AdminOptions_set_operation_timeout(options, millis, said, len)
            })?;
        }
        Ok(request)
    }

    pub(super) fn ask(&self, broker: i32) -> Result<(), Failure> {
        // SAFETY: options and buffer are alive for the call, and the length is the buffer's.
        self.set(|options, said, len| unsafe { bindings::rd_kafka_AdminOptions_set_broker(options, broker, said, len) })
    }

    fn set(
        &self,
        option: impl FnOnce(*mut bindings::rd_kafka_AdminOptions_t, *mut c_char, usize) -> RDKafkaRespErr,
    ) -> Result<(), Failure> {
        let mut said = ErrorText::new();
        match option(self.options, said.as_mut_ptr(), said.capacity()) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            _ => Err(Failure::invalid(said.to_text())),
        }
    }

    /// The request's one event, if it is not an error.
    pub(super) fn wait(&self) -> Result<Event, Failure> {
        // SAFETY: the queue is alive; the event is ours, and freed by `Event`.
        let event = Event(unsafe { bindings::rd_kafka_queue_poll(self.queue, millis(self.timeout + GRACE)) });
        if event.0.is_null() {
            let reason = format!("no answer within {:?}", self.timeout);
            return Err(Failure { code: RDKafkaErrorCode::OperationTimedOut, reason });
        }
        // SAFETY: the event is not null and alive; its text belongs to it and is copied.
        unsafe {
            let code = RDKafkaErrorCode::from(bindings::rd_kafka_event_error(event.0));
            if code == RDKafkaErrorCode::NoError {
                return Ok(event);
            }
            Err(Failure { code, reason: text(bindings::rd_kafka_event_error_string(event.0)) })
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: both are ours, freed here only, and checked for null. A late event dies with the queue.
        unsafe {
            if !self.options.is_null() {
                bindings::rd_kafka_AdminOptions_destroy(self.options);
            }
            if !self.queue.is_null() {
                bindings::rd_kafka_queue_destroy(self.queue);
            }
        }
    }
}

/// An event of ours; may be null.
pub(super) struct Event(pub(super) *mut rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it came from `rd_kafka_queue_poll`, and is freed here only.
            unsafe { bindings::rd_kafka_event_destroy(self.0) }
        }
    }
}

fn millis(duration: Duration) -> i32 {
    // 0 would mean librdkafka's own default.
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX).max(1)
}
