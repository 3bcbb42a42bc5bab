//! The order handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::compensation::{Input, LostEvent};
use tidemill_sdk::http::Response;
use tidemill_sdk::test::{Bench, get, post, record};
use tidemill_sdk::{Record, Time, params};

use crate::HANDLER;

fn bench() -> Bench {
    let mut bench = Bench::new(&HANDLER);
    bench.at(Time::from_millis(1_767_225_600_123));
    bench
}

fn item(price: &str) -> Value {
    json!({ "productId": 1, "quantity": 2, "price": price })
}

fn place(bench: &mut Bench, user: &str, items: Value) -> Response {
    bench.call(post("/api/orders").user(user).json(&json!({ "items": items })))
}

#[test]
fn s2_3_an_order_is_created_and_shown() {
    let mut bench = bench();
    let created = place(&mut bench, "7", json!([item("25000.00")]));
    assert_eq!(created.status, 201);
    assert_eq!(created.header_str("location"), Some("/api/orders/1"));
    let order: Value = created.body_json();
    assert_eq!(
        order,
        json!({
            "id": 1,
            "userId": "7",
            "totalAmount": "50000.00",
            "status": "PENDING",
            "createdAt": "2026-01-01T00:00:00.123Z",
            "items": [{ "id": 1, "productId": 1, "quantity": 2, "price": "25000.00" }],
        })
    );
    let shown = bench.call(get("/api/orders/1").user("7"));
    assert_eq!((shown.status, shown.body_json::<Value>()), (200, order));
}

#[test]
fn s2_2_the_event_has_its_shape_and_is_keyed_by_the_order() {
    let mut bench = bench();
    place(&mut bench, "7", json!([item("25000.00")]));
    let [event] = bench.events() else { panic!("one event: {:?}", bench.events()) };
    assert_eq!((event.topic.as_str(), event.event_type.as_str()), ("order-events", "ORDER_CREATED"));
    assert_eq!(event.key_str(), "1");
    assert_eq!(
        event.json::<Value>(),
        json!({
            "eventId": event.id,
            "eventType": "ORDER_CREATED",
            "timestamp": "2026-01-01T00:00:00.123Z",
            "orderId": 1,
            "userId": "7",
            "totalAmount": "50000.00",
        })
    );
}

#[test]
fn s2_1_money_is_exact() {
    let mut bench = bench();
    let body = r#"{"items":[
        {"productId":1,"quantity":3,"price":"0.10"},
        {"productId":2,"quantity":1,"price":90071992547409.93},
        {"productId":3,"quantity":1000000,"price":"12345678901234567.8"}]}"#;
    let order: Value = bench.call(post("/api/orders").user("7").body(body)).body_json();
    // As a float, the second price alone would be 90071992547409.94.
    assert_eq!(order["totalAmount"], "12345678991306560347410.23");
    assert_eq!(order["items"][2]["price"], "12345678901234567.80");
    assert_eq!(
        bench.query::<(String, String)>("SELECT total_amount, typeof(total_amount) FROM orders", params![]),
        [("12345678991306560347410.23".to_owned(), "text".to_owned())]
    );
}

#[test]
fn an_amount_that_would_be_rounded_is_refused() {
    for price in ["500000000000000000000000000.00", "9999999999999999999999999999"] {
        let response = place(&mut bench(), "7", json!([item(price)]));
        assert_eq!(response.status, 400, "{price}");
        assert!(String::from_utf8_lossy(&response.body).contains("too large"));
    }
}

#[test]
fn s2_3_everything_wrong_with_an_order_is_listed() {
    let mut bench = bench();
    let items = json!([{ "productId": 0, "quantity": 0, "price": "1.005" }, item("-1")]);
    let response = place(&mut bench, "7", items);
    assert_eq!((response.status, response.header_str("content-type")), (400, Some("application/problem+json")));
    let problem: Value = response.body_json();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(400), &json!("Bad Request")));
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["items[0].productId", "items[0].quantity", "items[0].price", "items[1].price"]);
    assert_eq!(problem["errors"][2]["message"], "must have at most 2 places, is 1.005");
}

