//! S0.7, S1.2, S1.3, S3.3: events are in the outbox with the rows they belong to, and leave it once the broker has them.

use std::process::Command;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, eventually, token};

use crate::rig::{Hostile, ORDER, Shop, first_on, messages};

/// Nothing listens there.
const NOBODY: &str = "[kafka]\nbootstrap = \"127.0.0.1:1\"\n";

#[test]
fn s1_2_s1_3_an_event_is_in_the_outbox_before_it_is_sent_and_a_person_can_read_it() {
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml(NOBODY);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    // No wait: when the client has its answer the row is there.
    let store = sandbox.store_file("order");
    let query = "SELECT id, event_type, partition_key, topic, status, handler, kind, length(event_id), created_at > 1700000000000 FROM tm_outbox";
    let out = Command::new("sqlite3").arg("-readonly").arg(&store).arg(query).output();
    let out = out.expect("run sqlite3; is it installed? `make setup-tests`");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "1|ORDER_CREATED|1|order-events|waiting|order|event|36|1");
    let payload =
        Command::new("sqlite3").arg("-readonly").arg(&store).arg("SELECT payload FROM tm_outbox").output().unwrap();
    let event: serde_json::Value = serde_json::from_slice(&payload.stdout).expect("the payload reads as JSON");
    assert_eq!(event["totalAmount"], json!("50000.00"));
    assert_eq!(
        Store::open(&sandbox, "order").line("SELECT event_id FROM tm_outbox"),
        event["eventId"].as_str().unwrap()
    );
}

#[test]
fn s1_3_s0_7_an_event_commits_with_the_rows_of_its_delivery_or_not_at_all() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let [lost, kept] = [("lost", "panic"), ("kept", "insert")].map(|(id, then)| {
        Out::new(json!([{ "do": "publish", "id": id }, { "do": then, "id": id }]).to_string()).key(id)
    });
    client.produce_all("hostile-in", [lost.partition(0), kept.partition(0)]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE id = 'kept'", 1);
    // A request that writes is no other: refused, it leaves no event.
    let body = json!([{ "do": "publish", "id": "asked" }, { "do": "reject" }]).to_string();
    assert!(daemon.call("POST", "/hostile").body(&body).send().status >= 400);
    let body = json!([{ "do": "publish", "id": "done" }]).to_string();
    daemon.call("POST", "/hostile").body(&body).send().expect_status(200);

    eventually(SOON, "two events on the topic", || client.consume_all("hostile-out").len() == 2);
    let mut ids: Vec<_> =
        client.consume_all("hostile-out").iter().map(|e| e.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["done", "kept"]);
    store.until("SELECT count(*) FROM tm_outbox WHERE kind = 'event'", 0);
    assert_eq!(store.lines("SELECT DISTINCT id FROM seen ORDER BY id"), ["done", "kept"]);
}

#[test]
fn s0_7_the_relay_is_woken_by_the_commit() {
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml("[outbox]\nsweep = \"1h\"\n");
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    for _ in 0..3 {
        daemon.post("/api/orders", &user, ORDER).expect_status(201);
    }
    let client = daemon.client();
    eventually(SOON, "the events, with no sweep for an hour", || client.consume_all("order-events").len() == 3);
    Store::open(&sandbox, "order").until("SELECT count(*) FROM tm_outbox", 0);
}

#[test]
fn s0_7_the_relay_sweeps_and_keeps_status_attempts_and_last_error() {
    let kafka = Kafka::shared();
    let sandbox = Sandbox::with(&["order"]);
    let topic = sandbox.unique("made-later");
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[outbox]\nkeep = \"1h\"\nsweep = \"200ms\"\n[handler.order.publish]\norder-events = \"{topic}\"\n",
        kafka.bootstrap()
    ));
    let daemon = Daemon::start(&sandbox);
    daemon.post("/api/orders", &token(&sandbox, "7"), ORDER).expect_status(201);
    let store = Store::open(&sandbox, "order");
    store.until("SELECT count(*) FROM tm_outbox WHERE attempts > 0", 1);
    let row = store.line("SELECT status, published_at, last_error FROM tm_outbox");
    assert!(row.starts_with("waiting||") && row.contains(&topic), "{row}");
    daemon.says(&["WARN", &topic, "create it or grant WRITE"]);

    // Nothing is committed from here on, so nothing but a sweep can find the row.
    kafka.client().create_topic(&topic, 1);
    store.until("SELECT count(*) FROM tm_outbox WHERE status = 'published'", 1);
    let row = store.line("SELECT attempts > 1, published_at >= created_at, last_error <> '' FROM tm_outbox");
    assert_eq!(row, "1|1|1");
    assert_eq!(kafka.client().consume_all(&topic).len(), 1);
}

