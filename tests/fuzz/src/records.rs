//! What is read from a record, and what is written for one that was given up on.

use std::ptr;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bytes::Bytes;
use rdkafka::bindings;
use rdkafka::message::BorrowedHeaders;
use tidemill::deploy::manifest::{EventId, Manifest, Place, Spec};
use tidemill::executor::event_id;
use tidemill::id::{InputId, Seed};
use tidemill::kafka::dead_letter;
use tidemill::ledger::encoding::{read_headers, write_headers};
use tidemill::policy::{Failure, Outcome};
use tidemill::record::{Header, Record, Timestamp};
use tidemill::settings::Settings;

use crate::input::{self, Pair, RawRecord};

/// The longest id as the inbox takes it.
const ID_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Ids<'a> {
    /// A value, and where in it the id is.
    Pointer(String, &'a [u8]),
    /// Two ids that are bytes.
    Bytes(&'a [u8], &'a [u8]),
    /// Two ids that are JSON strings.
    Texts(String, String),
    /// An id that is a whole number of any size, and the place of a digit that another one has more of.
    Number(Vec<u8>, u8),
}

/// An id fits the inbox's column, comes out the same wherever it stands, and is another one's only if that is the same.
pub(crate) fn event_ids(bytes: &[u8]) {
    let Some(ids) = input::read::<Ids<'_>>(bytes) else { return };
    match ids {
        Ids::Pointer(pointer, value) => {
            check_id(event_id::find(&EventId::At(Place::Pointer(format!("/{pointer}"))), &record(b"", value)));
        }
        Ids::Bytes(one, other) => {
            let find = |id: &[u8]| {
                let found = check_id(event_id::find(&EventId::Key, &record(id, b"")));
                assert_eq!(found, event_id::find(&EventId::At(Place::Header("id".into())), &record(id, b"")));
                found
            };
            differ(one == other, find(one), find(other));
            // Nor may an id be what the inbox makes of another one.
            if let Some(made) = find(one) {
                differ(one == made.as_bytes(), Some(made.clone()), find(made.as_bytes()));
            }
        }
        Ids::Texts(one, other) => {
            let find = |id: &str| {
                let value = serde_json::json!({ "a": { "id": id } }).to_string();
                check_id(event_id::find(&EventId::At(Place::Pointer("/a/id".into())), &record(b"", value.as_bytes())))
            };
            differ(one == other, find(&one), find(&other));
        }
        Ids::Number(digits, place) => {
            let mut one: Vec<u8> = digits.iter().take(60).map(|b| b'0' + b % 9).collect();
            one.insert(0, b'1');
            let mut other = one.clone();
            other[usize::from(place) % one.len()] += 1;
            let find = |digits: &[u8]| {
                let value = [b"[", digits, b"]"].concat();
                check_id(event_id::find(&EventId::At(Place::Pointer("/0".into())), &record(b"", &value)))
            };
            differ(false, find(&one), find(&other));
        }
    }
}

fn check_id(id: Option<String>) -> Option<String> {
    assert!(id.as_ref().is_none_or(|id| (1..=ID_MAX).contains(&id.len())), "{id:?}");
    id
}

fn differ(same: bool, one: Option<String>, other: Option<String>) {
    assert_eq!(same || one.is_none() && other.is_none(), one == other, "{one:?} {other:?}");
}

fn record(id: &[u8], value: &[u8]) -> Record {
    let header = |value: &[u8]| Header { name: "id".into(), value: Some(Bytes::copy_from_slice(value)) };
    Record {
        topic: "orders".into(),
        partition: 0,
        offset: 0,
        timestamp: Timestamp::None,
        key: Some(Bytes::copy_from_slice(id)),
        value: Some(Bytes::copy_from_slice(value)),
        headers: vec![header(b"not the last"), header(id)],
    }
}

#[derive(Arbitrary, Debug)]
enum Headers<'a> {
    /// A column of the ledger that somebody else may have written.
    Column(&'a str),
    /// Headers for a column.
    Pairs(Vec<Pair>),
    /// Headers as librdkafka gives them.
    Native(Vec<(&'a [u8], Option<&'a [u8]>)>),
}

