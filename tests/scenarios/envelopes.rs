//! S1.1, S2.2: what stands around payloads is the manifest's, and a handler's code is the same for all of it.

use serde_json::json;
use tidemill_tests::{Daemon, Out, SOON, Sandbox, Store, eventually};

use crate::rig::first_on;

/// A daemon whose handler reads and publishes in this envelope.
fn daemon(envelope: &str) -> (Sandbox, Daemon) {
    let sandbox = Sandbox::with(&["hostile"]);
    let manifest = format!(
        "name = \"hostile\"\ntopics = [\"hostile-in\"]\nenvelope = \"{envelope}\"\n[retry]\nmax-attempts = 2\n[publish]\nout = \"hostile-out\"\n"
    );
    sandbox.deploy_bytes("hostile.toml", manifest.as_bytes());
    let daemon = Daemon::start(&sandbox);
    (sandbox, daemon)
}

/// What tells the handler to publish this payload, under the id `p-1`.
fn publish() -> serde_json::Value {
    json!({ "do": "publish", "id": "a", "event_id": "p-1", "event_type": "PAID", "value": { "orderId": 7 } })
}

/// The record is done once though it comes twice, and what it published is the value and headers that come back.
fn through(envelope: &str, record: impl Fn() -> Out) -> (serde_json::Value, Vec<(String, String)>) {
    let (sandbox, daemon) = daemon(envelope);
    let client = daemon.client();
    client.produce_all("hostile-in", [record(), record()].map(|record| record.partition(0)));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT coalesce(max(next_offset), 0) FROM tm_offset WHERE partition = 0", 2);
    assert_eq!(store.lines("SELECT id FROM seen"), ["a"], "{envelope}");
    eventually(SOON, "the event", || client.consume_all("hostile-out").len() == 1);
    let event = first_on(&client, "hostile-out");
    let headers = event.headers.iter().map(|(name, value)| {
        let value = value.as_deref().unwrap_or_default();
        (name.clone(), String::from_utf8_lossy(value).into_owned())
    });
    (event.json(), headers.collect())
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> &'h str {
    let mut found = headers.iter().filter(|(n, _)| n == name);
    let (_, value) = found.next().unwrap_or_else(|| panic!("{name} is not among {headers:?}"));
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

#[test]
fn s1_1_an_event_in_an_envelope_is_read_and_published_in_it() {
    let record = || Out::new(json!({ "eventId": "e-1", "eventType": "DO", "payload": publish() }).to_string());
    let (event, _) = through("payload", record);
    assert_eq!(event, json!({ "eventId": "p-1", "eventType": "PAID", "payload": { "orderId": 7 } }));
}

#[test]
fn s2_2_a_flat_event_is_read_and_published_with_its_time() {
    let record = || {
        let mut value = publish();
        value["eventId"] = json!("e-1");
        value["eventType"] = json!("DO");
        Out::new(value.to_string())
    };
    let (event, _) = through("flat", record);
    let time = event["timestamp"].as_str().unwrap().to_owned();
    assert!(time.ends_with('Z') && time.len() == "2026-01-31T10:10:00.123Z".len(), "{time}");
    assert_eq!(event, json!({ "eventId": "p-1", "eventType": "PAID", "timestamp": time, "orderId": 7 }));
}

#[test]
fn s1_1_cloudevents_are_read_in_both_modes_and_published_in_one() {
    let binary = || {
        let record = Out::new(publish().to_string()).header("ce_specversion", "1.0").header("ce_id", "e-1");
        record.header("ce_source", "/test").header("ce_type", "DO")
    };
    let structured = || {
        let event = json!({ "specversion": "1.0", "id": "e-1", "source": "/test", "type": "DO", "data": publish() });
        Out::new(event.to_string()).header("content-type", "application/cloudevents+json; charset=UTF-8")
    };
    for record in [&binary as &dyn Fn() -> Out, &structured] {
        let (event, headers) = through("cloudevents", record);
        assert_eq!(event, json!({ "orderId": 7 }));
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "p-1"),
            ("ce_source", "/hostile"),
            ("ce_type", "PAID"),
            ("content-type", "application/json"),
        ];
        for (name, value) in expected {
            assert_eq!(header(&headers, name), value, "{name}");
        }
    }
    let (mut event, headers) = through("cloudevents-structured", structured);
    assert_eq!(header(&headers, "content-type"), "application/cloudevents+json");
    assert!(event["time"].take().is_string());
    let expected = json!({
        "specversion": "1.0", "id": "p-1", "source": "/hostile", "type": "PAID", "time": null, "datacontenttype": "application/json",
        "data": { "orderId": 7 },
    });
    assert_eq!(event, expected);
}

#[test]
fn s1_2_an_event_has_the_headers_of_debeziums_outbox() {
    let (event, headers) = through("debezium", || Out::new(publish().to_string()).header("id", "e-1"));
    assert_eq!(event, json!({ "orderId": 7 }));
    assert_eq!((header(&headers, "id"), header(&headers, "eventType")), ("p-1", "PAID"));
}

#[test]
fn s4_7_a_record_that_is_not_in_its_envelope_is_a_dead_letter_as_it_came() {
    let (sandbox, daemon) = daemon("payload");
    let client = daemon.client();
    let bare = publish().to_string();
    client.produce("hostile-in", &Out::new(&bare).partition(0));
    let letter = first_on(&client, "hostile-in.DLT");
    assert_eq!(letter.text(), bare);
    let why = letter.header_text("kafka_dlt-exception-message").unwrap();
    assert!(why.contains("is not in the envelope of the manifest: missing field `payload`"), "{why}");
    assert_eq!(crate::rig::attempts(&letter).len(), 1);

    // What cannot be published in it is the handler's error to deal with.
    let text = json!({ "do": "publish", "id": "b", "bytes": 3 });
    client.produce("hostile-in", &Out::new(json!({ "eventId": "e-2", "payload": text }).to_string()).partition(0));
    daemon.says(&["WARN", "is not the JSON that the envelope of the manifest needs"]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT coalesce(max(next_offset), 0) FROM tm_offset WHERE partition = 0", 2);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0);
}
