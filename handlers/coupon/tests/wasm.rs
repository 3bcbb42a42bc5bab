//! The coupon handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, post, record};
use tidemill_test::{Ended, Moment, Rig};

const TOPIC: &str = "coupon-events";

/// What Kafka would bring of a coupon that the user 7 has asked for.
fn wanted(rig: &mut Rig) -> Record {
    assert_eq!(rig.call(post("/api/coupons").user("7").json(&json!({ "discount": 5000 }))).status, 202);
    let event = rig.published().pop().unwrap();
    record(TOPIC).with_key(event.key.unwrap()).with_value(event.value.unwrap())
}

fn mine(rig: &mut Rig) -> usize {
    rig.call(get("/api/coupons").user("7")).body_json::<Vec<Value>>().len()
}

#[test]
fn h6_a_coupon_that_was_asked_for_is_there_once_its_event_is_read_and_only_once() {
    let mut rig = Rig::new("coupon");
    let event = wanted(&mut rig);
    assert_eq!(mine(&mut rig), 0);
    assert_eq!(rig.record(&event), Ended::Done);
    rig.restart();
    assert_eq!(rig.record(&event), Ended::Duplicate);
    assert_eq!(mine(&mut rig), 1);
    let strange = rig.record(&record(TOPIC).with_json(&json!({ "eventId": "x", "eventType": "COUPON_EATEN" })));
    assert!(
        matches!(&strange, Ended::DeadLetter { attempts: 1, error, .. } if error.contains("COUPON_EATEN")),
        "{strange:?}"
    );
}

#[test]
fn h6_a_coupon_that_fails_for_a_while_is_there_in_the_end_whatever_is_killed() {
    let mut rig = Rig::new("coupon");
    let event = wanted(&mut rig);
    rig.prepare("CREATE TRIGGER outage BEFORE INSERT ON coupons BEGIN SELECT length(zeroblob(5000000)); END");
    assert!(matches!(rig.record(&event), Ended::Retry { attempts: 1, .. }));
    rig.prepare("DROP TRIGGER outage");
    rig.kill_at(Moment::Committing);
    rig.advance(Duration::from_secs(1));
    assert_eq!((rig.ended(TOPIC, 0, 0), rig.kills(), mine(&mut rig)), (Ended::Done, 1, 1));
}
