//! Dead letters: the record unchanged, with the headers that Spring Kafka's `DeadLetterPublishingRecoverer` writes.
//!
//! Names and encodings are Spring Kafka's (`KafkaHeaders.DLT_*`): text in UTF-8, numbers big-endian. The record's
//! key, value and own headers are never touched.

use bytes::Bytes;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::deploy::manifest::Spec;
use crate::id::Seed;
use crate::ledger::outbox::{Event, EventKind};
use crate::policy::Failure;
use crate::record::{Header, Place, Record, Timestamp, last_header};
use crate::settings::DeadLetterPartition;
use crate::trace::{PARENT, STATE};

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
    /// The consumer group that gave it up.
    pub group: Option<String>,
    /// How its last attempt ended: an outcome's name, or an exception's where it is not ours.
    pub outcome: Option<String>,
    /// What went wrong then.
    pub message: Option<String>,
    /// When the dead letter was written, in milliseconds since the Unix epoch.
    pub written: Option<i64>,
}

/// In which header a record that is published again has the history of its attempts.
pub const HISTORY: &str = "tidemill-replay-errors";
/// In which it has the place of the dead letter.
const FROM: &str = "tidemill-replay-of";
/// What the history has in the place of an outcome where the record was put back.
const PUT_BACK: &str = "replayed";

impl Original {
    /// How its attempts ended, as far as that is known.
    pub fn attempts(&self) -> Vec<Json> {
        let known = self.errors.as_deref().and_then(|text| serde_json::from_str(text).ok());
        known.unwrap_or_else(|| vec![json!({ "at": self.written, "outcome": self.outcome, "message": self.message })])
    }

    /// When its last attempt ended, in milliseconds since the Unix epoch, if it is ours.
    pub fn failed_at(&self) -> Option<i64> {
        self.errors.as_ref().and_then(|_| self.attempts().last()?.get("at")?.as_i64())
    }

    /// The history of the record from here on, as a JSON array: `who` has put it back at `now`, in milliseconds since the Unix epoch.
    pub fn history(&self, who: &str, now: i64) -> String {
        let mut attempts = self.attempts();
        attempts.push(json!({ "at": now, "outcome": PUT_BACK, "message": format!("put back by {who}") }));
        Json::Array(attempts).to_string()
    }
}

/// The record that a dead letter at this place was, to be published again: as it came, with its history in headers of its own.
pub fn again(place: &Place, was: &Original) -> Event {
    let text = |name: &str, value: String| Header { name: name.to_owned(), value: Some(value.into()) };
    let record = &was.record;
    let mut headers = record.headers.clone();
    headers.retain(|header| ![HISTORY, FROM].contains(&&*header.name));
    headers.push(text(HISTORY, Json::Array(was.attempts()).to_string()));
    headers.push(text(FROM, place.to_string()));
    Event {
        event_id: Uuid::new_v4().to_string(),
        event_type: "REPLAYED".into(),
        topic: record.topic.to_string(),
        partition: Some(record.partition),
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
        kind: EventKind::Record,
        not_before: None,
    }
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
    let text = |name: &str| of(name).and_then(|text| std::str::from_utf8(text).ok()).map(str::to_owned);
    let errors = text("exception-stacktrace").filter(|text| serde_json::from_str::<Vec<Json>>(text).is_ok());
    let last = errors.as_ref().and_then(|text| serde_json::from_str::<Vec<Json>>(text).ok()?.pop());
    let outcome = last.and_then(|last| last.get("outcome")?.as_str().map(str::to_owned));
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
            headers: own_headers(&letter.headers),
        },
        group: text("original-consumer-group"),
        outcome: outcome.or_else(|| text("exception-cause-fqcn")).or_else(|| text("exception-fqcn")),
        message: text("exception-message"),
        written: letter.timestamp.millis(),
        errors,
    }))
}

/// Those that the record came with. Behind ours stands to which attempt's span the dead letter belongs.
fn own_headers(headers: &[Header]) -> Vec<Header> {
    let ours = headers.iter().rposition(|header| header.name == ORIGINAL_TOPIC).unwrap_or(headers.len());
    let of_attempt = |at: usize, header: &Header| at > ours && (header.name == PARENT || header.name == STATE);
    let own = headers.iter().enumerate();
    let own = own.filter(|(at, header)| !header.name.starts_with(PREFIX) && !of_attempt(*at, header));
    own.map(|(_, header)| header.clone()).collect()
}

/// The record that one of ours was which never left the store. It may have been a dead letter itself, and has the headers of one again.
///
/// # Errors
/// A header that says where it comes from is missing, or the record itself is: too large to be written, only its place was.
pub fn kept(letter: &Record) -> Result<Original, String> {
    let mut was = original(letter)?.ok_or("it does not say which record it was")?;
    if was.errors.as_deref() == Some("[]") {
        return Err(format!(
            "only its place is kept, {}, and not the record: `tidemill groups reset` lets its group read it again",
            was.record.place()
        ));
    }
    // Ours stand behind its own, and begin with the topic.
    let own = letter.headers.iter().rposition(|header| header.name == ORIGINAL_TOPIC).unwrap_or(0);
    was.record.headers = letter.headers.iter().take(own).cloned().collect();
    Ok(was)
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
            header("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
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
