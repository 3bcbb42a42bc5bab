//! H3: timers, compensations and events that go back from the fallback to where they were given up on.

use std::collections::BTreeSet;

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Out, Sandbox, Service, Store, eventually};

use crate::deploying::works;
use crate::rig::Hostile;

/// The handler gives up at once, and does what it could not as soon as its setting `version` is another one.
fn settings(version: &str, more: &str) -> String {
    format!("[handler.hostile.retry]\nmax-attempts = 1\n[handler.hostile.settings]\nversion = \"{version}\"\n{more}")
}

fn fallback(sandbox: &Sandbox, arguments: &[&str]) -> String {
    works(sandbox, &[&["fallback"], arguments].concat())
}

/// The same with a row of which that cannot be done: what was said of it.
fn refused(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let out = sandbox.tidemill(&[&["fallback"], arguments].concat());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{arguments:?}: {text}");
    text
}

/// The rows that are kept, as the list names them.
fn rows(sandbox: &Sandbox) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(&fallback(sandbox, &["list", "--json"])).unwrap();
    listed["items"].as_array().unwrap().iter().map(|row| row["row"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn h3_timers_that_were_given_up_on_fire_once_for_their_due_times_when_they_are_put_back() {
    let timer = json!({ "do": "fail-n", "until": 99, "version": "1" });
    let more = format!(
        "timer = '{timer}'\n[[handler.hostile.schedule]]\nname = \"tick\"\ninterval = \"300ms\"\nmissed = \"each\"\n"
    );
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&settings("1", &more));
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    eventually(LONG, "some are given up on", || store.count("SELECT count(*) FROM tm_fallback") >= 3);
    let said = refused(&sandbox, &["replay", "--to-topic", &rows(&sandbox)[0]]);
    assert!(said.contains("a timer is never published"), "{said}");
    daemon.terminate();
    sandbox.write_toml(&settings("2", &more));
    let mut daemon = Daemon::start(&sandbox);
    let kept: BTreeSet<String> =
        store.lines("SELECT replace(source, 'timer ', '') FROM tm_fallback").into_iter().collect();
    let count = kept.len() as i64;
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback WHERE kind = 'timer'"), count, "{kept:?}");
    let told = fallback(&sandbox, &["replay", "--all-matching", "--topic", "tick"]);
    assert_eq!(told.matches("put back").count(), kept.len(), "{told}");
    // They are out of the fallback with the answer, and a kill loses none.
    daemon.kill9();
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    let _daemon = Daemon::start(&sandbox);
    let due =
        "strftime('%Y-%m-%dT%H:%M:', \"offset\" / 1000, 'unixepoch') || printf('%06.3fZ', \"offset\" % 60000 / 1000.0)";
    let fired = || store.lines(&format!("SELECT topic || '@' || {due} FROM seen"));
    eventually(LONG, "each has fired", || kept.is_subset(&fired().into_iter().collect()));
    store.until("SELECT count(*) FROM tm_pending", 0);
    let all = fired();
    assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "once each: {all:?}");
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    assert!(fallback(&sandbox, &["replay", "--all-matching"]).is_empty());
}

