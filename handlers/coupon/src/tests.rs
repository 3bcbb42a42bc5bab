//! The coupon handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, post, record};

use crate::HANDLER;

#[test]
fn s1_5_a_coupon_is_asked_for_and_published() {
    let mut bench = Bench::new(&HANDLER);
    assert_eq!(bench.call(post("/api/coupons").user("7").json(&json!({ "discount": 5000 }))).status, 202);
    let event = bench.events()[0].clone();
    assert_eq!(
        event.json::<Value>(),
        json!({ "eventId": event.id, "eventType": "COUPON_PUBLISH_REQUESTED", "payload": { "userId": "7", "discount": 5000 } })
    );
    assert_eq!(event.key_str(), "7");
    bench.record(&record("coupon-events").with_json(&event.json::<Value>())).unwrap();
    let mine = bench.call(get("/api/coupons").user("7")).body_json::<Value>();
    assert_eq!(mine, json!([{ "id": 1, "discount": 5000, "status": "PUBLISHED" }]));
    assert_eq!(bench.call(get("/api/coupons").user("8")).body_json::<Value>(), json!([]));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = Bench::new(&HANDLER);
    for body in [json!({ "discount": 0 }), json!({ "discount": 1.5 }), json!({ "discount": 5, "user": "8" }), json!({})]
    {
        assert_eq!(bench.call(post("/api/coupons").user("7").json(&body)).status, 400, "{body}");
    }
    let unknown = record("coupon-events").with_json(&json!({ "eventType": "COUPON_LOST", "payload": {} }));
    assert!(bench.record(&unknown).unwrap_err().message().contains("COUPON_LOST"));
    assert!(bench.events().is_empty());
}
