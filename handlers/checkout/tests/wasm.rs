//! The checkout handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::test::{get, post, record};
use tidemill_sdk::{Record, params};
use tidemill_test::{Ended, Moment, Rig};

const TOPIC: &str = "billing-events";

/// With a coupon of 5,000 of the user 7, which in the store is `coupon`'s, and two purchases with it.
fn shop() -> Rig {
    let mut rig = Rig::builder("checkout").config("../tidemill.toml").start();
    rig.prepare(
        "CREATE TABLE coupons (id INTEGER PRIMARY KEY, user_id TEXT, discount INTEGER, status TEXT);
         INSERT INTO coupons VALUES (1, '7', 5000, 'PUBLISHED');",
    );
    for id in 1..=2 {
        let placed = rig.call(post("/api/purchases").user("7").json(&json!({ "amount": 20000, "couponId": 1 })));
        assert_eq!(placed.body_json::<Value>()["id"], id);
    }
    rig
}

fn said(id: &str, event_type: &str, order_id: i64) -> Record {
    let event = json!({ "eventId": id, "eventType": event_type, "payload": { "orderId": order_id, "reason": "none" } });
    record(TOPIC).with_key(order_id.to_string()).with_json(&event)
}

fn status(rig: &mut Rig, id: i64) -> String {
    let purchase = rig.call(get(&format!("/api/purchases/{id}")).user("7")).body_json::<Value>();
    purchase["status"].as_str().unwrap().to_owned()
}

#[test]
fn h6_of_two_purchases_with_one_coupon_the_second_fails_and_a_duplicate_does_nothing() {
    let mut rig = shop();
    rig.kill_at(Moment::Committing);
    assert_eq!(rig.record(&said("a", "PAYMENT_PAID", 1)), Ended::Done);
    rig.restart();
    assert_eq!(rig.record(&said("a", "PAYMENT_PAID", 1)), Ended::Duplicate);
    assert_eq!(rig.record(&said("b", "PAYMENT_PAID", 2)), Ended::Done);
    assert_eq!([1, 2].map(|id| status(&mut rig, id)), ["COMPLETED", "COMPLETE_FAILED"]);
    assert_eq!(rig.query::<String>("SELECT status FROM coupons", params![]), ["USED"]);
    let types: Vec<String> = rig.published().into_iter().map(|event| event.event_type).collect();
    assert_eq!(types, ["ORDER_CREATED", "ORDER_CREATED", "ORDER_COMPLETED", "ORDER_COMPLETE_FAILED"]);
    assert_eq!(rig.kills(), 1);
}

#[test]
fn h6_a_purchase_that_cannot_be_completed_now_is_completed_later_or_told_of() {
    let mut rig = shop();
    rig.prepare("CREATE TRIGGER outage BEFORE UPDATE ON purchases BEGIN SELECT length(zeroblob(5000000)); END");
    assert!(matches!(rig.record(&said("a", "PAYMENT_PAID", 1)), Ended::Retry { attempts: 1, .. }));
    assert_eq!(rig.query::<String>("SELECT status FROM coupons", params![]), ["PUBLISHED"]);
    rig.prepare("DROP TRIGGER outage");
    rig.advance(Duration::from_secs(1));
    assert_eq!((rig.ended(TOPIC, 0, 0), status(&mut rig, 1)), (Ended::Done, "COMPLETED".to_owned()));
    let lost = rig.record(&said("c", "PAYMENT_LOST", 1));
    assert!(matches!(&lost, Ended::DeadLetter { error, .. } if error.contains("PAYMENT_LOST")), "{lost:?}");
}
