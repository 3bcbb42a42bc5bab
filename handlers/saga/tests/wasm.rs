//! The saga handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, post, record};
use tidemill_test::{Ended, Moment, Rig};

fn begun() -> Rig {
    let mut rig = Rig::new("saga");
    let order = json!({ "items": [{ "productId": 1, "quantity": 2 }], "totalAmount": "50000.00" });
    assert_eq!(rig.call(post("/api/sagas").user("7").json(&order)).status, 201);
    rig
}

fn answer(topic: &str, event_type: &str) -> Record {
    let event = json!({ "eventId": event_type, "eventType": event_type, "orderId": "saga-1" });
    record(topic).with_key("saga-1").with_json(&event)
}

fn status(rig: &mut Rig) -> String {
    let saga = rig.call(get("/api/sagas/1").user("7")).body_json::<Value>();
    saga["status"].as_str().unwrap().to_owned()
}

/// What was published of it so far.
fn commands(rig: &Rig) -> Vec<String> {
    rig.published().into_iter().map(|event| event.event_type).filter(|kind| kind != "DEADLINE").collect()
}

#[test]
fn h6_a_saga_goes_forward_and_back_through_a_kill_at_each_step() {
    let mut rig = begun();
    let steps = [
        ("inventory-events", "STOCK_RESERVED", "PAYING"),
        ("payment-events", "PAYMENT_PAID", "SHIPPING"),
        ("delivery-events", "DELIVERY_FAILED", "REFUNDING"),
        ("payment-events", "PAYMENT_REFUNDED", "RELEASING"),
        ("inventory-events", "STOCK_RELEASED", "CANCELLED"),
    ];
    for (n, (topic, event_type, next)) in steps.into_iter().enumerate() {
        rig.kill_at([Moment::Delivered, Moment::Committing, Moment::Committed][n % 3]);
        assert_eq!(rig.record(&answer(topic, event_type)), Ended::Done);
        assert_eq!((status(&mut rig).as_str(), rig.record(&answer(topic, event_type))), (next, Ended::Duplicate));
    }
    assert_eq!(commands(&rig), ["RESERVE", "PAY", "SHIP", "REFUND", "RELEASE"]);
    assert_eq!(rig.kills(), 5);
}

#[test]
fn h6_a_deadline_comes_when_its_time_has_passed_and_takes_the_step_back() {
    let mut rig = begun();
    assert_eq!(rig.record(&answer("inventory-events", "STOCK_RESERVED")), Ended::Done);
    rig.restart();
    rig.advance(Duration::from_secs(59));
    let deadlines = |rig: &Rig| {
        let all = rig.published().into_iter().filter(|event| event.event_type == "DEADLINE");
        all.map(|event| record("saga-timers").with_key("saga-1").with_value(event.value.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(deadlines(&rig).len(), 0);
    rig.advance(Duration::from_secs(1));
    for deadline in deadlines(&rig) {
        assert_eq!(rig.record(&deadline), Ended::Done);
    }
    assert_eq!(status(&mut rig), "REFUNDING");
    assert_eq!(commands(&rig), ["RESERVE", "PAY", "REFUND"]);
}

#[test]
fn h6_a_command_that_its_topic_refuses_has_failed() {
    let mut rig = Rig::new("saga");
    rig.refuse("inventory-commands", "the message is too large");
    let order = json!({ "items": [{ "productId": 1, "quantity": 2 }], "totalAmount": "50000.00" });
    assert_eq!(rig.call(post("/api/sagas").user("7").json(&order)).status, 201);
    rig.advance(Duration::from_secs(1));
    assert_eq!((status(&mut rig).as_str(), rig.fallback().len()), ("CANCELLED", 1));
}
