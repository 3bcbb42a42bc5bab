//! What a test says to a rig, and is told: one JSON object a line.
//!
//! Bytes are a string where they are UTF-8, else `{"hex": "00ff"}`; null is null. A key that is not known is an error, so that no
//! test passes because it was not understood.

use anyhow::{Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::ledger::encoding::unhex;
use crate::record::{Header, Record, Timestamp};
use crate::store::{Rows, Value};

/// What a test asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// A record arrives. Answered with how it ended once nothing is left to do.
    Record(Fed),
    /// How a record has ended that arrived before.
    Ended(Place),
    /// A client sends a request. Answered with its response once nothing is left to do.
    Request(Sent),
    /// Time passes, in steps from one due time to the next.
    Advance(Advance),
    /// Kafka is away, or back.
    Kafka(Kafka),
    /// Kafka refuses what is published to a topic, or takes it again.
    Refuse(Refuse),
    /// What a service answers to a call, once.
    Answer(Expected),
    /// The rows of a query.
    Query(Query),
    /// Statements that are run on the store, outside of any delivery.
    Prepare(Prepare),
    /// Everything that was published or waits for it, in order.
    Events(Nothing),
    /// Records that wait in the store.
    Pending(Nothing),
    /// What even its dead letter topic has not taken.
    Fallback(Nothing),
    /// The store is closed in order, and opened again.
    Restart(Nothing),
    /// The process ends without a word when it comes to this moment.
    KillAt(KillAt),
    /// Another version of the handler goes live.
    Deploy(Deploy),
}

/// No arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fed {
    /// The topic.
    pub topic: String,
    /// The partition.
    #[serde(default)]
    pub partition: i32,
    /// The next one of the partition unless it is given.
    pub offset: Option<i64>,
    /// Milliseconds since the Unix epoch: the rig's time unless it is given. -1 is no timestamp.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Option<Text>,
    /// The value.
    pub value: Option<Text>,
    /// Names and values.
    #[serde(default)]
    pub headers: Vec<(String, Option<Text>)>,
}

/// Where a record lies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    #[serde(default)]
    pub partition: i32,
    /// The offset; the last one without it.
    pub offset: Option<i64>,
}

/// A request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// The path, with a query if there is one.
    pub path: String,
    /// Whose token it carries.
    pub user: Option<String>,
    /// Names and values.
    #[serde(default)]
    pub headers: Vec<(String, Text)>,
    /// The body.
    pub body: Option<Text>,
}

/// A time to pass.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// Like "10s".
    pub by: String,
}

/// The state of Kafka.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Whether it takes nothing.
    pub away: bool,
}

/// A topic that refuses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// The topic.
    pub topic: String,
    /// Why; none takes events again.
    pub reason: Option<String>,
}

/// A call that is expected, and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// By which the test knows it.
    #[serde(default)]
    pub number: u64,
    /// The call's method.
    pub method: String,
    /// The call's URL.
    pub url: String,
    /// The call's body, where it matters.
    pub body: Option<Text>,
    /// The answer.
    pub then: Then,
}

/// What becomes of a try of a call.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Then {
    /// An answer.
    Answer {
        /// The status.
        status: u16,
        /// Names and values.
        #[serde(default)]
        headers: Vec<(String, Text)>,
        /// The body.
        body: Option<Text>,
    },
    /// No answer in time.
    Timeout,
    /// No connection.
    Unreachable,
}

/// A query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// One statement that changes nothing.
    pub sql: String,
    /// Bound by position.
    #[serde(default)]
    pub params: Vec<Json>,
}

/// Statements.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// All of them.
    pub sql: String,
}

/// A moment to be killed at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillAt {
    /// Its name, as `TIDEMILL_TEST_KILL_AT` has it.
    pub moment: String,
}

/// A version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The `.wasm` file.
    pub file: std::path::PathBuf,
}

/// Bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// UTF-8.
    Plain(String),
    /// Anything.
    Hex {
        /// Its digits.
        hex: String,
    },
}

impl Text {
    /// The bytes.
    pub fn bytes(self) -> Result<Bytes> {
        match self {
            Self::Plain(text) => Ok(text.into()),
            Self::Hex { hex } => match unhex(&hex) {
                Some(bytes) => Ok(bytes),
                None => bail!("\"{hex}\" is not hexadecimal"),
            },
        }
    }
}

impl Fed {
    /// The record, at this offset and this time where it names none.
    pub fn into_record(self, offset: i64, now: i64) -> Result<Record> {
        let header = |(name, value): (String, Option<Text>)| Ok(Header { name, value: bytes(value)? });
        Ok(Record {
            topic: self.topic.into(),
            partition: self.partition,
            offset: self.offset.unwrap_or(offset),
            timestamp: match self.timestamp.unwrap_or(now) {
                at if at < 0 => Timestamp::None,
                at => Timestamp::CreateTime(at),
            },
            key: bytes(self.key)?,
            value: bytes(self.value)?,
            headers: self.headers.into_iter().map(header).collect::<Result<_>>()?,
        })
    }
}

/// The bytes, or null.
pub fn bytes(text: Option<Text>) -> Result<Option<Bytes>> {
    text.map(Text::bytes).transpose()
}

/// Bytes, or null, as JSON.
pub fn text(bytes: Option<&[u8]>) -> Json {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => Json::Null,
        Some((Ok(text), _)) => text.into(),
        Some((Err(_), bytes)) => json!({ "hex": crate::id::hex(bytes) }),
    }
}

/// Headers as JSON.
pub fn headers(headers: &[Header]) -> Json {
    headers.iter().map(|header| json!([header.name, text(header.value.as_deref())])).collect()
}

/// A record as [`Fed`] reads it.
pub fn record(record: &Record) -> Json {
    json!({
        "topic": *record.topic, "partition": record.partition, "offset": record.offset,
        "timestamp": record.timestamp.millis().unwrap_or(-1), "key": text(record.key.as_deref()),
        "value": text(record.value.as_deref()), "headers": headers(&record.headers),
    })
}

/// A parameter of a query.
pub fn value(json: Json) -> Result<Value> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Integer(truth.into()),
        Json::String(text) => Value::Text(text),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Integer(whole),
            (None, Some(real)) => Value::Real(real),
            (None, None) => bail!("{number} is no number of SQLite's"),
        },
        other => match other.get("hex").and_then(Json::as_str).and_then(unhex) {
            Some(blob) => Value::Blob(blob.to_vec()),
            None => bail!("{other} is no value of SQLite's: a number, a string, null, or {{\"hex\": \"00ff\"}}"),
        },
    })
}

/// A value of SQLite's.
pub fn cell(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(whole) => whole.into(),
        // Its kind is kept also where it has no fraction.
        Value::Real(real) => json!(real),
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => json!({ "hex": crate::id::hex(&bytes) }),
    }
}

/// What a query returned.
pub fn rows(rows: Rows) -> Json {
    let row = |row: Vec<Value>| row.into_iter().map(cell).collect::<Json>();
    json!({ "columns": rows.columns, "rows": rows.rows.into_iter().map(row).collect::<Json>() })
}
