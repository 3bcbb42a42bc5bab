//! S2: an order becomes a notification.

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, eventually, token};

use crate::rig::{ORDER, Shop, messages};

const CREATED: &str = "주문이 생성되었습니다. 주문번호: 1, 금액: 50000.00원";

/// An event as S2.2 has it.
fn event(id: &str, event_type: &str, order: u64, amount: &str) -> Out {
    let event = json!({ "eventId": id, "eventType": event_type, "timestamp": "2026-01-02T03:04:05.678Z",
        "orderId": order, "userId": "7", "totalAmount": amount });
    Out::new(event.to_string()).key(order.to_string())
}

#[test]
fn s2_7_h7_the_whole_flow_runs_on_the_embedded_broker_with_nothing_installed() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    // No program of the system can be found, and there is no home.
    let daemon = Daemon::start_with(&sandbox, |command| {
        command.env("PATH", "").env_remove("HOME");
    });
    let user = token(&sandbox, "7");
    let reply = daemon.post("/api/orders", &user, ORDER).expect_status(201);
    assert_eq!(reply.header("location"), Some("/api/orders/1"));
    eventually(SOON, "the order's notification", || messages(&daemon, &user) == [CREATED]);
}

#[test]
fn s2_7_the_same_flow_runs_on_apache_kafka() {
    let shop = Shop::new(Kafka::shared());
    let daemon = Daemon::start(&shop.sandbox);
    let user = token(&shop.sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    eventually(LONG, "the order's notification", || messages(&daemon, &user) == [CREATED]);
}

#[test]
fn s2_1_money_is_exact_and_rows_are_as_specified() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    // As binary floating point, three times 0.1 is not 0.3, and the large amount loses its last digits.
    let body = r#"{"items":[{"productId":1,"quantity":3,"price":"0.10"},
        {"productId":2,"quantity":1,"price":"90071992547409931234567.89"}]}"#;
    let order = daemon.post("/api/orders", &user, body).expect_status(201).json();
    assert_eq!(order["totalAmount"], json!("90071992547409931234568.19"));
    assert_eq!(order["status"], json!("PENDING"));
    assert_eq!(order["userId"], json!("7"));

    let store = Store::open(&sandbox, "order");
    let row = store.line("SELECT id, user_id, total_amount, typeof(total_amount), status FROM orders");
    assert_eq!(row, "1|7|90071992547409931234568.19|text|PENDING");
    let items = store.lines("SELECT id, order_id, product_id, quantity, price, typeof(price) FROM order_items");
    assert_eq!(items, ["1|1|1|3|0.10|text", "2|1|2|1|90071992547409931234567.89|text"]);
    let iso = "created_at GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*.[0-9][0-9][0-9]Z'";
    assert_eq!(store.count(&format!("SELECT count(*) FROM orders WHERE {iso}")), 1);

    let store = Store::open(&sandbox, "notification");
    store.until("SELECT count(*) FROM notifications", 1);
    assert_eq!(store.line("SELECT id, user_id, type FROM notifications"), "1|7|ORDER_CREATED");
    assert_eq!(store.count(&format!("SELECT count(*) FROM notifications WHERE {iso}")), 1);
    let message = "주문이 생성되었습니다. 주문번호: 1, 금액: 90071992547409931234568.19원";
    assert_eq!(messages(&daemon, &user), [message]);
}

#[test]
fn s2_5_every_type_has_its_exact_text() {
    let sandbox = Sandbox::with(&["notification"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let types = [("a", "ORDER_CREATED"), ("b", "ORDER_PAID"), ("c", "ORDER_CANCELLED")];
    // One key, so one partition and one order.
    daemon.client().produce_all("order-events", types.map(|(id, name)| event(id, name, 1, "50000.00")));
    let expected = [
        CREATED,
        "주문이 결제되었습니다. 주문번호: 1, 금액: 50000.00원",
        "주문이 취소되었습니다. 주문번호: 1, 금액: 50000.00원",
    ];
    eventually(SOON, "three notifications", || messages(&daemon, &user) == expected);
}

#[test]
fn s2_8_a_duplicate_at_another_offset_makes_no_second_notification() {
    let sandbox = Sandbox::with(&["notification"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let client = daemon.client();
    let twice = event("7a0f5a52-5d7f-4f7e-9c58-000000000001", "ORDER_CREATED", 1, "50000.00");
    let first = client.produce("order-events", &twice);
    let second = client.produce("order-events", &twice);
    // On another partition too: the inbox belongs to the handler, not to a lane.
    let elsewhere = client.produce("order-events", &twice.clone().partition((first.0 + 1) % 3));
    assert!(first != second && elsewhere.0 != first.0);
    for partition in 0..3 {
        client.produce("order-events", &event(&format!("last-{partition}"), "ORDER_PAID", 9, "1").partition(partition));
    }
    let paid = "주문이 결제되었습니다. 주문번호: 9, 금액: 1.00원";
    let count = |text: &str| messages(&daemon, &user).iter().filter(|message| *message == text).count();
    eventually(SOON, "the records behind the duplicates are done", || count(paid) == 3);
    assert_eq!(count(CREATED), 1);
    let store = Store::open(&sandbox, "notification");
    let id = "SELECT count(*) FROM tm_inbox WHERE event_id = '7a0f5a52-5d7f-4f7e-9c58-000000000001'";
    assert_eq!(store.count(id), 1);
}

#[test]
fn s2_4_a_new_group_starts_at_the_earliest_record() {
    let sandbox = Sandbox::with(&["order"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    for _ in 0..20 {
        daemon.post("/api/orders", &user, ORDER).expect_status(201);
    }
    eventually(SOON, "all events are on the topic", || daemon.client().consume_all("order-events").len() == 20);
    sandbox.deploy("notification");
    let store = Store::open(&sandbox, "notification");
    store.until("SELECT count(*) FROM notifications", 20);
    assert_eq!(store.count("SELECT count(DISTINCT message) FROM notifications"), 20);
}

#[test]
fn s2_4_backlog_is_processed_after_restart() {
    let shop = Shop::new(Kafka::shared());
    let mut daemon = Daemon::start(&shop.sandbox);
    let user = token(&shop.sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    let store = Store::open(&shop.sandbox, "notification");
    store.until("SELECT count(*) FROM notifications", 1);
    daemon.terminate();

    shop.client.produce_all(&shop.topic, (2..200).map(|n| event(&format!("e{n}"), "ORDER_PAID", n, "10.00")));
    let mut daemon = Daemon::start(&shop.sandbox);
    store.until("SELECT count(*) FROM notifications", 199);
    assert_eq!(store.count("SELECT count(DISTINCT message) FROM notifications"), 199);
    // Kafka knows as well, for the tools that show lag.
    let next = store.lines("SELECT partition, next_offset FROM tm_offset");
    assert_eq!(next.len(), 3);
    daemon.terminate();
    for line in next {
        let (partition, offset) = line.split_once('|').unwrap();
        let committed = shop.client.committed(&shop.group, &shop.topic, partition.parse().unwrap());
        assert_eq!(committed.map(|(offset, _)| offset.to_string()).as_deref(), Some(offset));
    }
}
