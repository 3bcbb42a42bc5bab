//! The checkout handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{Bench, get, post, record};

use crate::HANDLER;

/// With two coupons of 5,000 of the user 7, which in the store are those of `coupon`.
fn bench() -> Bench {
    let bench = Bench::new(&HANDLER);
    bench.prepare(
        "CREATE TABLE coupons (id INTEGER PRIMARY KEY, user_id TEXT, discount INTEGER, status TEXT);
         INSERT INTO coupons VALUES (1, '7', 5000, 'PUBLISHED'), (2, '7', 5000, 'USED');",
    );
    bench
}

fn said(event_type: &str, order_id: i64) -> Record {
    let payload = json!({ "orderId": order_id, "reason": "no money" });
    record("billing-events").with_json(&json!({ "eventId": "e", "eventType": event_type, "payload": payload }))
}

fn place(bench: &mut Bench, coupon: Option<i64>) -> Value {
    let body = json!({ "amount": 20000, "couponId": coupon });
    bench.call(post("/api/purchases").user("7").json(&body)).body_json()
}

fn status(bench: &mut Bench, id: i64) -> String {
    let purchase = bench.call(get(&format!("/api/purchases/{id}")).user("7")).body_json::<Value>();
    purchase["status"].as_str().unwrap().to_owned()
}

fn published(bench: &Bench) -> Vec<(String, String)> {
    bench.events().iter().map(|event| (event.event_type.clone(), event.key_str().to_owned())).collect()
}

#[test]
fn s1_5_a_paid_purchase_is_completed_once_and_uses_its_coupon_up() {
    let mut bench = bench();
    let purchase = place(&mut bench, Some(1));
    assert_eq!((&purchase["total"], &purchase["status"]), (&json!(15000), &json!("CREATED")));
    let created = bench.events()[0].json::<Value>();
    assert_eq!(created["payload"], json!({ "orderId": 1, "userId": "7", "total": 15000 }));
    for _ in 0..2 {
        bench.record(&said("PAYMENT_PAID", 1)).unwrap();
    }
    assert_eq!(status(&mut bench, 1), "COMPLETED");
    assert_eq!(bench.query::<String>("SELECT status FROM coupons", tidemill_sdk::params![]), ["USED", "USED"]);
    assert_eq!(published(&bench), [("ORDER_CREATED".into(), "1".into()), ("ORDER_COMPLETED".into(), "1".into())]);
}

#[test]
fn s1_5_of_two_purchases_with_one_coupon_the_second_fails_and_is_canceled() {
    let mut bench = bench();
    for id in [1, 2] {
        place(&mut bench, Some(1));
        assert_eq!(status(&mut bench, id), "CREATED");
    }
    for id in [2, 1] {
        bench.record(&said("PAYMENT_PAID", id)).unwrap();
    }
    assert_eq!([status(&mut bench, 1), status(&mut bench, 2)], ["COMPLETE_FAILED", "COMPLETED"]);
    let failed = bench.events().last().unwrap();
    assert_eq!(failed.event_type, "ORDER_COMPLETE_FAILED");
    assert_eq!(failed.json::<Value>()["payload"]["reason"], "the coupon was used for another purchase");
    bench.record(&said("PAYMENT_CANCELED", 1)).unwrap();
    assert_eq!(status(&mut bench, 1), "CANCELED");
}

#[test]
fn s1_5_a_purchase_that_cannot_be_paid_has_failed() {
    let mut bench = bench();
    place(&mut bench, None);
    bench.record(&said("PAYMENT_FAILED", 1)).unwrap();
    let purchase = bench.call(get("/api/purchases/1").user("7")).body_json::<Value>();
    assert_eq!((&purchase["status"], &purchase["reason"]), (&json!("PAYMENT_FAILED"), &json!("no money")));
    // What comes after that changes nothing.
    bench.record(&said("PAYMENT_PAID", 1)).unwrap();
    assert_eq!(status(&mut bench, 1), "PAYMENT_FAILED");
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = bench();
    for (body, status) in [
        (json!({ "amount": 0 }), 400),
        (json!({ "amount": 5, "total": 1 }), 400),
        (json!({ "amount": 5, "couponId": 2 }), 422),
        (json!({ "amount": 5, "couponId": 9 }), 422),
    ] {
        assert_eq!(bench.call(post("/api/purchases").user("7").json(&body)).status, status, "{body}");
    }
    assert_eq!(bench.call(post("/api/purchases").user("8").json(&json!({ "amount": 5, "couponId": 1 }))).status, 422);
    place(&mut bench, None);
    assert_eq!(bench.call(get("/api/purchases/1").user("8")).status, 404);
    assert!(bench.record(&said("PAYMENT_LOST", 1)).unwrap_err().message().contains("PAYMENT_LOST"));
}
