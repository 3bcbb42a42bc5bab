//! S2.11: every change is kept as an event, and what follows from them is built anew while the old serves.

use rusqlite::Connection;
use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Out, SOON, Sandbox, Store, eventually, token};

use crate::rig::ORDER;

fn change(event_type: &str, order: usize) -> Out {
    let id = format!("{event_type}-{order}");
    let event = json!({ "eventId": id, "eventType": event_type, "timestamp": "2026-01-02T03:04:05.678Z",
        "orderId": order, "userId": "7", "totalAmount": "5.00" });
    Out::new(event.to_string()).key(order.to_string())
}

fn models(daemon: &Daemon, token: &str) -> Vec<(i64, String)> {
    let models = daemon.get("/api/read-model", token).expect_status(200).json();
    let model = |model: &Value| (model["generation"].as_i64().unwrap(), model["status"].as_str().unwrap().to_owned());
    models.as_array().unwrap().iter().map(model).collect()
}

#[test]
fn s2_11_an_order_is_what_its_events_say() {
    let sandbox = Sandbox::with(&["order", "history"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    eventually(SOON, "the order is known", || daemon.get("/api/history/1", &user).status == 200);
    let created = daemon.get("/api/history/1", &user).json();
    assert_eq!((&created["status"], &created["version"]), (&json!("PENDING"), &json!(1)));
    // Another producer's events come in the wrong order: one waits for the one that it follows.
    let client = daemon.client();
    for event_type in ["ORDER_PAID", "ORDER_CREATED"] {
        client.produce("order-events", &change(event_type, 9));
    }
    let history = Store::open(&sandbox, "history");
    history.until("SELECT count(*) FROM events WHERE order_id = '9'", 2);
    let told = daemon.get("/api/history/9", &user).expect_status(200).json();
    assert_eq!(
        (&told["events"][0]["eventType"], &told["events"][1]["eventType"]),
        (&json!("ORDER_CREATED"), &json!("ORDER_PAID"))
    );
    assert_eq!((&told["status"], &told["totalAmount"]), (&json!("PAID"), &json!("5.00")));
    daemon.get("/api/history/1", &token(&sandbox, "8")).expect_status(404);
}

#[test]
fn s2_11_a_read_model_is_built_anew_in_steps_through_a_kill_while_the_old_one_serves() {
    const ORDERS: usize = 2_000;
    let sandbox = Sandbox::with(&["history"]);
    sandbox.write_toml("[kafka]\nkeep-embedded = true\n[handler.history]\nsettings = { step = 200 }\n");
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let client = daemon.client();
    for event_type in ["ORDER_CREATED", "ORDER_PAID"] {
        client.produce_all("order-events", (1..=ORDERS).map(|order| change(event_type, order)));
    }
    let history = Store::open(&sandbox, "history");
    history.until("SELECT count(*) FROM events", 2 * ORDERS as i64);
    daemon.terminate();
    // The read model is wrong, as one of an older version of the handler may be.
    let by_hand = Connection::open(sandbox.store_file("history")).unwrap();
    by_hand.execute_batch("UPDATE orders SET total_amount = '0.00'").unwrap();

    daemon = Daemon::start_with(&sandbox, |command| {
        // Between two of the twenty steps.
        command.env("TIDEMILL_TEST_KILL_AT", "committed:6");
    });
    daemon.post("/api/read-model", &user, "{}").expect_status(202);
    assert!(!daemon.wait_exit().success());
    assert_eq!(history.lines("SELECT generation, status FROM models"), ["1|LIVE", "2|BUILDING"]);
    let built = history.count("SELECT count(*) FROM orders WHERE generation = 2");
    assert!(built < ORDERS as i64, "{built} of {ORDERS} were there already");

    let daemon = Daemon::start(&sandbox);
    // What serves is one or the other, and never a mixture; what changes meanwhile is in both.
    daemon.client().produce("order-events", &change("ORDER_CANCELLED", 1));
    let wrong = "SELECT count(*) FROM orders JOIN models USING (generation) WHERE models.status = 'LIVE' AND total_amount = '0.00'";
    let all = "SELECT count(*) FROM orders JOIN models USING (generation) WHERE models.status = 'LIVE'";
    eventually(LONG, "the new read model serves", || {
        let line = history.line(&format!("SELECT ({wrong}), ({all})"));
        assert!([format!("{ORDERS}|{ORDERS}"), format!("0|{ORDERS}")].contains(&line), "{line}");
        line.starts_with("0|")
    });
    assert_eq!(daemon.get("/api/history/2", &user).expect_status(200).json()["totalAmount"], "5.00");
    history.until("SELECT count(*) FROM orders WHERE order_id = '1' AND generation = 2 AND status = 'CANCELLED'", 1);
    history.until("SELECT count(*) FROM orders WHERE generation = 1", 0);
    assert_eq!(models(&daemon, &user), [(1, "OLD".to_owned()), (2, "LIVE".to_owned())]);
    history.until("SELECT count(*) FROM tm_outbox", 0);
}
