//! The insight handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, record};
use tidemill_sdk::{Failure, Record, Time, params};

use crate::HANDLER;

/// At this time on 2026-01-31.
fn time(clock: &str) -> Time {
    format!("2026-01-31T{clock}Z").parse().unwrap()
}

fn order(n: i64, clock: &str, amount: &str) -> Record {
    record("order-events").with_json(&json!({
        "eventId": format!("e-{n}"), "eventType": "ORDER_CREATED", "timestamp": time(clock), "orderId": n, "userId": 7,
        "totalAmount": amount,
    }))
}

fn bench() -> Bench {
    let mut bench = Bench::new(&HANDLER);
    bench.at(time("09:30:00"));
    bench
}

/// Windows of a minute, and others of a minute each 15 seconds: when they start, orders, total, late, closed.
fn windows(bench: &Bench, kind: &str) -> Vec<(String, i64, i64, i64, bool)> {
    let sql = "SELECT substr(starts_at, 12, 8), orders, total, late, closed_at IS NOT NULL FROM windows WHERE kind = ?1 ORDER BY starts_at";
    bench.query(sql, params![kind])
}

fn window(starts: &str, orders: i64, total: i64, late: i64, closed: bool) -> (String, i64, i64, i64, bool) {
    (starts.to_owned(), orders, total, late, closed)
}

#[test]
fn s2_13_an_order_is_in_one_tumbling_window_and_in_each_sliding_one_that_holds_its_time() {
    let mut bench = bench();
    for (n, clock, amount) in [(1, "09:29:00", "0.10"), (2, "09:29:59.999", "0.20"), (3, "09:30:00", "5")] {
        bench.record(&order(n, clock, amount)).unwrap();
    }
    assert_eq!(
        windows(&bench, "tumbling"),
        [window("09:29:00", 2, 30, 0, false), window("09:30:00", 1, 500, 0, false)]
    );
    let sliding = [
        window("09:28:15", 1, 10, 0, false),
        window("09:28:30", 1, 10, 0, false),
        window("09:28:45", 1, 10, 0, false),
        window("09:29:00", 2, 30, 0, false),
        window("09:29:15", 2, 520, 0, false),
        window("09:29:30", 2, 520, 0, false),
        window("09:29:45", 2, 520, 0, false),
        window("09:30:00", 1, 500, 0, false),
    ];
    assert_eq!(windows(&bench, "sliding"), sliding);
}

#[test]
fn s2_13_a_window_closes_behind_its_lateness_and_what_comes_then_is_counted() {
    let mut bench = bench();
    bench.set("slide-seconds", "60").at(time("09:31:00"));
    bench.record(&order(1, "09:29:00", "1")).unwrap();
    // Another partition that has come as far as the end, and not yet past what may be late.
    bench.record(&order(2, "09:30:29.999", "2").at(1, 0)).unwrap();
    bench.record(&order(3, "09:31:00", "3")).unwrap();
    bench.fire("close-windows").unwrap();
    bench.record(&order(4, "09:29:59", "4")).unwrap();
    assert_eq!(windows(&bench, "tumbling")[0], window("09:29:00", 2, 500, 0, false), "late, and not too late");
    bench.record(&order(5, "09:30:30", "5").at(1, 1)).unwrap();
    bench.fire("close-windows").unwrap();
    bench.record(&order(6, "09:29:59", "6")).unwrap();
    bench.record(&order(7, "09:20:00", "7")).unwrap();
    bench.fire("close-windows").unwrap();
    let expected = [
        window("09:20:00", 0, 0, 1, true),
        window("09:29:00", 2, 500, 1, true),
        window("09:30:00", 2, 700, 0, false),
        window("09:31:00", 1, 300, 0, false),
    ];
    assert_eq!(windows(&bench, "tumbling"), expected);
    let results: Vec<(String, Value)> =
        bench.events().iter().map(|event| (event.topic.clone(), event.json::<Value>()["payload"].clone())).collect();
    let result = |kind: &str| {
        json!({
            "kind": kind, "startsAt": time("09:29:00"), "endsAt": time("09:30:00"), "orders": 2, "total": "5.00", "late": 0,
            "closedAt": time("09:31:00"),
        })
    };
    assert_eq!(results.len(), 2, "one for each window");
    for kind in ["tumbling", "sliding"] {
        assert!(results.contains(&("order-windows".to_owned(), result(kind))), "{results:?}");
    }
}

