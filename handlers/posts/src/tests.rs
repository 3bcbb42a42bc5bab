//! The posts handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, post};
use tidemill_sdk::{Time, params};

use crate::HANDLER;

fn bench() -> Bench {
    let mut bench = Bench::new(&HANDLER);
    bench.at(Time::from_millis(1_767_108_600_123));
    bench
}

#[test]
fn s4_1_a_post_is_stored_and_told_of() {
    let mut bench = bench();
    let created = bench.call(post("/api/posts").user("7").json(&json!({ "title": "첫 글", "content": "Hello." })));
    assert_eq!((created.status, created.header_str("location")), (201, Some("/api/posts/1")));
    let expected = json!({
        "id": 1, "memberId": "7", "title": "첫 글", "content": "Hello.", "createdAt": "2025-12-30T15:30:00.123Z",
    });
    assert_eq!(created.body_json::<Value>(), expected);
    assert_eq!(bench.call(get("/api/posts/1")).body_json::<Value>(), expected);
    assert_eq!(bench.call(get("/api/posts")).body_json::<Value>(), json!([expected]));
    let [event] = bench.events() else { panic!("one event: {:?}", bench.events()) };
    assert_eq!((event.destination.as_str(), event.event_type.as_str()), ("activity", "POST_CREATED"));
    assert_eq!(event.key_str(), "post-1");
    assert_eq!(
        event.json::<Value>(),
        json!({
            "version": 2,
            "eventId": event.id,
            "eventType": "POST_CREATED",
            "occurredAt": "2025-12-30T15:30:00.123Z",
            "member": { "id": "7" },
            "post": { "id": 1, "title": "첫 글" },
        })
    );
}

#[test]
fn s4_1_what_is_no_post_is_a_400_and_leaves_nothing() {
    let mut bench = bench();
    for body in
        ["", "{}", r#"{"title":" ","content":"x"}"#, r#"{"title":"t"}"#, r#"{"title":"t","content":"x","id":1}"#]
    {
        assert_eq!(bench.call(post("/api/posts").user("7").body(body)).status, 400, "{body}");
    }
    let long = json!({ "title": "x".repeat(201), "content": "" });
    assert_eq!(bench.call(post("/api/posts").user("7").json(&long)).status, 400);
    assert_eq!(bench.call(post("/api/posts").json(&json!({ "title": "t", "content": "" }))).status, 401);
    assert_eq!(bench.call(get("/api/posts/1")).status, 404);
    assert_eq!(bench.query::<i64>("SELECT count(*) FROM posts", params![]), [0]);
    assert!(bench.events().is_empty());
}

#[test]
fn s4_2_a_store_that_fails_is_a_5xx_and_leaves_nothing() {
    let mut bench = bench();
    bench.prepare("DROP TABLE posts");
    let refused = bench.call(post("/api/posts").user("7").json(&json!({ "title": "t", "content": "" })));
    assert_eq!(refused.status, 500);
    assert!(bench.events().is_empty());
}