/// Headers come out of librdkafka and of a column of the ledger as they went in.
pub(crate) fn headers(bytes: &[u8]) {
    match input::read::<Headers<'_>>(bytes) {
        None => {}
        Some(Headers::Column(text)) => {
            if let Ok(headers) = read_headers(text) {
                assert_eq!(read_headers(&write_headers(&headers)).unwrap(), headers);
            }
        }
        Some(Headers::Pairs(pairs)) => {
            let headers = input::headers(pairs);
            assert_eq!(read_headers(&write_headers(&headers)).unwrap(), headers);
        }
        Some(Headers::Native(pairs)) => assert_eq!(through_librdkafka(&pairs), expected(&pairs)),
    }
}

fn through_librdkafka(pairs: &[(&[u8], Option<&[u8]>)]) -> Vec<Header> {
    // SAFETY: the headers are made, lent out for one call and destroyed here; each name and value is copied in. At the
    // address of librdkafka's headers are rust-rdkafka's `BorrowedHeaders`.
    unsafe {
        let all = bindings::rd_kafka_headers_new(pairs.len());
        for (name, value) in pairs {
            // An empty value is not null.
            let (at, size) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len() as isize));
            bindings::rd_kafka_header_add(all, name.as_ptr().cast(), name.len() as isize, at.cast(), size);
        }
        let read = tidemill::kafka::headers(&*all.cast_const().cast::<BorrowedHeaders>());
        bindings::rd_kafka_headers_destroy(all);
        read
    }
}

fn expected(pairs: &[(&[u8], Option<&[u8]>)]) -> Vec<Header> {
    let header = |(name, value): &(&[u8], Option<&[u8]>)| {
        // librdkafka gives a name as a C string.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Header { name: String::from_utf8_lossy(name).into_owned(), value: value.map(Bytes::copy_from_slice) }
    };
    pairs.iter().map(header).collect()
}

static SPEC: LazyLock<Spec> = LazyLock::new(|| {
    let manifest = Manifest::parse("name = \"h\"\ntopics = [\"orders\"]", "handler.toml").unwrap();
    Spec::resolve(&manifest, &Settings::parse("", "tidemill.toml").unwrap().defaults, None).unwrap()
});

#[derive(Arbitrary, Debug)]
struct GivenUp {
    record: RawRecord,
    outcome: u8,
    message: String,
    errors: String,
}

/// A dead letter is the record with ten headers more, which say where it came from, and is known as one.
pub(crate) fn dead_letters(bytes: &[u8]) {
    let Some(GivenUp { record, outcome, message, errors }) = input::read(bytes) else { return };
    let record = record.record();
    let input = InputId::Record { topic_id: "t".into(), partition: record.partition, offset: record.offset };
    let outcome = Outcome::ALL[usize::from(outcome) % Outcome::ALL.len()];
    let failure = Failure { outcome, message, after: None };
    let event = dead_letter::event(&SPEC, &Seed::derive(b"secret", "h", &input), &record, &failure, &errors);

    assert_eq!((&event.key, &event.value), (&record.key, &record.value));
    assert_eq!((event.topic.as_str(), event.partition), ("orders.DLT", Some(record.partition)));
    let (own, added) = event.headers.split_at(record.headers.len());
    assert_eq!(own, record.headers);
    assert_eq!(added.len(), 10);
    let get = |name: &str| {
        let name = format!("kafka_dlt-{name}");
        added.iter().find(|header| header.name == name).and_then(|header| header.value.clone()).unwrap()
    };
    assert_eq!(get("original-topic"), "orders");
    assert_eq!(i32::from_be_bytes(get("original-partition")[..].try_into().unwrap()), record.partition);
    assert_eq!(i64::from_be_bytes(get("original-offset")[..].try_into().unwrap()), record.offset);
    let at = i64::from_be_bytes(get("original-timestamp")[..].try_into().unwrap());
    assert_eq!(at, record.timestamp.millis().unwrap_or(-1));
    assert_eq!(get("exception-message"), failure.message);
    assert_eq!(read_headers(&write_headers(&event.headers)).unwrap(), event.headers);
    assert!(dead_letter::is_dead_letter(&Record { headers: event.headers, ..record }));
}
