//! The posts handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::params;
use tidemill_sdk::test::{Call, post};
use tidemill_test::{Moment, Rig};

const DAY: Duration = Duration::from_secs(86_400);

fn draft() -> Call {
    post("/api/posts").user("7").json(&json!({ "title": "The first", "content": "Hello." }))
}

#[test]
fn s4_5_each_day_has_its_topic() {
    let mut rig = Rig::new("posts");
    assert_eq!(rig.call(draft()).status, 201);
    rig.advance(DAY);
    assert_eq!(rig.call(draft()).status, 201);
    let topics: Vec<String> = rig.published().into_iter().map(|event| event.topic).collect();
    assert_eq!(topics, ["post-activity-20260131", "post-activity-20260201"]);
}

#[test]
fn s4_2_while_kafka_is_away_a_post_is_taken_and_its_event_waits_through_a_kill() {
    let mut rig = Rig::new("posts");
    rig.kafka_is_away();
    rig.kill_at(Moment::Committed);
    assert_eq!(rig.try_call(draft().header("idempotency-key", "a")), None);
    assert_eq!(rig.call(draft().header("idempotency-key", "a")).status, 201);
    assert_eq!((rig.events().len(), rig.published().len()), (1, 0));
    assert_eq!(rig.query_one::<i64>("SELECT count(*) FROM posts", params![]), 1);
    rig.kafka_is_back();
    rig.advance(Duration::from_secs(1));
    let [event] = &rig.published()[..] else { panic!("one event: {:?}", rig.published()) };
    assert_eq!(event.json::<Value>()["post"]["title"], "The first");
}
