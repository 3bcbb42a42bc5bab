//! Records as a handler sees them.
//!
//! Key, value and headers are the bytes that Kafka holds; the methods read them and never change them.
//!
//! ```
//! use tidemill_sdk::test::record;
//!
//! #[derive(serde::Deserialize)]
//! struct Payment {
//!     amount: u64,
//! }
//!
//! let record = record("payments").with_key("7").with_value(r#"{"amount":2500}"#).with_header("tenant", "eu");
//! assert_eq!((record.key_str(), record.header_str("tenant")), (Some("7"), Some("eu")));
//! assert_eq!(record.json::<Payment>()?.amount, 2500);
//! # Ok::<(), tidemill_sdk::Failure>(())
//! ```

use serde::de::DeserializeOwned;

use crate::Failure;

/// One Kafka record.
///
/// ```
/// use tidemill_sdk::{Failure, Record, info};
///
/// fn handle(record: &Record) -> Result<(), Failure> {
///     let Some(value) = &record.value else {
///         info!("{} is deleted", record.key_str().unwrap_or_default());
///         return Ok(());
///     };
///     info!("{} bytes", value.len());
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The topic it was read from.
    pub topic: String,
    /// The partition within the topic, from 0.
    pub partition: i32,
    /// The offset within the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, if the record carries a time.
    pub timestamp: Option<i64>,
    /// `None` is a null key, which is not the same as an empty one.
    pub key: Option<Vec<u8>>,
    /// `None` is a null value: a tombstone.
    pub value: Option<Vec<u8>>,
    /// In order, repeated names kept.
    pub headers: Vec<Header>,
}

/// One header of a record or of an event.
///
/// ```
/// use tidemill_sdk::record::Header;
///
/// let trace = Header { name: "traceparent".into(), value: Some(b"00-4bf9-00f0-01".to_vec()) };
/// let empty = Header { name: "retry".into(), value: None };
/// assert_ne!(trace, empty);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Any text; names may repeat.
    pub name: String,
    /// `None` is a null value.
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// The value, read as JSON. A null value and anything that does not fit `T` is [`Failure::undecodable`]: it would
    /// not fit next time either.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::record};
    /// #[derive(Debug, PartialEq, serde::Deserialize)]
    /// #[serde(tag = "eventType", content = "payload")]
    /// enum Event {
    ///     #[serde(rename = "ORDER_PAID")]
    ///     Paid { order: i64 },
    /// }
    ///
    /// let paid = record("orders").with_value(r#"{"eventType":"ORDER_PAID","payload":{"order":7}}"#);
    /// assert_eq!(paid.json::<Event>()?, Event::Paid { order: 7 });
    /// let broken = record("orders").with_value("{").json::<Event>();
    /// assert!(matches!(broken, Err(Failure::Reject(why)) if why.starts_with("undecodable: ")));
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let value = self.value.as_deref().ok_or_else(|| Failure::undecodable("the record's value is null"))?;
        serde_json::from_slice(value).map_err(|error| {
            Failure::undecodable(format!("the record's value is not the JSON that is expected: {error}"))
        })
    }

    /// The key as text; `None` if it is null or not UTF-8.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, Record};
    /// fn order_of(record: &Record) -> Result<i64, Failure> {
    ///     let key = record.key_str().ok_or_else(|| Failure::reject("the key names no order"))?;
    ///     key.parse().map_err(Failure::reject)
    /// }
    /// # use tidemill_sdk::test::record;
    /// assert_eq!(order_of(&record("payments").with_key("7")), Ok(7));
    /// assert!(order_of(&record("payments")).is_err());
    /// ```
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The value of the last header of this name, as Kafka's own `lastHeader` has it; `None` if there is none or it
    /// is null.
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// let record = record("payments").with_header("signature", [0xca, 0xfe]).with_header("signature", [0xbe, 0xef]);
    /// assert_eq!(record.header("signature"), Some([0xbe, 0xef].as_slice()));
    /// ```
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rfind(|header| header.name == name)?.value.as_deref()
    }

    /// The same as text; `None` also if it is not UTF-8.
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// let record = record("payments").with_header("currency", "EUR");
    /// assert_eq!(record.header_str("currency").unwrap_or("USD"), "EUR");
    /// assert_eq!(record.header_str("Currency"), None); // names are compared as they are
    /// ```
    pub fn header_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_null_value_and_a_wrong_shape_are_rejected() {
        let null = Record::default().json::<u32>().unwrap_err();
        assert_eq!(null, Failure::undecodable("the record's value is null"));
        let wrong = Record { value: Some(b"\"x\"".to_vec()), ..Record::default() }.json::<u32>().unwrap_err();
        assert!(matches!(wrong, Failure::Reject(why) if why.contains("expected u32 at line 1")));
    }

    #[test]
    fn the_last_header_of_a_name_counts() {
        let header = |value: &[u8]| Header { name: "h".into(), value: Some(value.to_vec()) };
        let record = Record { headers: vec![header(b"1"), header(b"2")], ..Record::default() };
        assert_eq!(record.header_str("h"), Some("2"));
        assert_eq!(record.header("other"), None);
    }
}
