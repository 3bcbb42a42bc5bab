//! Events. What is enqueued commits with the delivery and is published after that, in order for each key, or once it is
//! due; what a failed delivery enqueued is never published. An event that is sent goes past the outbox.
//!
//! ```
//! # tidemill_sdk::test::example::run(|| {
//! use tidemill_sdk::publisher::Event;
//!
//! let paid = serde_json::json!({ "orderId": 7 });
//! let id = Event::new("orders", "ORDER_PAID").key(7).envelope(paid).enqueue()?;
//! assert!(!id.is_empty());
//! # Ok(()) });
//! ```

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::record::Header;
use crate::{Time, host};

/// An event on its way to the outbox.
///
/// ```
/// # use tidemill_sdk::{Failure, publisher::Event};
/// # fn publish(order: i64) -> Result<(), Failure> {
/// Event::new("orders", "ORDER_PAID")
///     .key(order)
///     .json_with_id(|event_id| serde_json::json!({ "eventId": event_id, "orderId": order }))
///     .enqueue()?;
/// # Ok(()) }
/// # tidemill_sdk::test::example::run(|| publish(7));
/// ```
#[must_use = "an event goes nowhere until it is enqueued"]
pub struct Event<'a> {
    destination: String,
    event_type: String,
    id: Option<String>,
    key: Option<Vec<u8>>,
    headers: Vec<Header>,
    value: Payload<'a>,
    /// The header that is to have the event's id, if one is.
    id_header: Option<&'static str>,
    /// Why it cannot be published.
    refusal: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<T> {
    event_id: String,
    event_type: String,
    payload: T,
}

pub(crate) type Written = Result<Option<Vec<u8>>, serde_json::Error>;

enum Payload<'a> {
    Ready(Written),
    /// Written once the event's id is known.
    WithId(Box<dyn FnOnce(&str) -> Written + 'a>),
}

impl<'a> Event<'a> {
    /// An event without key, headers and value. The destination is a name in the manifest's `[publish]`.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// // handler.toml:   [publish]
    /// //                 orders = "order-events"
    /// Event::new("orders", "ORDER_ARCHIVED").key(7).enqueue()?; // a tombstone
    /// # Ok(()) });
    /// ```
    pub fn new(destination: impl Into<String>, event_type: impl Into<String>) -> Self {
        Self {
            destination: destination.into(),
            event_type: event_type.into(),
            id: None,
            key: None,
            headers: Vec::new(),
            value: Payload::Ready(Ok(None)),
            id_header: None,
            refusal: None,
        }
    }