#[test]
fn h3_a_compensation_that_was_given_up_on_runs_once_when_two_operators_put_it_back_and_its_record_does_not() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&settings("1", ""));
    let mut daemon = Daemon::start(&sandbox);
    let undo = json!([{ "do": "fail-n", "until": 99, "version": "1", "id": "made-good" }]);
    let failing = json!({ "do": "fail-n", "until": 99, "id": "failing", "undo": undo }).to_string();
    daemon.client().produce("hostile-in", &Out::new(failing).key("k").partition(0));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback WHERE kind = 'compensation'", 1);
    let row = rows(&sandbox)[0].clone();
    let said = refused(&sandbox, &["replay", "--to-topic", &row]);
    assert!(said.contains("a compensation is never published"), "{said}");
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 1);
    // It fails again, and is kept again.
    fallback(&sandbox, &["replay", &row]);
    eventually(LONG, "it is kept again", || rows(&sandbox).first().is_some_and(|kept| *kept != row));
    daemon.terminate();
    sandbox.write_toml(&settings("2", ""));
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce("hostile-in", &Out::new(r#"{"do":"insert","id":"next"}"#).key("k").partition(0));
    store.until("SELECT count(*) FROM seen WHERE id = 'next'", 1);
    let row = rows(&sandbox)[0].clone();
    let replay = || sandbox.tidemill(&["fallback", "replay", &row]).status.success();
    let both = std::thread::scope(|scope| [scope.spawn(replay), scope.spawn(replay)].map(|one| one.join().unwrap()));
    assert_eq!(both.iter().filter(|well| **well).count(), 1, "{both:?}");
    store.until("SELECT count(*) FROM seen WHERE id = 'made-good'", 1);
    store.until("SELECT count(*) FROM tm_pending", 0);
    assert_eq!(store.lines("SELECT id FROM seen ORDER BY seq"), ["next", "made-good"], "and no record again");
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    let tried = [("kind", "record"), ("outcome", "retry")];
    assert_eq!(sandbox.scrape().sum("tidemill_attempts_total", &tried), 0.0, "its record is not tried again");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    // The broker has forgotten the first dead letter of the record.
    assert!(client.consume_all("hostile-in.DLT").is_empty());
    daemon.terminate();
}

#[test]
fn h3_a_refused_event_is_compensated_once_while_others_are_refused_and_published_once_when_it_is_put_back() {
    let service = Service::start();
    service.close();
    let lost = json!([{ "do": "call", "url": format!("{}/refund", service.url()), "body": "refund" }]);
    let hostile = Hostile::new(
        Kafka::shared(),
        &format!("grant = {{ http = [\"{}\"] }}\nsettings = {{ lost = '{lost}' }}\n", service.url()),
    );
    let (sandbox, client) = (&hostile.sandbox, &hostile.client);
    let small =
        format!("--alter --entity-type topics --entity-name {} --add-config max.message.bytes=2000", hostile.output);
    Kafka::shared().tool("configs", &small.split(' ').collect::<Vec<_>>());
    let _daemon = Daemon::start(sandbox);
    let store = Store::open(sandbox, "hostile");
    let publish = |key: &str| {
        let event = json!({ "do": "publish", "bytes": 5000 }).to_string();
        client.produce(&hostile.input, &Out::new(event).key(key).partition(0));
    };
    publish("a");
    eventually(LONG, "its compensation calls the service", || service.waiting().0 == 1);
    let row = rows(sandbox)[0].clone();
    let said = refused(sandbox, &["replay", &row]);
    assert!(said.contains("its handler is compensating it"), "{said}");
    // Others of its topic are refused while the call is under way.
    for (n, key) in ["b", "c"].into_iter().enumerate() {
        publish(key);
        eventually(LONG, "that one's does too", || service.waiting().0 == n + 2);
    }
    store.until("SELECT count(*) FROM tm_fallback", 3);
    service.open();
    store.until("SELECT count(*) FROM tm_pending", 0);
    assert_eq!(service.asked().len(), 3, "one call for each");
    let compensated = store.lines("SELECT substr(id, 1, 6) FROM once WHERE id LIKE 'lost%' ORDER BY id");
    assert_eq!(compensated, ["lost a", "lost b", "lost c"]);

    // The topic is mended, and the operator lets the events out all the same.
    let ids: BTreeSet<String> = store.lines("SELECT event_id FROM tm_fallback").into_iter().collect();
    client.delete_topic(&hostile.output);
    client.create_topic(&hostile.output, 3);
    let told = fallback(sandbox, &["replay", "--all-matching"]);
    assert_eq!(told.matches("put back; its handler may have compensated it").count(), 3, "{told}");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert!(refused(sandbox, &["replay", &row]).contains("there is no such row"));
    let events = client.consume_all(&hostile.output);
    let published: BTreeSet<String> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    assert_eq!((events.len(), published), (3, ids), "each once, under its own id");
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    assert_eq!(service.asked().len(), 3, "and nothing is compensated again");
}
