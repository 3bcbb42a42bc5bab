//! The order handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::params;
use tidemill_sdk::test::{Call, get, post, record};
use tidemill_test::{Ended, Moment, Rig};

fn order() -> Call {
    let body = json!({ "items": [{ "productId": 1, "quantity": 2, "price": "25000.00" }] });
    post("/api/orders").user("7").json(&body)
}

fn with_key(key: &str) -> Call {
    order().header("idempotency-key", key)
}

#[test]
fn h6_an_order_and_its_event_commit_together_and_a_refused_one_leaves_neither() {
    let mut rig = Rig::new("order");
    let placed = rig.call(order());
    assert_eq!((placed.status, placed.header_str("location")), (201, Some("/api/orders/1")));
    let events = rig.events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].destination.as_str(), events[0].key_str()), ("order-events", "1"));
    let event = events[0].json::<Value>();
    assert_eq!((&event["eventId"], &event["totalAmount"]), (&json!(events[0].id), &json!("50000.00")));
    assert_eq!(rig.call(post("/api/orders").user("7").body("{}")).status, 400);
    assert_eq!(rig.call(post("/api/orders").body("{}")).status, 401);
    assert_eq!(rig.call(get("/api/nothing")).status, 404);
    assert_eq!((rig.query_one::<i64>("SELECT count(*) FROM orders", params![]), rig.events().len()), (1, 1));
}

#[test]
fn h6_a_request_that_comes_again_after_a_kill_is_done_once() {
    let mut rig = Rig::new("order");
    for (moment, done) in [(Moment::Delivered, 0), (Moment::Committing, 0), (Moment::Committed, 1)] {
        let before = rig.query_one::<i64>("SELECT count(*) FROM orders", params![]);
        rig.kill_at(moment);
        assert_eq!(rig.try_call(with_key(moment_name(moment))), None, "{moment:?}");
        assert_eq!(rig.query_one::<i64>("SELECT count(*) FROM orders", params![]), before + done, "{moment:?}");
        let answers = [(); 2].map(|()| rig.call(with_key(moment_name(moment))));
        assert_eq!((answers[0].status, &answers[0].body), (201, &answers[1].body));
        assert_eq!(rig.query_one::<i64>("SELECT count(*) FROM orders", params![]), before + 1);
    }
    assert_eq!((rig.kills(), rig.published().len()), (3, 3));
}

fn moment_name(moment: Moment) -> &'static str {
    match moment {
        Moment::Delivered => "delivered",
        Moment::Committing => "committing",
        _ => "committed",
    }
}

#[test]
fn h6_what_kafka_does_not_take_waits_through_a_restart_and_a_kill() {
    let mut rig = Rig::new("order");
    rig.kafka_is_away();
    rig.call(order());
    rig.restart();
    rig.kill();
    assert_eq!((rig.published().len(), rig.events().len()), (0, 1));
    rig.kafka_is_back();
    assert_eq!((rig.published().len(), rig.events().len()), (1, 1));
    // Kafka has it, and nobody has noted that: it comes again, with its id.
    rig.kafka_is_away();
    rig.call(order());
    rig.kill_at(Moment::Acknowledged);
    rig.kafka_is_back();
    let ids: Vec<String> = rig.published().into_iter().map(|event| event.id).collect();
    assert_eq!((ids.len(), &ids[1]), (3, &ids[2]));
}

#[test]
fn h6_s2_12_an_order_is_paid_once_its_parts_are_there_through_kills_and_its_timer_comes_too_late() {
    let mut rig = Rig::builder("order").config("../tidemill.toml").start();
    rig.call(order());
    for (topic, event_type, moment) in [
        ("payment-events", "PAYMENT_PAID", Moment::Committing),
        ("inventory-events", "STOCK_RESERVED", Moment::Committed),
    ] {
        let event = json!({ "eventId": event_type, "eventType": event_type, "orderId": "1" });
        let part = record(topic).with_key("1").with_json(&event);
        rig.kill_at(moment);
        assert_eq!((rig.record(&part), rig.record(&part)), (Ended::Done, Ended::Duplicate));
    }
    rig.advance(Duration::from_secs(1800));
    let timer = rig.published().into_iter().find(|event| event.event_type == "PAYMENT_DUE").unwrap();
    assert_eq!(rig.record(&record("order-timers").with_key("1").with_value(timer.value.unwrap())), Ended::Done);
    let shown = rig.call(get("/api/orders/1").user("7")).body_json::<Value>();
    assert_eq!((&shown["status"], rig.kills()), (&json!("PAID"), 2));
    let types: Vec<String> = rig.published().into_iter().map(|event| event.event_type).collect();
    assert_eq!(types, ["ORDER_CREATED", "ORDER_PAID", "PAYMENT_DUE"]);
}

#[test]
fn h6_s0_8_an_order_that_its_topic_refuses_is_cancelled() {
    let mut rig = Rig::new("order");
    rig.refuse("order-events", "the message is too large");
    rig.call(order());
    rig.advance(Duration::from_secs(1));
    let shown = rig.call(get("/api/orders/1").user("7")).body_json::<Value>();
    assert_eq!(shown["status"], "CANCELLED");
    assert_eq!(rig.fallback().len(), 2, "nor is that told");
}
