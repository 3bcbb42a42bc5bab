//! That the handler does what it is told, as far as a bench survives it.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, post, record};
use tidemill_sdk::{Failure, Record, params};

use crate::HANDLER;

fn told(value: &Value) -> Record {
    record("hostile-in").at(1, 7).with_key("k").with_json(value)
}

fn seen(bench: &Bench) -> Vec<String> {
    bench.query("SELECT id FROM seen ORDER BY seq", params![])
}

#[test]
fn a_delivery_that_is_kept_has_one_row() {
    let mut bench = Bench::new(&HANDLER);
    for commands in [
        json!({ "do": "insert" }),
        json!({ "do": "insert", "id": "a" }),
        json!([{ "do": "publish", "id": "b", "count": 2 }, { "do": "insert", "id": "c" }]),
        json!({ "do": "publish", "row": false }),
    ] {
        bench.record(&told(&commands)).unwrap();
    }
    assert_eq!(seen(&bench), ["hostile-in-1-7", "a", "b"]);
    assert_eq!(bench.events().len(), 3);
    assert!(bench.events().iter().all(|event| event.key_str() == "k" && event.topic == "hostile-out"));
}

#[test]
fn what_fails_leaves_no_row() {
    let mut bench = Bench::new(&HANDLER);
    for (command, failure) in [
        (json!({ "do": "fail-n", "until": 2 }), "attempt 1 fails, 2 will not"),
        (json!({ "do": "reject" }), "told to reject"),
        (json!({ "do": "unavailable", "after_ms": 5 }), "told to be unavailable"),
        (json!({ "do": "sql", "statements": ["SELECT 1", "COMMIT"] }), "Denied 23: not authorized"),
        (json!({ "do": "insert-or-rollback", "swallow": false }), "Constraint 1555: UNIQUE"),
        (json!({ "do": "insert-or-rollback" }), "a statement has ended the delivery's transaction"),
        (json!({ "do": "deferred-fk" }), "FOREIGN KEY constraint failed"),
        (
            json!({ "do": "publish", "destination": "nowhere" }),
            "[publish] in handler.toml has no destination `nowhere`",
        ),
        (json!({ "do": "what" }), "is not the JSON that is expected"),
    ] {
        let error = bench.record(&told(&command)).unwrap_err();
        assert!(error.message().contains(failure), "{command}: {error}");
        assert!(seen(&bench).is_empty() && bench.events().is_empty(), "{command}");
    }
    bench.attempt(2).record(&told(&json!({ "do": "fail-n", "until": 2 }))).unwrap();
    assert_eq!(seen(&bench).len(), 1);
}

#[test]
fn a_request_is_told_the_same_way() {
    let mut bench = Bench::new(&HANDLER);
    bench.set("version", "9");
    let answer = bench.call(post("/hostile").json(&json!({ "do": "insert", "id": "a" })));
    assert_eq!((answer.status, answer.body_json::<Value>()), (200, json!({ "id": "a", "version": "9" })));
    assert_eq!(bench.call(post("/hostile").json(&json!({ "do": "reject" }))).status, 422);
    assert_eq!(bench.call(post("/hostile").json(&json!({ "do": "unavailable" }))).status, 503);
    assert_eq!(bench.call(get("/hostile/seen")).body_json::<Value>(), json!({ "count": 1, "version": "9" }));
    let write = r#"/hostile?command={"do":"sql","statements":["DELETE%20FROM%20seen"]}"#;
    assert_eq!(bench.call(get(write)).status, 503);
    assert_eq!(seen(&bench), ["a"]);
}

#[test]
fn what_a_delivery_draws_is_written_down() {
    let mut bench = Bench::new(&HANDLER);
    bench.record(&told(&json!({ "do": "clock" }))).unwrap();
    let drawn: Vec<(i64, String, String)> = bench.query("SELECT now, random, next_id FROM drawn", params![]);
    let [(now, random, next_id)] = drawn.as_slice() else { panic!("one row: {drawn:?}") };
    assert_eq!((*now, random.len()), (1_769_851_800_000, 32));
    assert_eq!(bench.events().first().map(|event| &event.id), Some(next_id));
}

#[test]
fn a_failure_keeps_the_time_it_asks_for() {
    let failure = Bench::new(&HANDLER).record(&told(&json!({ "do": "unavailable", "after_ms": 5 }))).unwrap_err();
    assert_eq!(failure, Failure::unavailable("told to be unavailable").after(std::time::Duration::from_millis(5)));
}
