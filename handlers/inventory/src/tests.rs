//! The inventory handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::compensation::{Input, LostEvent};
use tidemill_sdk::test::{Bench, get, post, record};

use crate::HANDLER;

/// As `order` publishes it, or a saga sends it, for so many pieces of the products.
fn told(event_type: &str, order_id: &str, pieces: &[(i64, u32)]) -> Record {
    let item = |(product, quantity): &(i64, u32)| json!({ "productId": product, "quantity": quantity });
    record("order-events")
        .with_key(order_id)
        .with_json(&json!({ "eventId": "e", "eventType": event_type, "orderId": order_id }))
        .with_header("items", pieces.iter().map(item).collect::<Value>().to_string())
}

/// With ten pieces of the products 1 and 2.
fn bench() -> Bench {
    let mut bench = Bench::new(&HANDLER);
    for product in 1..=2 {
        for _ in 0..2 {
            let supply = post(&format!("/api/stock/{product}")).user("boss").json(&json!({ "quantity": 5 }));
            assert_eq!(bench.call(supply).status, 200);
        }
    }
    bench
}

fn stock(bench: &mut Bench) -> [i64; 2] {
    [1, 2].map(|product| {
        let shown = bench.call(get(&format!("/api/stock/{product}"))).body_json::<Value>();
        shown["available"].as_i64().unwrap()
    })
}

fn published(bench: &Bench) -> Vec<&str> {
    bench.events().iter().map(|event| event.event_type.as_str()).collect()
}

#[test]
fn s2_12_stock_is_reserved_once_and_released_once() {
    for [reserve, release] in [["ORDER_CREATED", "ORDER_CANCELLED"], ["RESERVE", "RELEASE"]] {
        let mut bench = bench();
        for _ in 0..2 {
            // The same product may stand in an order twice.
            bench.record(&told(reserve, "1", &[(1, 2), (2, 10), (1, 1)])).unwrap();
            assert_eq!(stock(&mut bench), [7, 0]);
        }
        bench.record(&told("ORDER_PAID", "1", &[])).unwrap();
        for _ in 0..2 {
            bench.record(&told(release, "1", &[])).unwrap();
            assert_eq!(stock(&mut bench), [10, 10]);
        }
        assert_eq!(published(&bench), ["STOCK_RESERVED", "STOCK_RELEASED", "STOCK_RELEASED"]);
        let event = &bench.events()[0];
        assert_eq!((event.topic.as_str(), event.key_str()), ("inventory-events", "1"));
        assert_eq!(event.json::<Value>()["orderId"], "1");
    }
}

#[test]
fn s2_12_an_order_gets_all_of_its_pieces_or_none() {
    let mut bench = bench();
    bench.record(&told("ORDER_CREATED", "1", &[(1, 1), (2, 11)])).unwrap();
    bench.record(&told("ORDER_CREATED", "2", &[(1, 1), (3, 1)])).unwrap();
    bench.record(&told("ORDER_CREATED", "3", &[(1, 6), (1, 5)])).unwrap();
    bench.record(&told("ORDER_CANCELLED", "1", &[])).unwrap();
    assert_eq!(stock(&mut bench), [10, 10]);
    assert_eq!(published(&bench), ["STOCK_REFUSED", "STOCK_REFUSED", "STOCK_REFUSED", "STOCK_RELEASED"]);
}

#[test]
fn s2_12_an_order_that_is_cancelled_first_gets_nothing() {
    let mut bench = bench();
    bench.record(&told("ORDER_CANCELLED", "1", &[])).unwrap();
    bench.record(&told("ORDER_CREATED", "1", &[(1, 1)])).unwrap();
    assert_eq!(stock(&mut bench), [10, 10]);
    assert_eq!(published(&bench), ["STOCK_RELEASED"]);
}

#[test]
fn s0_8_what_cannot_be_reserved_is_refused_and_what_nobody_hears_of_is_put_back() {
    let mut bench = bench();
    bench.compensate(&Input::Record(told("ORDER_CREATED", "1", &[(1, 1)])), "the disk is full").unwrap();
    bench.record(&told("ORDER_CREATED", "1", &[(1, 1)])).unwrap();
    bench.record(&told("ORDER_CREATED", "2", &[(1, 1)])).unwrap();
    assert_eq!(stock(&mut bench), [9, 10]);
    let lost = LostEvent { event_type: "STOCK_RESERVED".into(), key: Some(b"2".to_vec()), ..LostEvent::default() };
    for _ in 0..2 {
        bench.compensate(&Input::Event(lost.clone()), "too large").unwrap();
        assert_eq!(stock(&mut bench), [10, 10]);
    }
    assert_eq!(published(&bench), ["STOCK_REFUSED", "STOCK_RESERVED", "STOCK_RELEASED"]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = bench();
    let none = post("/api/stock/1").user("boss").json(&json!({ "quantity": 0 }));
    assert_eq!(bench.call(none).status, 400);
    let bare = record("order-events").with_json(&json!({ "eventType": "ORDER_CREATED", "orderId": 1 }));
    assert!(bench.record(&bare).unwrap_err().message().contains("`items`"));
    assert!(bench.record(&told("ORDER_LOST", "1", &[])).unwrap_err().message().contains("ORDER_LOST"));
    assert_eq!(stock(&mut bench), [10, 10]);
}
