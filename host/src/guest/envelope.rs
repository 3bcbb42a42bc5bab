//! Envelopes: what stands around the payload of an event on its topic, by `envelope` in the manifest.
//!
//! A handler sees payloads, and gives them; its type, version and id it is told by the delivery. What the topic holds is never
//! changed: a dead letter is the record as it came, and a payload passes with every digit that it was written with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::deploy::manifest::{Envelope, Place, Spec};
use crate::executor::event_id;
use crate::ledger::outbox::Event;
use crate::record::{Header, Record, last_header};
use crate::settings::units;

/// The media type of a CloudEvent in the structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
const CONTENT_TYPE: &str = "content-type";
/// The header with the version of an event's schema, which the envelope takes up.
const VERSION: &str = "event-version";

/// `envelope = "payload"`
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// A CloudEvent in the structured mode.
#[derive(Deserialize)]
struct Structured<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
}

/// The record with its payload for a value.
///
/// # Errors
/// Its value is not in the envelope; the text says why.
pub(super) fn open<'r>(envelope: Envelope, record: &'r Record) -> Result<Cow<'r, Record>, String> {
    // A tombstone has no payload, whatever stands around those of others.
    let Some(value) = &record.value else { return Ok(Cow::Borrowed(record)) };
    let read = |error: serde_json::Error| format!("the record's value is not in the envelope of the manifest: {error}");
    let inner = match envelope {
        Envelope::None | Envelope::Flat | Envelope::Debezium => return Ok(Cow::Borrowed(record)),
        Envelope::Payload => {
            let envelope: Payload<'_> = serde_json::from_slice(value).map_err(read)?;
            Some(value.slice_ref(envelope.payload.get().as_bytes()))
        }
        Envelope::CloudEvents | Envelope::CloudEventsStructured if !is_structured(record) => {
            return match event_id::at(&Place::CloudEvent("specversion"), record) {
                Some(_) => Ok(Cow::Borrowed(record)),
                None => Err(format!(
                    "the record is no CloudEvent: it has no header `ce_specversion`, and its `content-type` is not {STRUCTURED}"
                )),
            };
        }
        Envelope::CloudEvents | Envelope::CloudEventsStructured => {
            let event: Structured<'_> = serde_json::from_slice(value).map_err(read)?;
            match (event.data, event.data_base64) {
                (Some(data), _) => Some(value.slice_ref(data.get().as_bytes())),
                (None, Some(text)) => {
                    let data =
                        BASE64.decode(text.as_bytes()).map_err(|e| format!("`data_base64` is not base64: {e}"))?;
                    Some(Bytes::from(data))
                }
                (None, None) => None,
            }
        }
    };
    Ok(Cow::Owned(Record { value: inner, ..record.clone() }))
}

/// Whether a CloudEvent is in the structured mode, by its media type.
pub(crate) fn is_structured(record: &Record) -> bool {
    last_header(&record.headers, CONTENT_TYPE).is_some_and(|value| value.starts_with(STRUCTURED.as_bytes()))
}

/// Puts an event's payload into its envelope, `now` in milliseconds since the Unix epoch.
///
/// # Errors
/// The payload does not go into it; the text says why.
pub(super) fn close(spec: &Spec, event: &mut Event, now: i64) -> Result<(), String> {
    match spec.envelope {
        Envelope::None => {}
        Envelope::Debezium => {
            event.headers.extend([header("id", &event.event_id), header("eventType", &event.event_type)])
        }
        Envelope::CloudEvents => {
            let mut attributes = vec![
                header("ce_specversion", "1.0"),
                header("ce_id", &event.event_id),
                header("ce_source", &spec.event_source),
                header("ce_type", &event.event_type),
                header("ce_time", &units::show_time(now)),
            ];
            attributes.extend(version(event).map(|version| header("ce_dataversion", &version)));
            if !event.headers.iter().any(|header| header.name == CONTENT_TYPE) {
                attributes.push(header(CONTENT_TYPE, "application/json"));
            }
            event.headers.extend(attributes);
        }
        Envelope::Payload | Envelope::Flat | Envelope::CloudEventsStructured => {
            // A tombstone stays one.
            let Some(value) = event.value.clone() else { return Ok(()) };
            let payload: &RawValue = serde_json::from_slice(&value).map_err(|error| {
                format!("an event's payload is not the JSON that the envelope of the manifest needs: {error}")
            })?;
            event.value = Some(written(spec, event, payload, now)?.into());
            if spec.envelope == Envelope::CloudEventsStructured {
                event.headers.retain(|header| header.name != CONTENT_TYPE);
                event.headers.push(header(CONTENT_TYPE, STRUCTURED));
            }
        }
    }
    Ok(())
}