#[test]
fn s2_13_silence_closes_windows_and_an_absence_does_not() {
    let mut bench = bench();
    let closed = |bench: &Bench| windows(bench, "tumbling").iter().filter(|window| window.4).count();
    bench.fire("close-windows").unwrap();
    bench.record(&order(1, "09:29:00", "1")).unwrap();
    // The handler was away for an hour: what waits in Kafka comes first.
    bench.at(time("10:30:00")).fire("close-windows").unwrap();
    assert_eq!(closed(&bench), 0);
    bench.record(&order(2, "09:29:01", "1")).unwrap();
    for second in 0..60 {
        bench.at(time(&format!("10:30:{second:02}"))).fire("close-windows").unwrap();
    }
    assert_eq!(closed(&bench), 0);
    bench.at(time("10:31:00")).fire("close-windows").unwrap();
    assert_eq!(windows(&bench, "tumbling"), [window("09:29:00", 2, 200, 0, true)]);
}

#[test]
fn s2_13_closed_windows_are_forgotten_after_their_time() {
    let mut bench = bench();
    bench.set("keep-days", "1");
    bench.record(&order(1, "09:29:00", "1")).unwrap();
    for clock in ["2026-02-01T09:31:00Z", "2026-02-01T09:31:31Z", "2026-02-01T09:32:31Z"] {
        let now: Time = clock.parse().unwrap();
        let later = order(2, "09:29:00", "1").with_json(&json!({
            "eventType": "ORDER_CREATED", "timestamp": now, "orderId": 2, "userId": "7", "totalAmount": "1.00",
        }));
        bench.at(now).record(&later).unwrap();
        bench.fire("close-windows").unwrap();
    }
    assert_eq!(bench.query::<i64>("SELECT count(*) FROM windows WHERE starts_at < '2026-02-01'", params![]), [0]);
    let ids: Vec<_> = bench.events().iter().map(|event| event.json::<Value>()["payload"]["startsAt"].clone()).collect();
    assert!(ids.contains(&json!("2026-01-31T09:29:00.000Z")), "its result was told before: {ids:?}");
}

#[test]
fn s2_13_an_amount_far_from_what_the_user_spends_is_told() {
    let mut bench = bench();
    let amounts = ["10.00", "11.00", "9.00", "10.00", "10.00", "12.00", "1000.00", "10.00", "0.01"];
    for (n, amount) in amounts.into_iter().enumerate() {
        bench.record(&order(n as i64, "09:30:00", amount)).unwrap();
    }
    let found: Value = bench.call(get("/api/insight/anomalies").user("operator")).body_json();
    let expected = json!({
        "orderId": 6, "userId": "7", "amount": "1000.00", "mean": "10.33", "deviation": "1.03",
        "timestamp": "2026-01-31T09:30:00.000Z",
    });
    // 12.00 is within three deviations; after the large one, nothing small is unusual.
    assert_eq!(found, json!([expected]));
    let [event] = bench.events() else { panic!("one event: {:?}", bench.events()) };
    assert_eq!(
        (event.topic.as_str(), event.key_str(), &event.json::<Value>()["payload"]),
        ("order-anomalies", "7", &expected)
    );
}

#[test]
fn s2_13_only_the_last_amounts_count() {
    let mut bench = bench();
    bench.set("sample", "5");
    for n in 0..30 {
        bench.record(&order(n, "09:30:00", if n < 10 { "500" } else { "10" })).unwrap();
    }
    assert_eq!(bench.query::<i64>("SELECT count(*) FROM amounts", params![]), [5]);
    bench.record(&order(30, "09:30:00", "20")).unwrap();
    assert_eq!(bench.query::<i64>("SELECT order_id FROM anomalies ORDER BY order_id", params![]), [10, 30]);
}

#[test]
fn s2_13_other_events_are_passed_over_and_an_amount_that_is_not_exact_is_refused() {
    let mut bench = bench();
    let paid = json!({
        "eventType": "ORDER_PAID", "timestamp": time("09:30:00"), "orderId": 1, "userId": "7", "totalAmount": "1.00",
    });
    bench.record(&record("order-events").with_json(&paid)).unwrap();
    assert!(windows(&bench, "tumbling").is_empty());
    for amount in ["0.001", "99999999999999999999"] {
        assert!(matches!(bench.record(&order(1, "09:30:00", amount)), Err(Failure::Reject(_))), "{amount}");
    }
    bench.set("slide-seconds", "0");
    assert!(matches!(bench.record(&order(1, "09:30:00", "1")), Err(Failure::Unavailable { .. })));
}
