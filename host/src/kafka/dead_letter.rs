//! Dead letters: the record unchanged, with the headers that Spring Kafka's `DeadLetterPublishingRecoverer` writes.
//!
//! Names and encodings are Spring Kafka's (`KafkaHeaders.DLT_*`): text in UTF-8, numbers big-endian. The record's
//! key, value and own headers are never touched.

use bytes::Bytes;
use serde_json::Value as Json;

use crate::deploy::manifest::Spec;
use crate::id::Seed;
use crate::ledger::outbox::{Event, EventKind};
use crate::policy::Failure;
use crate::record::{Header, Record, Timestamp, last_header};
use crate::settings::DeadLetterPartition;

/// What the names of its headers begin with.
const PREFIX: &str = "kafka_dlt-";
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
        name: format!("{PREFIX}{name}"),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let number = |name: &str, value: &[u8]| Header {
        name: format!("{PREFIX}{name}"),
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

/// What a dead letter was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// The record as its handler was given it.
    pub record: Record,
    /// How its attempts ended, oldest first, as a JSON array; none where it is not ours.
    pub errors: Option<String>,
}

/// The record that a dead letter was; `None` if it is none.
///
/// # Errors
/// A header that says where it comes from is missing or has another length.
pub fn original(letter: &Record) -> Result<Option<Original>, String> {
    // Where a name repeats the last one counts: a record may have come with such headers already.
    let of = |name: &str| last_header(&letter.headers, &format!("{PREFIX}{name}"));
    let Some(topic) = of("original-topic") else { return Ok(None) };
    let wrong = |name: &str| format!("the dead letter's header {PREFIX}{name} is missing, or not as Kafka writes it");
    let number = |name: &str| Some(i64::from_be_bytes(of(name)?.try_into().ok()?));
    let topic = std::str::from_utf8(topic).map_err(|_| wrong("original-topic"))?;
    let partition = of("original-partition").and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    let at = number("original-timestamp").filter(|at| *at >= 0);
    let errors = of("exception-stacktrace").and_then(|text| std::str::from_utf8(text).ok());
    Ok(Some(Original {
        record: Record {
            topic: topic.into(),
            partition: partition.ok_or_else(|| wrong("original-partition"))?,
            offset: number("original-offset").ok_or_else(|| wrong("original-offset"))?,
            timestamp: match (at, of("original-timestamp-type")) {
                (None, _) => Timestamp::None,
                (Some(at), Some(b"LogAppendTime")) => Timestamp::LogAppendTime(at),
                (Some(at), _) => Timestamp::CreateTime(at),
            },
            key: letter.key.clone(),
            value: letter.value.clone(),
            headers: letter.headers.iter().filter(|header| !header.name.starts_with(PREFIX)).cloned().collect(),
        },
        errors: errors.filter(|text| serde_json::from_str::<Vec<Json>>(text).is_ok()).map(str::to_owned),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(name: &str, value: &[u8]) -> Header {
        Header { name: name.into(), value: Some(Bytes::copy_from_slice(value)) }
    }

    #[test]
    fn s0_3_a_dead_letter_tells_the_record_that_it_was() {
        let plain = Record {
            topic: "orders.DLT".into(),
            partition: 0,
            offset: 3,
            timestamp: Timestamp::CreateTime(9),
            key: Some("7".into()),
            value: None,
            headers: vec![header("trace", b"1")],
        };
        assert_eq!(original(&plain), Ok(None));
        let mut letter = plain.clone();
        letter.headers.extend([
            header("kafka_dlt-original-topic", b"orders"),
            header("kafka_dlt-original-partition", &2i32.to_be_bytes()),
            header("kafka_dlt-original-offset", &41i64.to_be_bytes()),
            header("kafka_dlt-original-timestamp", &5i64.to_be_bytes()),
            header("kafka_dlt-original-timestamp-type", b"LogAppendTime"),
            header("kafka_dlt-exception-stacktrace", b"[{\"attempt\":2}]"),
        ]);
        let was = original(&letter).unwrap().unwrap();
        let expected = Record {
            topic: "orders".into(),
            partition: 2,
            offset: 41,
            timestamp: Timestamp::LogAppendTime(5),
            ..plain
        };
        assert_eq!((was.record, was.errors.as_deref()), (expected, Some("[{\"attempt\":2}]")));
        letter.headers.retain(|header| header.name != "kafka_dlt-original-offset");
        assert!(original(&letter).unwrap_err().contains("kafka_dlt-original-offset"));
        letter.headers.push(header("kafka_dlt-original-offset", b"41"));
        assert!(original(&letter).unwrap_err().contains("kafka_dlt-original-offset"));
    }
}
