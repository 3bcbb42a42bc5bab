//! The consumer of dead letters as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka and no daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::Record;
use tidemill_sdk::test::{get, record};
use tidemill_test::{Ended, Moment, Rig};

fn dead_letter() -> Record {
    let payload = json!({ "mailingId": 1, "userId": "7" });
    record("mails.DLT")
        .with_key("7")
        .with_json(&json!({ "eventId": "e", "eventType": "MAIL_REQUESTED", "payload": payload }))
        .with_header("kafka_dlt-original-topic", "mails")
        .with_header("kafka_dlt-original-partition", 2_i32.to_be_bytes())
        .with_header("kafka_dlt-original-offset", 5_i64.to_be_bytes())
        .with_header("kafka_dlt-exception-message", "no such mailbox")
}

#[test]
fn h6_a_dead_letter_is_noted_though_the_process_is_killed() {
    let mut rig = Rig::new("bounce");
    rig.kill_at(Moment::Committing);
    assert_eq!(rig.record(&dead_letter()), Ended::Done);
    let mine = rig.call(get("/api/bounces").user("7")).body_json::<Value>();
    assert_eq!((&mine[0]["reason"], &mine[0]["source"]), (&json!("no such mailbox"), &json!("mails/2@5")));
    assert_eq!(rig.kills(), 1);
}

#[test]
fn h6_what_cannot_be_noted_is_kept_whole_and_is_no_dead_letter_again() {
    let mut rig = Rig::new("bounce");
    rig.prepare("CREATE TRIGGER outage BEFORE INSERT ON bounces BEGIN SELECT RAISE(ABORT, 'no'); END");
    let ended = rig.record(&dead_letter());
    assert!(matches!(ended, Ended::Fallback { .. }), "{ended:?}");
    assert_eq!((rig.fallback()[0].value.clone(), rig.dead_letters().len()), (dead_letter().value, 0));
}
