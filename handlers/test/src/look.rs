//! What a test sees of the store and of Kafka, besides rows: dead letters, and what waits or was left.

use serde_json::Value as Json;
use tidemill_sdk::Time;
use tidemill_sdk::record::Header;
use tidemill_sdk::test::{Published, Via};

use crate::wire::{bytes, headers, number, string};

/// A record that was given up on, as its topic has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic that it went to.
    pub topic: String,
    /// The partition of it.
    pub partition: i32,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers, and then those that Spring Kafka writes (`kafka_dlt-...`).
    pub headers: Vec<Header>,
    /// `topic/partition@offset` of the record.
    pub source: String,
}

impl DeadLetter {
    pub(crate) fn read(json: &Json) -> Self {
        Self {
            topic: string(json, "topic"),
            partition: i32::try_from(number(json, "partition")).unwrap_or_default(),
            key: bytes(&json["key"]),
            value: bytes(&json["value"]),
            headers: headers(&json["headers"]),
            source: string(json, "source"),
        }
    }

    /// The text of its last header of this name.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.dead_letters()[0].header_str("kafka_dlt-original-topic"), Some("order-events"));
    /// ```
    pub fn header_str(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().rfind(|header| header.name == name)?;
        std::str::from_utf8(header.value.as_deref()?).ok()
    }
}

/// A record that waits in the store, or a timer: its topic is the name of its schedule, its partition -2, its offset the due time in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Whether it waits for its compensation, and no more for the handler.
    pub compensates: bool,
    /// Attempts that were made.
    pub attempts: u32,
    /// When the next one is; none while another of its key, or a call, is before it.
    pub due: Option<Time>,
    /// What went wrong each time, oldest first.
    pub errors: Vec<Error>,
}

/// What went wrong in an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// `retry`, `trap`, `timeout` and so on, as docs/settings.md has them.
    pub outcome: String,
    /// For people.
    pub message: String,
}

impl Pending {
    pub(crate) fn read(json: &Json) -> Self {
        let error = |json: &Json| Error { outcome: string(json, "outcome"), message: string(json, "message") };
        Self {
            topic: string(json, "topic"),
            partition: i32::try_from(number(json, "partition")).unwrap_or_default(),
            offset: number(json, "offset"),
            key: bytes(&json["key"]),
            value: bytes(&json["value"]),
            compensates: string(json, "purpose") == "compensate",
            attempts: u32::try_from(number(json, "attempts")).unwrap_or_default(),
            due: json["due"].as_i64().map(Time::from_millis),
            errors: json["errors"].as_array().into_iter().flatten().map(error).collect(),
        }
    }
}

/// What nobody has taken, and a person must look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// `event`, `dead-letter`, `timer` or `compensation`.
    pub kind: String,
    /// The input that caused it: `topic/partition@offset` of a record, `timer NAME@TIME` of a timer.
    pub source: String,
    /// Where it was bound; a timer's schedule.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Why it is here.
    pub cause: String,
}

impl Fallback {
    pub(crate) fn read(json: &Json) -> Self {
        Self {
            kind: string(json, "kind"),
            source: string(json, "source"),
            topic: string(json, "topic"),
            key: bytes(&json["key"]),
            value: bytes(&json["value"]),
            cause: string(json, "cause"),
        }
    }
}

/// Whether `[publish]` with this topic, in which a date may stand, makes that one.
fn makes(template: &str, topic: &str) -> bool {
    match (template.split_once("{date:"), template.rsplit_once('}')) {
        (Some((before, _)), Some((_, behind))) => topic.starts_with(before) && topic.ends_with(behind),
        _ => template == topic,
    }
}

/// An event of the handler; `destinations` is `[publish]`.
pub(crate) fn published(json: &Json, destinations: &Json) -> Published {
    let topic = string(json, "topic");
    let named =
        destinations.as_object().into_iter().flatten().find(|(_, to)| to.as_str().is_some_and(|to| makes(to, &topic)));
    Published {
        destination: named.map_or_else(|| topic.clone(), |(name, _)| name.clone()),
        topic,
        id: string(json, "id"),
        event_type: string(json, "type"),
        key: bytes(&json["key"]),
        value: bytes(&json["value"]),
        headers: headers(&json["headers"]),
        due: json["due"].as_i64().map(Time::from_millis),
        via: match string(json, "via").as_str() {
            "send" => Via::Send,
            "send-async" => Via::SendAsync,
            _ => Via::Outbox,
        },
    }
}
