//! Finds the id by which the inbox knows a record, and what else it says of its event.
//!
//! A record that carries no id where the manifest says it should has none: its offset alone tells it apart, and
//! the handler decides what to make of it.

mod pointer;

use crate::deploy::manifest::{EventId, Place};
use crate::guest::envelope;
use crate::record::{Record, last_header};

/// The longest id that the inbox takes, in bytes; a longer one is hashed.
const MAX: usize = 200;
/// Before the hash of one.
const HASHED: &str = "sha256:";
/// Before the digits of bytes that are not UTF-8.
const HEX: &str = "hex:";

/// The record's event id, if the inbox is to know it by more than its offset.
pub fn find(rule: &EventId, record: &Record) -> Option<String> {
    let id = match rule {
        EventId::Offset => None,
        EventId::Key => Some(text(record.key.as_deref()?)),
        EventId::At(place) => at(place, record),
    }?;
    match id.len() {
        0 => None,
        1..=MAX if !id.starts_with(HASHED) => Some(id),
        _ => Some(format!("{HASHED}{}", crate::id::sha256_hex(id.as_bytes()))),
    }
}

/// What stands at a place of the record, as text.
pub fn at(place: &Place, record: &Record) -> Option<String> {
    match place {
        Place::Header(name) => last_header(&record.headers, name).map(text),
        Place::Pointer(pointer) => pointer::find(record.value.as_deref()?, pointer),
        Place::CloudEvent(attribute) if envelope::is_structured(record) => {
            pointer::find(record.value.as_deref()?, &format!("/{attribute}"))
        }
        Place::CloudEvent(attribute) => last_header(&record.headers, &format!("ce_{attribute}")).map(text),
    }
}

/// Bytes as text, so that no two differ in one and agree in the other.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) => text.to_owned(),
        _ => format!("{HEX}{}", crate::id::hex(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Header, Timestamp};
    use bytes::Bytes;

    fn check(rule: &EventId, value: &str, expected: Option<&str>) {
        let record = Record {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp: Timestamp::None,
            key: Some(Bytes::from_static(b"k-1")),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: vec![
                Header { name: "ce_id".into(), value: Some(Bytes::from_static(b"h-0")) },
                Header { name: "ce_id".into(), value: Some(Bytes::from_static(b"h-1")) },
                Header { name: "raw".into(), value: Some(Bytes::from_static(&[0xff, 0x01])) },
                Header { name: "none".into(), value: None },
            ],
        };
        assert_eq!(find(rule, &record).as_deref(), expected, "{rule:?} {value}");
    }

    #[test]
    fn ids_are_found_where_the_manifest_says() {
        let pointer = |p: &str| EventId::At(Place::Pointer(p.into()));
        let header = |name: &str| EventId::At(Place::Header(name.into()));
        check(&pointer("/eventId"), r#"{"eventId":"e-1"}"#, Some("e-1"));
        check(&pointer("/meta/id"), r#"{"meta":{"id":17}}"#, Some("17"));
        check(&pointer("/eventId"), r#"{"eventId":""}"#, None);
        check(&pointer("/eventId"), r#"{"eventId":{}}"#, None);
        check(&pointer("/eventId"), "not json", None);
        check(&header("ce_id"), "", Some("h-1"));
        check(&header("raw"), "", Some("hex:ff01"));
        check(&header("none"), "", None);
        check(&header("other"), "", None);
        check(&EventId::Key, "", Some("k-1"));
        // A CloudEvent in structured mode.
        check(&pointer("/id"), r#"{"specversion":"1.0","id":"c-1","source":"/s","type":"t"}"#, Some("c-1"));
        check(&EventId::Offset, r#"{"eventId":"e-1"}"#, None);
        // JSON's numbers have any number of digits, of which f64 keeps 17.
        check(&pointer("/id"), r#"{"id":-9007199254740993}"#, Some("-9007199254740993"));
        check(&pointer("/id"), r#"{"id":100000000000000000001}"#, None);
        check(&pointer("/id"), r#"{"id":1.5}"#, None);
        let long = "x".repeat(201);
        let hashed = format!("sha256:{}", crate::id::sha256_hex(long.as_bytes()));
        check(&pointer("/eventId"), &format!(r#"{{"eventId":"{long}"}}"#), Some(&hashed));
    }

    #[test]
    fn no_id_is_what_becomes_of_another() {
        let find = |id: &[u8]| {
            let header = Header { name: "id".into(), value: Some(Bytes::copy_from_slice(id)) };
            let (topic, timestamp) = ("t".into(), Timestamp::None);
            let record =
                Record { topic, partition: 0, offset: 0, timestamp, key: None, value: None, headers: vec![header] };
            super::find(&EventId::At(Place::Header("id".into())), &record)
        };
        for id in [&b"\xff\x01"[..], &[b'x'; 201], &[0xff; 101]] {
            let made = find(id).unwrap_or_default();
            assert_ne!(find(made.as_bytes()).as_ref(), Some(&made), "{id:?}");
        }
    }
}