/// `{"eventId", "eventType", "payload"}`, and the head of a flat one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Enveloped<'a> {
    event_id: &'a str,
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_version: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataversion: Option<String>,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

/// The value, with the payload as it was written.
fn written(spec: &Spec, event: &Event, payload: &RawValue, now: i64) -> Result<Vec<u8>, String> {
    if spec.envelope == Envelope::CloudEventsStructured {
        let event = CloudEvent {
            specversion: "1.0",
            id: &event.event_id,
            source: &spec.event_source,
            r#type: &event.event_type,
            time: units::show_time(now),
            dataversion: version(event),
            datacontenttype: "application/json",
            data: payload,
        };
        return serde_json::to_vec(&event).map_err(|error| error.to_string());
    }
    let flat = spec.envelope == Envelope::Flat;
    let head = Enveloped {
        event_id: &event.event_id,
        event_type: &event.event_type,
        event_version: version(event).map(|version| version.parse::<u64>().map_or(Value::from(version), Value::from)),
        timestamp: flat.then(|| units::show_time(now)),
        payload: (!flat).then_some(payload),
    };
    let mut written = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
    if flat {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(payload.get())
            .map_err(|_| "an event's payload is not the object that `envelope = \"flat\"` needs".to_owned())?;
        let own = ["eventId", "eventType", "eventVersion", "timestamp"];
        if let Some(name) = own.iter().find(|name| fields.contains_key(**name)) {
            return Err(format!(
                "an event's payload has a field `{name}`, which `envelope = \"flat\"` adds: leave it out"
            ));
        }
        if !fields.is_empty() {
            // The two objects become one, in which each field stands as it was written.
            written.pop();
            written.push(b',');
            written.extend_from_slice(payload.get().trim_start_matches('{').as_bytes());
        }
    }
    Ok(written)
}

