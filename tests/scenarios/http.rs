//! S2.3: what a client of the orders is answered.

use std::collections::BTreeSet;

use serde_json::json;
use tidemill_tests::{Daemon, Reply, SOON, Sandbox, Store, eventually, token};

use crate::rig::ORDER;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Each names the user 7; signed with the secret until 2100, the same until 2020, with another secret, not at all.
const GOOD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.xlTaZj-ff-pRj9TbJIfAQuoO-gGl-GKrhQzQ9KwrXcA";
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3IiwiZXhwIjoxNjAwMDAwMDAwfQ.sORG1_WkeAFLcZKVPCbgFuIy9V0Sm-o3WYPaI5eXd6w";
const FOREIGN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.Q_ovSbMH4sAvYpVwCKZIQjDJa_HLw8nmOzwkIdu6QMo";
const UNSIGNED: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.";

/// The answer is a problem, as RFC 9457 has it.
fn problem(reply: Reply, status: u16) -> serde_json::Value {
    let reply = reply.expect_status(status);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["status"], json!(status), "{problem}");
    assert!(problem["title"].is_string(), "{problem}");
    problem
}

#[test]
fn s2_3_orders_are_placed_and_shown_to_their_owner_only() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let daemon = Daemon::start(&sandbox);
    let (mine, other) = (token(&sandbox, "7"), token(&sandbox, "8"));
    let placed = daemon.post("/api/orders", &mine, ORDER).expect_status(201);
    assert_eq!(placed.header("content-type"), Some("application/json"));
    let order = placed.json();
    assert_eq!(daemon.get("/api/orders/1", &mine).expect_status(200).json(), order);
    assert_eq!(daemon.get("/api/orders", &mine).expect_status(200).json(), json!([order]));

    assert_eq!(daemon.get("/api/orders", &other).expect_status(200).json(), json!([]));
    let hidden = problem(daemon.get("/api/orders/1", &other), 404);
    let missing = problem(daemon.get("/api/orders/2", &other), 404);
    let text = |problem: &serde_json::Value| problem.to_string().replace(['1', '2'], "N");
    assert_eq!(text(&hidden), text(&missing), "an order of somebody else looks like none at all");

    eventually(SOON, "my notification", || {
        daemon.get("/api/notifications", &mine).expect_status(200).json().as_array().unwrap().len() == 1
    });
    assert_eq!(daemon.get("/api/notifications", &other).expect_status(200).json(), json!([]));
}

#[test]
fn s2_3_an_invalid_body_is_answered_with_all_that_is_wrong_and_changes_nothing() {
    let sandbox = Sandbox::with(&["order"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let body = r#"{"items":[{"productId":0,"quantity":0,"price":"1.005"},{"productId":1,"quantity":1,"price":"-1"}]}"#;
    let problem_ = problem(daemon.post("/api/orders", &user, body), 400);
    let fields: Vec<&str> =
        problem_["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["items[0].productId", "items[0].quantity", "items[0].price", "items[1].price"]);

    for body in ["", "{", "[]", "{}", r#"{"items":[]}"#, r#"{"items":[{"productId":1}]}"#, r#"{"items":[],"x":1}"#] {
        problem(daemon.post("/api/orders", &user, body), 400);
    }
    let store = Store::open(&sandbox, "order");
    for table in ["orders", "order_items", "tm_outbox", "tm_request"] {
        assert_eq!(store.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

#[test]
fn s2_3_without_a_good_token_the_answer_is_401() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    sandbox.write_toml(&format!("[http.jwt]\nsecret = \"{SECRET}\"\n"));
    let daemon = Daemon::start(&sandbox);
    daemon.get("/api/orders", GOOD).expect_status(200);
    for path in ["/api/orders", "/api/orders/1", "/api/notifications"] {
        let reply = daemon.call("GET", path).send();
        assert_eq!(reply.header("www-authenticate"), Some(r#"Bearer realm="tidemill""#));
        problem(reply, 401);
        for bad in [EXPIRED, FOREIGN, UNSIGNED, "nonsense", ""] {
            problem(daemon.get(path, bad), 401);
        }
        problem(daemon.call("GET", path).header("Authorization", "Basic Nzo3").send(), 401);
    }
    problem(daemon.post("/api/orders", EXPIRED, ORDER), 401);
    let expired = problem(daemon.get("/api/orders", EXPIRED), 401);
    assert!(expired.to_string().contains("expired"), "{expired}");
    assert_eq!(Store::open(&sandbox, "order").count("SELECT count(*) FROM orders"), 0);
}

#[test]
fn s2_3_a_wrong_method_path_or_size_is_said() {
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml("[http]\nbody-limit = \"2KiB\"\n");
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let reply = daemon.call("DELETE", "/api/orders").token(&user).send();
    let allow = reply.header("allow").unwrap_or_default().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST") && !allow.contains("DELETE"), "{allow}");
    problem(reply, 405);
    problem(daemon.get("/api/nothing", &user), 404);
    let large = format!(r#"{{"items":[{{"productId":1,"quantity":1,"price":"1"}}],"x":"{}"}}"#, "x".repeat(3000));
    let refused = problem(daemon.post("/api/orders", &user, &large), 413);
    assert!(refused.to_string().contains("http.body-limit"), "{refused}");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    assert_eq!(Store::open(&sandbox, "order").count("SELECT count(*) FROM orders"), 1);
}

#[test]
fn s2_3_a_request_sent_again_with_its_idempotency_key_is_done_once() {
    let sandbox = Sandbox::with(&["order"]);
    let mut daemon = Daemon::start(&sandbox);
    let (mine, other) = (token(&sandbox, "7"), token(&sandbox, "8"));
    let send = |daemon: &Daemon, token: &str, key: &str, body: &str| {
        daemon.call("POST", "/api/orders").token(token).header("Idempotency-Key", key).body(body).send()
    };
    let first = send(&daemon, &mine, "k1", ORDER).expect_status(201);
    let again = send(&daemon, &mine, "k1", ORDER).expect_status(201);
    assert_eq!((again.text(), again.header("location")), (first.text(), first.header("location")));

    let reused = problem(send(&daemon, &mine, "k1", &ORDER.replace('2', "3")), 422);
    assert!(reused.to_string().contains("Idempotency-Key"), "{reused}");
    // A key belongs to its user.
    assert_ne!(send(&daemon, &other, "k1", ORDER).expect_status(201).text(), first.text());
    // What was refused is not kept: it may be mended and sent again.
    problem(send(&daemon, &mine, "k2", "{}"), 400);
    send(&daemon, &mine, "k2", ORDER).expect_status(201);
    // The daemon's end is no end of a key.
    daemon.kill9();
    let daemon = Daemon::start(&sandbox);
    assert_eq!(send(&daemon, &mine, "k1", ORDER).expect_status(201).text(), first.text());

    let store = Store::open(&sandbox, "order");
    assert_eq!(store.lines("SELECT user_id, count(*) FROM orders GROUP BY user_id"), ["7|2", "8|1"]);
    // One may be there twice, with its id, since the daemon was killed.
    let ids = || -> BTreeSet<_> {
        daemon.client().consume_all("order-events").iter().map(|event| event.header_text("event-id")).collect()
    };
    eventually(SOON, "three events on the topic", || ids().len() >= 3);
    assert_eq!(ids().len(), 3);
}
