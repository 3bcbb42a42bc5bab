//! librdkafka's calls that the host needs and rust-rdkafka does not wrap, or only with a thread or a panic of its own.
//!
//! All `unsafe` of the Kafka modules is here. Each call makes a queue, waits on it, and has freed every event, queue
//! and list when it returns; nothing native gets out.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{ptr, slice};

use bytes::Bytes;
use rdkafka::bindings::{self, rd_kafka_ResourceType_t, rd_kafka_admin_op_t, rd_kafka_event_t, rd_kafka_queue_t};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedHeaders;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::login::Token;
use crate::record::Header;

/// The code of a topic that is not there.
pub(super) const UNKNOWN_TOPIC: RDKafkaErrorCode = RDKafkaErrorCode::UnknownTopicOrPartition;

/// For [`list_offsets`]: the first offset that is there.
pub(super) const BEGIN: i64 = -2;
/// For [`list_offsets`]: the offset that the next record will get.
pub(super) const END: i64 = -1;
/// For [`list_places`]: the record with the latest time (KIP-734).
const NEWEST: i64 = -3;

/// librdkafka reports on time; this is for a call that it lost.
const GRACE: Duration = Duration::from_secs(2);

/// What the cluster said of one topic.
pub(super) struct Described {
    pub(super) name: String,
    pub(super) outcome: Result<Found, RDKafkaErrorCode>,
}

/// A topic that is there.
pub(super) struct Found {
    /// `None` from a broker without topic ids.
    pub(super) id: Option<String>,
    pub(super) partitions: i32,
}

/// A request that failed as a whole or, for a topic to be created, for that topic.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason} ({code})")]
pub(super) struct Failure {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
}

impl Failure {
    fn invalid(reason: impl Into<String>) -> Self {
        Self { code: RDKafkaErrorCode::InvalidArgument, reason: reason.into() }
    }
}

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
pub(super) struct Seat(Mutex<Option<ptr::NonNull<bindings::rd_kafka_t>>>);

// SAFETY: librdkafka's clients may be called from any thread, and the pointer is used under the lock only.
unsafe impl Send for Seat {}
// SAFETY: the same.
unsafe impl Sync for Seat {}

impl Seat {
    /// Gives the client a token, unless it has gone.
    pub(super) fn give(&self, token: &Token) -> Result<(), String> {
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
    pub(super) fn alone(client: T) -> Self {
        Self { seat: None, client }
    }

    pub(super) fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.as_ref()
    }
}

impl<T: Holder> Kept<T> {
    /// One that takes a seat.
    pub(super) fn seated(client: T) -> Self {
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

/// A record's headers. Kafka's names are UTF-8, but no broker checks that: bytes that are not become U+FFFD.
pub fn headers(of: &BorrowedHeaders) -> Vec<Header> {
    let headers = ptr::from_ref(of).cast();
    // SAFETY: `BorrowedHeaders` is rust-rdkafka's name for librdkafka's headers, at whose address it is. What is got
    // from them points into the message, which `of` borrows, and is copied here.
    unsafe {
        let count = bindings::rd_kafka_header_cnt(headers);
        let get = |i| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let code = bindings::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut size);
            (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| {
                let bytes = |value: *const c_void| Bytes::copy_from_slice(slice::from_raw_parts(value.cast(), size));
                Header { name: text(name), value: (!value.is_null()).then(|| bytes(value)) }
            })
        };
        (0..count).map_while(get).collect()
    }
}

