//! The notification handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, record};
use tidemill_sdk::{Failure, Record, Time, params};

use crate::HANDLER;

fn event(event_type: &str) -> Record {
    record("order-events").with_key("1").with_json(&json!({
        "eventId": "018f0000-0000-7000-8000-000000000001",
        "eventType": event_type,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "orderId": 1,
        "userId": "7",
        "totalAmount": "50000.00",
    }))
}

fn stored(bench: &Bench) -> Vec<(String, String, String)> {
    bench.query("SELECT user_id, type, message FROM notifications ORDER BY id", params![])
}

#[test]
fn s2_5_each_event_becomes_a_text_in_korean() {
    let mut bench = Bench::new(&HANDLER);
    for (event_type, message) in [
        ("ORDER_CREATED", "주문이 생성되었습니다. 주문번호: 1, 금액: 50000.00원"),
        ("ORDER_PAID", "주문이 결제되었습니다. 주문번호: 1, 금액: 50000.00원"),
        ("ORDER_CANCELLED", "주문이 취소되었습니다. 주문번호: 1, 금액: 50000.00원"),
    ] {
        bench.record(&event(event_type)).unwrap();
        let last = stored(&bench).pop().unwrap();
        assert_eq!(last, ("7".to_owned(), event_type.to_owned(), message.to_owned()));
    }
    assert!(bench.events().is_empty());
}

#[test]
fn s2_1_amounts_are_exact_and_numbers_are_understood() {
    let mut bench = Bench::new(&HANDLER);
    let value = |amount: &str| format!(r#"{{"eventType":"ORDER_PAID","orderId":9,"userId":7,"totalAmount":{amount}}}"#);
    for (amount, shown) in [
        ("50000", "50000.00"),
        ("50000.00", "50000.00"),
        ("12345678901234567890.10", "12345678901234567890.10"),
        ("\"0.125\"", "0.125"),
    ] {
        bench.record(&record("order-events").with_value(value(amount))).unwrap();
        let (user, _, message) = stored(&bench).pop().unwrap();
        assert_eq!(user, "7");
        assert_eq!(message, format!("주문이 결제되었습니다. 주문번호: 9, 금액: {shown}원"));
    }
}

#[test]
fn s2_3_users_see_their_own_notifications_newest_first() {
    let mut bench = Bench::new(&HANDLER);
    bench.at(Time::from_millis(5)).record(&event("ORDER_CREATED")).unwrap();
    bench.at(Time::from_millis(6)).record(&event("ORDER_PAID")).unwrap();
    let mine = bench.call(get("/api/notifications").user("7")).body_json::<Value>();
    assert_eq!(mine[0]["type"], "ORDER_PAID");
    assert_eq!(
        mine[1],
        json!({
            "id": 1,
            "userId": "7",
            "type": "ORDER_CREATED",
            "message": "주문이 생성되었습니다. 주문번호: 1, 금액: 50000.00원",
            "createdAt": "1970-01-01T00:00:00.005Z",
        })
    );
    assert_eq!(bench.call(get("/api/notifications").user("8")).body_json::<Value>(), json!([]));
    assert_eq!(bench.call(get("/api/notifications")).status, 401);
}

#[test]
fn s4_7_what_is_not_understood_is_rejected_with_a_reason() {
    let mut bench = Bench::new(&HANDLER);
    for (record, reason) in [
        (event("ORDER_SHIPPED"), "there is no notification for events of type `ORDER_SHIPPED`"),
        (record("order-events"), "the record's value is null"),
        (record("order-events").with_value("{"), "is not the JSON that is expected"),
        (record("order-events").with_json(&json!({ "eventType": "ORDER_PAID" })), "missing field `orderId`"),
    ] {
        match bench.record(&record) {
            Err(Failure::Reject(why)) => assert!(why.contains(reason), "{why}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    assert!(stored(&bench).is_empty());
}
