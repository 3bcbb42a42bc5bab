//! The history as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::test::{get, post, record};
use tidemill_sdk::{Record, params};
use tidemill_test::{Ended, Moment, Rig};

fn change(event_type: &str, order_id: i64) -> Record {
    record("order-events").with_key(order_id.to_string()).with_json(&json!({
        "eventId": format!("{event_type}-{order_id}"), "eventType": event_type, "timestamp": "2026-01-01T00:00:00.000Z",
        "orderId": order_id, "userId": "7", "totalAmount": "50000.00",
    }))
}

fn shown(rig: &mut Rig, order_id: i64) -> Value {
    rig.call(get(&format!("/api/history/{order_id}")).user("7")).body_json()
}

#[test]
fn h6_a_change_that_comes_too_early_waits_for_the_one_that_it_follows() {
    let mut rig = Rig::new("history");
    assert!(matches!(rig.record(&change("ORDER_PAID", 1)), Ended::Retry { attempts: 1, .. }));
    rig.kill_at(Moment::Committing);
    assert_eq!(rig.record(&change("ORDER_CREATED", 1)), Ended::Done);
    assert_eq!(rig.record(&change("ORDER_CREATED", 1)), Ended::Duplicate);
    rig.advance(Duration::from_secs(1));
    assert_eq!((&shown(&mut rig, 1)["status"], &shown(&mut rig, 1)["version"]), (&json!("PAID"), &json!(2)));
}

#[test]
fn h6_a_version_that_is_taken_is_a_retry_that_a_new_read_model_ends() {
    let mut rig = Rig::new("history");
    assert_eq!(rig.record(&change("ORDER_CREATED", 1)), Ended::Done);
    rig.prepare(
        "INSERT INTO events (order_id, version, event_type, user_id, total_amount, at)
         VALUES ('1', 2, 'ORDER_PAID', '7', '50000.00', '2026-01-01T00:00:00.000Z')",
    );
    let met = rig.record(&change("ORDER_CANCELLED", 1));
    assert!(matches!(&met, Ended::Retry { error, .. } if error.contains("expected at version 1")), "{met:?}");
    rebuild(&mut rig);
    rig.advance(Duration::from_secs(1));
    assert_eq!((&shown(&mut rig, 1)["status"], &shown(&mut rig, 1)["version"]), (&json!("CANCELLED"), &json!(3)));
}

/// Begins, and delivers each step that the handler gives itself.
fn rebuild(rig: &mut Rig) {
    let mut done = rig.published().len();
    assert_eq!(rig.call(post("/api/read-model").user("boss")).status, 202);
    while let Some(step) = rig.published().into_iter().nth(done) {
        let step = record("history-steps").with_key(step.key.unwrap()).with_value(step.value.unwrap());
        assert_eq!(rig.record(&step), Ended::Done);
        done += 1;
    }
}

#[test]
fn h6_a_read_model_is_built_anew_in_steps_and_changes_place_at_once() {
    let mut rig = Rig::builder("history").setting("step", "3").start();
    for order_id in 1..=4 {
        for event_type in ["ORDER_CREATED", "ORDER_PAID"] {
            assert_eq!(rig.record(&change(event_type, order_id)), Ended::Done);
        }
    }
    rig.prepare("UPDATE orders SET status = 'PENDING', total_amount = '0'");
    rig.kill_at(Moment::Committed);
    let mut done = rig.published().len();
    assert_eq!(rig.try_call(post("/api/read-model").user("boss")), None);
    while let Some(step) = rig.published().into_iter().nth(done) {
        let before = rig.query_one::<i64>("SELECT generation FROM models WHERE status = 'LIVE'", params![]);
        assert_eq!(shown(&mut rig, 4)["status"], if before == 1 { "PENDING" } else { "PAID" });
        let step = record("history-steps").with_key(step.key.unwrap()).with_value(step.value.unwrap());
        rig.kill_at(Moment::Committing);
        assert_eq!(rig.record(&step), Ended::Done);
        done += 1;
    }
    let models: Vec<(i64, String)> = rig.query("SELECT generation, status FROM models", params![]);
    assert_eq!(models, [(1, "OLD".into()), (2, "LIVE".into())]);
    assert_eq!(rig.query_one::<i64>("SELECT count(*) FROM orders", params![]), 4);
    // Three steps build, two sweep; the request was killed too.
    assert_eq!(rig.kills(), 6);
}