#[test]
fn s2_3_an_invalid_body_is_a_400_and_leaves_nothing() {
    let mut bench = bench();
    let good = r#"{"productId":1,"quantity":1,"price":"1"}"#;
    for body in [
        String::new(),
        "[]".into(),
        "{}".into(),
        r#"{"items":[]}"#.into(),
        r#"{"items":[{"productId":1,"quantity":1}]}"#.into(),
        r#"{"items":[{"productId":1,"quantity":1.5,"price":"1"}]}"#.into(),
        r#"{"items":[{"productId":1,"quantity":1,"price":"one"}]}"#.into(),
        format!(r#"{{"items":[{good}],"total":"0"}}"#),
        format!(r#"{{"items":[{}]}}"#, [good; 101].join(",")),
    ] {
        let response = bench.call(post("/api/orders").user("7").body(body.as_str()));
        assert_eq!(response.status, 400, "{body}");
        assert!(response.body_json::<Value>()["detail"].is_string());
    }
    assert_eq!(bench.query::<i64>("SELECT count(*) FROM orders", params![]), [0]);
    assert!(bench.events().is_empty());
}

#[test]
fn s2_3_another_users_order_is_not_shown() {
    let mut bench = bench();
    place(&mut bench, "7", json!([item("1")]));
    let other = bench.call(get("/api/orders/1").user("8"));
    let none = bench.call(get("/api/orders/2").user("8"));
    assert_eq!((other.status, none.status), (404, 404));
    assert_eq!(other.body_json::<Value>()["detail"], "there is no order 1");
    assert_eq!(bench.call(get("/api/orders/x").user("8")).status, 404);
    assert_eq!(bench.call(get("/api/orders").user("8")).body_json::<Value>(), json!([]));
    assert_eq!(bench.call(get("/api/orders")).status, 401);
}

#[test]
fn s2_3_my_orders_come_newest_first_with_their_items() {
    let mut bench = bench();
    for (user, items) in [("7", json!([item("1"), item("2")])), ("8", json!([item("3")])), ("7", json!([item("4")]))] {
        assert_eq!(place(&mut bench, user, items).status, 201);
    }
    let shown = |orders: Value| -> Vec<(i64, Vec<String>)> {
        let price = |item: &Value| item["price"].as_str().unwrap().to_owned();
        let order = |order: &Value| {
            (order["id"].as_i64().unwrap(), order["items"].as_array().unwrap().iter().map(price).collect())
        };
        orders.as_array().unwrap().iter().map(order).collect()
    };
    let mine = shown(bench.call(get("/api/orders").user("7")).body_json());
    assert_eq!(mine, [(3, vec!["4.00".to_owned()]), (1, vec!["1.00".to_owned(), "2.00".to_owned()])]);
    let older = shown(bench.call(get("/api/orders?before=3").user("7")).body_json());
    assert_eq!(older, mine[1..]);
    assert_eq!(bench.call(get("/api/orders?before=x").user("7")).status, 400);
}

#[test]
fn an_order_that_cannot_be_stored_whole_leaves_nothing() {
    let mut bench = bench();
    bench.prepare(
        "CREATE TRIGGER no_second_item BEFORE INSERT ON order_items WHEN new.price = '2.00'
         BEGIN SELECT RAISE(ABORT, 'out of stock'); END",
    );
    let response = place(&mut bench, "7", json!([item("1"), item("2")]));
    assert_eq!(response.status, 409);
    assert!(!String::from_utf8_lossy(&response.body).contains("out of stock"), "causes go to the log only");
    assert!(bench.lines().iter().any(|(_, line)| line.contains("out of stock")));
    for table in ["orders", "order_items"] {
        assert_eq!(bench.query::<i64>(&format!("SELECT count(*) FROM {table}"), params![]), [0]);
    }
    assert!(bench.events().is_empty());
}

/// A bench with one order, which is due in half an hour.
fn ordered() -> Bench {
    let mut bench = bench();
    bench.set("pay-within-seconds", "1800");
    assert_eq!(place(&mut bench, "7", json!([item("25000.00"), item("1")])).status, 201);
    bench
}

fn news(event_type: &str) -> Record {
    record("payment-events")
        .with_key("1")
        .with_json(&json!({ "eventId": "e", "eventType": event_type, "orderId": "1" }))
}

fn status(bench: &mut Bench) -> String {
    let order = bench.call(get("/api/orders/1").user("7")).body_json::<Value>();
    order["status"].as_str().unwrap().to_owned()
}

/// Without the timer.
fn published(bench: &Bench) -> Vec<&str> {
    bench.events().iter().map(|event| event.event_type.as_str()).filter(|kind| *kind != "PAYMENT_DUE").collect()
}

#[test]
fn s2_12_an_order_is_paid_once_stock_and_payment_are_there_whichever_comes_first() {
    for parts in [["STOCK_RESERVED", "PAYMENT_PAID"], ["PAYMENT_PAID", "STOCK_RESERVED"]] {
        let mut bench = ordered();
        for _ in 0..2 {
            bench.record(&news(parts[0])).unwrap();
            assert_eq!(status(&mut bench), "PENDING");
        }
        for _ in 0..2 {
            bench.record(&news(parts[1])).unwrap();
            assert_eq!(status(&mut bench), "PAID");
        }
        for late in ["PAYMENT_DUE", "DELIVERY_STARTED"] {
            bench.record(&news(late)).unwrap();
        }
        assert_eq!(status(&mut bench), "PAID");
        assert_eq!(published(&bench), ["ORDER_CREATED", "ORDER_PAID"]);
        let mut paid = bench.events()[2].json::<Value>();
        assert_eq!(paid["eventId"], bench.events()[2].id);
        paid["eventId"] = bench.events()[0].id.clone().into();
        paid["eventType"] = "ORDER_CREATED".into();
        assert_eq!(paid, bench.events()[0].json::<Value>(), "they differ in nothing else");
    }
}

#[test]
fn s2_12_whatever_fails_cancels_an_order_once() {
    for failure in [
        "STOCK_REFUSED",
        "STOCK_RELEASED",
        "PAYMENT_FAILED",
        "PAYMENT_REFUNDED",
        "PAYMENT_DUE",
        "DELIVERY_FAILED",
        "DELIVERY_CALLED_OFF",
    ] {
        let mut bench = ordered();
        for event_type in ["PAYMENT_PAID", failure, failure, "STOCK_RESERVED"] {
            bench.record(&news(event_type)).unwrap();
        }
        assert_eq!(status(&mut bench), "CANCELLED", "{failure}");
        assert_eq!(published(&bench), ["ORDER_CREATED", "ORDER_CANCELLED"], "{failure}");
    }
    let mut bench = ordered();
    for event_type in ["PAYMENT_PAID", "STOCK_RESERVED", "DELIVERY_FAILED"] {
        bench.record(&news(event_type)).unwrap();
    }
    assert_eq!(published(&bench), ["ORDER_CREATED", "ORDER_PAID", "ORDER_CANCELLED"]);
}

#[test]
fn s2_12_the_event_carries_what_is_in_the_order_and_a_timer_is_set_where_the_operator_wants_it() {
    let bench = ordered();
    let [created, timer] = bench.events() else { panic!("two events: {:?}", bench.events()) };
    let items = created.headers.iter().find(|header| header.name == "items").unwrap().value.clone().unwrap();
    assert_eq!(items, br#"[{"productId":1,"quantity":2},{"productId":1,"quantity":2}]"#);
    assert_eq!((timer.topic.as_str(), timer.event_type.as_str()), ("order-timers", "PAYMENT_DUE"));
    assert_eq!(timer.due.unwrap().to_string(), "2026-01-01T00:30:00.123Z");
    assert_eq!(timer.json::<Value>(), json!({ "eventId": timer.id, "eventType": "PAYMENT_DUE", "orderId": "1" }));
}

#[test]
fn s0_8_what_an_order_cannot_tell_or_does_not_learn_cancels_it() {
    let lost = |event_type: &str| {
        Input::Event(LostEvent { event_type: event_type.into(), key: Some(b"1".to_vec()), ..LostEvent::default() })
    };
    for (input, ends) in [
        (lost("ORDER_CREATED"), "CANCELLED"),
        (lost("ORDER_PAID"), "CANCELLED"),
        (lost("PAYMENT_DUE"), "CANCELLED"),
        (Input::Record(news("PAYMENT_PAID")), "CANCELLED"),
        (Input::Record(news("DELIVERY_FAILED")), "CANCELLED"),
        (Input::Record(news("DELIVERY_STARTED")), "PENDING"),
        (Input::Record(record("payment-events").with_value("{")), "PENDING"),
        (lost("ORDER_CANCELLED"), "PENDING"),
    ] {
        let mut bench = ordered();
        bench.compensate(&input, "too large").unwrap();
        assert_eq!(status(&mut bench), ends, "{input:?}");
    }
    // What comes too late takes nothing back.
    for (input, ends) in [
        (lost("ORDER_CREATED"), "PAID"),
        (lost("PAYMENT_DUE"), "PAID"),
        (Input::Record(news("PAYMENT_DUE")), "PAID"),
        (lost("ORDER_PAID"), "CANCELLED"),
        (Input::Record(news("DELIVERY_FAILED")), "CANCELLED"),
    ] {
        let mut bench = ordered();
        for event_type in ["PAYMENT_PAID", "STOCK_RESERVED"] {
            bench.record(&news(event_type)).unwrap();
        }
        bench.compensate(&input, "too large").unwrap();
        assert_eq!(status(&mut bench), ends, "{input:?}");
    }
}
