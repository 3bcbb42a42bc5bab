//! Dead letters: the record unchanged, with the headers that Spring Kafka's `DeadLetterPublishingRecoverer` writes.
//!
//! Names and encodings are Spring Kafka's (`KafkaHeaders.DLT_*`): text in UTF-8, numbers big-endian. The record's
//! key, value and own headers are never touched.

use bytes::Bytes;

use crate::deploy::manifest::Spec;
use crate::id::Seed;
use crate::ledger::outbox::{Event, EventKind};
use crate::policy::Failure;
use crate::record::{Header, Record};
use crate::settings::DeadLetterPartition;

const ORIGINAL_TOPIC: &str = "kafka_dlt-original-topic";

/// Whether a record came from a dead letter topic. Then it never goes to another one.
pub fn is_dead_letter(record: &Record) -> bool {
    record.headers.iter().any(|h| h.name == ORIGINAL_TOPIC || h.name == "kafka_original-topic")
}

/// The dead letter that a record becomes. `errors` is the history of its attempts.
pub fn event(spec: &Spec, seed: &Seed, record: &Record, failure: &Failure, errors: &str) -> Event {
    let timestamp = record.timestamp.millis();
    let cause = format!("tidemill.{:?}", failure.outcome);
    let text = |name: &str, value: &str| Header {
        name: format!("kafka_dlt-{name}"),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let number = |name: &str, value: &[u8]| Header {
        name: format!("kafka_dlt-{name}"),
        value: Some(Bytes::copy_from_slice(value)),
    };
    let mut headers = record.headers.clone();
    headers.extend([
        text("original-topic", &record.topic),
        number("original-partition", &record.partition.to_be_bytes()),
        number("original-offset", &record.offset.to_be_bytes()),
        number("original-timestamp", &timestamp.unwrap_or(-1).to_be_bytes()),
        text("original-timestamp-type", record.timestamp.type_name()),
        text("original-consumer-group", &spec.group),
        text("exception-fqcn", "tidemill.DeliveryFailed"),
        text("exception-cause-fqcn", &cause),
        text("exception-message", &failure.message),
        text("exception-stacktrace", errors),
    ]);
    Event {
        event_id: seed.dead_letter_id(timestamp.unwrap_or(0)).to_string(),
        event_type: "DEAD_LETTER".into(),
        topic: spec.dead_letter.topic.replace("{topic}", &record.topic),
        partition: Some(match spec.dead_letter.partition {
            DeadLetterPartition::Same => record.partition,
            DeadLetterPartition::Fixed(partition) => partition,
        }),
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
        kind: EventKind::DeadLetter { partitions: spec.dead_letter.partitions, replicas: spec.dead_letter.replicas },
        not_before: None,
    }
}
