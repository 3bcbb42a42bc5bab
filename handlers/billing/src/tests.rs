//! The billing handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{Bench, get, post, record};

use crate::HANDLER;

fn said(event_type: &str, order_id: i64) -> Record {
    let payload = json!({ "orderId": order_id, "userId": "7", "total": 15000 });
    record("checkout-events").with_json(&json!({ "eventId": "e", "eventType": event_type, "payload": payload }))
}

fn filled(amount: i64) -> Bench {
    let mut bench = Bench::new(&HANDLER);
    assert_eq!(bench.call(post("/api/wallet").user("7").json(&json!({ "amount": amount }))).status, 200);
    bench
}

fn balance(bench: &mut Bench) -> i64 {
    bench.call(get("/api/wallet").user("7")).body_json::<Value>()["balance"].as_i64().unwrap()
}

fn published(bench: &Bench) -> Vec<&str> {
    bench.events().iter().map(|event| event.event_type.as_str()).collect()
}

#[test]
fn s1_5_an_order_is_paid_once_and_its_payment_taken_back_once() {
    let mut bench = filled(20000);
    for _ in 0..2 {
        bench.record(&said("ORDER_CREATED", 1)).unwrap();
        assert_eq!(balance(&mut bench), 5000);
    }
    for _ in 0..2 {
        bench.record(&said("ORDER_COMPLETE_FAILED", 1)).unwrap();
        assert_eq!(balance(&mut bench), 20000);
    }
    assert_eq!(published(&bench), ["PAYMENT_PAID", "PAYMENT_CANCELED"]);
    assert_eq!(bench.events()[0].key_str(), "1");
    assert_eq!(bench.events()[0].json::<Value>()["payload"], json!({ "orderId": 1 }));
}

#[test]
fn s1_5_an_order_that_cannot_be_paid_is_told_so_and_takes_nothing() {
    let mut bench = filled(14999);
    bench.record(&said("ORDER_CREATED", 1)).unwrap();
    bench.record(&said("ORDER_COMPLETE_FAILED", 1)).unwrap();
    bench.record(&said("ORDER_COMPLETED", 1)).unwrap();
    assert_eq!(balance(&mut bench), 14999);
    assert_eq!(published(&bench), ["PAYMENT_FAILED"]);
    assert_eq!(bench.events()[0].json::<Value>()["payload"]["reason"], "the wallet does not hold as much");
    assert!(bench.record(&said("ORDER_LOST", 1)).unwrap_err().message().contains("ORDER_LOST"));
}
