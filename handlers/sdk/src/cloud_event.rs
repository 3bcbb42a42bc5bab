//! Records and events as [CloudEvents] 1.0, in the binary and the structured mode of their Kafka binding.
//!
//! Attributes are kept as they were sent; an event that breaks a rule of the specification is [`Failure::undecodable`], never
//! repaired. The only structured format is JSON. The record's key is the handler's business, as the binding wants it.
//!
//! ```
//! use tidemill_sdk::test::record;
//! use tidemill_sdk::{CloudEvent, Failure};
//!
//! #[derive(serde::Deserialize)]
//! struct Paid {
//!     amount: u64,
//! }
//!
//! let record = record("payments")
//!     .with_header("ce_specversion", "1.0")
//!     .with_header("ce_id", "p-1")
//!     .with_header("ce_source", "/payments")
//!     .with_header("ce_type", "com.example.paid")
//!     .with_value(r#"{"amount":2500}"#);
//! let event: CloudEvent<Paid> = record.cloud_event()?;
//! assert_eq!((event.event_type.as_str(), event.data.amount), ("com.example.paid", 2500));
//! # Ok::<(), Failure>(())
//! ```
//!
//! So that the inbox knows an event sent twice, `event-id` in the manifest is `"ce_id"` for the binary mode, and `"/id"` for the
//! structured one.
//!
//! [CloudEvents]: https://cloudevents.io

mod read;
mod write;

use std::collections::BTreeMap;

use crate::Time;
#[cfg(doc)]
use crate::{Failure, publisher::Event};

/// An event with the attributes that CloudEvents gives it, and its data. It is read with
/// [`Record::cloud_event`](crate::Record::cloud_event) and published with [`Event::cloud_event`].
///
/// ```
/// use tidemill_sdk::publisher::Event;
/// use tidemill_sdk::{CloudEvent, delivery};
///
/// # tidemill_sdk::test::example::run(|| {
/// let paid = CloudEvent::new("com.example.order.paid", "/shop", serde_json::json!({ "total": "25.00" }));
/// Event::cloud_event("orders", paid.subject("7").time(delivery::now())).key(7).enqueue()?;
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent<T> {
    /// The attribute `id`, which is unique for its source. Empty in a new event, which takes the id under which it is published.
    pub id: String,
    /// The attribute `source`: where it happened, as a URI reference.
    pub source: String,
    /// The attribute `type`: what happened.
    pub event_type: String,
    /// The attribute `subject`: to what it happened.
    pub subject: Option<String>,
    /// The attribute `time`: when it happened, to the millisecond.
    pub time: Option<Time>,
    /// The attribute `datacontenttype`: the media type of the data; JSON if there is none.
    pub data_content_type: Option<String>,
    /// The attribute `dataschema`: a URI.
    pub data_schema: Option<String>,
    /// All other attributes, as text.
    pub extensions: BTreeMap<String, String>,
    /// What it is about.
    pub data: T,
}

impl<T> CloudEvent<T> {
    /// An event of this type and source, which takes its id from how it is published.
    ///
    /// ```
    /// # use tidemill_sdk::CloudEvent;
    /// let shipped = CloudEvent::new("com.example.order.shipped", "/warehouse/2", ());
    /// assert_eq!((shipped.id.as_str(), shipped.subject), ("", None));
    /// ```
    pub fn new(event_type: impl Into<String>, source: impl Into<String>, data: T) -> Self {
        Self {
            id: String::new(),
            source: source.into(),
            event_type: event_type.into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: BTreeMap::new(),
            data,
        }
    }

    /// With this subject.
    ///
    /// ```
    /// # use tidemill_sdk::CloudEvent;
    /// let paid = CloudEvent::new("com.example.order.paid", "/shop", ()).subject("orders/7");
    /// assert_eq!(paid.subject.as_deref(), Some("orders/7"));
    /// ```
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// With this time.
    ///
    /// ```
    /// # use tidemill_sdk::{CloudEvent, Time};
    /// let paid = CloudEvent::new("com.example.order.paid", "/shop", ()).time(Time::from_millis(0));
    /// assert!(paid.time.is_some_and(|time| time.millis() == 0));
    /// ```
    #[must_use]
    pub fn time(mut self, time: Time) -> Self {
        self.time = Some(time);
        self
    }

    /// With this media type of the data, which is then given as [`Event::bytes`].
    ///
    /// ```
    /// # use tidemill_sdk::{CloudEvent, publisher::Event};
    /// # tidemill_sdk::test::example::run(|| {
    /// let line = CloudEvent::new("com.example.order.line", "/shop", ()).content_type("text/csv");
    /// Event::cloud_event("orders", line).key(7).bytes("7;PAID;25.00").enqueue()?;
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.data_content_type = Some(media_type.into());
        self
    }

    /// With one more attribute. Its name has only the letters a-z and digits, which is checked when the event is published.
    ///
    /// ```
    /// # use tidemill_sdk::{CloudEvent, publisher::Event};
    /// # tidemill_sdk::test::example::run(|| {
    /// let paid = CloudEvent::new("com.example.order.paid", "/shop", 7);
    /// Event::cloud_event("orders", paid.clone().extension("tenant", "eu")).enqueue()?;
    /// assert!(Event::cloud_event("orders", paid.extension("Tenant-Id", "eu")).enqueue().is_err());
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }
}

#[cfg(test)]
mod tests;
