//! Both handlers under a daemon with its embedded broker: what a user sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_sdk::test::{get, post};
use tidemill_test::Daemon;

const SOON: Duration = Duration::from_secs(60);

fn told(daemon: &Daemon) -> Vec<Value> {
    daemon.call(get("/api/notifications").user("7")).body_json()
}

#[test]
fn s2_7_an_order_is_told_to_its_user_once_also_if_the_daemon_is_killed() {
    let mut daemon = Daemon::start(&["order", "notification"], "");
    let order = json!({ "items": [{ "productId": 1, "quantity": 2, "price": "25000.00" }] });
    assert_eq!(daemon.call(post("/api/orders").user("7").json(&order)).status, 201);
    daemon.kill();
    let mine = daemon.eventually(SOON, "the user is told", |daemon| told(daemon).pop());
    assert_eq!(mine["message"], "주문이 생성되었습니다. 주문번호: 1, 금액: 50000.00원");
    assert_eq!(daemon.call(post("/api/orders").user("7").json(&order)).status, 201);
    daemon.eventually(SOON, "the user is told of the second order", |daemon| (told(daemon).len() >= 2).then_some(()));
    assert_eq!(told(&daemon).len(), 2);
}
