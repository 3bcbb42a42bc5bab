//! Bytes turned into what several targets need: records with any keys, values and headers.
//!
//! Every value that Kafka can carry can come out of it.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use tidemill::record::{Header, Record, Timestamp};

/// A value of the type, if the bytes are enough for one.
pub(crate) fn read<'a, T: Arbitrary<'a>>(bytes: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

/// A header's name and value.
pub(crate) type Pair = (String, Option<Vec<u8>>);

/// As a consumer gives it.
#[derive(Arbitrary, Debug)]
pub(crate) struct RawRecord {
    partition: u16,
    offset: u32,
    timestamp: Option<i64>,
    by_broker: bool,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Pair>,
}

impl RawRecord {
    /// The same in the host's words.
    pub(crate) fn record(self) -> Record {
        Record {
            topic: "orders".into(),
            partition: self.partition.into(),
            offset: self.offset.into(),
            timestamp: match (self.timestamp, self.by_broker) {
                (None, _) => Timestamp::None,
                (Some(at), false) => Timestamp::CreateTime(at),
                (Some(at), true) => Timestamp::LogAppendTime(at),
            },
            key: self.key.map(Bytes::from),
            value: self.value.map(Bytes::from),
            headers: headers(self.headers),
        }
    }
}

/// Headers in the host's words.
pub(crate) fn headers(pairs: Vec<Pair>) -> Vec<Header> {
    pairs.into_iter().map(|(name, value)| Header { name, value: value.map(Bytes::from) }).collect()
}
