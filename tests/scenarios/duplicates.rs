//! S0.9, S1.10, S4.4: an event that comes again has no second effect: how it is known, for how long, and what a handler
//! can do about two events that ask for the same.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, eventually, eventually_some};

use crate::rig::{Hostile, seen, told};

const WHERE_IDS_ARE: &str = "[handler.hostile]\nevent-id = ";

/// The hostile handler on the embedded broker, with its event ids there.
fn with_event_id(rule: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("{more}{WHERE_IDS_ARE}\"{rule}\"\n"));
    sandbox
}

/// Produces what comes twice, and then one record on each partition that is done only after all of it.
fn produce_and_wait(client: &Client, store: &Store, records: &[Out], name: &str) {
    client.produce_all("hostile-in", records.iter().cloned());
    for partition in 0..3 {
        let last = told(&format!("{name}-{partition}"), "insert").partition(partition);
        client.produce("hostile-in", &last.header("ce_id", format!("{name}-{partition}")));
    }
    store.until(&format!("SELECT count(*) FROM seen WHERE id LIKE '{name}-_'"), 3);
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

#[test]
fn s1_10_duplicates_of_a_rebalance_a_crash_a_producers_retry_and_a_replay_have_no_second_effect() {
    const COUNT: usize = 1_500;
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "event-id = \"ce_id\"\n");
    let (client, topic, group) = (&hostile.client, &hostile.input, &hostile.group);
    let record = |n: usize| {
        let value = json!({ "do": "publish", "id": format!("r{n}") }).to_string();
        Out::new(value).key(format!("k{}", n % 20)).header("ce_id", format!("event-{n}"))
    };
    // A producer that was not sure sends each again, on whatever partition.
    let twice = |n: usize| [record(n), record(n).partition((n % 3) as i32)];
    let produced = client.produce_all(topic, (0..COUNT / 2).flat_map(twice)).len();

    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let count = || store.count("SELECT count(*) FROM seen") as usize;
    eventually(LONG, "records are being done", || count() > 100);
    // A crash in the middle, and a rebalance.
    daemon.kill9();
    let mut daemon = Daemon::start(&hostile.sandbox);
    let produced = produced + client.produce_all(topic, (COUNT / 2..COUNT).flat_map(twice)).len();
    assert!(client.visit_group(group, topic, Duration::from_millis(300)) > 0);
    store.until("SELECT count(*) FROM seen", COUNT as i64);
    let until_read = |total: usize| store.until("SELECT sum(next_offset) FROM tm_offset", total as i64);
    until_read(produced);
    daemon.terminate();

    // A replay by Kafka's own tool, which the store knows better than, and one that writes everything once more.
    let reset = ["--group", group, "--topic", topic, "--reset-offsets", "--to-earliest", "--execute"];
    kafka.tool("consumer-groups", &reset);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let produced = produced + client.produce_all(topic, (0..COUNT).map(record)).len();
    until_read(produced);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), COUNT as i64);
    assert_eq!(count(), COUNT, "an event had a second effect");
    assert_eq!(store.count("SELECT count(*) FROM tm_inbox"), COUNT as i64);
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0, "a duplicate is no trouble");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let events = client.consume_all(&hostile.output);
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event.header_text("event-id")).collect();
    assert_eq!(ids.len(), COUNT);
    daemon.terminate();
}

#[test]
fn s0_9_an_event_is_known_by_a_header_such_as_that_of_a_cloud_event() {
    let sandbox = with_event_id("ce_id", "");
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let event = |id: &str, partition| told(id, "insert").partition(partition).header("ce_id", format!("ce-{id}"));
    // Without an id there is nothing to know it by.
    let bare = || told("bare", "insert").partition(1);
    let records = [event("a", 0), event("b", 0), event("a", 0), event("a", 2), bare(), bare()];
    produce_and_wait(&daemon.client(), &store, &records, "last");
    let seen: Vec<String> = seen(&store).into_iter().filter(|line| !line.starts_with("last")).collect();
    assert_eq!(seen, ["a|1", "b|1", "bare|2"]);
    let ids = "SELECT handler, event_id FROM tm_inbox WHERE event_id LIKE 'ce-%' ORDER BY event_id";
    assert_eq!(store.lines(ids), ["hostile|ce-a", "hostile|ce-b"]);
}

#[test]
fn s0_9_an_event_that_failed_is_not_taken_for_a_duplicate() {
    let sandbox = with_event_id("ce_id", "");
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let rejected = told("a", "reject").partition(0).header("ce_id", "one");
    // Mended, it is sent again.
    let mended = told("a", "insert").partition(0).header("ce_id", "one");
    produce_and_wait(&daemon.client(), &store, &[rejected, mended.clone(), mended], "last");
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id = 'a'"), 1);
}