/// The version of the event's schema, which it carries in a header.
fn version(event: &Event) -> Option<String> {
    last_header(&event.headers, VERSION).map(|version| String::from_utf8_lossy(version).into_owned())
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::deploy::manifest::Manifest;
    use crate::ledger::outbox::EventKind;
    use crate::record::Timestamp;
    use crate::settings::Settings;

    /// 2026-01-31T10:10:00.123Z
    const NOW: i64 = 1_769_854_200_123;

    fn spec(envelope: &str) -> Spec {
        let manifest = format!("name = \"shop\"\ntopics = [\"t\"]\nenvelope = \"{envelope}\"\n");
        let manifest = Manifest::parse(&manifest, "handler.toml").unwrap();
        Spec::resolve(&manifest, &Settings::parse("", "tidemill.toml").unwrap().defaults, None).unwrap()
    }

    fn published(envelope: &str, payload: &str) -> Result<Record, String> {
        let mut event = Event {
            event_id: "e-\"1\"".into(),
            event_type: "ORDER_PAID".into(),
            topic: "t".into(),
            partition: None,
            key: None,
            value: Some(Bytes::copy_from_slice(payload.as_bytes())),
            headers: vec![header(VERSION, "2")],
            kind: EventKind::Event,
            not_before: None,
        };
        close(&spec(envelope), &mut event, NOW)?;
        let Event { value, headers, .. } = event;
        Ok(Record { topic: "t".into(), partition: 0, offset: 0, timestamp: Timestamp::None, key: None, value, headers })
    }

    /// Every digit and every space stays.
    const PAYLOAD: &str = r#"{"orderId":9007199254740993, "amount":25.00}"#;

    #[test]
    fn s1_1_s2_2_what_is_published_in_an_envelope_is_read_out_of_it_again() {
        for (envelope, value) in [
            ("none", PAYLOAD.to_owned()),
            ("payload", format!(r#"{{"eventId":"e-\"1\"","eventType":"ORDER_PAID","eventVersion":2,"payload":{PAYLOAD}}}"#)),
            (
                "flat",
                r#"{"eventId":"e-\"1\"","eventType":"ORDER_PAID","eventVersion":2,"timestamp":"2026-01-31T10:10:00.123Z","orderId":9007199254740993, "amount":25.00}"#.into(),
            ),
            ("cloudevents", PAYLOAD.to_owned()),
            (
                "cloudevents-structured",
                format!(r#"{{"specversion":"1.0","id":"e-\"1\"","source":"/shop","type":"ORDER_PAID","time":"2026-01-31T10:10:00.123Z","dataversion":"2","datacontenttype":"application/json","data":{PAYLOAD}}}"#),
            ),
            ("debezium", PAYLOAD.to_owned()),
        ] {
            let record = published(envelope, PAYLOAD).unwrap();
            assert_eq!(record.value.as_deref(), Some(value.as_bytes()), "{envelope}");
            let spec = spec(envelope);
            let opened = open(spec.envelope, &record).unwrap();
            let inner = if envelope == "flat" { value.as_str() } else { PAYLOAD };
            assert_eq!(opened.value.as_deref(), Some(inner.as_bytes()), "{envelope}");
            // The relay adds these two to what has no envelope.
            if envelope != "none" {
                assert_eq!(event_id::find(&spec.event_id, &record).as_deref(), Some("e-\"1\""), "{envelope}");
                assert_eq!(event_id::at(&spec.event_type, &record).as_deref(), Some("ORDER_PAID"), "{envelope}");
            }
            assert_eq!(event_id::at(&spec.event_version, &record).as_deref(), Some("2"), "{envelope}");
        }
    }

    #[test]
    fn what_does_not_go_into_an_envelope_is_refused_with_the_reason() {
        for (envelope, payload, says) in [
            ("payload", "25,00", "is not the JSON"),
            ("cloudevents-structured", "", "is not the JSON"),
            ("flat", "[1]", "is not the object"),
            ("flat", r#"{"timestamp":1}"#, "has a field `timestamp`"),
        ] {
            let refused = published(envelope, payload).unwrap_err();
            assert!(refused.contains(says), "{envelope}: {refused}");
        }
        assert_eq!(published("flat", "{}").unwrap().value.unwrap().last(), Some(&b'}'));
        assert!(published("cloudevents", "25,00").is_ok());
    }

    #[test]
    fn what_is_not_in_its_envelope_is_no_payload() {
        let record = |value: Option<&str>, headers: Vec<Header>| {
            let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
            Record { topic: "t".into(), partition: 0, offset: 0, timestamp: Timestamp::None, key: None, value, headers }
        };
        let open = |envelope, record: &Record| open(envelope, record).map(|record| record.value.clone());
        assert_eq!(open(Envelope::Payload, &record(None, Vec::new())), Ok(None));
        for broken in ["{", "7", r#"{"eventId":"e"}"#] {
            let refused = open(Envelope::Payload, &record(Some(broken), Vec::new())).unwrap_err();
            assert!(refused.contains("is not in the envelope"), "{refused}");
        }
        let refused = open(Envelope::CloudEvents, &record(Some("{}"), Vec::new())).unwrap_err();
        assert!(refused.contains("ce_specversion"), "{refused}");
        let structured =
            |value| record(Some(value), vec![header(CONTENT_TYPE, "application/cloudevents+json; charset=UTF-8")]);
        assert_eq!(open(Envelope::CloudEvents, &structured(r#"{"data_base64":"Nw=="}"#)), Ok(Some(Bytes::from("7"))));
        assert_eq!(open(Envelope::CloudEvents, &structured(r#"{"id":"e"}"#)), Ok(None));
        assert!(open(Envelope::CloudEvents, &structured(r#"{"data_base64":"*"}"#)).is_err());
    }
}
