//! A record for people: what is known of its headers by their names, and its value as it is.
//!
//! What is no text is written in hexadecimal, and JSON keeps its digits. Nothing that a terminal would follow is left in it.

use std::fmt::Write as _;

use serde::de::IgnoredAny;

use crate::cli::terminal::plain;
use crate::guest::envelope::is_structured;
use crate::kafka::dead_letter;
use crate::record::{Record, last_header};
use crate::settings::units;

/// Characters of a value in a line at most.
const VALUE_MAX: usize = 2_000;

/// A record in one line: place, time, key, what it says of its event, and the value.
pub(super) fn line(record: &Record) -> String {
    let mut line = place(record);
    let _ = write!(line, "  {}", time(record));
    if let Some(key) = &record.key {
        let _ = write!(line, "  {}", shown(key));
    }
    for (name, text) in known(record) {
        let _ = write!(line, "  [{name} {text}]");
    }
    let value = match record.value.as_deref() {
        None => "null".into(),
        Some(value) => as_json(value, false).unwrap_or_else(|| shown(value)),
    };
    match value.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => {
            let bytes = record.value.as_ref().map_or(0, bytes::Bytes::len);
            let _ = write!(line, "  {}.. ({bytes} bytes)", value.get(..end).unwrap_or_default());
        }
        None => {
            let _ = write!(line, "  {value}");
        }
    }
    line
}

/// A record with all that is in it.
pub(super) fn whole(record: &Record) -> String {
    let mut text = place(record);
    let kind = record.timestamp.type_name();
    let _ = write!(text, "\ntime    {} ({kind})", time(record));
    let _ = write!(text, "\nkey     {}", record.key.as_deref().map_or_else(|| "null".into(), shown));
    for (name, known) in known(record) {
        let _ = write!(text, "\n{name:<7} {known}");
    }
    for header in &record.headers {
        let value = header.value.as_deref();
        let value = value.map_or_else(|| "null".into(), |value| named(&header.name, value));
        let _ = write!(text, "\nheader  {} = {value}", plain(&header.name));
    }
    match record.value.as_deref() {
        None => text += "\nvalue   null",
        Some(value) => {
            let _ = write!(text, "\nvalue   {} bytes", value.len());
            let _ = write!(text, "\n{}", as_json(value, true).unwrap_or_else(|| shown(value)));
        }
    }
    text
}

fn place(record: &Record) -> String {
    format!("{}/{}@{}", plain(&record.topic), record.partition, record.offset)
}

fn time(record: &Record) -> String {
    record.timestamp.millis().map_or_else(|| "-".into(), units::show_time)
}

/// Bytes as text, or in hexadecimal.
fn shown(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| format!("hex:{}", crate::id::hex(bytes)), plain)
}

/// A header's value: numbers that Spring Kafka and Tidemill write as bytes are numbers, and times are times.
fn named(name: &str, value: &[u8]) -> String {
    let number = match (name, value.len()) {
        ("kafka_deliveryAttempt" | "retry_topic-attempts", 4) => int(value),
        (name, 4) if name.ends_with("original-partition") => int(value),
        (name, 8) if name.ends_with("original-offset") => long(value),
        (name, 8) if name.ends_with("original-timestamp") => {
            return long(value).filter(|at| *at >= 0).map_or_else(|| "-".into(), units::show_time);
        }
        _ => None,
    };
    number.map_or_else(|| shown(value), |number| number.to_string())
}

fn int(value: &[u8]) -> Option<i64> {
    value.try_into().ok().map(i32::from_be_bytes).map(i64::from)
}

fn long(value: &[u8]) -> Option<i64> {
    value.try_into().ok().map(i64::from_be_bytes)
}

/// What a record says of its event and of where it came from, under a name each.
fn known(record: &Record) -> Vec<(&'static str, String)> {
    let header = |name: &str| last_header(&record.headers, name).map(shown);
    let mut known = Vec::new();
    if let Some(id) = header("event-id") {
        let kind = header("event-type").filter(|kind| !kind.is_empty()).unwrap_or_else(|| "event".into());
        known.push(("event", format!("{kind} {id}")));
    }
    if is_structured(record) {
        let attributes: serde_json::Value =
            serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or_default();
        let attribute = |name: &str| attributes.get(name).and_then(|value| value.as_str()).map(plain);
        known.push(("cloud", cloud_event("structured", attribute)));
    } else if header("ce_specversion").is_some() {
        known.push(("cloud", cloud_event("binary", |name| header(&format!("ce_{name}")))));
    }
    if let Ok(Some(of)) = dead_letter::original(record) {
        let of = &of.record;
        let message = header("kafka_dlt-exception-message").unwrap_or_default();
        let group = header("kafka_dlt-original-consumer-group").unwrap_or_else(|| "-".into());
        known.push(("dead", format!("letter of {} in group {group}: {message}", place(of))));
    }
    known
}

