//! The history on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::compensation::{Input, LostEvent};
use tidemill_sdk::test::{Bench, get, post, record};
use tidemill_sdk::{Failure, Record, params};

use crate::HANDLER;

fn change(event_type: &str, order_id: i64) -> Record {
    record("order-events").with_key(order_id.to_string()).with_json(&json!({
        "eventId": "e", "eventType": event_type, "timestamp": "2026-01-01T00:00:00.000Z",
        "orderId": order_id, "userId": "7", "totalAmount": "50000.00",
    }))
}

/// So many orders, all paid.
fn with(orders: i64) -> Bench {
    let mut bench = Bench::new(&HANDLER);
    for order_id in 1..=orders {
        for event_type in ["ORDER_CREATED", "ORDER_PAID"] {
            bench.record(&change(event_type, order_id)).unwrap();
        }
    }
    bench
}

fn shown(bench: &mut Bench, order_id: i64) -> Value {
    bench.call(get(&format!("/api/history/{order_id}")).user("7")).body_json()
}

fn models(bench: &mut Bench) -> Vec<(i64, String, u32)> {
    let models = bench.call(get("/api/read-model").user("7")).body_json::<Value>();
    let model = |model: &Value| {
        (
            model["generation"].as_i64().unwrap(),
            model["status"].as_str().unwrap().to_owned(),
            model["orders"].as_u64().unwrap() as u32,
        )
    };
    models.as_array().unwrap().iter().map(model).collect()
}

/// Delivers the steps that the handler has given itself, from the one of this number on, `times` of them or all.
fn steps(bench: &mut Bench, from: usize, times: usize) -> usize {
    let mut n = from;
    while n < bench.events().len() && n < from.saturating_add(times) {
        let step = bench.events()[n].json::<Value>();
        bench.record(&record("history-steps").with_json(&step)).unwrap();
        n += 1;
    }
    n
}

#[test]
fn s2_11_every_change_is_kept_and_the_read_model_follows() {
    let mut bench = with(1);
    assert_eq!(
        shown(&mut bench, 1),
        json!({
            "orderId": "1", "totalAmount": "50000.00", "status": "PAID", "version": 2,
            "events": [
                { "version": 1, "eventType": "ORDER_CREATED", "totalAmount": "50000.00", "at": "2026-01-01T00:00:00.000Z" },
                { "version": 2, "eventType": "ORDER_PAID", "totalAmount": "50000.00", "at": "2026-01-01T00:00:00.000Z" },
            ],
        })
    );
    bench.record(&change("ORDER_CANCELLED", 1)).unwrap();
    assert_eq!((&shown(&mut bench, 1)["status"], &shown(&mut bench, 1)["version"]), (&json!("CANCELLED"), &json!(3)));
    assert_eq!(bench.call(get("/api/history/1").user("8")).status, 404);
}

#[test]
fn s2_11_a_change_that_comes_too_early_or_meets_another_is_tried_again() {
    let mut bench = Bench::new(&HANDLER);
    let early = bench.record(&change("ORDER_PAID", 1)).unwrap_err();
    assert!(matches!(&early, Failure::Retry { message, .. } if message.contains("order 1 is unknown")), "{early:?}");
    bench.record(&change("ORDER_CREATED", 1)).unwrap();
    // Somebody has appended what the read model has not seen.
    bench.prepare(
        "INSERT INTO events (order_id, version, event_type, user_id, total_amount, at)
         VALUES ('1', 2, 'ORDER_PAID', '7', '50000.00', '2026-01-01T00:00:00.000Z')",
    );
    let met = bench.record(&change("ORDER_CANCELLED", 1)).unwrap_err();
    assert!(matches!(&met, Failure::Retry { message, .. } if message.contains("expected at version 1")), "{met:?}");
    assert_eq!(bench.query::<u32>("SELECT count(*) FROM events", params![]), [2]);
    assert!(matches!(bench.record(&change("ORDER_LOST", 1)), Err(Failure::Reject(_))));
}

#[test]
fn s2_11_the_read_model_is_built_anew_in_steps_while_the_old_one_serves() {
    let mut bench = with(5);
    bench.set("step", "4");
    bench.prepare("UPDATE orders SET status = 'PENDING', total_amount = '0'");
    assert_eq!(bench.call(post("/api/read-model").user("boss")).status, 202);
    assert_eq!(bench.call(post("/api/read-model").user("boss")).status, 409);
    let done = steps(&mut bench, 0, 2);
    assert_eq!(models(&mut bench), [(1, "LIVE".into(), 5), (2, "BUILDING".into(), 4)]);
    assert_eq!(shown(&mut bench, 1)["totalAmount"], "0");
    // What comes meanwhile is in both.
    bench.prepare("UPDATE orders SET status = 'PAID' WHERE generation = 1 AND order_id = '1'");
    bench.record(&change("ORDER_CANCELLED", 1)).unwrap();
    let done = steps(&mut bench, done, 1);
    assert_eq!(models(&mut bench)[1], (2, "LIVE".into(), 5));
    assert_eq!(
        (&shown(&mut bench, 1)["status"], &shown(&mut bench, 1)["totalAmount"]),
        (&json!("CANCELLED"), &json!("50000.00"))
    );
    assert_eq!((&shown(&mut bench, 5)["status"], &shown(&mut bench, 5)["version"]), (&json!("PAID"), &json!(2)));
    assert_eq!(steps(&mut bench, done, usize::MAX) - done, 2);
    assert_eq!(models(&mut bench), [(1, "OLD".into(), 0), (2, "LIVE".into(), 5)]);
    // A step that comes late, or again, does nothing.
    bench.prepare("UPDATE orders SET status = 'PENDING'");
    steps(&mut bench, 0, 3);
    assert_eq!(shown(&mut bench, 1)["status"], "PENDING");
}

#[test]
fn s2_11_a_read_model_that_cannot_be_finished_makes_way_for_the_next() {
    let mut bench = with(2);
    for lost in [true, false] {
        let first = bench.events().len();
        assert_eq!(bench.call(post("/api/read-model").user("boss")).status, 202);
        let value = bench.events()[first].value.clone();
        let input = if lost {
            Input::Event(LostEvent { value, ..LostEvent::default() })
        } else {
            Input::Record(Record { value, ..record("history-steps") })
        };
        bench.compensate(&input, "too large").unwrap();
        assert!(models(&mut bench).iter().all(|(_, status, _)| status != "BUILDING"));
        steps(&mut bench, first, usize::MAX);
    }
    bench.compensate(&Input::Record(change("ORDER_PAID", 9)), "it does not follow").unwrap();
    assert_eq!(models(&mut bench)[0], (1, "LIVE".into(), 2));
}

#[test]
fn s2_11_events_are_only_appended() {
    let bench = with(1);
    for statement in ["UPDATE events SET version = 9", "DELETE FROM events"] {
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.prepare(statement)));
        assert!(refused.is_err(), "{statement}");
    }
}
