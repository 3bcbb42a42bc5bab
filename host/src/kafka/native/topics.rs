//! What the cluster says of topics, and a topic that is made.
//!
//! What is there is never changed, and no topic is made by asking.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CString, c_char};
use std::time::Duration;

use rdkafka::bindings::{self, rd_kafka_ResourceType_t, rd_kafka_admin_op_t};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;

use super::request::Request;
use super::{ErrorText, Failure, text};

/// What the cluster said of one topic.
pub(in crate::kafka) struct Described {
    pub(in crate::kafka) name: String,
    pub(in crate::kafka) outcome: Result<Found, RDKafkaErrorCode>,
}

/// A topic that is there.
pub(in crate::kafka) struct Found {
    /// `None` from a broker without topic ids.
    pub(in crate::kafka) id: Option<String>,
    pub(in crate::kafka) partitions: i32,
}

/// Asks for topics by name. Creates none. `broker` is the one to ask; without it librdkafka asks the controller.
pub(in crate::kafka) fn describe_topics<C: ClientContext>(
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

/// Asks for the settings of topics, each by its name. One that cannot be asked for is not in the map; if none can, it is an error.
pub(in crate::kafka) fn describe_configs<C: ClientContext>(
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
pub(in crate::kafka) fn create_topic<C: ClientContext>(
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
