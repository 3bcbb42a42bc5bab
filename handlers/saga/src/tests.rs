//! The saga handler on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::compensation::{Input, LostEvent};
use tidemill_sdk::test::{Bench, get, post, record};

use crate::HANDLER;

fn answer(event_type: &str) -> Record {
    record("inventory-events")
        .with_key("saga-1")
        .with_json(&json!({ "eventId": "e", "eventType": event_type, "orderId": "saga-1" }))
}

fn deadline(status: &str) -> Record {
    record("saga-timers")
        .with_key("saga-1")
        .with_json(&json!({ "eventId": "e", "eventType": "DEADLINE", "orderId": "saga-1", "status": status }))
}

/// A saga that was given these answers.
fn after(answers: &[&str]) -> Bench {
    let mut bench = Bench::new(&HANDLER);
    let order = json!({ "items": [{ "productId": 1, "quantity": 2 }], "totalAmount": "50000" });
    let begun = bench.call(post("/api/sagas").user("7").json(&order));
    assert_eq!((begun.status, begun.header_str("location")), (201, Some("/api/sagas/1")));
    for event_type in answers {
        bench.record(&answer(event_type)).unwrap();
    }
    bench
}

fn status(bench: &mut Bench) -> String {
    let saga = bench.call(get("/api/sagas/1").user("7")).body_json::<Value>();
    saga["status"].as_str().unwrap().to_owned()
}

/// Without the deadlines.
fn commands(bench: &Bench) -> Vec<&str> {
    bench.events().iter().map(|event| event.event_type.as_str()).filter(|kind| *kind != "DEADLINE").collect()
}

