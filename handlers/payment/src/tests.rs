//! The payment handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::compensation::{Input, LostEvent};
use tidemill_sdk::test::{Bench, get, post, record};

use crate::HANDLER;

/// As `order` publishes it, or a saga sends it.
fn told(event_type: &str, order_id: &str, amount: &str) -> Record {
    record("order-events").with_key(order_id).with_json(&json!({
        "eventId": "e", "eventType": event_type, "orderId": order_id, "userId": "7", "totalAmount": amount,
    }))
}

fn with(amount: &str) -> Bench {
    let mut bench = Bench::new(&HANDLER);
    assert_eq!(bench.call(post("/api/account").user("7").json(&json!({ "amount": amount }))).status, 200);
    bench
}

fn balance(bench: &mut Bench) -> String {
    let account = bench.call(get("/api/account").user("7")).body_json::<Value>();
    account["balance"].as_str().unwrap().to_owned()
}

fn published(bench: &Bench) -> Vec<&str> {
    bench.events().iter().map(|event| event.event_type.as_str()).collect()
}

#[test]
fn s2_12_an_order_is_paid_once_and_refunded_once_to_the_last_digit() {
    for [pay, refund] in [["ORDER_CREATED", "ORDER_CANCELLED"], ["PAY", "REFUND"]] {
        let mut bench = with("100000000000.03");
        for _ in 0..2 {
            bench.record(&told(pay, "1", "0.1")).unwrap();
            assert_eq!(balance(&mut bench), "99999999999.93");
        }
        bench.record(&told("ORDER_PAID", "1", "0.1")).unwrap();
        for _ in 0..2 {
            bench.record(&told(refund, "1", "0.1")).unwrap();
            assert_eq!(balance(&mut bench), "100000000000.03");
        }
        // Whoever asks twice is answered twice, since the first answer may have been lost.
        assert_eq!(published(&bench), ["PAYMENT_PAID", "PAYMENT_REFUNDED", "PAYMENT_REFUNDED"]);
        let event = &bench.events()[0];
        assert_eq!((event.topic.as_str(), event.key_str()), ("payment-events", "1"));
        assert_eq!(event.json::<Value>(), json!({ "eventId": event.id, "eventType": "PAYMENT_PAID", "orderId": "1" }));
    }
}

#[test]
fn s2_12_who_has_too_little_pays_nothing() {
    let mut bench = with("49999.99");
    bench.record(&told("ORDER_CREATED", "1", "50000.00")).unwrap();
    bench.record(&told("ORDER_CANCELLED", "1", "50000.00")).unwrap();
    assert_eq!(balance(&mut bench), "49999.99");
    assert_eq!(published(&bench), ["PAYMENT_FAILED", "PAYMENT_REFUNDED"]);
}

#[test]
fn s2_12_an_order_that_is_cancelled_first_is_never_paid() {
    let mut bench = with("10");
    bench.record(&told("ORDER_CANCELLED", "1", "5")).unwrap();
    bench.record(&told("ORDER_CREATED", "1", "5")).unwrap();
    assert_eq!(balance(&mut bench), "10.00");
    assert_eq!(published(&bench), ["PAYMENT_REFUNDED"]);
}

#[test]
fn s0_8_what_cannot_be_paid_has_failed_and_what_nobody_hears_of_is_given_back() {
    let mut bench = with("10");
    bench.compensate(&Input::Record(told("ORDER_CREATED", "1", "5")), "the disk is full").unwrap();
    bench.record(&told("ORDER_CREATED", "1", "5")).unwrap();
    bench.record(&told("ORDER_CREATED", "2", "5")).unwrap();
    assert_eq!(balance(&mut bench), "5.00");
    let lost = LostEvent { event_type: "PAYMENT_PAID".into(), key: Some(b"2".to_vec()), ..LostEvent::default() };
    for _ in 0..2 {
        bench.compensate(&Input::Event(lost.clone()), "too large").unwrap();
        assert_eq!(balance(&mut bench), "10.00");
    }
    assert_eq!(published(&bench), ["PAYMENT_FAILED", "PAYMENT_PAID", "PAYMENT_REFUNDED"]);
    // A refund that failed is tried once more.
    bench.record(&told("ORDER_CREATED", "3", "5")).unwrap();
    bench.compensate(&Input::Record(told("ORDER_CANCELLED", "3", "5")), "the disk is full").unwrap();
    assert_eq!(balance(&mut bench), "10.00");
    bench.compensate(&Input::Record(record("order-events").with_value("{")), "undecodable").unwrap();
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = with("1");
    for amount in ["0", "-1", "0.001", "1000000000000.01"] {
        let response = bench.call(post("/api/account").user("7").json(&json!({ "amount": amount })));
        assert_eq!(response.status, 400, "{amount}");
    }
    assert_eq!(balance(&mut bench), "1.00");
    assert_eq!(bench.call(get("/api/account").user("8")).body_json::<Value>(), json!({ "balance": "0.00" }));
    assert!(bench.record(&told("ORDER_LOST", "1", "5")).unwrap_err().message().contains("ORDER_LOST"));
}
