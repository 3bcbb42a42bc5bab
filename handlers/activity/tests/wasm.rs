//! The activity handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{post, record};
use tidemill_sdk::{Record, params};
use tidemill_test::{Ended, Moment, Rig};

fn created(version: u32, post: i64) -> Value {
    json!({
        "version": version, "eventId": "e", "eventType": "POST_CREATED", "occurredAt": "2026-01-31T09:30:00.000Z",
        "member": { "id": "7" }, "post": { "id": post, "title": "The first" },
    })
}

fn carried(day: &str, key: &str, event: &Value) -> Record {
    record(format!("post-activity-{day}")).with_key(key).with_json(event)
}

fn rows(rig: &Rig) -> i64 {
    rig.query_one("SELECT count(*) FROM activities", params![])
}

#[test]
fn s4_4_a_duplicate_is_known_by_its_key_on_receipt_and_again_at_the_write() {
    let mut rig = Rig::new("activity");
    assert_eq!(rig.record(&carried("20260131", "post-1", &created(2, 1))), Ended::Done);
    // On the topic of the next day as well.
    assert_eq!(rig.record(&carried("20260201", "post-1", &created(2, 1))), Ended::Duplicate);
    assert_eq!(rig.record(&carried("20260201", "another", &created(2, 1))), Ended::Done);
    assert_eq!(rows(&rig), 1);
}

#[test]
fn s4_6_a_request_that_comes_again_after_a_kill_is_done_once() {
    let mut rig = Rig::new("activity");
    let call = || post("/api/activity").header("idempotency-key", "e").json(&created(2, 1));
    rig.kill_at(Moment::Committed);
    assert_eq!(rig.try_call(call()), None);
    assert_eq!((rig.call(call()).status, rows(&rig)), (204, 1));
}

#[test]
fn s4_7_an_unknown_version_is_a_dead_letter_that_says_so() {
    let mut rig = Rig::new("activity");
    let ended = rig.record(&carried("20260131", "post-1", &created(9, 1)));
    assert!(matches!(&ended, Ended::DeadLetter { attempts: 1, .. }), "{ended:?}");
    assert!(ended.error().contains("version 9 of POST_CREATED is not known here"), "{ended:?}");
    assert_eq!((rig.dead_letters()[0].topic.as_str(), rows(&rig)), ("post-activity.DLT", 0));
}
