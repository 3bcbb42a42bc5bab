//! S1.1, S2.2: the event as it stands on the topic, written and read.

use serde_json::json;
use tidemill_tests::{Daemon, Out, SOON, Sandbox, Store, eventually, token};

use crate::rig::{ORDER, first_on, messages};

/// `8-4-4-4-12` in lower-case hexadecimal.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `2026-01-02T03:04:05.678Z`
fn is_iso_with_millis(text: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(b, p)| if p == b'd' { b.is_ascii_digit() } else { b == p })
}

#[test]
fn s1_1_s2_2_an_event_is_written_in_the_envelope_and_keyed_by_the_order() {
    let sandbox = Sandbox::with(&["order"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let order = daemon.post("/api/orders", &user, ORDER).expect_status(201).json();
    let record = first_on(&daemon.client(), "order-events");
    let event = record.json();
    let mut keys: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["eventId", "eventType", "orderId", "timestamp", "totalAmount", "userId"]);
    assert_eq!(event["eventType"], "ORDER_CREATED");
    assert_eq!(event["orderId"], json!(1));
    assert_eq!(event["userId"], json!("7"));
    assert_eq!(event["totalAmount"], json!("50000.00"), "money is no JSON number");
    assert_eq!(event["timestamp"], order["createdAt"]);
    assert!(is_iso_with_millis(event["timestamp"].as_str().unwrap()), "{event}");
    let id = event["eventId"].as_str().unwrap();
    assert!(is_uuid(id), "{id}");
    assert_eq!(record.key_text(), "1");
    assert_eq!(record.header_text("event-id").as_deref(), Some(id));
    assert_eq!(record.header_text("event-type").as_deref(), Some("ORDER_CREATED"));
}

#[test]
fn s1_1_s2_2_an_event_of_another_producer_is_read_in_the_same_envelope() {
    let sandbox = Sandbox::with(&["notification"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    // As other services write it: the user and the amount as numbers, members in another order, one that is not known.
    let events = [
        r#"{"eventId":"0b0e2a4e-0000-4000-8000-000000000001","eventType":"ORDER_CREATED","timestamp":"2026-01-02T03:04:05.678Z","orderId":1,"userId":"7","totalAmount":"50000.00"}"#,
        r#"{"totalAmount":50000.00,"userId":7,"orderId":2,"timestamp":"2026-01-02T03:04:05.678Z","eventType":"ORDER_PAID","eventId":"0b0e2a4e-0000-4000-8000-000000000002","source":"legacy"}"#,
    ];
    daemon.client().produce_all("order-events", events.map(|event| Out::new(event).key("one")));
    let expected = [
        "주문이 생성되었습니다. 주문번호: 1, 금액: 50000.00원",
        "주문이 결제되었습니다. 주문번호: 2, 금액: 50000.00원",
    ];
    eventually(SOON, "both notifications", || messages(&daemon, &user).len() == 2);
    assert_eq!(messages(&daemon, &user), expected);
    let inbox = Store::open(&sandbox, "notification").lines("SELECT event_id FROM tm_inbox ORDER BY event_id");
    assert_eq!(inbox, ["0b0e2a4e-0000-4000-8000-000000000001", "0b0e2a4e-0000-4000-8000-000000000002"]);
}

#[test]
fn a_record_reaches_the_topic_byte_for_byte() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let key = [0u8, 255, 10];
    client.produce("hostile-in", &Out::new(r#"{"do":"publish","id":"a"}"#).key(key));
    let record = first_on(&client, "hostile-out");
    assert_eq!(record.key.as_deref(), Some(&key[..]), "a key need not be text");
    assert_eq!(record.json()["id"], "a");
}