#[test]
fn s2_12_a_saga_takes_its_steps_in_order_each_with_a_deadline() {
    let mut bench = after(&["STOCK_RESERVED", "PAYMENT_PAID", "DELIVERY_STARTED"]);
    assert_eq!(status(&mut bench), "COMPLETED");
    assert_eq!(commands(&bench), ["RESERVE", "PAY", "SHIP"]);
    let topics: Vec<_> = bench.events().iter().map(|event| event.topic.as_str()).collect();
    let timers = "saga-timers";
    assert_eq!(topics, ["inventory-commands", timers, "payment-commands", timers, "delivery-commands", timers]);
    let (reserve, timer) = (&bench.events()[0], &bench.events()[1]);
    assert_eq!(
        reserve.json::<Value>(),
        json!({ "eventId": reserve.id, "eventType": "RESERVE", "orderId": "saga-1", "userId": "7",
                "totalAmount": "50000.00" })
    );
    let items = reserve.headers.iter().find(|header| header.name == "items").unwrap().value.clone().unwrap();
    assert_eq!(items, br#"[{"productId":1,"quantity":2}]"#);
    assert_eq!(timer.due.unwrap().to_string(), "2026-01-31T09:31:00.000Z");
    let shown = bench.call(get("/api/sagas/1").user("7")).body_json::<Value>();
    assert_eq!(shown, json!({ "id": 1, "totalAmount": "50000.00", "status": "COMPLETED" }));
    assert_eq!(bench.call(get("/api/sagas/1").user("8")).status, 404);
}

#[test]
fn s2_12_a_step_that_fails_takes_those_before_it_back_the_last_one_first() {
    let back = ["DELIVERY_FAILED", "PAYMENT_REFUNDED", "STOCK_RELEASED"];
    for (steps, commanded) in [
        (["STOCK_REFUSED"].as_slice(), ["RESERVE"].as_slice()),
        (&["STOCK_RESERVED", "PAYMENT_FAILED", "STOCK_RELEASED"], &["RESERVE", "PAY", "RELEASE"]),
        (
            &["STOCK_RESERVED", "PAYMENT_PAID", back[0], back[1], back[2]],
            &["RESERVE", "PAY", "SHIP", "REFUND", "RELEASE"],
        ),
    ] {
        let mut bench = after(steps);
        assert_eq!((status(&mut bench).as_str(), commands(&bench).as_slice()), ("CANCELLED", commanded));
    }
}

#[test]
fn s2_12_an_answer_counts_once_and_in_its_time() {
    let mut bench = after(&["STOCK_RESERVED", "STOCK_RESERVED", "STOCK_REFUSED", "DELIVERY_STARTED"]);
    assert_eq!(status(&mut bench), "PAYING");
    assert_eq!(commands(&bench), ["RESERVE", "PAY"]);
    bench.record(&deadline("RESERVING")).unwrap();
    let other = json!({ "eventType": "PAYMENT_PAID", "orderId": 1 });
    bench.record(&record("payment-events").with_json(&other)).unwrap();
    bench
        .record(&record("payment-events").with_json(&json!({ "eventType": "PAYMENT_PAID", "orderId": "saga-9" })))
        .unwrap();
    assert_eq!(status(&mut bench), "PAYING");
}

#[test]
fn s2_12_who_does_not_answer_in_time_has_failed_and_is_asked_to_take_it_back_until_he_answers() {
    let mut bench = after(&["STOCK_RESERVED", "PAYMENT_PAID"]);
    bench.record(&deadline("SHIPPING")).unwrap();
    assert_eq!(status(&mut bench), "CALLING_OFF");
    // Too late.
    bench.record(&answer("DELIVERY_STARTED")).unwrap();
    for _ in 0..2 {
        bench.record(&deadline("CALLING_OFF")).unwrap();
    }
    for event_type in ["DELIVERY_CALLED_OFF", "DELIVERY_CALLED_OFF", "PAYMENT_REFUNDED", "STOCK_RELEASED"] {
        bench.record(&answer(event_type)).unwrap();
    }
    assert_eq!(status(&mut bench), "CANCELLED");
    let commanded = ["RESERVE", "PAY", "SHIP", "CALL_OFF", "CALL_OFF", "CALL_OFF", "REFUND", "RELEASE"];
    assert_eq!(commands(&bench), commanded);
}

#[test]
fn s0_8_a_command_that_is_lost_has_failed_and_an_answer_that_is_lost_may_have_been_any() {
    let mut bench = after(&["STOCK_RESERVED"]);
    let lost = |event_type: &str| Input::Event(LostEvent { value: answer(event_type).value, ..LostEvent::default() });
    bench.compensate(&lost("PAY"), "too large").unwrap();
    assert_eq!((status(&mut bench), commands(&bench)), ("RELEASING".into(), vec!["RESERVE", "PAY", "RELEASE"]));
    bench.compensate(&lost("RELEASE"), "too large").unwrap();
    assert_eq!(status(&mut bench), "RELEASING");

    let mut bench = after(&["STOCK_RESERVED"]);
    bench.compensate(&Input::Record(answer("PAYMENT_PAID")), "the disk is full").unwrap();
    assert_eq!((status(&mut bench), commands(&bench)), ("REFUNDING".into(), vec!["RESERVE", "PAY", "REFUND"]));
    // A deadline that is lost is over at once, if it is one of this step.
    for (step, ends) in [("RESERVING", "PAYING"), ("PAYING", "REFUNDING")] {
        for is_record in [true, false] {
            let mut bench = after(&["STOCK_RESERVED"]);
            let late = deadline(step);
            let event = LostEvent { value: late.value.clone(), ..LostEvent::default() };
            bench.compensate(&if is_record { Input::Record(late) } else { Input::Event(event) }, "no").unwrap();
            assert_eq!(status(&mut bench), ends);
        }
    }
    let mut bench = after(&["STOCK_RESERVED"]);
    bench.compensate(&Input::Record(answer("STOCK_RESERVED")), "it comes twice").unwrap();
    assert_eq!(status(&mut bench), "PAYING");
    // The participant has taken it back by itself.
    let mut bench = after(&["STOCK_RESERVED", "PAYMENT_REFUNDED"]);
    assert_eq!(status(&mut bench), "RELEASING");
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = Bench::new(&HANDLER);
    for body in [
        json!({ "items": [], "totalAmount": "5" }),
        json!({ "items": [{ "productId": 1, "quantity": 0 }], "totalAmount": "5" }),
        json!({ "items": [{ "productId": 1, "quantity": 1 }], "totalAmount": "0" }),
        json!({ "items": [{ "productId": 1, "quantity": 1 }], "totalAmount": "0.001" }),
        json!({ "items": [{ "productId": 1, "quantity": 1, "price": "5" }], "totalAmount": "5" }),
    ] {
        assert_eq!(bench.call(post("/api/sagas").user("7").json(&body)).status, 400, "{body}");
    }
    assert!(bench.events().is_empty());
}
