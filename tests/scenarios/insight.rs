//! S2.13: order amounts are summed by windows of time, and unusual ones are found.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Out, Rec, Sandbox, Store, eventually, token};

fn order(n: i64, user: &str, amount: &str, at: &str) -> Out {
    let event = json!({
        "eventId": format!("e-{n}"), "eventType": "ORDER_CREATED", "timestamp": at, "orderId": n, "userId": user,
        "totalAmount": amount,
    });
    Out::new(event.to_string()).key(n.to_string()).partition(0)
}

#[test]
fn s2_13_windows_are_summed_and_closed_once_over_kills_and_an_unusual_amount_is_told() {
    let sandbox = Sandbox::with(&["insight"]);
    sandbox.write_toml("[[handler.insight.schedule]]\nname = \"close-windows\"\ninterval = \"100ms\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let orders =
        (1..=6).map(|n| order(n, "7", "10.10", &format!("2026-01-31T09:00:{n}0.000Z").replace(":60.", ":59.")));
    daemon.client().produce_all("order-events", orders);
    let store = Store::open(&sandbox, "insight");
    store.until("SELECT orders FROM windows WHERE kind = 'tumbling'", 6);
    daemon.kill9();
    let mut daemon = Daemon::start(&sandbox);
    // Far above what the user spends, and behind the end and the lateness of the windows before.
    daemon.client().produce("order-events", &order(7, "7", "999.99", "2026-01-31T09:02:00.000Z"));
    let closed = "SELECT count(*) FROM windows WHERE kind = 'tumbling' AND closed_at IS NOT NULL";
    store.until(closed, 1);
    daemon.kill9();
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("order-events", &order(8, "7", "5.00", "2026-01-31T09:00:30.000Z"));
    store.until("SELECT late FROM windows WHERE kind = 'tumbling' AND closed_at IS NOT NULL", 1);

    let user = token(&sandbox, "operator");
    let windows: Value = daemon.get("/api/insight/windows?kind=tumbling", &user).expect_status(200).json();
    let first = &windows[1];
    assert_eq!((&first["startsAt"], &first["total"]), (&json!("2026-01-31T09:00:00.000Z"), &json!("60.60")));
    assert_eq!((&first["orders"], &first["late"]), (&json!(6), &json!(1)));
    assert_eq!(windows[0]["closedAt"], Value::Null);
    let anomalies: Value = daemon.get("/api/insight/anomalies", &user).expect_status(200).json();
    assert_eq!(anomalies.as_array().unwrap().len(), 1, "{anomalies:#}");
    assert_eq!((&anomalies[0]["orderId"], &anomalies[0]["mean"]), (&json!(7), &json!("10.10")));

    let count = store.count("SELECT count(*) FROM windows WHERE closed_at IS NOT NULL");
    let results = || {
        let events = daemon.client().consume_all("order-windows");
        let place = |event: &Value| format!("{} {}", event["payload"]["kind"], event["payload"]["startsAt"]);
        let places: BTreeSet<_> = events.iter().map(|event| place(&event.json())).collect();
        (ids(&events), places.len() as i64)
    };
    eventually(LONG, "each result is published", || results().0 >= count);
    assert_eq!(results(), (count, count), "one for each window");
    assert_eq!(ids(&daemon.client().consume_all("order-anomalies")), 1);
}

/// How many events they are: one that Kafka took before a kill, and that nobody noted, is published again under its id.
fn ids(events: &[Rec]) -> i64 {
    let ids: BTreeSet<_> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    ids.len() as i64
}
