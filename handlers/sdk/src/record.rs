//! Records as a handler sees them.
//!
//! Key, value and headers are the bytes that Kafka holds; the methods read them and never change them.

use serde::de::DeserializeOwned;

use crate::Failure;

/// One Kafka record.
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
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let value = self.value.as_deref().ok_or_else(|| Failure::undecodable("the record's value is null"))?;
        serde_json::from_slice(value).map_err(|error| {
            Failure::undecodable(format!("the record's value is not the JSON that is expected: {error}"))
        })
    }

    /// The key as text; `None` if it is null or not UTF-8.
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The value of the last header of this name, as Kafka's own `lastHeader` has it; `None` if there is none or it
    /// is null.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rfind(|header| header.name == name)?.value.as_deref()
    }

    /// The same as text; `None` also if it is not UTF-8.
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
