//! S2: orders and notifications on the embedded broker.

use serde_json::json;
use tidemill_tests::{Daemon, SOON, Sandbox, eventually_some, token};

const ORDER: &str = r#"{"items":[{"productId":1,"quantity":2,"price":"25000.00"}]}"#;

#[test]
fn s2_5_an_order_becomes_a_notification_in_korean() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let order = daemon.post("/api/orders", &user, ORDER).expect_status(201).json();
    assert_eq!(order["totalAmount"], json!("50000.00"));

    let found = eventually_some(SOON, "there is a notification", || {
        let all = daemon.get("/api/notifications", &user).expect_status(200).json();
        all.as_array().unwrap().first().cloned()
    });
    assert_eq!(found["message"], "주문이 생성되었습니다. 주문번호: 1, 금액: 50000.00원");
    assert_eq!(found["type"], "ORDER_CREATED");
    assert_eq!(found["userId"], "7");
}
