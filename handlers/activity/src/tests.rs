//! The activity handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, post, record};
use tidemill_sdk::{Failure, Record, params};

use crate::HANDLER;

fn version_1(post: i64) -> Value {
    json!({
        "eventId": "a", "eventType": "POST_CREATED", "memberId": 7, "postId": post,
        "createdAt": "2025-12-30T15:30:00.000Z",
    })
}

fn version_2(post: i64, at: &str, title: &str) -> Value {
    json!({
        "version": 2, "eventId": "b", "eventType": "POST_CREATED", "occurredAt": at,
        "member": { "id": "7" }, "post": { "id": post, "title": title },
    })
}

fn carried(event: &Value) -> Record {
    record("post-activity-20251230").with_key("post-1").with_json(event)
}

fn stored(bench: &Bench) -> Vec<(i64, Option<String>, String)> {
    bench.query("SELECT target_id, title, occurred_at FROM activities ORDER BY target_id", params![])
}

#[test]
fn s4_7_both_versions_are_handled_side_by_side() {
    let mut bench = Bench::new(&HANDLER);
    bench.record(&carried(&version_1(1))).unwrap();
    bench.record(&carried(&version_2(2, "2025-12-30T16:00:00.000Z", "Second"))).unwrap();
    let mine = bench.call(get("/api/activities").user("7")).body_json::<Value>();
    assert_eq!(
        mine,
        json!([
            { "type": "POST_CREATED", "targetId": 2, "title": "Second", "occurredAt": "2025-12-30T16:00:00.000Z" },
            { "type": "POST_CREATED", "targetId": 1, "title": null, "occurredAt": "2025-12-30T15:30:00.000Z" },
        ])
    );
    assert_eq!(bench.call(get("/api/activities").user("8")).body_json::<Value>(), json!([]));
    assert_eq!(bench.call(get("/api/activities")).status, 401);
}

#[test]
fn s4_1_a_duplicate_makes_no_second_row_and_undoes_nothing() {
    let mut bench = Bench::new(&HANDLER);
    let later = "2025-12-31T00:00:00.000Z";
    for event in [
        version_1(1),
        version_2(1, "2025-12-30T15:30:00.000Z", "First"),
        version_2(1, later, "First, mended"),
        version_2(1, "2025-12-30T15:30:00.000Z", "First"),
        version_1(1),
    ] {
        bench.record(&carried(&event)).unwrap();
    }
    assert_eq!(stored(&bench), [(1, Some("First, mended".to_owned()), later.to_owned())]);
}

#[test]
fn s4_6_the_same_event_comes_by_http() {
    let mut bench = Bench::new(&HANDLER);
    for _ in 0..2 {
        assert_eq!(bench.call(post("/api/activity").json(&version_1(3))).status, 204);
    }
    assert_eq!(stored(&bench).len(), 1);
    assert_eq!(bench.call(post("/api/activity").body("{")).status, 400);
    let unknown = bench.call(post("/api/activity").json(&json!({ "version": 3, "eventType": "POST_CREATED" })));
    assert_eq!(unknown.status, 422);
    assert!(unknown.body_json::<Value>()["detail"].as_str().unwrap().starts_with("version 3 of POST_CREATED"));
}

#[test]
fn s4_7_what_is_not_understood_is_rejected_with_a_reason() {
    let mut bench = Bench::new(&HANDLER);
    for (event, reason) in [
        (
            json!({ "version": 3, "eventType": "POST_CREATED" }),
            "version 3 of POST_CREATED is not known here: 1 and 2 are",
        ),
        (json!({ "version": "2", "eventType": "POST_CREATED" }), "invalid type"),
        (json!({ "eventType": "POST_LIKED" }), "events of type `POST_LIKED` are no activity"),
        (json!({ "version": 2, "eventType": "POST_CREATED" }), "missing field `member`"),
        (json!({ "eventType": "POST_CREATED" }), "missing field `memberId`"),
    ] {
        match bench.record(&carried(&event)) {
            Err(Failure::Reject(why)) => assert!(why.contains(reason), "{why}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    assert!(stored(&bench).is_empty());
}
