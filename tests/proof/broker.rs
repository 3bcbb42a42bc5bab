//! The broker dies, or stops answering, while records and requests flow.

use std::time::Duration;

use tidemill_tests::{Kafka, SOON, eventually};

use crate::dice::{Dice, pass, rounds};
use crate::flow::Flow;
use crate::rig::{Rig, once_each};

/// S3.3, S4.2: a broker that is away is no reason to refuse a request. What was committed meanwhile is published once
/// it is back, in order, and records go on where they were.
#[test]
fn s3_3_a_broker_killed_or_paused_loses_nothing_and_the_outbox_drains() {
    let mut dice = Dice::new("broker");
    let kafka = Kafka::start(1);
    let rig = Rig::new(&kafka);
    let mut daemon = rig.start();
    let store = rig.store();
    let flow = Flow::start(&rig, 0, u64::MAX, 50);
    store.until("SELECT count(*) > 100 FROM seen", 1);
    let mut posted = 0;
    let mut post = |count: u64| {
        for n in posted..posted + count {
            let body = format!(r#"{{"do":"publish","id":"p{n}"}}"#);
            daemon.call("POST", "/hostile").body(&body).send().expect_status(200);
        }
        posted += count;
    };
    for round in 0..rounds(2, 8) {
        if round % 2 == 0 {
            kafka.kill()
        } else {
            kafka.pause()
        }
        post(20);
        eventually(SOON, "what was committed meanwhile waits", || store.count("SELECT count(*) FROM tm_outbox") >= 20);
        pass(dice.within(Duration::from_millis(2_000)));
        if round % 2 == 0 {
            kafka.resume()
        } else {
            kafka.unpause()
        }
        post(20);
        let done = store.count("SELECT count(*) FROM seen WHERE topic IS NOT NULL");
        store.until(&format!("SELECT count(*) > {done} FROM seen WHERE topic IS NOT NULL"), 1);
        store.until("SELECT count(*) FROM tm_outbox WHERE source LIKE 'POST%'", 0);
        println!("round {round}: {} records sent, {done} done", flow.sent());
    }
    let total = flow.stop();
    rig.settle(total);
    let requests = store.lines("SELECT id FROM seen WHERE topic IS NULL");
    once_each(&requests, (0..posted).map(|n| format!("p{n}")));
    let mut published: Vec<String> = rig
        .client
        .consume_all(&rig.output)
        .iter()
        .map(|event| event.json()["id"].as_str().unwrap().to_owned())
        .collect();
    published.retain(|id| id.starts_with('p'));
    published.sort();
    published.dedup();
    assert_eq!(published.len() as u64, posted, "published requests");
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
}
