//! S1.6, invariant 1: the daemon may be killed at any moment; nothing is lost, and nothing is applied twice.
//!
//! The short form; `proof` has the long one.

use std::collections::BTreeSet;

use serde_json::json;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, eventually, token};

use crate::rig::{Hostile, ORDER, first_on, told};

fn event_ids(client: &Client, topic: &str) -> BTreeSet<String> {
    client.consume_all(topic).iter().map(|event| event.json()["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn s1_6_a_kill_while_records_flow_loses_nothing_and_applies_nothing_twice() {
    const COUNT: usize = 4000;
    let hostile = Hostile::new(Kafka::shared(), "");
    let records = |range: std::ops::Range<usize>| {
        range.map(|n| {
            Out::new(json!({ "do": "publish", "id": format!("r{n}") }).to_string()).key(format!("k{}", n % 20))
        })
    };
    hostile.client.produce_all(&hostile.input, records(0..COUNT / 2));
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let count = || store.count("SELECT count(*) FROM seen");
    for part in [1, 2, 3] {
        eventually(LONG, "records are being done", || count() as usize > part * COUNT / 10);
        daemon.kill9();
        if part == 2 {
            hostile.client.produce_all(&hostile.input, records(COUNT / 2..COUNT));
        }
        daemon = Daemon::start(&hostile.sandbox);
    }
    store.until("SELECT count(DISTINCT id) FROM seen", COUNT as i64);
    assert_eq!(count(), COUNT as i64, "a record was applied twice");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert_eq!(event_ids(&hostile.client, &hostile.output).len(), COUNT);
    daemon.terminate();
}

#[test]
fn s1_6_the_embedded_broker_outlives_a_killed_daemon_and_is_found_again() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let bootstrap = daemon.bootstrap().to_owned();
    client.produce_all("hostile-in", (0..300).map(|n| told(&format!("r{n}"), "publish")));
    let store = Store::open(&sandbox, "hostile");
    eventually(SOON, "some records are done", || store.count("SELECT count(*) FROM seen") > 0);
    daemon.kill9();
    client.produce_all("hostile-in", (300..400).map(|n| told(&format!("r{n}"), "publish")));
    let mut daemon = Daemon::start(&sandbox);
    assert!(daemon.ready().contains("found running"), "{}", daemon.ready());
    assert_eq!(daemon.bootstrap(), bootstrap);
    store.until("SELECT count(DISTINCT id) FROM seen", 400);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 400);
    eventually(SOON, "all events on the topic", || event_ids(&client, "hostile-out").len() == 400);
    // An orderly stop ends the broker too.
    daemon.terminate();
    assert!(sandbox.broker_state().is_none());
}

#[test]
fn s1_6_an_answered_order_is_still_there_after_a_kill() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    for round in 1..=3 {
        for _ in 0..5 {
            daemon.post("/api/orders", &user, ORDER).expect_status(201);
        }
        daemon.kill9();
        daemon = Daemon::start(&sandbox);
        assert_eq!(daemon.get("/api/orders", &user).expect_status(200).json().as_array().unwrap().len(), round * 5);
    }
    let store = Store::open(&sandbox, "notification");
    store.until("SELECT count(*) FROM notifications", 15);
    assert_eq!(store.count("SELECT count(DISTINCT message) FROM notifications"), 15);
}

#[test]
fn s1_6_an_orderly_stop_finishes_and_starts_where_it_was() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    sandbox.write_toml("[kafka]\nkeep-embedded = true\n");
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    daemon.signal(rustix::process::Signal::INT);
    assert!(daemon.wait_exit().success(), "{}", daemon.log());
    daemon.says(&["stopped"]);
    assert!(sandbox.broker_state().is_some(), "the broker was to be kept");
    let daemon = Daemon::start(&sandbox);
    assert!(daemon.ready().contains("found running"), "{}", daemon.ready());
    Store::open(&sandbox, "notification").until("SELECT count(*) FROM notifications", 1);
    assert_eq!(daemon.get("/api/orders", &user).expect_status(200).json().as_array().unwrap().len(), 1);
}

/// The process is killed whenever it runs the one record, as if that had done it.
#[test]
fn h4_a_record_that_ends_the_process_is_a_dead_letter_and_its_neighbours_lose_no_attempt() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.limits]\ntime = \"10m\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let killer = Out::new(r#"{"do":"loop","id":"killer"}"#).partition(0);
    let neighbour = |n: i32| told(&format!("n{n:02}"), "publish").partition(n % 2);
    client.produce_all("hostile-in", (0..10).map(neighbour).chain([killer]).chain((10..20).map(neighbour)));
    let store = Store::open(&sandbox, "hostile");
    let stuck = "SELECT crashes FROM tm_crash WHERE partition = 0 AND \"offset\" = 5";
    daemon.kill9();
    // From now on its runs are counted before they begin.
    for crashes in 1..=3 {
        daemon = Daemon::start(&sandbox);
        let running = || store.try_rows(stuck).is_ok_and(|rows| rows == [[rusqlite::types::Value::Integer(crashes)]]);
        eventually(LONG, &format!("the record runs with {crashes} counted"), running);
        daemon.kill9();
    }
    let daemon = Daemon::start(&sandbox);
    let dead = first_on(&daemon.client(), "hostile-in.DLT");
    assert_eq!(dead.text(), r#"{"do":"loop","id":"killer"}"#);
    assert_eq!(dead.header_text("kafka_dlt-exception-cause-fqcn").unwrap(), "tidemill.Crash");
    store.until("SELECT count(*) FROM seen WHERE attempt = 1", 20);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), 20);
    assert_eq!(store.count("SELECT count(*) FROM tm_crash"), 0);
}
