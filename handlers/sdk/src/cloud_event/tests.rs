//! The examples of the specification's text, the rules that they show, and what breaks them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};

use crate::record::Header;
use crate::test::{Bench, Published, example, record};
use crate::{CloudEvent, Failure, Handler, Record, Time, publisher::Event};

/// The binary example of the Kafka binding (3.2.5).
fn in_binary_mode() -> Record {
    record("mytopic")
        .with_key("mykey")
        .with_header("ce_specversion", "1.0")
        .with_header("ce_type", "com.example.someevent")
        .with_header("ce_source", "/mycontext/subcontext")
        .with_header("ce_id", "1234-1234-1234")
        .with_header("ce_time", "2018-04-05T03:56:24Z")
        .with_header("content-type", "application/avro")
        .with_value([0x06, 0x61, 0x62, 0x63])
}

fn in_structured_mode(document: &Value) -> Record {
    record("mytopic")
        .with_header("Content-Type", "text/plain")
        .with_json(document)
        .with_header("content-type", "Application/CloudEvents+JSON; charset=UTF-8")
}

/// The structured example of the Kafka binding (3.3.4), with the extensions of the JSON format's.
fn document() -> Value {
    json!({
        "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext/subcontext",
        "id": "1234-1234-1234", "time": "2018-04-05T03:56:24Z", "subject": null,
        "comexampleextension1": "value", "comexampleothervalue": 5, "comexampleflag": true,
        "datacontenttype": "application/xml", "data": "<much wow=\"xml\"/>",
    })
}

fn why<T: std::fmt::Debug>(read: Result<T, Failure>) -> String {
    match read.unwrap_err() {
        Failure::Reject(why) if why.starts_with("undecodable: ") => why,
        other => format!("another failure: {other:?}"),
    }
}

#[test]
fn the_binary_example_of_the_specification_is_read() {
    let event = in_binary_mode().cloud_event_raw().unwrap();
    let expected = CloudEvent {
        id: "1234-1234-1234".into(),
        data_content_type: Some("application/avro".into()),
        ..CloudEvent::new("com.example.someevent", "/mycontext/subcontext", Some(vec![0x06, 0x61, 0x62, 0x63]))
    };
    assert_eq!(event, expected.time(Time::from_millis(1_522_900_584_000)));
    assert!(why(in_binary_mode().cloud_event::<Value>()).contains("application/avro, and not JSON"));
}

#[test]
fn the_structured_example_of_the_specification_is_read() {
    let event = in_structured_mode(&document()).cloud_event_raw().unwrap();
    assert_eq!(event.data.as_deref(), Some(b"<much wow=\"xml\"/>".as_slice()));
    assert_eq!((event.subject, event.id.as_str()), (None, "1234-1234-1234"));
    let extensions: Vec<_> = event.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [("comexampleextension1", "value"), ("comexampleflag", "true"), ("comexampleothervalue", "5")];
    assert_eq!(extensions, expected);
}

#[test]
fn data_is_json_unless_it_says_otherwise_and_may_be_base64_or_none() {
    let read = |changes: Value| {
        let mut document = document();
        let members = document.as_object_mut().unwrap();
        members.extend(changes.as_object().unwrap().clone());
        in_structured_mode(&document).cloud_event::<Option<Value>>().map(|event| event.data)
    };
    assert_eq!(read(json!({ "datacontenttype": null, "data": "text" })), Ok(Some(json!("text"))));
    assert_eq!(
        read(json!({ "datacontenttype": "application/vnd.x+json; v=1", "data": { "a": 1.0 } })),
        Ok(Some(json!({ "a": 1.0 })))
    );
    assert_eq!(
        read(json!({ "datacontenttype": "text/json", "data": null, "data_base64": "eyJhIjoxfQ==" })),
        Ok(Some(json!({ "a": 1 })))
    );
    assert_eq!(read(json!({ "data": null })), Ok(None));
    assert!(why(read(json!({ "data_base64": "AA==" }))).contains("both"));
    for broken in ["A", "A===", "AAA", "AB==", "A A=", "AA=A", "é=="] {
        assert!(why(read(json!({ "data": null, "data_base64": broken }))).contains("no Base64"), "{broken}");
    }
    let tombstone = Record { value: None, ..in_binary_mode() };
    assert_eq!(tombstone.cloud_event::<()>().map(|event| event.data), Ok(()));
    assert!(why(tombstone.cloud_event::<u8>()).contains("the event has no data"));
}