/// Asks for topics by name. Creates none. `broker` is the one to ask; without it librdkafka asks the controller.
pub(super) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    broker: Option<i32>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<Described>, Failure> {
    // librdkafka refuses a name that stands twice.
    let topics: BTreeSet<&str> = topics.iter().copied().collect();
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let names = topics
        .into_iter()
        .map(|name| CString::new(name).map_err(|_| Failure::invalid(format!("{name:?} holds a zero byte"))))
        .collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let request = Request::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
    if let Some(broker) = broker {
        request.ask(broker)?;
    }
    // SAFETY: `pointers` are as many valid C strings as said, which the collection copies; the collection lives until
    // the call has copied it in turn, and is then freed once. Client, options and queue outlive the call.
    unsafe {
        let collection = bindings::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        bindings::rd_kafka_DescribeTopics(client.native_ptr(), collection, request.options, request.queue);
        bindings::rd_kafka_TopicCollection_destroy(collection);
    }
    let event = request.wait()?;
    // SAFETY: the event is alive to the end of this function, and owns the result and everything reached from it.
    // Its type was asked for by `rd_kafka_event_DescribeTopics_result`, which gives null for another.
    unsafe {
        let result = bindings::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(Failure::invalid("librdkafka answered DescribeTopics with another event"));
        }
        let mut count = 0;
        let list = bindings::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        Ok((0..count).map(|i| described(*list.add(i))).collect())
    }
}

/// # Safety
/// `topic` must point to a description whose event is alive.
unsafe fn described(topic: *const bindings::rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: by the caller's promise; each getter gives a pointer into the description, or null.
    unsafe {
        let name = text(bindings::rd_kafka_TopicDescription_name(topic));
        let error = bindings::rd_kafka_TopicDescription_error(topic);
        let code = if error.is_null() {
            RDKafkaErrorCode::NoError
        } else {
            RDKafkaErrorCode::from(bindings::rd_kafka_error_code(error))
        };
        if code != RDKafkaErrorCode::NoError {
            return Described { name, outcome: Err(code) };
        }
        let mut partitions = 0;
        bindings::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let uuid = bindings::rd_kafka_TopicDescription_topic_id(topic);
        let zero = uuid.is_null()
            || (bindings::rd_kafka_Uuid_most_significant_bits(uuid) == 0
                && bindings::rd_kafka_Uuid_least_significant_bits(uuid) == 0);
        // librdkafka writes the plain alphabet of base64; Kafka's own tools the one for URLs.
        let id = (!zero).then(|| text(bindings::rd_kafka_Uuid_base64str(uuid)).replace('+', "-").replace('/', "_"));
        Described { name, outcome: Ok(Found { id, partitions: i32::try_from(partitions).unwrap_or(i32::MAX) }) }
    }
}

/// Asks for an offset of each partition: [`END`], or the first of a time in milliseconds since the Unix epoch (-1
/// where no record is that late). Whatever a transaction has written counts, also while it is open. A partition that
/// does not answer is not in the map.
pub(super) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(&str, i32)],
    which: i64,
    timeout: Duration,
) -> Result<HashMap<(String, i32), i64>, Failure> {
    let places = list_places(client, partitions, which, timeout)?;
    Ok(places.into_iter().map(|(place, (offset, _))| (place, offset)).collect())
}

/// Asks for the latest time that a record of each partition has, in milliseconds since the Unix epoch; -1 where there is none.
pub(super) fn list_times<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(&str, i32)],
    timeout: Duration,
) -> Result<HashMap<(String, i32), i64>, Failure> {
    let places = list_places(client, partitions, NEWEST, timeout)?;
    Ok(places.into_iter().map(|(place, (_, time))| (place, time)).collect())
}

/// An offset, and the time of its record.
type Listed = (i64, i64);

