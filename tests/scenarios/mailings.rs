//! S0.11, S0.4: one request becomes many records that are read in parallel; those that no service takes are noted by a consumer of
//! dead letters.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Sandbox, Service, Store, eventually, token};

fn sandbox(service: &Service) -> Sandbox {
    let sandbox = Sandbox::with(&["mailer", "bounce"]);
    let url = service.url();
    sandbox.write_toml(&format!(
        "[kafka]\nkeep-embedded = true\n[handler.mailer]\ngrant = {{ http = [\"{url}\"] }}\nsettings = {{ service = \"{url}/messages\" }}\n"
    ));
    sandbox
}

fn mail(daemon: &Daemon, boss: &str, subject: &str, users: usize) {
    let users: Vec<String> = (0..users).map(|user| format!("u{user}")).collect();
    let mailing = json!({ "subject": subject, "text": "There is some.", "users": users });
    daemon.post("/api/mailings", boss, &mailing.to_string()).expect_status(201);
}

#[test]
fn s0_11_mails_of_many_users_are_under_way_at_once_and_those_of_one_keep_their_order() {
    const USERS: usize = 40;
    let service = Service::start();
    service.close();
    let sandbox = sandbox(&service);
    let daemon = Daemon::start(&sandbox);
    let boss = token(&sandbox, "boss");
    let subjects = ["first", "second", "third"];
    for subject in subjects {
        mail(&daemon, &boss, subject, USERS);
    }
    // As many as the manifest allows, and no two of one user.
    eventually(LONG, "sixteen mails are under way", || service.waiting().0 == 16);
    let to = |body: &str| serde_json::from_str::<Value>(body).unwrap()["to"].as_str().unwrap().to_owned();
    let users: std::collections::BTreeSet<String> = service.asked().iter().map(|asked| to(&asked.body)).collect();
    assert_eq!(users.len(), 16);
    service.open();
    let store = Store::open(&sandbox, "mailer");
    store.until("SELECT count(*) FROM sent", 3 * USERS as i64);
    assert_eq!(service.waiting().1, 16);

    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for asked in service.asked() {
        let mail: Value = serde_json::from_str(&asked.body).unwrap();
        got.entry(to(&asked.body)).or_default().push(mail["subject"].as_str().unwrap().to_owned());
    }
    assert_eq!(got.len(), USERS);
    assert!(got.values().all(|mails| mails == &subjects), "{got:?}");
    let shown = daemon.get("/api/mailings/3", &boss).expect_status(200).json();
    assert_eq!(shown, json!({ "id": 3, "subject": "third", "mails": USERS, "sent": USERS }));
    let client = daemon.client();
    assert!(client.consume_all("mails").iter().all(|record| record.json()["payload"]["userId"] == record.key_text()));
}

#[test]
fn s0_4_a_mail_that_is_refused_is_noted_by_the_consumer_of_dead_letters_or_kept_in_the_fallback() {
    let service = Service::start();
    let sandbox = sandbox(&service);
    let mut daemon = Daemon::start(&sandbox);
    let boss = token(&sandbox, "boss");
    service.answer("422 Unprocessable", "no such mailbox");
    mail(&daemon, &boss, "first", 1);
    let bounce = Store::open(&sandbox, "bounce");
    bounce.until("SELECT count(*) FROM bounces", 1);
    let bounces = daemon.get("/api/bounces", &token(&sandbox, "u0")).expect_status(200).json();
    assert_eq!(bounces[0]["reason"], "the service answered 422: no such mailbox");
    let source = bounces[0]["source"].as_str().unwrap();
    assert!(source.starts_with("mails/") && source.ends_with("@0"), "{source}");

    // The consumer of dead letters fails as well.
    daemon.terminate();
    let by_hand = Connection::open(sandbox.store_file("bounce")).unwrap();
    by_hand
        .execute_batch("CREATE TRIGGER outage BEFORE INSERT ON bounces BEGIN SELECT RAISE(ABORT, 'no'); END")
        .unwrap();
    let daemon = Daemon::start(&sandbox);
    service.answer("422 Unprocessable", "no such mailbox");
    mail(&daemon, &boss, "second", 1);
    bounce.until("SELECT count(*) FROM tm_fallback", 1);
    let kept = bounce.line("SELECT kind, handler, key, json_extract(value, '$.payload.mailingId') FROM tm_fallback");
    assert_eq!(kept, "dead-letter|bounce|u0|2");
    assert_eq!(bounce.count("SELECT count(*) FROM bounces"), 1);
    assert_eq!(daemon.client().partitions("mails.DLT.DLT"), 0);
}