#[test]
fn what_is_no_cloud_event_is_undecodable_and_says_why() {
    assert!(why(record("in").with_value("{}").cloud_event::<Value>()).contains("header `ce_specversion` is missing"));
    for (name, value, expected) in [
        ("ce_specversion", &b"0.3"[..], "specversion is `0.3`"),
        ("ce_id", b"", "`ce_id` is missing or empty"),
        ("ce_time", b"noon", "`noon` is not a time"),
        ("ce_source", b"\xff", "`ce_source` is not UTF-8"),
        ("content-type", b"application/cloudevents+avro", "only JSON is known"),
        ("content-type", b"application/cloudevents-batch+json", "only JSON is known"),
        ("content-type", b"application/cloudevents+json", "no JSON object"),
    ] {
        let said = why(in_binary_mode().with_header(name, value).cloud_event_raw());
        assert!(said.contains(expected), "{name}: {said}");
    }
    for (name, value, expected) in [
        ("id", json!(null), "`id` is missing"),
        ("extra", json!([1]), "`extra` is neither"),
        ("x", json!(1.5), "`x` is neither"),
    ] {
        let mut document = document();
        document[name] = value;
        let said = why(in_structured_mode(&document).cloud_event_raw());
        assert!(said.contains(expected), "{said}");
    }
    let null = Record { headers: vec![Header { name: "ce_id".into(), value: None }], ..Record::default() };
    assert!(why(null.cloud_event_raw()).contains("ce_specversion"));
}

/// Publishes what it reads in both modes, and once with an id of its own making.
fn forward(record: &Record) -> Result<(), Failure> {
    let event: CloudEvent<Value> = record.cloud_event()?;
    Event::cloud_event_structured("orders", event.clone()).key(7).send_async()?;
    Event::cloud_event("orders", CloudEvent { id: String::new(), ..event.clone() }).enqueue()?;
    Event::cloud_event_structured("orders", CloudEvent { id: String::new(), ..event.clone() }).enqueue()?;
    Event::cloud_event("orders", event).enqueue()?;
    Ok(())
}

#[test]
fn what_is_published_is_read_as_the_same_in_both_modes() {
    static FORWARD: Handler = Handler { records: Some(forward), ..example::HANDLER };
    let mut bench = Bench::new(&FORWARD);
    let mut document = document();
    document["datacontenttype"] = json!("application/json");
    document["data"] = json!({ "price": 12.5 });
    let sent = in_structured_mode(&document);
    bench.record(&sent).unwrap();
    let original: CloudEvent<Value> = sent.cloud_event().unwrap();
    for (at, kept) in [(0, true), (1, false), (2, false), (3, true)] {
        let Published { id, value, headers, .. } = bench.events()[at].clone();
        let read: CloudEvent<Value> = Record { value, headers, ..Record::default() }.cloud_event().unwrap();
        assert_eq!(read.id, id, "the event's own id");
        assert_eq!(kept, id == original.id);
        assert_eq!(CloudEvent { id: original.id.clone(), ..read }, original);
    }
    assert_eq!(bench.events()[0].key_str(), "7");
}

#[test]
fn what_the_specification_does_not_allow_is_not_published() {
    example::run(|| {
        let event = || CloudEvent::new("type", "/source", 1);
        for (event, expected) in [
            (CloudEvent::new("", "/source", 1), "needs a type"),
            (CloudEvent::new("type", "", 1), "and a source"),
            (event().extension("subject", "x"), "`subject` is no name"),
            (event().extension("a_b", "x"), "`a_b` is no name"),
            (event().extension("", "x"), "`` is no name"),
        ] {
            let refused = Event::cloud_event("orders", event).bytes("1").enqueue().unwrap_err();
            assert!(refused.message.contains(expected), "{refused}");
        }
        Ok(())
    });
}
