//! The notification handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::test::{get, record};
use tidemill_sdk::{Record, params};
use tidemill_test::{Ended, Moment, Rig};

const TOPIC: &str = "order-events";
const SECOND: Duration = Duration::from_secs(1);

fn event(id: &str, event_type: &str) -> Record {
    record(TOPIC).with_key("1").with_json(&json!({
        "eventId": id, "eventType": event_type, "orderId": 1, "userId": "7", "totalAmount": "50000.00",
    }))
}

fn types(rig: &Rig) -> Vec<String> {
    rig.query("SELECT type FROM notifications ORDER BY id", params![])
}

/// What the handler writes is too large for its limits while this stands.
fn break_down(rig: &Rig) {
    rig.prepare("CREATE TRIGGER outage BEFORE INSERT ON notifications BEGIN SELECT length(zeroblob(5000000)); END");
}

#[test]
fn h6_a_duplicate_has_no_effect_and_a_dead_letter_says_why() {
    let mut rig = Rig::new("notification");
    assert_eq!(rig.record(&event("a", "ORDER_PAID")), Ended::Done);
    assert_eq!(rig.record(&event("a", "ORDER_PAID")), Ended::Duplicate);
    let lost = rig.record(&event("b", "ORDER_LOST"));
    assert_eq!((types(&rig), rig.dead_letters().len()), (vec!["ORDER_PAID".to_owned()], 1));
    assert!(lost.error().contains("ORDER_LOST"), "{lost:?}");
    let letter = &rig.dead_letters()[0];
    assert_eq!((letter.topic.as_str(), letter.source.as_str()), ("order-events.DLT", "order-events/0@2"));
    assert_eq!(letter.header_str("kafka_dlt-original-topic"), Some(TOPIC));
    let mine = rig.call(get("/api/notifications").user("7")).body_json::<Value>();
    assert_eq!(mine[0]["createdAt"], "2026-01-31T09:30:00.000Z");
    assert_eq!(rig.call(get("/api/notifications")).status, 401);
}

#[test]
fn h6_a_retry_comes_due_when_time_passes_and_those_behind_it_wait() {
    let mut rig = Rig::new("notification");
    break_down(&rig);
    let first = rig.record(&event("a", "ORDER_CREATED"));
    assert!(
        matches!(&first, Ended::Retry { attempts: 1, due, .. } if due.millis() == rig.now().millis() + 1_000),
        "{first:?}"
    );
    assert_eq!(rig.record(&event("b", "ORDER_PAID")), Ended::Waiting);
    rig.advance(SECOND - Duration::from_millis(1));
    assert_eq!(rig.pending()[0].attempts, 1, "it is not due");
    rig.prepare("DROP TRIGGER outage");
    rig.advance(Duration::from_millis(1));
    assert_eq!([0, 1].map(|offset| rig.ended(TOPIC, 0, offset)), [Ended::Done, Ended::Done]);
    assert_eq!(types(&rig), ["ORDER_CREATED", "ORDER_PAID"]);

    break_down(&rig);
    rig.record(&event("c", "ORDER_CANCELLED"));
    rig.advance(10 * SECOND);
    let last = rig.ended(TOPIC, 0, 2);
    assert!(matches!(&last, Ended::DeadLetter { attempts: 2, .. }), "an effect that is too large has fewer: {last:?}");
}

#[test]
fn h6_a_restart_and_a_kill_at_any_moment_lose_nothing_and_do_nothing_twice() {
    let mut rig = Rig::new("notification");
    break_down(&rig);
    rig.record(&event("a", "ORDER_CREATED"));
    rig.restart();
    assert_eq!((rig.pending().len(), rig.pending()[0].attempts), (1, 1));
    rig.kill();
    rig.prepare("DROP TRIGGER outage");
    rig.advance(SECOND);
    assert_eq!(types(&rig), ["ORDER_CREATED"]);
    for (n, moment) in [Moment::Delivered, Moment::Committing, Moment::Committed].into_iter().enumerate() {
        rig.kill_at(moment);
        assert_eq!(rig.record(&event(&format!("k-{n}"), "ORDER_PAID")), Ended::Done, "{moment:?}");
    }
    assert_eq!(rig.kills(), 4);
    assert_eq!(types(&rig).len(), 4);
}
