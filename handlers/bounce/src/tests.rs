//! The consumer of dead letters on a bench: no broker, no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::test::{Bench, get, record};
use tidemill_sdk::{Failure, Record};

use crate::HANDLER;

/// A mail to the user 7 that was given up on.
fn dead_letter(reason: &str, offset: i64) -> Record {
    let payload = json!({ "mailingId": 1, "userId": "7" });
    record("mails.DLT")
        .with_key("7")
        .with_json(&json!({ "eventId": "e", "eventType": "MAIL_REQUESTED", "payload": payload }))
        .with_header("kafka_dlt-original-topic", "mails")
        .with_header("kafka_dlt-original-partition", 2_i32.to_be_bytes())
        .with_header("kafka_dlt-original-offset", offset.to_be_bytes())
        .with_header("kafka_dlt-exception-message", reason)
}

#[test]
fn s0_4_a_dead_letter_is_noted_with_its_reason_and_its_place() {
    let mut bench = Bench::new(&HANDLER);
    bench.record(&dead_letter("no such mailbox", 5)).unwrap();
    let bounces = |bench: &mut Bench| bench.call(get("/api/bounces").user("7")).body_json::<Value>();
    assert_eq!(
        bounces(&mut bench),
        json!([{ "mailingId": 1, "reason": "no such mailbox", "source": "mails/2@5", "at": "2026-01-31T09:30:00.000Z" }])
    );
    bench.record(&dead_letter("the mailbox is full", 9)).unwrap();
    let last = bounces(&mut bench);
    assert_eq!((last.as_array().unwrap().len(), &last[0]["reason"]), (1, &json!("the mailbox is full")));
    assert_eq!(last[0]["source"], "mails/2@9");
    assert_eq!(bench.call(get("/api/bounces").user("8")).body_json::<Value>(), json!([]));
}

#[test]
fn s0_4_what_is_no_dead_letter_is_rejected() {
    let mut bench = Bench::new(&HANDLER);
    let Record { headers, .. } = dead_letter("full", 5);
    for record in [Record { headers, ..record("mails.DLT") }, Record { headers: vec![], ..dead_letter("full", 5) }] {
        assert!(matches!(bench.record(&record), Err(Failure::Reject(_))), "{record:?}");
    }
}