#[test]
fn s0_7_a_batch_that_kafka_refuses_goes_out_one_by_one_and_in_order() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let topic = hostile.sandbox.unique("narrow");
    hostile.client.create_topic_with(&topic, 1, &[("max.message.bytes", "2000")]);
    let settings = std::fs::read_to_string(hostile.sandbox.root().join("tidemill.toml")).unwrap();
    hostile.sandbox.write_toml(&settings.replace(&hostile.output, &topic));
    // Enough of them that more come while a batch is refused, and a large one amid small ones.
    const RECORDS: usize = 1_000;
    let record = |n: usize| {
        let large = if n == 50 { "x".repeat(5_000) } else { String::new() };
        let value = json!({ "do": "publish", "id": format!("r{n}{large}") });
        Out::new(value.to_string()).key("k").partition(0)
    };
    hostile.client.produce_all(&hostile.input, (0..RECORDS).map(record));
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", RECORDS as i64);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let ids: Vec<_> =
        hostile.client.consume_all(&topic).iter().map(|e| e.json()["id"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<_> = (0..RECORDS).filter(|n| *n != 50).map(|n| format!("r{n}")).collect();
    assert_eq!(ids, expected);
    assert_eq!(store.lines("SELECT topic, count(*) FROM tm_fallback"), [format!("{topic}|1")]);
    daemon.says(&["WARN", &topic, "each is sent alone"]);
}

#[test]
fn s0_7_events_of_a_missing_topic_go_out_in_order_once_it_is_there() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let topic = hostile.sandbox.unique("later");
    let settings = std::fs::read_to_string(hostile.sandbox.root().join("tidemill.toml")).unwrap();
    hostile.sandbox.write_toml(&settings.replace(&hostile.output, &topic));
    let _daemon = Daemon::start(&hostile.sandbox);
    let send = |range: std::ops::Range<usize>| {
        let record = |n| Out::new(json!({ "do": "publish", "id": format!("r{n}") }).to_string()).key("k").partition(0);
        hostile.client.produce_all(&hostile.input, range.map(record));
    };
    send(0..5);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_outbox WHERE attempts > 0", 5);
    hostile.client.create_topic(&topic, 1);
    // The first wait a while before they are tried again, and what comes meanwhile must not pass them, though the producer
    // has found the topic at one of them.
    let mut sent = 5;
    eventually(LONG, "all of them are out", || {
        send(sent..sent + 1);
        sent += 1;
        store.until("SELECT count(*) FROM seen", sent as i64);
        store.count("SELECT count(*) FROM tm_outbox") == 0
    });
    let ids: Vec<_> =
        hostile.client.consume_all(&topic).iter().map(|e| e.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..sent).map(|n| format!("r{n}")).collect::<Vec<_>>());
}

#[test]
fn s3_3_a_cluster_that_is_down_at_the_start_or_later_loses_no_event() {
    let kafka = Kafka::start(1);
    kafka.client().create_topic("order-events", 3);
    kafka.stop();
    let sandbox = Sandbox::with(&["order", "notification"]);
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n", kafka.bootstrap()));
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.says(&["WARN", kafka.bootstrap()]);
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    daemon.get("/api/orders/1", &user).expect_status(200);
    let store = Store::open(&sandbox, "order");
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox WHERE status = 'waiting'"), 1);

    kafka.resume();
    eventually(LONG, "the first notification", || messages(&daemon, &user).len() == 1);
    store.until("SELECT count(*) FROM tm_outbox", 0);

    kafka.kill();
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 1);
    // The application ends too, after the commit.
    daemon.kill9();
    let mut daemon = Daemon::start(&sandbox);
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 2);
    kafka.resume();
    eventually(LONG, "all notifications", || messages(&daemon, &user).len() == 3);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let ids: Vec<_> = kafka.client().consume_all("order-events").iter().map(|e| e.header_text("event-id")).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(!daemon.log().contains("panicked"));
    daemon.terminate();
}

#[test]
fn s3_3_events_outlive_an_embedded_broker_that_was_killed() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    eventually(SOON, "the first notification", || messages(&daemon, &user).len() == 1);
    sandbox.kill_broker();
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    let store = Store::open(&sandbox, "order");
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 1);
    daemon.terminate();

    let daemon = Daemon::start(&sandbox);
    assert!(daemon.ready().contains("it forgets its records"), "{}", daemon.ready());
    eventually(SOON, "the second notification", || messages(&daemon, &user).len() == 2);
    assert_eq!(first_on(&daemon.client(), "order-events").key_text(), "2", "the new broker has only what came later");
}

#[test]
fn s3_3_a_killed_daemon_publishes_what_it_left() {
    let kafka = Kafka::shared();
    let shop = Shop::new(kafka);
    // Nobody takes the events yet.
    let settings = std::fs::read_to_string(shop.sandbox.toml()).unwrap();
    shop.sandbox.write_toml(&settings.replace(kafka.bootstrap(), "127.0.0.1:1"));
    let mut daemon = Daemon::start(&shop.sandbox);
    let user = token(&shop.sandbox, "7");
    for _ in 0..50 {
        daemon.post("/api/orders", &user, ORDER).expect_status(201);
    }
    daemon.kill9();
    shop.sandbox.write_toml(&settings);
    let daemon = Daemon::start(&shop.sandbox);
    eventually(LONG, "all notifications", || messages(&daemon, &user).len() == 50);
    let keys: Vec<String> = shop.client.consume_all(&shop.topic).iter().map(|event| event.key_text()).collect();
    assert_eq!(keys.len(), 50, "{keys:?}");
}

/// The broker answers the first request so, and has not written it. A real one does where a topic is made again
/// between two requests in flight: the second succeeds, and the client takes the first to be there too.
#[test]
fn s1_2_what_kafka_cannot_say_where_it_is_counts_as_not_sent() {
    let cluster = MockCluster::new(1).unwrap();
    let client = Client::new(&cluster.bootstrap_servers());
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n", cluster.bootstrap_servers()));
    let daemon = Daemon::start(&sandbox);
    cluster.create_topic("order-events", 1, 1).unwrap();
    let duplicate = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[duplicate]);
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    Store::open(&sandbox, "order").until("SELECT count(*) FROM tm_outbox", 0);
    assert_eq!(client.consume_all("order-events").len(), 1);
    daemon.says(&["WARN", "does not say where", "order-events"]);
}
