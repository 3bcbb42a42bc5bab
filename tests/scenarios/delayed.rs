//! S0.7: an event that is due later waits in the outbox, holds nobody up, and goes out at its time.
//!
//! When it went out is read from the record's own timestamp, which the relay's producer writes as it sends: neither
//! the test's clock nor the time that a busy machine takes to look counts.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Out, Rec, Sandbox, Store, eventually, eventually_some};

use crate::rig::{Hostile, first_on};

/// Later than this is wrong on any machine that the tests run on. How late they really are, `tests/proof` prints.
const LATE: i64 = 5_000;
const DAY: i64 = 24 * 60 * 60 * 1_000;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Tells the handler to publish.
fn post(daemon: &Daemon, command: &Value) {
    daemon.call("POST", "/hostile").body(&command.to_string()).send().expect_status(200);
}

fn id(event: &Rec) -> String {
    event.json()["id"].as_str().unwrap().to_owned()
}

/// The event went out when it was due, and never before.
fn on_time(event: &Rec) {
    let (due, sent) = (event.json()["due"].as_i64().unwrap(), event.timestamp.unwrap());
    assert!(sent >= due, "{}: {} ms before its time", event.text(), due - sent);
    assert!(sent < due + LATE, "{}: {} ms late", event.text(), sent - due);
}

#[test]
fn s0_7_a_delayed_event_goes_out_at_its_time_and_holds_nobody_up() {
    let sandbox = Sandbox::with(&["hostile"]);
    // Nothing but its time can find a row.
    sandbox.write_toml("[outbox]\nsweep = \"1h\"\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    // One key, so one partition: the order on the topic is the order in which they went out.
    let told = |id: &str, after_ms: u64| {
        let command = match after_ms {
            0 => json!({ "do": "publish", "id": id }),
            after_ms => json!({ "do": "publish", "id": id, "after_ms": after_ms }),
        };
        Out::new(command.to_string()).key("k").partition(0)
    };
    let records = [told("third", 2_500), told("second", 2_000), told("first", 1_500), told("now", 0)];
    client.produce_all("hostile-in", records);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 4);
    assert_eq!(id(&first_on(&client, "hostile-out")), "now", "enqueued last, and not held up");

    let events = eventually_some(LONG, "all events", || {
        Some(client.consume_all("hostile-out")).filter(|events| events.len() == 4)
    });
    assert_eq!(events.iter().map(id).collect::<Vec<_>>(), ["now", "first", "second", "third"]);
    events[1..].iter().for_each(on_time);
    store.until("SELECT count(*) FROM tm_outbox", 0);
}

#[test]
fn s0_7_a_delayed_event_survives_a_kill() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    // One is due while the daemon is away, one only long after it is back, the last one by a time and not by a delay.
    let due = now() + 6_000;
    post(&daemon, &json!({ "do": "publish", "id": "missed", "after_ms": 200 }));
    post(&daemon, &json!({ "do": "publish", "id": "next-year", "after_ms": 364 * DAY }));
    post(&daemon, &json!({ "do": "publish", "id": "later", "due_ms": due }));
    daemon.kill9();
    let store = Store::open(&sandbox, "hostile");
    let rows = store.lines("SELECT status, not_before - created_at > 0 FROM tm_outbox WHERE event_type = 'HOSTILE'");
    assert!(rows.len() >= 2 && rows.iter().all(|row| row == "waiting|1"), "{rows:?}");
    assert_eq!(store.count(&format!("SELECT count(*) FROM tm_outbox WHERE not_before = {due}")), 1);

    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let published = |wanted: &str| {
        eventually_some(LONG, wanted, || {
            client.consume_all("hostile-out").into_iter().find(|event| id(event) == wanted)
        })
    };
    on_time(&published("later"));
    let missed = published("missed");
    assert!(missed.timestamp.unwrap() >= missed.json()["due"].as_i64().unwrap());
    eventually(LONG, "what was published is cleared", || store.count("SELECT count(*) FROM tm_outbox") == 1);
    let left = store.lines("SELECT payload ->> 'id', (not_before - created_at) / 86400000 FROM tm_outbox");
    assert_eq!(left, ["next-year|364"]);
    let ids: Vec<_> = client.consume_all("hostile-out").iter().map(id).collect();
    assert_eq!(ids.len(), 2, "each once, and the third not yet: {ids:?}");
}