#[test]
fn s4_4_a_duplicate_is_known_by_its_message_key_on_receipt_and_again_at_the_write() {
    let sandbox = with_event_id("key", "");
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    // Two keys that are no text, and differ.
    let of = |key: &[u8], id: &str, partition| told(id, "insert").key(key).partition(partition);
    let records = [of(b"post-1", "p1", 0), of(b"post-1", "p1", 1), of(&[0xff], "x", 0), of(&[0xfe], "y", 0)];
    // What the key does not tell, the write does: the same post under another key.
    let write = |key: &str| {
        let insert = "INSERT INTO once (id) VALUES ('post-7') ON CONFLICT DO NOTHING";
        Out::new(json!({ "do": "sql", "statements": [insert], "id": "p7" }).to_string()).key(key).partition(0)
    };
    let records = [&records[..], &[write("a"), write("a"), write("b")]].concat();
    produce_and_wait(&daemon.client(), &store, &records, "last");
    let seen: Vec<String> = seen(&store).into_iter().filter(|line| !line.starts_with("last")).collect();
    assert_eq!(seen, ["p1|1", "p7|2", "x|1", "y|1"]);
    assert_eq!(store.lines("SELECT id FROM once"), ["post-7"]);
    let ids = "SELECT event_id FROM tm_inbox ORDER BY event_id";
    assert_eq!(store.lines(ids), ["a", "b", "hex:fe", "hex:ff", "post-1"]);
}

#[test]
fn s0_9_of_two_events_that_ask_for_the_same_only_the_first_acts() {
    let hostile = Hostile::new(Kafka::shared(), "event-id = \"ce_id\"\n");
    // Different events, so no inbox knows one from the other; on different partitions too.
    let pay = |order: &str, event: &str, partition| told(order, "pay").partition(partition).header("ce_id", event);
    let records = [pay("o1", "e1", 0), pay("o1", "e2", 0), pay("o2", "e3", 1), pay("o1", "e4", 2), pay("o2", "e5", 1)];
    hostile.client.produce_all(&hostile.input, records);
    let _daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_inbox", 5);
    assert_eq!(store.lines("SELECT id, status FROM orders ORDER BY id"), ["o1|PAID", "o2|PAID"]);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let events = hostile.client.consume_all(&hostile.output);
    let mut paid: Vec<String> = events.iter().map(|e| e.json()["id"].as_str().unwrap().to_owned()).collect();
    paid.sort();
    assert_eq!(paid, ["o1", "o2"]);
}

#[test]
fn s1_10_ids_are_kept_for_their_time_and_then_purged_while_records_flow() {
    const KEEP: i64 = 3_000;
    let sandbox = with_event_id("ce_id", "[inbox]\nkeep = \"3s\"\n");
    let daemon = Daemon::start(&sandbox);
    let (client, store) = (daemon.client(), Store::open(&sandbox, "hostile"));
    let event = |id: &str| told(id, "insert").header("ce_id", id);
    // More than one group purges, so that parts of it are seen to go.
    let many: Vec<Out> = (0..3_000).map(|n| event(&format!("old-{n}"))).collect();
    produce_and_wait(&client, &store, &many, "first");
    let old = || -> BTreeMap<String, i64> {
        let lines = store.lines("SELECT event_id, done_at FROM tm_inbox WHERE event_id LIKE 'old-%'");
        let pairs = lines.iter().map(|line| line.split_once('|').unwrap());
        pairs.map(|(id, done)| (id.to_owned(), done.parse().unwrap())).collect()
    };
    let (done, mut n) = (old(), 0);
    assert_eq!(done.len(), 3_000);
    eventually(LONG, "the old ids are purged", || {
        let left = old();
        let youngest = done.iter().filter(|(id, _)| !left.contains_key(*id)).map(|(_, done)| *done).max();
        let age = youngest.map_or(KEEP, |done| now() - done);
        assert!(age >= KEEP, "an id was purged after {age} ms");
        n += 1;
        client.produce("hostile-in", &event(&format!("flow-{n}")));
        store.until("SELECT count(*) FROM seen WHERE id LIKE 'flow-%'", n);
        left.is_empty()
    });
    assert_eq!(store.count("SELECT count(*) FROM seen"), 3_000 + 3 + n, "nothing was done twice meanwhile");
    // What was forgotten is new again; what is young is known.
    produce_and_wait(&client, &store, &[event("old-7"), event(&format!("flow-{n}"))], "again");
    let count = |id: &str| store.count(&format!("SELECT count(*) FROM seen WHERE id = '{id}'"));
    assert_eq!((count("old-7"), count(&format!("flow-{n}"))), (2, 1));
    assert!(store.count("SELECT count(*) FROM tm_inbox_part") <= 5);
}

#[test]
fn s1_10_answers_to_idempotent_requests_are_kept_for_their_time_and_then_purged_at_rest() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[http]\nidempotency-keep = \"2s\"\n");
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let post = |key: &str| {
        let call = daemon.call("POST", "/hostile").header("Idempotency-Key", key);
        call.body(r#"{"do":"insert","id":"a"}"#).send().expect_status(200)
    };
    (0..250).for_each(|n| drop(post(&format!("k{n}"))));
    post("k249");
    assert_eq!(store.count("SELECT count(*) FROM seen"), 250);
    let done = store.count("SELECT max(done_at) FROM tm_request");
    let gone =
        eventually_some(SOON, "no answer is left", || (store.count("SELECT count(*) FROM tm_request") == 0).then(now));
    assert!(gone - done >= 2_000, "purged after {} ms", gone - done);
    post("k249");
    assert_eq!(store.count("SELECT count(*) FROM seen"), 251);
}
