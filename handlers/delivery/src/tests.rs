//! The delivery handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::compensation::{Input, LostEvent};
use tidemill_sdk::test::{Bench, get, record, request};

use crate::HANDLER;

/// As `order` publishes it, or a saga sends it.
fn told(event_type: &str, order_id: &str, user: &str) -> Record {
    record("order-events").with_key(order_id).with_json(&json!({
        "eventId": "e", "eventType": event_type, "orderId": order_id, "userId": user, "totalAmount": "5.00",
    }))
}

/// The user 7 has an address.
fn bench() -> Bench {
    let mut bench = Bench::new(&HANDLER);
    let address = json!({ "address": "1 Harbour Street" });
    assert_eq!(bench.call(request("PUT", "/api/address").user("7").json(&address)).status, 204);
    bench
}

fn deliveries(bench: &mut Bench, user: &str) -> Value {
    bench.call(get("/api/deliveries").user(user)).body_json()
}

fn published(bench: &Bench) -> Vec<&str> {
    bench.events().iter().map(|event| event.event_type.as_str()).collect()
}

#[test]
fn s2_12_a_paid_order_is_delivered_once_and_called_off_once() {
    for [ship, call_off] in [["ORDER_PAID", "ORDER_CANCELLED"], ["SHIP", "CALL_OFF"]] {
        let mut bench = bench();
        bench.record(&told("ORDER_CREATED", "1", "7")).unwrap();
        assert_eq!(deliveries(&mut bench, "7"), json!([]));
        for _ in 0..2 {
            bench.record(&told(ship, "1", "7")).unwrap();
        }
        let started = json!({ "orderId": "1", "address": "1 Harbour Street", "status": "STARTED" });
        assert_eq!(deliveries(&mut bench, "7"), json!([started]));
        bench.record(&told(call_off, "1", "7")).unwrap();
        assert_eq!(deliveries(&mut bench, "7")[0]["status"], "CALLED_OFF");
        assert_eq!(published(&bench), ["DELIVERY_STARTED", "DELIVERY_CALLED_OFF"]);
        assert_eq!(bench.events()[0].key_str(), "1");
        assert_eq!(bench.events()[0].json::<Value>()["orderId"], "1");
    }
}

#[test]
fn s2_12_an_order_without_an_address_or_cancelled_before_is_not_delivered() {
    let mut bench = bench();
    bench.record(&told("ORDER_PAID", "1", "8")).unwrap();
    bench.record(&told("ORDER_CANCELLED", "2", "7")).unwrap();
    bench.record(&told("ORDER_PAID", "2", "7")).unwrap();
    assert_eq!(published(&bench), ["DELIVERY_FAILED", "DELIVERY_CALLED_OFF"]);
    assert_eq!(deliveries(&mut bench, "7")[0]["status"], "FAILED");
    assert_eq!(deliveries(&mut bench, "8")[0], json!({ "orderId": "1", "address": null, "status": "FAILED" }));
}

#[test]
fn s0_8_what_cannot_be_delivered_has_failed_and_what_nobody_hears_of_is_called_off() {
    let mut bench = bench();
    bench.compensate(&Input::Record(told("ORDER_PAID", "1", "7")), "the disk is full").unwrap();
    bench.record(&told("ORDER_PAID", "2", "7")).unwrap();
    let lost = LostEvent { event_type: "DELIVERY_STARTED".into(), key: Some(b"2".to_vec()), ..LostEvent::default() };
    for _ in 0..2 {
        bench.compensate(&Input::Event(lost.clone()), "too large").unwrap();
    }
    bench.compensate(&Input::Record(told("ORDER_CREATED", "3", "7")), "the disk is full").unwrap();
    assert_eq!(published(&bench), ["DELIVERY_FAILED", "DELIVERY_STARTED", "DELIVERY_CALLED_OFF"]);
    let states: Vec<Value> =
        deliveries(&mut bench, "7").as_array().unwrap().iter().map(|d| d["status"].clone()).collect();
    assert_eq!(states, ["CALLED_OFF", "FAILED"]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = bench();
    assert_eq!(bench.call(request("PUT", "/api/address").user("7").json(&json!({ "address": " " }))).status, 400);
    assert!(bench.record(&told("ORDER_LOST", "1", "7")).unwrap_err().message().contains("ORDER_LOST"));
}
