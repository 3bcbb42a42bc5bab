//! What comes in: records from Kafka, requests from HTTP and events to be published, as the rest of the host passes them on.
//!
//! A value here is exactly what arrived; nothing in this file interprets or changes a key, a value or a header.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use uuid::Uuid;

/// One header of a record. Names may repeat, and order is kept; `None` is a null value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Any text, as Kafka has it.
    pub name: String,
    /// The bytes, or `None` for null.
    pub value: Option<Bytes>,
}

/// The value of the last header of this name, as Kafka's own `lastHeader` has it; `None` where there is none or it is null.
pub fn last_header<'h>(headers: &'h [Header], name: &str) -> Option<&'h [u8]> {
    headers.iter().rfind(|header| header.name == name)?.value.as_deref()
}

/// When a record was written, in milliseconds since the Unix epoch, and by whom (KIP-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamp {
    /// The record has none.
    None,
    /// Set by the producer.
    CreateTime(i64),
    /// Set by the broker.
    LogAppendTime(i64),
}

impl Timestamp {
    /// Milliseconds since the Unix epoch, if there is a timestamp.
    pub fn millis(self) -> Option<i64> {
        match self {
            Self::None => None,
            Self::CreateTime(at) | Self::LogAppendTime(at) => Some(at),
        }
    }

    /// The name that Kafka's `TimestampType` gives it.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::None => "NoTimestampType",
            Self::CreateTime(_) => "CreateTime",
            Self::LogAppendTime(_) => "LogAppendTime",
        }
    }
}

/// One Kafka record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic it was read from.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
    /// The offset within the partition.
    pub offset: i64,
    /// When it was written.
    pub timestamp: Timestamp,
    /// `None` is a null key.
    pub key: Option<Bytes>,
    /// `None` is a null value (a tombstone on a compacted topic).
    pub value: Option<Bytes>,
    /// In order, repeated names kept.
    pub headers: Vec<Header>,
}

/// A record's place as logs and dead letters name it, `TOPIC/PARTITION@OFFSET`; `None` if the text is none.
pub fn place(text: &str) -> Option<(String, i32, i64)> {
    let (topic, place) = text.rsplit_once('/')?;
    let (partition, offset) = place.split_once('@')?;
    let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
    (!topic.is_empty() && partition >= 0 && offset >= 0).then(|| (topic.to_owned(), partition, offset))
}

impl Record {
    /// Where it is.
    pub fn place(&self) -> Place {
        Place { topic: self.topic.to_string(), partition: self.partition, offset: self.offset }
    }

    /// About how many bytes of memory the record holds: key, value, headers and a flat charge for the rest.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len) + 32).sum();
        128 + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition, from 0.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (topic, place) = text.rsplit_once('/')?;
            let (partition, offset) = place.split_once('@')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            (!topic.is_empty() && partition >= 0 && offset >= 0).then(|| Self {
                topic: topic.to_owned(),
                partition,
                offset,
            })
        };
        read().ok_or_else(|| {
            format!("{text:?} is no place of a record; write it as TOPIC/PARTITION@OFFSET, like orders/0@42")
        })
    }
}

/// An event as whoever publishes it gives it: a handler, or code outside of any in a handler's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The name of its destination under `[publish]` of the handler.
    pub destination: String,
    /// The id that it has already, if any.
    pub id: Option<String>,
    /// For example `ORDER_CREATED`.
    pub event_type: String,
    /// `None` is a null key.
    pub key: Option<Bytes>,
    /// `None` is a null value.
    pub value: Option<Bytes>,
    /// In order, repeated names kept.
    pub headers: Vec<Header>,
    /// When it is to be published, if not at once.
    pub due: Option<Due>,
}

/// When an event is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At this time, in milliseconds since the Unix epoch.
    At(i64),
    /// So many milliseconds after the delivery.
    After(u64),
}

impl Due {
    /// The time, for a delivery at `now`; both in milliseconds since the Unix epoch.
    pub fn time(self, now: i64) -> i64 {
        match self {
            Self::At(at) => at,
            Self::After(delay) => now.saturating_add_unsigned(delay),
        }
    }
}

/// Why an event is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unpublished {
    /// What is wrong.
    pub fault: Fault,
    /// The same for people.
    pub message: String,
}

/// What is wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The handler has no such destination.
    Destination,
    /// The envelope of the manifest does not take its value or its type.
    Envelope,
    /// Its id is too long, or empty.
    Id,
    /// An event with its id waits already.
    Duplicate,
    /// It is too large, or one too many.
    Size,
    /// It is due too far in the future.
    Due,
}

/// One HTTP request that was found to belong to a handler's route, with its body complete.
#[derive(Clone, Debug)]
pub struct Request {
    /// In upper case.
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    /// The route's path as the manifest writes it.
    pub route: String,
    /// Values of the route's parameters, percent-decoded, in the order of the route.
    pub params: Vec<(String, String)>,
    /// Without `?`.
    pub query: Option<String>,
    /// Lower-case names, in order.
    pub headers: Vec<(String, Bytes)>,
    /// Complete.
    pub body: Bytes,
    /// The token's subject, where the route asks for a token.
    pub user: Option<String>,
    /// The `Idempotency-Key`, if the client sent one.
    pub idempotency_key: Option<String>,
    /// Tells it from every other request, also where it has no key.
    pub id: Uuid,
    /// The request must not run after this moment: its client has been answered 504.
    pub deadline: Instant,
}

/// A handler's answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Lower-case names, in order.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

/// Why a request has no [`Response`] of its handler's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404: the handler was removed while the request waited.
    #[error("the handler of this route was removed")]
    Gone,
    /// 409: the first request with this `Idempotency-Key` still runs.
    #[error("a request with this Idempotency-Key is still running")]
    StillRunning,
    /// 422: the `Idempotency-Key` was used before with another body or method.
    #[error("this Idempotency-Key was used for a different request")]
    KeyReused,
    /// 400: what the request says of its event cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// 404, 409, 413 or 422: an event cannot be published as it was given; nothing was done.
    #[error("{0}")]
    Unpublished(#[from] Unpublished),
    /// 500: the handler trapped or went over a limit; the operator's log says why.
    #[error("the handler failed")]
    Failed,
    /// 503: too many requests wait already.
    #[error("too many requests are waiting")]
    Busy,
    /// 503: the handler has taken its part of a processor.
    #[error(
        "the handler rests, since its requests took more of a processor than it is given (limits.cpu, limits.failing-cpu)"
    )]
    Resting,
    /// 503: too many events wait in the store's outbox; the request was not begun.
    #[error(
        "too many events of earlier requests wait for Kafka (outbox.max-rows), and nothing was done: try again later"
    )]
    OutboxFull,
    /// 503: Kafka, or a topic, is away, and the handler sends past the outbox.
    #[error("Kafka has not taken what this request sends, and nothing of it was kept: try again later")]
    NotSent,
    /// 503: the store cannot commit at present; nothing was changed.
    #[error("the store cannot be written at present")]
    StoreUnavailable,
    /// 503: the daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// 504: the deadline passed before the request was done; nothing of it was kept.
    #[error("the request took too long, and nothing of it was kept")]
    Expired,
}

/// What a request ends in.
pub type Answer = Result<Response, Refusal>;
