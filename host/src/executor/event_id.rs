//! Finds the id by which the inbox knows a record.
//!
//! A record that carries no id where the manifest says it should has none: its offset alone tells it apart, and
//! the handler decides what to make of it.

use serde_json::Value as Json;

use crate::deploy::manifest::EventId;
use crate::record::Record;

/// The longest id that the inbox takes, in bytes; a longer one is hashed.
const MAX: usize = 200;

/// The record's event id, if the inbox is to know it by more than its offset.
pub(super) fn find(rule: &EventId, record: &Record) -> Option<String> {
    let id = match rule {
        EventId::Offset => None,
        EventId::Key => Some(text(record.key.as_deref()?)),
        EventId::Header(name) => {
            // Where a name repeats the last one counts, as in Kafka's own `lastHeader`.
            let header = record.headers.iter().rfind(|h| h.name == *name)?;
            Some(text(header.value.as_deref()?))
        }
        EventId::Pointer(pointer) => {
            let json: Json = serde_json::from_slice(record.value.as_deref()?).ok()?;
            match json.pointer(pointer)? {
                Json::String(text) => Some(text.clone()),
                Json::Number(number) => Some(number.to_string()),
                _ => None,
            }
        }
    }?;
    match id.len() {
        0 => None,
        1..=MAX => Some(id),
        _ => Some(format!("sha256:{}", crate::id::sha256_hex(id.as_bytes()))),
    }
}

/// Bytes as text, so that no two differ in one and agree in the other.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| format!("hex:{}", crate::id::hex(bytes)), str::to_owned)
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
        let pointer = |p: &str| EventId::Pointer(p.into());
        check(&pointer("/eventId"), r#"{"eventId":"e-1"}"#, Some("e-1"));
        check(&pointer("/meta/id"), r#"{"meta":{"id":17}}"#, Some("17"));
        check(&pointer("/eventId"), r#"{"eventId":""}"#, None);
        check(&pointer("/eventId"), r#"{"eventId":{}}"#, None);
        check(&pointer("/eventId"), "not json", None);
        check(&EventId::Header("ce_id".into()), "", Some("h-1"));
        check(&EventId::Header("raw".into()), "", Some("hex:ff01"));
        check(&EventId::Header("none".into()), "", None);
        check(&EventId::Header("other".into()), "", None);
        check(&EventId::Key, "", Some("k-1"));
        // A CloudEvent in structured mode.
        check(&pointer("/id"), r#"{"specversion":"1.0","id":"c-1","source":"/s","type":"t"}"#, Some("c-1"));
        check(&EventId::Offset, r#"{"eventId":"e-1"}"#, None);
        let long = "x".repeat(201);
        let hashed = format!("sha256:{}", crate::id::sha256_hex(long.as_bytes()));
        check(&pointer("/eventId"), &format!(r#"{{"eventId":"{long}"}}"#), Some(&hashed));
    }
}