fn cloud_event(mode: &str, attribute: impl Fn(&str) -> Option<String>) -> String {
    let [kind, id, source] = ["type", "id", "source"].map(|name| attribute(name).unwrap_or_else(|| "-".into()));
    format!("event, {mode}: {kind} {id} from {source}")
}

/// JSON laid out anew, on one line or on several; `None` if it is none. Its tokens stay as they are.
fn as_json(value: &[u8], indent: bool) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    // Blanks outside of strings go first.
    let mut quoted = Quoted::default();
    let tokens: Vec<char> = text.chars().filter(|c| quoted.holds(*c) || !c.is_ascii_whitespace()).collect();
    let (mut out, mut depth, mut quoted) = (String::with_capacity(text.len()), 0_usize, Quoted::default());
    for (n, c) in tokens.iter().copied().enumerate() {
        let inside = quoted.holds(c);
        let ends = |at: Option<&char>| matches!(at, Some('}' | ']'));
        let begins = |at: Option<&char>| matches!(at, Some('{' | '['));
        if !inside && ends(Some(&c)) && !begins(n.checked_sub(1).and_then(|n| tokens.get(n))) {
            depth = depth.saturating_sub(1);
            break_line(&mut out, indent, depth);
        }
        out.push_str(&plain(c.encode_utf8(&mut [0; 4])));
        if inside {
            continue;
        }
        match c {
            '{' | '[' if !ends(tokens.get(n + 1)) => {
                depth += 1;
                break_line(&mut out, indent, depth);
            }
            ',' => break_line(&mut out, indent, depth),
            ':' if indent => out.push(' '),
            _ => {}
        }
    }
    Some(out)
}

fn break_line(out: &mut String, indent: bool, depth: usize) {
    if indent {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
}

/// Whether a character of a JSON text is one of a string's.
#[derive(Default)]
struct Quoted {
    open: bool,
    escaped: bool,
}

impl Quoted {
    fn holds(&mut self, c: char) -> bool {
        let inside = self.open || c == '"';
        if c == '"' && !self.escaped {
            self.open = !self.open;
        }
        self.escaped = c == '\\' && self.open && !self.escaped;
        inside
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::record::{Header, Timestamp};

    fn record(value: &str, headers: &[(&str, &[u8])]) -> Record {
        let header =
            |(name, value): &(&str, &[u8])| Header { name: (*name).into(), value: Some(Bytes::copy_from_slice(value)) };
        Record {
            topic: "orders".into(),
            partition: 2,
            offset: 7,
            timestamp: Timestamp::CreateTime(0),
            key: Some(Bytes::from_static(b"k\n")),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: headers.iter().map(header).collect(),
        }
    }

    #[test]
    fn json_is_laid_out_and_keeps_its_digits_and_its_strings() {
        let value = br#" { "a" : [ 100000000000000000001 , {}, [ ] ], "b \" {, " : 1.50 } "#;
        assert_eq!(as_json(value, false).unwrap(), r#"{"a":[100000000000000000001,{},[]],"b \" {, ":1.50}"#);
        let laid_out = "{\n  \"a\": [\n    100000000000000000001,\n    {},\n    []\n  ],\n  \"b \\\" {, \": 1.50\n}";
        assert_eq!(as_json(value, true).unwrap(), laid_out);
        assert_eq!(as_json(b"{\"a\":", true), None);
    }

    #[test]
    fn events_and_dead_letters_are_told_by_their_headers() {
        let event = record("{}", &[("event-id", b"e-1"), ("event-type", b"CREATED")]);
        assert_eq!(line(&event), "orders/2@7  1970-01-01T00:00:00.000Z  k\\n  [event CREATED e-1]  {}");
        let binary =
            record("x", &[("ce_specversion", b"1.0"), ("ce_id", b"c"), ("ce_type", b"t"), ("ce_source", b"/s")]);
        assert!(line(&binary).ends_with("[cloud event, binary: t c from /s]  x"), "{}", line(&binary));
        let value = r#"{"specversion":"1.0","id":"c","source":"/s","type":"t"}"#;
        let structured = record(value, &[("content-type", b"application/cloudevents+json")]);
        assert!(line(&structured).contains("[cloud event, structured: t c from /s]"), "{}", line(&structured));
        let letter = record(
            "x",
            &[
                ("kafka_dlt-original-topic", b"in"),
                ("kafka_dlt-original-partition", &1i32.to_be_bytes()),
                ("kafka_dlt-original-offset", &9i64.to_be_bytes()),
                ("kafka_dlt-original-timestamp", &0i64.to_be_bytes()),
                ("kafka_dlt-exception-message", b"no\x1b[31m"),
                ("raw", &[0xff]),
            ],
        );
        let text = whole(&letter);
        for part in [
            "\ndead    letter of in/1@9 in group -: no\\u001b[31m",
            "\nheader  kafka_dlt-original-partition = 1",
            "\nheader  kafka_dlt-original-offset = 9",
            "\nheader  kafka_dlt-original-timestamp = 1970-01-01T00:00:00.000Z",
            "\nheader  raw = hex:ff",
            "\nvalue   1 bytes\nx",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
