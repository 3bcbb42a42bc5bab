//! The inventory handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, post, record};
use tidemill_test::{Ended, Moment, Rig};

fn told(id: &str, event_type: &str) -> Record {
    record("order-events")
        .with_key("1")
        .with_json(&json!({ "eventId": id, "eventType": event_type, "orderId": 1, "userId": "7", "totalAmount": "5" }))
        .with_header("items", r#"[{"productId":1,"quantity":2}]"#)
}

fn stocked() -> Rig {
    let mut rig = Rig::new("inventory");
    assert_eq!(rig.call(post("/api/stock/1").user("boss").json(&json!({ "quantity": 10 }))).status, 200);
    rig
}

fn available(rig: &mut Rig) -> Value {
    rig.call(get("/api/stock/1")).body_json::<Value>()["available"].clone()
}

fn published(rig: &Rig) -> Vec<String> {
    rig.events().into_iter().map(|event| event.event_type).collect()
}

#[test]
fn h6_stock_is_reserved_and_released_once_whatever_comes_twice_or_is_killed() {
    let mut rig = stocked();
    rig.kill_at(Moment::Committing);
    assert_eq!(rig.record(&told("a", "ORDER_CREATED")), Ended::Done);
    assert_eq!(rig.record(&told("a", "ORDER_CREATED")), Ended::Duplicate);
    assert_eq!(available(&mut rig), 8);
    rig.restart();
    rig.kill_at(Moment::Committed);
    assert_eq!(rig.record(&told("b", "ORDER_CANCELLED")), Ended::Done);
    assert_eq!(rig.record(&told("b", "ORDER_CANCELLED")), Ended::Duplicate);
    assert_eq!((available(&mut rig), rig.kills()), (json!(10), 2));
    assert_eq!(published(&rig), ["STOCK_RESERVED", "STOCK_RELEASED"]);
}

#[test]
fn h6_stock_that_cannot_be_taken_is_refused_once_its_attempts_are_used_up() {
    let mut rig = stocked();
    rig.prepare("CREATE TRIGGER outage BEFORE INSERT ON pieces BEGIN SELECT length(zeroblob(5000000)); END");
    assert!(matches!(rig.record(&told("a", "ORDER_CREATED")), Ended::Retry { attempts: 1, .. }));
    rig.advance(Duration::from_secs(10));
    assert_eq!((rig.dead_letters().len(), available(&mut rig)), (1, json!(10)));
    assert_eq!(published(&rig), ["STOCK_REFUSED"]);
    let lost = rig.record(&told("b", "ORDER_LOST"));
    assert!(matches!(&lost, Ended::DeadLetter { error, .. } if error.contains("ORDER_LOST")), "{lost:?}");
}
