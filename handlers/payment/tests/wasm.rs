//! The payment handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, post, record};
use tidemill_test::{Ended, Moment, Rig};

const TOPIC: &str = "order-events";

fn told(id: &str, event_type: &str, order_id: i64) -> Record {
    record(TOPIC).with_key(order_id.to_string()).with_json(&json!({
        "eventId": id, "eventType": event_type, "orderId": order_id, "userId": "7", "totalAmount": "0.10",
    }))
}

fn filled() -> Rig {
    let mut rig = Rig::new("payment");
    assert_eq!(rig.call(post("/api/account").user("7").json(&json!({ "amount": "0.30" }))).status, 200);
    rig
}

fn balance(rig: &mut Rig) -> Value {
    rig.call(get("/api/account").user("7")).body_json::<Value>()["balance"].clone()
}

fn published(rig: &Rig) -> Vec<String> {
    rig.events().into_iter().map(|event| event.event_type).collect()
}

#[test]
fn h6_an_order_is_paid_and_refunded_once_whatever_comes_twice_or_is_killed() {
    let mut rig = filled();
    rig.kill_at(Moment::Delivered);
    assert_eq!(rig.record(&told("a", "ORDER_CREATED", 1)), Ended::Done);
    assert_eq!(rig.record(&told("a", "ORDER_CREATED", 1)), Ended::Duplicate);
    assert_eq!(balance(&mut rig), "0.20");
    rig.kill_at(Moment::Committed);
    assert_eq!(rig.record(&told("b", "ORDER_CANCELLED", 1)), Ended::Done);
    rig.restart();
    assert_eq!(rig.record(&told("b", "ORDER_CANCELLED", 1)), Ended::Duplicate);
    assert_eq!((balance(&mut rig), rig.kills()), (json!("0.30"), 2));
    assert_eq!(published(&rig), ["PAYMENT_PAID", "PAYMENT_REFUNDED"]);
}

#[test]
fn h6_a_payment_that_cannot_be_taken_has_failed_once_its_attempts_are_used_up() {
    let mut rig = filled();
    rig.prepare(
        "CREATE TRIGGER outage BEFORE INSERT ON payments WHEN new.status = 'PAID'
         BEGIN SELECT length(zeroblob(5000000)); END",
    );
    assert!(matches!(rig.record(&told("a", "ORDER_CREATED", 1)), Ended::Retry { attempts: 1, .. }));
    rig.kill_at(Moment::Committing);
    rig.advance(Duration::from_secs(10));
    assert_eq!((rig.dead_letters().len(), rig.pending().len()), (1, 0));
    assert_eq!((balance(&mut rig), published(&rig)), (json!("0.30"), vec!["PAYMENT_FAILED".to_owned()]));
    // It is too late for that order, and no other one is concerned.
    rig.prepare("DROP TRIGGER outage");
    assert_eq!(rig.record(&told("b", "ORDER_CREATED", 1)), Ended::Done);
    assert_eq!(rig.record(&told("c", "ORDER_CREATED", 2)), Ended::Done);
    assert_eq!(published(&rig), ["PAYMENT_FAILED", "PAYMENT_PAID"]);
}

#[test]
fn h6_a_payment_of_which_nobody_hears_is_given_back() {
    let mut rig = filled();
    rig.refuse("payment-events", "the message is too large");
    assert_eq!(rig.record(&told("a", "ORDER_CREATED", 1)), Ended::Done);
    rig.advance(Duration::from_secs(1));
    assert_eq!(balance(&mut rig), "0.30");
    // That cannot be told either, and is left to the order's own time.
    assert!(rig.fallback().iter().all(|kept| kept.kind == "event"), "{:?}", rig.fallback());
    assert_eq!(rig.fallback().len(), 2);
}