#[test]
fn s0_7_a_time_that_has_passed_is_no_delay_and_one_beyond_a_year_is_refused() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    post(&daemon, &json!({ "do": "publish", "id": "past", "due_ms": now() - DAY }));
    post(&daemon, &json!({ "do": "publish", "id": "long-past", "due_ms": i64::MIN }));
    post(&daemon, &json!({ "do": "publish", "id": "at-once", "after_ms": 0 }));
    eventually(LONG, "three events", || client.consume_all("hostile-out").len() == 3);
    let records = [366 * DAY, i64::MAX].map(|after_ms| json!({ "do": "publish", "after_ms": after_ms }));
    let records = records.into_iter().chain([json!({ "do": "publish", "due_ms": i64::MAX })]);
    client.produce_all("hostile-in", records.map(|command| Out::new(command.to_string())));
    let dead = eventually_some(LONG, "three dead letters", || {
        Some(client.consume_all("hostile-in.DLT")).filter(|dead| dead.len() == 3)
    });
    for letter in dead {
        let why = letter.header_text("kafka_dlt-exception-message").unwrap();
        assert!(why.contains("365 days after the delivery at most"), "{why}");
    }
    assert_eq!(Store::open(&sandbox, "hostile").count("SELECT count(*) FROM tm_outbox WHERE not_before > 0"), 0);
}

/// Delayed events of a topic that is missing wait for it, by their times, whether they have shown that it is missing or
/// came due when that was known; those of another topic do not wait.
#[test]
fn s0_7_delayed_events_of_a_missing_topic_wait_for_it_in_their_order() {
    // More than are read at a time.
    const EVENTS: usize = 700;
    let hostile = Hostile::new(Kafka::shared(), "");
    let [early, late] = ["early", "late"].map(|name| hostile.sandbox.unique(name));
    let settings = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    let one = format!("publish = {{ out = \"{}\" }}", hostile.output);
    let all = format!("publish = {{ out = \"{}\", early = \"{early}\", late = \"{late}\" }}", hostile.output);
    hostile.sandbox.write_toml(&settings.replace(&one, &all));
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let client = &hostile.client;
    // Due from the last to the first.
    let produce = |destination: &str| {
        let last_due = now() + 4_000 + EVENTS as i64 * 2;
        let records = (0..EVENTS).map(|n| {
            let (id, due) = (format!("{n:04}"), last_due - n as i64 * 2);
            let command = json!({ "do": "publish", "id": id, "destination": destination, "due_ms": due });
            Out::new(command.to_string()).key("k").partition(0)
        });
        client.produce_all(&hostile.input, records);
        last_due
    };
    let plain = json!({ "do": "publish", "id": "plain", "destination": "late" });
    client.produce(&hostile.input, &Out::new(plain.to_string()).key("k").partition(0));
    produce("early");
    daemon.says(&["WARN", &late, "create it or grant WRITE"]);
    let last_due = produce("late");
    daemon.says(&["WARN", &early, "create it or grant WRITE"]);
    store.until("SELECT count(*) FROM seen", 2 * EVENTS as i64 + 1);
    eventually(LONG, "all are due", || now() > last_due);
    post(&daemon, &json!({ "do": "publish", "id": "other", "after_ms": 300 }));
    let other =
        eventually_some(LONG, "the other topic's event", || client.consume_all(&hostile.output).into_iter().next());
    on_time(&other);
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox WHERE not_before > 0"), 2 * EVENTS as i64);

    client.create_topic(&early, 1);
    client.create_topic(&late, 1);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    for topic in [&early, &late] {
        let (events, mut seen) = (client.consume_all(topic), std::collections::HashSet::new());
        let ids: Vec<_> = events.iter().map(id).filter(|id| seen.insert(id.clone())).collect();
        let (plain, delayed): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| id == "plain");
        assert_eq!(plain.len(), usize::from(topic == &late));
        let expected: Vec<_> = (0..EVENTS).rev().map(|n| format!("{n:04}")).collect();
        let differs = delayed.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!((differs, delayed.len()), (None, EVENTS), "{topic}: they stand in the order of their times");
    }
}
