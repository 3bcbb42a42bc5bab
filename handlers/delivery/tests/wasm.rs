//! The delivery handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, record, request};
use tidemill_test::{Ended, Moment, Rig};

fn told(id: &str, event_type: &str) -> Record {
    let order = json!({ "eventId": id, "eventType": event_type, "orderId": 1, "userId": "7", "totalAmount": "5" });
    record("order-events").with_key("1").with_json(&order)
}

fn addressed() -> Rig {
    let mut rig = Rig::new("delivery");
    let address = json!({ "address": "1 Harbour Street" });
    assert_eq!(rig.call(request("PUT", "/api/address").user("7").json(&address)).status, 204);
    rig
}

fn status(rig: &mut Rig) -> Value {
    rig.call(get("/api/deliveries").user("7")).body_json::<Value>()[0]["status"].clone()
}

fn published(rig: &Rig) -> Vec<String> {
    rig.events().into_iter().map(|event| event.event_type).collect()
}

#[test]
fn h6_an_order_is_delivered_and_called_off_once_whatever_comes_twice_or_is_killed() {
    let mut rig = addressed();
    rig.kill_at(Moment::Delivered);
    assert_eq!(rig.record(&told("a", "ORDER_PAID")), Ended::Done);
    assert_eq!((rig.record(&told("a", "ORDER_PAID")), status(&mut rig)), (Ended::Duplicate, json!("STARTED")));
    rig.kill_at(Moment::Committed);
    assert_eq!(rig.record(&told("b", "ORDER_CANCELLED")), Ended::Done);
    assert_eq!((rig.record(&told("b", "ORDER_CANCELLED")), status(&mut rig)), (Ended::Duplicate, json!("CALLED_OFF")));
    assert_eq!((rig.kills(), published(&rig)), (2, vec!["DELIVERY_STARTED".into(), "DELIVERY_CALLED_OFF".into()]));
}

#[test]
fn h6_a_delivery_that_cannot_start_has_failed_once_its_attempts_are_used_up() {
    let mut rig = addressed();
    rig.prepare(
        "CREATE TRIGGER outage BEFORE INSERT ON deliveries WHEN new.status = 'STARTED'
         BEGIN SELECT length(zeroblob(5000000)); END",
    );
    assert!(matches!(rig.record(&told("a", "ORDER_PAID")), Ended::Retry { attempts: 1, .. }));
    rig.advance(Duration::from_secs(10));
    assert_eq!((rig.dead_letters().len(), status(&mut rig)), (1, json!("FAILED")));
    assert_eq!(published(&rig), ["DELIVERY_FAILED"]);
}
