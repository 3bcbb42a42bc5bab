//! The mailer as the `.wasm` that is deployed: on the daemon's own executor, with no Kafka, no daemon and no mail service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::http::Response;
use tidemill_sdk::params;
use tidemill_sdk::test::{get, post, record};
use tidemill_test::{Ended, Moment, Rig};

const SERVICE: &str = "https://mail.example.com/messages";

/// With two mails on their way, as Kafka would bring them.
fn mailed() -> (Rig, Vec<tidemill_sdk::Record>) {
    let mut rig = Rig::new("mailer");
    let mailing = json!({ "subject": "News", "text": "Some.", "users": ["7", "8"] });
    assert_eq!(rig.call(post("/api/mailings").user("boss").json(&mailing)).status, 201);
    let mails = rig.published().into_iter();
    let mails = mails.map(|event| record("mails").with_key(event.key.unwrap()).with_value(event.value.unwrap()));
    let mails = mails.collect();
    (rig, mails)
}

#[test]
fn h6_a_mail_is_sent_under_one_key_though_the_process_is_killed_before_the_answer() {
    let (mut rig, mails) = mailed();
    for _ in 0..2 {
        rig.expect("POST", SERVICE, Response::new(202));
    }
    rig.kill_at(Moment::SetAside);
    assert_eq!(rig.record(&mails[0]), Ended::Done);
    rig.kill_at(Moment::Committing);
    assert_eq!(rig.record(&mails[1]), Ended::Done);
    assert_eq!(rig.record(&mails[1]), Ended::Duplicate);
    assert_eq!(rig.query::<String>("SELECT user_id FROM sent ORDER BY id", params![]), ["7", "8"]);
    let shown = rig.call(get("/api/mailings/1").user("boss")).body_json::<Value>();
    assert_eq!((&shown["mails"], &shown["sent"], rig.kills()), (&json!(2), &json!(2), 2));
}

#[test]
fn h6_a_mail_that_the_service_refuses_is_a_dead_letter_and_the_next_goes_on() {
    let (mut rig, mails) = mailed();
    rig.expect("POST", SERVICE, Response::new(422));
    let refused = rig.record(&mails[0]);
    assert!(matches!(&refused, Ended::DeadLetter { topic, attempts: 1, .. } if topic == "mails.DLT"), "{refused:?}");
    rig.expect("POST", SERVICE, Response::new(202));
    assert_eq!(rig.record(&mails[1]), Ended::Done);
}
