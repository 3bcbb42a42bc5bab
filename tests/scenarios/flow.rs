//! S4.2: flow control. A store whose outbox is full (`outbox.max-rows`) takes no more work until Kafka has taken some.

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Out, Sandbox, Store, eventually, token};

use crate::rig::{Hostile, ORDER};

const WAITING: &str = "SELECT count(*) FROM tm_outbox";

/// Lines of the daemon's log that hold all of these.
fn lines(daemon: &Daemon, parts: &[&str]) -> usize {
    daemon.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn post(daemon: &Daemon, id: &str) -> tidemill_tests::http::Reply {
    daemon.call("POST", "/hostile").body(&json!({ "do": "publish", "id": id }).to_string()).send()
}

#[test]
fn s4_2_a_full_outbox_answers_503_until_kafka_takes_events_again() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[kafka]\nbootstrap = \"127.0.0.1:1\"\n[outbox]\nmax-rows = 20\n");
    let mut daemon = Daemon::start(&sandbox);
    for n in 0..20 {
        post(&daemon, &format!("p{n}")).expect_status(200);
    }
    let refused = |daemon: &Daemon| {
        let reply = post(daemon, "refused").expect_status(503);
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert_eq!(reply.header("retry-after"), Some("5"));
        assert!(reply.json()["detail"].as_str().unwrap().contains("outbox.max-rows"), "{}", reply.text());
    };
    (0..3).for_each(|_| refused(&daemon));
    let seen = daemon.call("GET", "/hostile/seen").send().expect_status(200);
    assert_eq!(seen.json()["count"], 20, "what only reads goes on, and nothing of the refused was done");
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(store.count(WAITING), 20);
    assert_eq!(lines(&daemon, &["WARN", "the outbox is full", "store=hostile", "rows=20"]), 1, "said once");
    daemon.kill9();

    let mut daemon = Daemon::start(&sandbox);
    refused(&daemon);
    assert_eq!(lines(&daemon, &["WARN", "the outbox is full"]), 1, "it is known from the start");
    daemon.kill9();

    // Kafka is there: the embedded broker.
    sandbox.write_toml("[outbox]\nmax-rows = 20\n");
    let daemon = Daemon::start(&sandbox);
    eventually(LONG, "requests are taken again", || post(&daemon, "after").status == 200);
    daemon.says(&["INFO", "the outbox has room again", "store=hostile"]);
    store.until(WAITING, 0);
    assert_eq!(daemon.client().consume_all("hostile-out").len(), 21);
}

#[test]
fn s4_2_consumers_of_a_full_store_pause_and_other_stores_go_on() {
    const RECORDS: usize = 4_000;
    const MAX: i64 = 300;
    let hostile = Hostile::new(Kafka::shared(), "consumer = { high-mark = 50 }\n");
    hostile.sandbox.deploy("order");
    let [missing, orders] = ["made-later", "orders"].map(|name| hostile.sandbox.unique(name));
    let settings = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    let settings = settings.replace(&hostile.output, &missing);
    let more = format!(
        "[handler.order.publish]\norder-events = \"{orders}\"\n[outbox]\nmax-rows = {MAX}\n[log]\nlevel = \"info,tidemill::kafka=debug\"\n"
    );
    hostile.sandbox.write_toml(&format!("{settings}{more}"));
    let record =
        |n: usize| Out::new(json!({ "do": "publish", "id": format!("{n:04}") }).to_string()).key("k").partition(0);
    hostile.client.produce_all(&hostile.input, (0..RECORDS).map(record));
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until(WAITING, MAX);
    daemon.says(&["DEBUG", "a partition is paused or resumed", &hostile.input, "pause=true"]);
    // The other handler's store has room for its first orders, whatever stands still beside it.
    let user = token(&hostile.sandbox, "7");
    for _ in 0..20 {
        daemon.post("/api/orders", &user, ORDER).expect_status(201);
    }
    post(&daemon, "refused").expect_status(503);
    assert_eq!((store.count(WAITING), store.count("SELECT count(*) FROM seen")), (MAX, MAX));
    assert_eq!(lines(&daemon, &["WARN", "the outbox is full", "store=hostile"]), 1);
    assert_eq!(lines(&daemon, &["the outbox has room again"]), 0);

    hostile.client.create_topic(&missing, 1);
    let mut most = 0;
    eventually(LONG, "all records are done", || {
        most = most.max(store.count(WAITING));
        store.count("SELECT count(*) FROM seen") == RECORDS as i64
    });
    store.until(WAITING, 0);
    assert!(most <= MAX, "{most} rows waited");
    let mut ids: Vec<_> = hostile.client.consume_all(&missing).iter().map(|e| e.json()["id"].clone()).collect();
    ids.dedup();
    assert!(ids == (0..RECORDS).map(|n| json!(format!("{n:04}"))).collect::<Vec<_>>(), "all, in order");
    let [full, room] = ["the outbox is full", "the outbox has room again"].map(|text| lines(&daemon, &[text]));
    assert_eq!(full, room);
    assert_eq!(lines(&daemon, &["the outbox", "store=order"]), 0);
}
