//! The insight handler as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::test::{get, record};
use tidemill_sdk::{Record, params};
use tidemill_test::{Ended, Moment, Rig};

/// An order at this second of 09:30, when the rig begins.
fn order(n: i64, second: u32) -> Record {
    record("order-events").with_json(&json!({
        "eventId": format!("e-{n}"), "eventType": "ORDER_CREATED", "timestamp": format!("2026-01-31T09:30:{second:02}Z"),
        "orderId": n, "userId": "7", "totalAmount": "10.10",
    }))
}

fn rig() -> Rig {
    Rig::builder("insight").setting("slide-seconds", "60").start()
}

/// The results that were published, by their windows.
fn results(rig: &Rig) -> Vec<(String, String)> {
    let payload = |event: &tidemill_sdk::test::Published| event.json::<Value>()["payload"].clone();
    let text = |payload: &Value, key: &str| payload[key].as_str().unwrap().to_owned();
    let payloads = rig.published().iter().map(payload).collect::<Vec<_>>();
    payloads.iter().map(|payload| (text(payload, "kind"), text(payload, "total"))).collect()
}

fn both() -> Vec<(String, String)> {
    ["tumbling", "sliding"].map(|kind| (kind.to_owned(), "20.20".to_owned())).to_vec()
}

#[test]
fn s2_13_timers_close_windows_as_time_passes() {
    let mut rig = rig();
    assert_eq!((rig.record(&order(1, 0)), rig.record(&order(2, 1))), (Ended::Done, Ended::Done));
    assert_eq!(rig.record(&order(2, 1)), Ended::Duplicate);
    // 60 seconds of silence, which are more than the lateness.
    rig.advance(Duration::from_secs(89));
    assert_eq!(results(&rig), []);
    rig.advance(Duration::from_secs(2));
    let mut told = results(&rig);
    told.sort_unstable();
    let mut expected = both();
    expected.sort_unstable();
    assert_eq!(told, expected);
    let windows = rig.call(get("/api/insight/windows?kind=tumbling").user("operator")).body_json::<Value>();
    assert_eq!((&windows[0]["total"], &windows[0]["closedAt"]), (&json!("20.20"), &json!("2026-01-31T09:31:30.000Z")));
    assert_eq!(rig.call(get("/api/insight/windows")).status, 401);
}

#[test]
fn s2_13_a_result_is_published_once_whenever_the_process_is_killed() {
    for moment in [Moment::Delivered, Moment::Committing, Moment::Committed, Moment::Acknowledged] {
        let mut rig = rig();
        rig.record(&order(1, 0));
        rig.record(&order(2, 1));
        rig.advance(Duration::from_secs(89));
        rig.kill_at(moment);
        rig.advance(Duration::from_secs(60));
        assert_eq!(rig.kills(), 1, "{moment:?}");
        let events = rig.published();
        let mut ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        // What Kafka has acknowledged and nobody has noted comes again, with its id.
        assert_eq!((ids.len(), events.len() > 2), (2, moment == Moment::Acknowledged), "{moment:?}");
    }
}

#[test]
fn s2_13_a_timer_that_fails_is_pending_and_then_in_the_fallback() {
    let mut rig = rig();
    rig.prepare("CREATE TRIGGER outage BEFORE UPDATE ON closing BEGIN SELECT length(zeroblob(5000000)); END");
    rig.advance(Duration::from_secs(1));
    let pending = &rig.pending()[0];
    assert_eq!((pending.topic.as_str(), pending.attempts), ("close-windows", 1));
    rig.advance(Duration::from_secs(4));
    let kept = &rig.fallback()[0];
    assert_eq!((kept.kind.as_str(), kept.source.as_str()), ("timer", "timer close-windows@2026-01-31T09:30:01.000Z"));
    rig.prepare("DROP TRIGGER outage");
    rig.advance(Duration::from_secs(10));
    assert_eq!(rig.query_one::<String>("SELECT looked_at FROM closing", params![]), "2026-01-31T09:30:15.000Z");
}