/// An offset of each partition, and the time of its record where that is known.
fn list_places<C: ClientContext>(
    client: &Client<C>,
    partitions: &[(&str, i32)],
    which: i64,
    timeout: Duration,
) -> Result<HashMap<(String, i32), Listed>, Failure> {
    let mut found = HashMap::with_capacity(partitions.len());
    if partitions.is_empty() {
        return Ok(found);
    }
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    let request = Request::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout)?;
    // SAFETY: the list is alive for the call, which copies it, and nobody else has it; its elements are as many as it
    // says. Client, options and queue outlive the call.
    unsafe {
        let native = &mut *list.ptr();
        for i in 0..usize::try_from(native.cnt).unwrap_or(0) {
            (*native.elems.add(i)).offset = which;
        }
        bindings::rd_kafka_ListOffsets(client.native_ptr(), native, request.options, request.queue);
    }
    let event = request.wait()?;
    // SAFETY: the event is alive to the end of this function, and owns the result and everything reached from it; null
    // is checked for, and what is kept is copied.
    unsafe {
        let result = bindings::rd_kafka_event_ListOffsets_result(event.0);
        if result.is_null() {
            return Err(Failure::invalid("librdkafka answered ListOffsets with another event"));
        }
        let mut count = 0;
        let infos = bindings::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for i in 0..count {
            let place = &*bindings::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
            if place.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let time = bindings::rd_kafka_ListOffsetsResultInfo_timestamp(*infos.add(i));
                found.insert((text(place.topic), place.partition), (place.offset, time));
            }
        }
    }
    Ok(found)
}

/// Asks for the settings of topics, each by its name. One that cannot be asked for is not in the map; if none can, it is an error.
pub(super) fn describe_configs<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, HashMap<String, String>>, Failure> {
    let mut found = HashMap::new();
    if topics.is_empty() {
        return Ok(found);
    }
    let names = topics
        .iter()
        .map(|name| CString::new(*name).map_err(|_| Failure::invalid(format!("{name:?} holds a zero byte"))))
        .collect::<Result<Vec<_>, _>>()?;
    let request = Request::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout)?;
    // SAFETY: the names are valid C strings, which the resources copy; the resources are copied by the call, and each is freed
    // once. Client, options and queue outlive the call.
    unsafe {
        let topic = rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut resources: Vec<_> =
            names.iter().map(|name| bindings::rd_kafka_ConfigResource_new(topic, name.as_ptr())).collect();
        bindings::rd_kafka_DescribeConfigs(
            client.native_ptr(),
            resources.as_mut_ptr(),
            resources.len(),
            request.options,
            request.queue,
        );
        bindings::rd_kafka_ConfigResource_destroy_array(resources.as_mut_ptr(), resources.len());
    }
    let event = request.wait()?;
    let mut refused = None;
    // SAFETY: the event is alive to the end of this function, and owns the result and everything reached from it; null is
    // checked for, lists are read only as far as they go, and what is kept is copied.
    unsafe {
        let result = bindings::rd_kafka_event_DescribeConfigs_result(event.0);
        if result.is_null() {
            return Err(Failure::invalid("librdkafka answered DescribeConfigs with another event"));
        }
        let mut count = 0;
        let resources = bindings::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        for i in 0..count {
            let resource = *resources.add(i);
            let code = RDKafkaErrorCode::from(bindings::rd_kafka_ConfigResource_error(resource));
            if code != RDKafkaErrorCode::NoError {
                refused =
                    Some(Failure { code, reason: text(bindings::rd_kafka_ConfigResource_error_string(resource)) });
                continue;
            }
            let mut size = 0;
            let entries = bindings::rd_kafka_ConfigResource_configs(resource, &mut size);
            let entry = |i| {
                let entry = *entries.add(i);
                (text(bindings::rd_kafka_ConfigEntry_name(entry)), text(bindings::rd_kafka_ConfigEntry_value(entry)))
            };
            let name = text(bindings::rd_kafka_ConfigResource_name(resource));
            found.insert(name, (0..size).map(entry).collect());
        }
    }
    match refused {
        Some(failure) if found.is_empty() => Err(failure),
        _ => Ok(found),
    }
}

