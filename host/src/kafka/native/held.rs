//! A client that is given tokens for as long as it is there, and not a moment longer.
//!
//! Its invariant: whoever gives a token holds the lock under which the client leaves. It makes no client, and asks Kafka nothing.

use std::ffi::{CString, c_char};
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::bindings;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;

use super::ErrorText;
use crate::kafka::login::Token;

/// What owns a client from when it is made until it is dropped, and has no other one meanwhile.
pub trait Holder {
    /// The client's.
    type Context: ClientContext;
    /// The client.
    fn held(&self) -> &Client<Self::Context>;
}

impl<C: ClientContext> Holder for Client<C> {
    type Context = C;
    fn held(&self) -> &Client<C> {
        self
    }
}

impl<C: ConsumerContext> Holder for BaseConsumer<C> {
    type Context = C;
    fn held(&self) -> &Client<C> {
        self.client()
    }
}

impl<C: ProducerContext> Holder for BaseProducer<C> {
    type Context = C;
    fn held(&self) -> &Client<C> {
        self.client()
    }
}

impl<C: ProducerContext + 'static> Holder for ThreadedProducer<C> {
    type Context = C;
    fn held(&self) -> &Client<C> {
        self.client()
    }
}

/// A client's place with those that are given a token; empty once the client goes.
pub(in crate::kafka) struct Seat(Mutex<Option<ptr::NonNull<bindings::rd_kafka_t>>>);

// SAFETY: librdkafka's clients may be called from any thread, and the pointer is used under the lock only.
unsafe impl Send for Seat {}
// SAFETY: the same.
unsafe impl Sync for Seat {}

impl Seat {
    /// Gives the client a token, unless it has gone.
    pub(in crate::kafka) fn give(&self, token: &Token) -> Result<(), String> {
        let seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(client) = *seat else { return Ok(()) };
        let c = |text: &str| CString::new(text).map_err(|_| "it holds a zero byte".to_owned());
        let (value, principal) = (c(&token.text)?, c(&token.principal)?);
        let extensions = token.extensions.iter().flat_map(|(name, value)| [c(name), c(value)]);
        let extensions = extensions.collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*const c_char> = extensions.iter().map(|text| text.as_ptr()).collect();
        let mut reason = ErrorText::new();
        // SAFETY: the client is there while its seat is taken, and leaves it under the lock that is held here. All texts are valid C
        // strings that outlive the call, which copies them; `pointers` are as many as said.
        let code = unsafe {
            bindings::rd_kafka_oauthbearer_set_token(
                client.as_ptr(),
                value.as_ptr(),
                token.expires,
                principal.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                reason.as_mut_ptr(),
                reason.capacity(),
            )
        };
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(reason.to_text()) }
    }
}

/// A client that is given tokens while it is there, where Kafka wants one.
pub struct Kept<T> {
    seat: Option<Arc<Seat>>,
    client: T,
}

impl<T> Kept<T> {
    /// One that needs no token.
    pub(in crate::kafka) fn alone(client: T) -> Self {
        Self { seat: None, client }
    }

    pub(in crate::kafka) fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.as_ref()
    }
}

impl<T: Holder> Kept<T> {
    /// One that takes a seat.
    pub(in crate::kafka) fn seated(client: T) -> Self {
        let seat = Seat(Mutex::new(ptr::NonNull::new(client.held().native_ptr())));
        Self { seat: Some(Arc::new(seat)), client }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.client
    }
}

impl<T> Drop for Kept<T> {
    /// Leaves the seat before the client goes, which happens after this.
    fn drop(&mut self) {
        if let Some(seat) = &self.seat {
            *seat.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}
