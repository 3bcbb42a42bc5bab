//! The mailer on a bench: no broker, no daemon, and no mail service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tidemill_sdk::http::Response;
use tidemill_sdk::test::{Bench, get, post, record};
use tidemill_sdk::{Failure, Record, outbound, params};

use crate::HANDLER;

fn mail(bench: &mut Bench, users: &[&str]) -> Response {
    bench.call(post("/api/mailings").user("boss").json(&json!({ "subject": "News", "text": "Some.", "users": users })))
}

fn answers(status: u16) -> outbound::Response {
    outbound::Response { status, ..outbound::Response::default() }
}

fn nth(bench: &Bench, n: usize) -> Record {
    let event = &bench.events()[n];
    record("mails").with_key(event.key_str()).with_json(&event.json::<Value>())
}

#[test]
fn s0_11_one_request_becomes_a_record_for_each_user_keyed_by_him() {
    let mut bench = Bench::new(&HANDLER);
    let begun = mail(&mut bench, &["7", "8", "7"]);
    assert_eq!((begun.status, begun.header_str("location")), (201, Some("/api/mailings/1")));
    let [seven, eight] = bench.events() else { panic!("a record for each: {:?}", bench.events()) };
    assert_eq!((seven.topic.as_str(), seven.key_str(), eight.key_str()), ("mails", "7", "8"));
    assert_eq!(seven.json::<Value>()["payload"], json!({ "mailingId": 1, "userId": "7" }));

    bench.service(|request| {
        assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", "https://mail.example.com/messages"));
        let mail: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(mail, json!({ "to": "8", "subject": "News", "text": "Some." }));
        Ok(answers(202))
    });
    bench.record(&nth(&bench, 1)).unwrap();
    let shown = bench.call(get("/api/mailings/1").user("boss")).body_json::<Value>();
    assert_eq!(shown, json!({ "id": 1, "subject": "News", "mails": 2, "sent": 1 }));
    assert_eq!(bench.call(get("/api/mailings/1").user("8")).status, 404);
}

#[test]
fn s0_11_a_service_that_is_away_is_waited_for_and_one_that_refuses_is_not() {
    let mut bench = Bench::new(&HANDLER);
    mail(&mut bench, &["7"]);
    bench.service(|_| Ok(answers(503)));
    assert!(matches!(bench.record(&nth(&bench, 0)), Err(Failure::Unavailable { .. })));
    bench.service(|_| Ok(answers(422)));
    assert!(matches!(bench.record(&nth(&bench, 0)), Err(Failure::Reject(_))));
    assert_eq!(bench.query::<u32>("SELECT count(*) FROM sent", params![]), [0]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = Bench::new(&HANDLER);
    assert_eq!(mail(&mut bench, &[]).status, 400);
    let many: Vec<String> = (0..1001).map(|user| user.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(mail(&mut bench, &many).status, 400);
    assert_eq!(mail(&mut bench, &many[1..]).status, 201);
    assert_eq!(bench.events().len(), 1000);
}