/// Creates one topic, and waits until the controller has done so.
pub(super) fn create_topic<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    partitions: i32,
    replicas: i32,
    timeout: Duration,
) -> Result<(), Failure> {
    let native = CString::new(name).map_err(|_| Failure::invalid(format!("{name:?} holds a zero byte")))?;
    let request = Request::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout)?;
    let mut said = ErrorText::new();
    // SAFETY: the name is a valid C string; the new topic is checked for null, copied by the call, and freed once.
    // Client, options and queue outlive the call.
    unsafe {
        let topic =
            bindings::rd_kafka_NewTopic_new(native.as_ptr(), partitions, replicas, said.as_mut_ptr(), said.capacity());
        if topic.is_null() {
            return Err(Failure::invalid(said.to_text()));
        }
        let mut topics = [topic];
        bindings::rd_kafka_CreateTopics(
            client.native_ptr(),
            topics.as_mut_ptr(),
            topics.len(),
            request.options,
            request.queue,
        );
        bindings::rd_kafka_NewTopic_destroy(topic);
    }
    let event = request.wait()?;
    // SAFETY: the event is alive to the end of this function and owns result and list; null is checked for, and the
    // list is read only as far as it goes.
    unsafe {
        let result = bindings::rd_kafka_event_CreateTopics_result(event.0);
        if result.is_null() {
            return Err(Failure::invalid("librdkafka answered CreateTopics with another event"));
        }
        let mut count = 0;
        let list = bindings::rd_kafka_CreateTopics_result_topics(result, &mut count);
        if count == 0 {
            return Err(Failure::invalid("librdkafka answered CreateTopics with no topic"));
        }
        let code = RDKafkaErrorCode::from(bindings::rd_kafka_topic_result_error(*list));
        if code == RDKafkaErrorCode::NoError {
            return Ok(());
        }
        let reason = text(bindings::rd_kafka_topic_result_error_string(*list));
        Err(Failure { code, reason: if reason.is_empty() { code.to_string() } else { reason } })
    }
}

/// Options and queue of one admin request.
struct Request {
    options: *mut bindings::rd_kafka_AdminOptions_t,
    queue: *mut rd_kafka_queue_t,
    timeout: Duration,
}

impl Request {
    fn new<C: ClientContext>(
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

    fn ask(&self, broker: i32) -> Result<(), Failure> {
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
    fn wait(&self) -> Result<Event, Failure> {
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
struct Event(*mut rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it came from `rd_kafka_queue_poll`, and is freed here only.
            unsafe { bindings::rd_kafka_event_destroy(self.0) }
        }
    }
}

/// Room for librdkafka's words on a refused argument.
struct ErrorText([u8; 512]);

impl ErrorText {
    fn new() -> Self {
        Self([0; 512])
    }

    fn as_mut_ptr(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn to_text(&self) -> String {
        CStr::from_bytes_until_nul(&self.0).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// # Safety
/// `text` must be null or a valid C string.
unsafe fn text(text: *const c_char) -> String {
    if ptr::eq(text, ptr::null()) {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn millis(duration: Duration) -> i32 {
    // 0 would mean librdkafka's own default.
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_in_order_whatever_their_names() {
        // SAFETY: the headers are made, lent out for one call and destroyed here; each name and value is copied in.
        let read = unsafe {
            let all = bindings::rd_kafka_headers_new(3);
            let add = |name: &[u8], value: Option<&[u8]>| {
                let (at, size) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len() as isize));
                bindings::rd_kafka_header_add(all, name.as_ptr().cast(), name.len() as isize, at.cast(), size);
            };
            add(b"a", Some(b"1"));
            add(b"a", None);
            add(b"\xff\xfe", Some(b""));
            let read = headers(&*all.cast_const().cast::<BorrowedHeaders>());
            bindings::rd_kafka_headers_destroy(all);
            read
        };
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: name.into(),
            value: value.map(Bytes::from_static),
        };
        let expected = [header("a", Some(b"1")), header("a", None), header("\u{fffd}\u{fffd}", Some(b""))];
        assert_eq!(read, expected);
    }
}