    /// An id of the handler's own. Without it the host gives one that is the same whenever this delivery runs again.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// let id = Event::new("orders", "ORDER_PAID").id("paid-7").key(7).enqueue()?;
    /// assert_eq!(id, "paid-7");
    /// assert!(Event::new("orders", "ORDER_PAID").id("paid-7").key(7).enqueue().is_err());
    /// # Ok(()) });
    /// ```
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The record's key, as text: events of one key keep their order.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// let (order, user) = (7, "ann");
    /// Event::new("orders", "ORDER_PAID").key(order).enqueue()?;
    /// Event::new("reminders", "REMIND").key(format_args!("{user}/{order}")).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn key(self, key: impl fmt::Display) -> Self {
        self.key_bytes(key.to_string())
    }

    /// The record's key, as bytes.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// let account: [u8; 4] = 70_001_u32.to_be_bytes();
    /// Event::new("orders", "ORDER_PAID").key_bytes(account).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn key_bytes(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// One more header.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// Event::new("orders", "ORDER_PAID").key(7).header("tenant", "eu").header("schema", "2").enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(Header { name: name.into(), value: Some(value.into()) });
        self
    }

    /// The version of its schema: the header `event-version`, which an envelope of the manifest takes up.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// Event::new("orders", "ORDER_PAID").key(7).version(2).json(&serde_json::json!({ "cents": 2500 })).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn version(self, version: impl fmt::Display) -> Self {
        self.header("event-version", version.to_string())
    }

    /// The value, as JSON.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// #[derive(serde::Serialize)]
    /// struct Paid {
    ///     order: i64,
    ///     total: &'static str,
    /// }
    ///
    /// Event::new("orders", "ORDER_PAID").key(7).json(&Paid { order: 7, total: "25.00" }).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.value = Payload::Ready(serde_json::to_vec(value).map(Some));
        self
    }

    /// The value, as JSON that has the event's own id in it.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// let event = Event::new("orders", "ORDER_PAID").key(7);
    /// event.json_with_id(|id| serde_json::json!({ "eventId": id, "orderId": 7 })).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn json_with_id<T: Serialize>(mut self, value: impl FnOnce(&str) -> T + 'a) -> Self {
        self.value = Payload::WithId(Box::new(|id| serde_json::to_vec(&value(id)).map(Some)));
        self
    }

    /// The value, as JSON in an envelope: `{"eventId": "...", "eventType": "...", "payload": ...}`. A reader matches its type with
    /// `#[serde(tag = "eventType", content = "payload")]` on an enum.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// // {"eventId":"...","eventType":"ORDER_PAID","payload":{"orderId":7}}
    /// Event::new("orders", "ORDER_PAID").key(7).envelope(serde_json::json!({ "orderId": 7 })).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn envelope<T: Serialize + 'a>(self, payload: T) -> Self {
        let event_type = self.event_type.clone();
        self.json_with_id(move |event_id| Envelope { event_id: event_id.to_owned(), event_type, payload })
    }

    /// The value, as bytes.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// let line = "7;PAID;25.00";
    /// Event::new("orders", "ORDER_LINE").key(7).header("content-type", "text/csv").bytes(line).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn bytes(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Payload::Ready(Ok(Some(value.into())));
        self
    }

    /// Puts the event into the outbox. Returns its id.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::{params, publisher::Event, sql};
    /// // Both, or neither.
    /// sql::execute("UPDATE orders SET status = 'PAID' WHERE id = 7", params![])?;
    /// Event::new("orders", "ORDER_PAID").key(7).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn enqueue(self) -> Result<String, Error> {
        host::enqueue(self.finish()?)
    }

    /// Puts the event into the outbox, to be published at this time: never before it, and soon after. It keeps no order
    /// with other events of its key. A time that is not ahead is like [`Event::enqueue`]; one more than 365 days ahead
    /// is refused.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::{Failure, Time, publisher::Event};
    /// let due: Time = "2026-02-14T08:00:00+01:00".parse().map_err(Failure::reject)?;
    /// Event::new("reminders", "REMIND").key("ann").enqueue_at(due)?;
    /// # Ok(()) });
    /// ```
    pub fn enqueue_at(self, due: Time) -> Result<String, Error> {
        host::enqueue_at(self.finish()?, due.millis())
    }

    /// The same, so long after the delivery's clock, in whole milliseconds.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// use std::time::Duration;
    ///
    /// Event::new("reminders", "CANCEL_IF_UNPAID").key(7).enqueue_after(Duration::from_secs(30 * 60))?;
    /// # Ok(()) });
    /// ```
    pub fn enqueue_after(self, delay: Duration) -> Result<String, Error> {
        host::enqueue_after(self.finish()?, u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    /// Sends the event now, past the outbox, and waits until Kafka has it. The delivery runs alone meanwhile, and all others
    /// on its store wait, for the manifest's `send.timeout` at most.
    ///
    /// When it cannot be published the delivery ends here, and nothing of it is kept; an error that is returned says that
    /// nothing was tried. The reverse does not hold: what was sent stays published, though the delivery fails later.
    /// Prefer [`Event::enqueue`], which neither loses an event nor publishes one too many.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::{info, publisher::Event};
    /// let receipt = Event::new("orders", "ORDER_PAID").key(7).send()?;
    /// info!("{} is at {}@{}", receipt.id, receipt.partition, receipt.offset);
    /// # Ok(()) });
    /// ```
    pub fn send(self) -> Result<Receipt, Error> {
        host::send(self.finish()?)
    }

    /// Sends the event once the delivery has committed, past the outbox and without waiting. It can be lost. Returns its id.
    /// What becomes of it is told to the function that [`handler!`](crate::handler!) names for `sends`.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::publisher::Event;
    /// let id = Event::new("reminders", "PAGE_VIEWED").key("ann").json(&"/orders/7").send_async()?;
    /// assert!(!id.is_empty());
    /// # Ok(()) });
    /// ```
    pub fn send_async(self) -> Result<String, Error> {
        host::send_async(self.finish()?)
    }

    /// The value, or why there is none.
    pub(crate) fn written(mut self, value: Written) -> Self {
        self.value = Payload::Ready(value);
        self
    }

    /// The same, once the event's id is known.
    pub(crate) fn written_with_id(mut self, value: impl FnOnce(&str) -> Written + 'a) -> Self {
        self.value = Payload::WithId(Box::new(value));
        self
    }

    pub(crate) fn with_id_in_header(mut self, name: &'static str) -> Self {
        self.id_header = Some(name);
        self
    }

    /// Is an error when it is to be published, for this reason.
    pub(crate) fn refused(mut self, why: String) -> Self {
        self.refusal = Some(why);
        self
    }

    /// Writes the value, which may need the id.
    fn finish(mut self) -> Result<Enqueued, Error> {
        if let Some(message) = self.refusal {
            return Err(Error { kind: ErrorKind::Payload, message });
        }
        if let Some(name) = self.id_header {
            let id = self.id.clone().unwrap_or_else(host::next_id);
            self.headers.push(Header { name: name.to_owned(), value: Some(id.into_bytes()) });
        }
        let value = match self.value {
            Payload::Ready(written) => written,
            Payload::WithId(write) => match &self.id {
                Some(id) => write(id),
                None => write(&host::next_id()),
            },
        };
        let value = value
            .map_err(|error| Error { kind: ErrorKind::Payload, message: format!("the payload is no JSON: {error}") })?;
        Ok(Enqueued {
            destination: self.destination,
            id: self.id,
            event_type: self.event_type,
            key: self.key,
            value,
            headers: self.headers,
        })
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("destination", &self.destination)
            .field("event_type", &self.event_type)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Where Kafka has put an event.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{params, publisher::{Event, Receipt}, sql};
/// let Receipt { id, partition, offset } = Event::new("orders", "ORDER_PAID").key(7).send()?;
/// sql::execute("INSERT INTO unsent VALUES (?1, ?2)", params![id, format!("none: it is at {partition}@{offset}")])?;
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The event's id.
    pub id: String,
    /// The partition.
    pub partition: i32,
    /// The offset within it.
    pub offset: i64,
}

/// An event as it goes to the host.
pub(crate) struct Enqueued {
    pub(crate) destination: String,
    /// `None` takes what [`host::next_id`] told.
    pub(crate) id: Option<String>,
    pub(crate) event_type: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<Header>,
}

/// Why an event was not taken.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::publisher::Event;
/// let error = Event::new("ordres", "ORDER_PAID").enqueue().unwrap_err();
/// assert_eq!(error.message, "[publish] in handler.toml has no destination `ordres`");
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of thing went wrong.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// What kind of thing went wrong.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::publisher::{ErrorKind, Event};
/// use std::time::Duration;
///
/// let too_far = Event::new("reminders", "REMIND").enqueue_after(Duration::MAX);
/// assert!(too_far.is_err_and(|error| error.kind == ErrorKind::Limit));
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such destination in `[publish]`.
    Destination,
    /// Too many events, or too many bytes, for one delivery; or due too far ahead.
    Limit,
    /// An event id that the outbox has already, or one that is empty.
    Id,
    /// A request that only reads cannot publish.
    ReadOnly,
    /// The payload could not be written as JSON, or the event is no CloudEvent though it is to be one.
    Payload,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
