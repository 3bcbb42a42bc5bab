//! The billing handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, post, record};
use tidemill_test::{Ended, Moment, Rig};

const TOPIC: &str = "checkout-events";

fn said(id: &str, event_type: &str, order_id: i64) -> Record {
    let payload = json!({ "orderId": order_id, "userId": "7", "total": 15000 });
    let event = json!({ "eventId": id, "eventType": event_type, "payload": payload });
    record(TOPIC).with_key(order_id.to_string()).with_json(&event)
}

fn filled() -> Rig {
    let mut rig = Rig::new("billing");
    assert_eq!(rig.call(post("/api/wallet").user("7").json(&json!({ "amount": 20000 }))).status, 200);
    rig
}

fn balance(rig: &mut Rig) -> i64 {
    rig.call(get("/api/wallet").user("7")).body_json::<Value>()["balance"].as_i64().unwrap()
}

fn published(rig: &Rig) -> Vec<String> {
    rig.published().into_iter().map(|event| event.event_type).collect()
}

#[test]
fn h6_an_order_is_paid_once_whatever_comes_twice_or_is_killed() {
    let mut rig = filled();
    rig.kill_at(Moment::Delivered);
    assert_eq!(rig.record(&said("a", "ORDER_CREATED", 1)), Ended::Done);
    rig.kill_at(Moment::Committed);
    assert_eq!(rig.record(&said("b", "ORDER_COMPLETE_FAILED", 1)), Ended::Done);
    assert_eq!(rig.record(&said("a", "ORDER_CREATED", 1)), Ended::Duplicate);
    rig.restart();
    assert_eq!(rig.record(&said("b", "ORDER_COMPLETE_FAILED", 1)), Ended::Duplicate);
    assert_eq!((balance(&mut rig), rig.kills()), (20000, 2));
    assert_eq!(published(&rig), ["PAYMENT_PAID", "PAYMENT_CANCELED"]);
}

#[test]
fn h6_a_payment_that_fails_takes_nothing_until_its_next_attempt() {
    let mut rig = filled();
    rig.prepare("CREATE TRIGGER outage BEFORE INSERT ON payments BEGIN SELECT length(zeroblob(5000000)); END");
    assert!(matches!(rig.record(&said("a", "ORDER_CREATED", 1)), Ended::Retry { attempts: 1, .. }));
    assert_eq!((balance(&mut rig), published(&rig).len()), (20000, 0));
    rig.prepare("DROP TRIGGER outage");
    rig.advance(Duration::from_secs(1));
    assert_eq!((rig.ended(TOPIC, 0, 0), balance(&mut rig)), (Ended::Done, 5000));
    let lost = rig.record(&said("c", "ORDER_LOST", 1));
    assert!(matches!(&lost, Ended::DeadLetter { topic, .. } if topic == "checkout-events.DLT"), "{lost:?}");
}
