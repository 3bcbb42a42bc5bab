//! S0.3, S0.7, S0.9: what one event caused, told by `tidemill trace` from what stores and Kafka keep.

use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, LONG, Out, Rec, Sandbox, Store, eventually, eventually_some};

use crate::deploying::{refused, works};
use crate::rig::services;

fn traced(sandbox: &Sandbox, asked: &str) -> Value {
    serde_json::from_str(&works(sandbox, &["trace", "--json", asked])).unwrap()
}

/// The records of a topic, as soon as there are so many.
fn records(client: &Client, topic: &str, count: usize) -> Vec<Rec> {
    eventually_some(LONG, &format!("{count} records are on {topic}"), || {
        Some(client.consume_all(topic)).filter(|all| all.len() == count)
    })
}

fn place(topic: &str, record: &Rec) -> String {
    format!("{topic}/{}@{}", record.partition, record.offset)
}

/// What became of a record with its one handler.
fn fate(event: &Value) -> (&str, &str) {
    let [handler] = event["handlers"].as_array().unwrap().as_slice() else { panic!("{event}") };
    (handler["handler"].as_str().unwrap(), handler["fate"].as_str().unwrap())
}

#[test]
fn s0_3_s0_7_a_record_is_followed_over_four_handlers_to_its_dead_letter_and_to_what_waits() {
    let sandbox = services(&[
        ("one", "one-in", &["two-in", "three-in"]),
        ("two", "two-in", &[]),
        ("three", "three-in", &[]),
        ("four", "two-in.DLT", &[]),
    ]);
    let settings = "[handler.two]\nevent-id = \"event-id\"\n[handler.three]\nevent-id = \"event-id\"\n";
    sandbox.write_toml(settings);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let publish = |to: &str, value: Value| json!({ "do": "publish", "destination": to, "value": value });
    let mut later = publish("two-in", json!({ "do": "insert" }));
    later["after_ms"] = json!(3_600_000);
    let commands = json!([
        publish("two-in", json!({ "do": "insert", "id": "good" })),
        publish("two-in", json!({ "do": "reject", "message": "no\u{1b}[31m good" })),
        publish("three-in", json!({ "do": "unavailable", "after_ms": 3_600_000 })),
        later,
    ]);
    let root = client.produce("one-in", &Out::new(commands.to_string()).key("k"));
    let root = format!("one-in/{}@{}", root.0, root.1);
    let letters = records(&client, "two-in.DLT", 1);
    Store::open(&sandbox, "three").until("SELECT count(*) FROM tm_pending", 1);
    Store::open(&sandbox, "two").until("SELECT count(*) FROM tm_inbox", 1);
    // Three events have left the outbox, so that nothing but their ids tells whose they are.
    Store::open(&sandbox, "one").until("SELECT count(*) FROM tm_outbox", 1);
    let told = traced(&sandbox, &root);
    assert_eq!((told["found"]["place"].as_str(), fate(&told["found"])), (Some(&*root), ("one", "done")));
    let events = told["found"]["handlers"][0]["events"].as_array().unwrap();
    let fates: Vec<_> = events.iter().take(3).map(fate).collect();
    assert_eq!(fates, [("two", "done"), ("two", "dead-letter"), ("three", "pending")], "{told}");
    let letter = &events[1]["handlers"][0];
    assert_eq!(letter["letter"].as_str(), Some(&*place("two-in.DLT", &letters[0])));
    assert!(letter["error"].as_str().unwrap().contains("good"), "{letter}");
    let waits = &events[2]["handlers"][0];
    assert!(waits["attempts"] == json!(0) && waits["due"].is_string(), "an outage counts no attempt: {waits}");
    assert!(waits["error"].as_str().unwrap().contains("told to be unavailable"), "{waits}");
    assert_eq!((&events[3]["state"], &events[3]["topic"]), (&json!("waiting"), &json!("two-in")));
    assert!(events[3]["due"].is_string() && events[3]["place"].is_null(), "{}", events[3]);
    // The handler of dead letters rejects it too.
    Store::open(&sandbox, "four").until("SELECT count(*) FROM tm_fallback", 1);
    let told = traced(&sandbox, &root);
    let letter = &told["found"]["handlers"][0]["events"][1]["handlers"][0]["events"][0];
    assert_eq!((letter["topic"].as_str(), fate(letter)), (Some("two-in.DLT"), ("four", "fallback")), "{told}");
    assert!(letter["handlers"][0]["error"].as_str().unwrap().contains("dead letter topic already"), "{letter}");
    // The same for people, with nothing in it that a terminal follows.
    let text = works(&sandbox, &["trace", &root]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(&root) && lines[1] == "`- one: done", "{text}");
    assert!(text.contains("two: dead letter in two-in.DLT/") && text.contains("no\\u001b[31m good"), "{text}");
    assert!(!text.contains('\u{1b}') && text.contains("waits in the outbox until "), "{text}");
    // From the middle: an event by its id.
    let id = events[1]["event_id"].as_str().unwrap();
    let told = traced(&sandbox, id);
    assert_eq!((told["found"]["event_id"].as_str(), fate(&told["found"])), (Some(id), ("two", "dead-letter")));
}

#[test]
fn s0_9_a_duplicate_names_the_record_that_was_done_and_a_circle_is_seen() {
    let sandbox = services(&[("ring", "ring-in", &["ring-in"])]);
    sandbox.write_toml("[outbox]\nkeep = \"1h\"\n[handler.ring]\nevent-id = \"event-id\"\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let again = json!({ "do": "publish", "destination": "ring-in", "event_id": "round", "key": "k", "value": { "do": "insert" } });
    client.produce("ring-in", &Out::new(again.to_string()).key("k").header("event-id", "round"));
    let all = records(&client, "ring-in", 2);
    let [first, second] = [&all[0], &all[1]].map(|record| place("ring-in", record));
    eventually(LONG, "both were read", || {
        traced(&sandbox, &second)["found"]["handlers"][0]["fate"] == json!("duplicate")
    });
    assert_eq!(traced(&sandbox, &second)["found"]["handlers"][0]["duplicate_of"], json!(first));
    let told = traced(&sandbox, "round");
    assert_eq!((told["found"]["place"].as_str(), &told["found"]["again"]), (Some(&*first), &json!([second])));
    assert_eq!(fate(&told["found"]), ("ring", "done"));
    let inner = &told["found"]["handlers"][0]["events"];
    assert_eq!((&inner[0]["seen_above"], inner.as_array().unwrap().len()), (&json!(true), 1), "{told}");
}

#[test]
fn s0_7_what_nobody_knows_is_an_error_that_says_where_it_was_looked_for() {
    let sandbox = services(&[("lone", "lone-in", &[])]);
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("lone-in", &Out::new(r#"{"do":"insert"}"#));
    Store::open(&sandbox, "lone").until("SELECT count(*) FROM seen", 1);
    let line = refused(&sandbox, &["trace", "no-such-id"]);
    for part in ["nobody knows no-such-id", "topic lone-in (its last 20000 records)", "store lone (outbox"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = refused(&sandbox, &["trace", "lone-in/0@77"]);
    assert!(line.contains("lone-in/0 has no record at offset 77"), "{line}");
}
