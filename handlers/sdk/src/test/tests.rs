//! The bench keeps the host's promises about one delivery.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use super::{Bench, Via, get, post, record, request};
use crate::compensation::Input;
use crate::http::{self, Request, Response};
use crate::outbound::{self, Request as Call};
use crate::publisher::{self, Event, Receipt};
use crate::sends::Sent;
use crate::sql::ErrorKind;
use crate::{Failure, Handler, Record, Time, config, delivery, params, sql};

const MANIFEST: &str = r#"
    name = "bench"
    topics = ["in"]
    event-id = "/id"
    [publish]
    out = "out-topic"
    [settings]
    greeting = "hello"
    limit = 3
    [[route]]
    method = "GET"
    path = "/things/{id}"
    [[route]]
    method = "GET"
    path = "/things/first"
    [[route]]
    method = "POST"
    path = "/things"
    auth = "jwt"
"#;

const MIGRATIONS: &[(&str, &str)] = &[(
    "1.sql",
    "CREATE TABLE things (id TEXT PRIMARY KEY);
     CREATE TABLE parts (thing TEXT REFERENCES things (id) DEFERRABLE INITIALLY DEFERRED);
     CREATE TABLE tm_secret (id);",
)];

static HANDLER: Handler = Handler {
    manifest: MANIFEST,
    migrations: MIGRATIONS,
    records: Some(handle),
    compensate: Some(make_good),
    completed: Some(completed),
    timers: &[],
    routes: &[("GET /things/{id}", read), ("GET /things/first", read), ("POST /things", write)],
};

/// Writes the key as a thing, publishes it, and then runs the value as a statement.
fn handle(record: &Record) -> Result<(), Failure> {
    sql::execute("INSERT INTO things VALUES (?1)", params![record.key_str()])?;
    Event::new("out", "THING").json_with_id(|id| format!("{id} {:?}", delivery::random(2))).enqueue()?;
    crate::info!("{} at {}", config::get("greeting").unwrap_or_default(), delivery::now());
    if let Some(statement) = record.value.as_deref() {
        sql::execute(std::str::from_utf8(statement).unwrap(), params![])?;
    }
    Ok(())
}

fn make_good(input: &Input, reason: &str) -> Result<(), Failure> {
    let Input::Record(record) = input else { return Err(Failure::reject("no record")) };
    sql::execute("INSERT INTO things VALUES (?1)", params![format!("undone {:?}: {reason}", record.key_str())])?;
    if reason == "again" { Err(Failure::retry("once more")) } else { Ok(()) }
}

fn completed(sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
    sql::execute("INSERT INTO things VALUES (?1)", params![format!("{}: {outcome:?}", sent.id)])?;
    Ok(())
}

fn read(request: &Request) -> http::Result {
    let published = Event::new("out", "THING").enqueue().unwrap_err();
    let written = sql::execute("INSERT INTO things VALUES ('read')", params![]).unwrap_err();
    assert_eq!((written.kind, published.kind), (ErrorKind::ReadOnly, publisher::ErrorKind::ReadOnly));
    Ok(Response::ok(&(&request.route, &request.params)))
}

fn write(request: &Request) -> http::Result {
    sql::execute("INSERT INTO things VALUES (?1)", params![request.user()?])?;
    Ok(Response::new(if request.body.is_empty() { 204 } else { 418 }))
}

fn things(bench: &Bench) -> Vec<String> {
    bench.query("SELECT id FROM things", params![])
}

#[test]
fn a_failed_delivery_leaves_no_row_and_no_event_but_its_lines() {
    let mut bench = Bench::new(&HANDLER);
    bench.set("greeting", "bye").at(Time::from_millis(1));
    let failure = bench.record(&record("in").with_key("a").with_value("nonsense")).unwrap_err();
    assert!(matches!(failure, Failure::Reject(why) if why.contains("syntax error")));
    assert!(things(&bench).is_empty() && bench.events().is_empty());
    assert_eq!(bench.lines()[0].1, "bye at 1970-01-01T00:00:00.001Z");

    bench.record(&record("in").with_key("a")).unwrap();
    assert_eq!((things(&bench), bench.events().len()), (vec!["a".to_owned()], 1));
}

#[test]
fn what_the_host_refuses_is_refused() {
    for statement in [
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "ATTACH ':memory:' AS other",
        "PRAGMA foreign_keys = OFF",
        "CREATE TABLE more (id)",
        "CREATE TEMP TABLE more (id)",
        "DROP TABLE things",
        "INSERT INTO tm_secret VALUES (1)",
        "SELECT * FROM TM_secret",
    ] {
        let mut bench = Bench::new(&HANDLER);
        let failure = bench.record(&record("in").with_key("a").with_value(statement)).unwrap_err();
        assert!(
            matches!(&failure, Failure::Reject(why) if why.contains("not authorized") || why.contains("prohibited")),
            "{statement}: {failure}"
        );
        assert!(things(&bench).is_empty(), "{statement}");
    }
}

#[test]
fn a_transaction_that_cannot_be_kept_is_a_failure() {
    let mut bench = Bench::new(&HANDLER);
    let orphan = record("in").with_key("a").with_value("INSERT INTO parts VALUES ('nothing')");
    assert!(matches!(bench.record(&orphan), Err(Failure::Retry { message, .. }) if message.contains("FOREIGN KEY")));
    let ending = record("in").with_key("a").with_value("INSERT OR ROLLBACK INTO things VALUES ('a')");
    assert!(bench.record(&ending).is_err());
    assert!(things(&bench).is_empty() && bench.events().is_empty());
}

#[test]
fn ids_and_random_bytes_are_the_same_in_every_run() {
    let run = || {
        let mut bench = Bench::new(&HANDLER);
        bench.record(&record("in").with_key("a")).unwrap();
        bench.record(&record("in").with_key("b")).unwrap();
        bench.events().to_vec()
    };
    let events = run();
    assert_eq!(events, run());
    assert_ne!(events[0].id, events[1].id);
    assert!(events[0].json::<String>().starts_with(&events[0].id));
    assert_eq!(events[0].topic, "out-topic");
}

#[test]
fn an_event_can_wait_for_its_time() {
    fn wait(record: &Record) -> Result<(), Failure> {
        let due = Time::from_millis(record.key_str().unwrap().parse().unwrap());
        Event::new("out", "AT").enqueue_at(due)?;
        Event::new("out", "AFTER").enqueue_after(Duration::from_millis(1_500))?;
        Event::new("out", "AFTER").enqueue_after(Duration::ZERO)?;
        let refused = Event::new("out", "NEVER").enqueue_after(Duration::MAX).unwrap_err();
        assert_eq!(refused.kind, publisher::ErrorKind::Limit);
        Ok(())
    }
    static WAITING: Handler = Handler {
        manifest: MANIFEST,
        migrations: &[],
        records: Some(wait),
        compensate: None,
        completed: None,
        timers: &[],
        routes: HANDLER.routes,
    };
    let mut bench = Bench::new(&WAITING);
    bench.at(Time::from_millis(1_000));
    let mut due = |at: &str| {
        bench.record(&record("in").with_key(at)).unwrap();
        let due = bench.events().iter().rev().take(3).map(|event| event.due.map(Time::millis));
        due.collect::<Vec<_>>()
    };
    assert_eq!(due("1001"), [None, Some(2_500), Some(1_001)]);
    assert_eq!(due("1000"), [None, Some(2_500), None], "what is due already does not wait");
}

#[test]
fn requests_are_routed_like_the_host_does() {
    let mut bench = Bench::new(&HANDLER);
    let mut seen = |path: &str| bench.call(get(path)).body_json::<(String, Vec<(String, String)>)>();
    assert_eq!(seen("/things/7?x"), ("/things/{id}".into(), vec![("id".into(), "7".into())]));
    assert_eq!(seen("/things/first"), ("/things/first".into(), vec![]));
    let mut status = |call| bench.call(call).status;
    assert_eq!(status(get("/other")), 404);
    assert_eq!(status(get("/things/")), 404);
    assert_eq!(status(request("PUT", "/things")), 405);
    assert_eq!(status(post("/things")), 401);
    assert_eq!(status(post("/things").user("kept")), 204);
    assert_eq!(status(post("/things").user("kept")), 409);
    assert_eq!(status(post("/things").user("dropped").body("x")), 418);
    assert_eq!(things(&bench), ["kept"]);
}

#[test]
fn settings_attempt_and_event_id_reach_the_handler() {
    fn look(record: &Record) -> Result<(), Failure> {
        assert_eq!(config::parse::<u8>("limit"), Ok(Some(3)));
        assert!(matches!(config::parse::<u8>("greeting"), Err(Failure::Unavailable { .. })));
        assert_eq!(config::all().len(), 2);
        assert_eq!((delivery::attempt(), delivery::event_id()), (2, record.key_str().map(str::to_owned)));
        Ok(())
    }
    static LOOKING: Handler = Handler {
        manifest: MANIFEST,
        migrations: &[],
        records: Some(look),
        compensate: None,
        completed: None,
        timers: &[],
        routes: HANDLER.routes,
    };
    let mut bench = Bench::new(&LOOKING);
    bench.attempt(2);
    bench.record(&record("in").with_key("x").with_json(&serde_json::json!({ "id": "x" }))).unwrap();
    bench.record(&record("in").with_key("5").with_json(&serde_json::json!({ "id": 5 }))).unwrap();
    bench.record(&record("in").with_value("no JSON")).unwrap();
}

#[test]
fn h5_a_secret_is_there_where_it_is_asked_for_and_given_and_is_not_printed() {
    fn look(_: &Record) -> Result<(), Failure> {
        let key = config::secret("key")?;
        assert_eq!((key.expose(), format!("{key:?}").as_str()), ("value", "Secret(..)"));
        assert_eq!(config::all().len(), 2, "settings alone");
        Ok(())
    }
    static LOOKING: Handler = Handler {
        manifest: concat!("secrets = [\"key\"]\n", "name = \"looking\"\n[settings]\na = 1\nb = 2\n"),
        migrations: &[],
        records: Some(look),
        compensate: None,
        completed: None,
        timers: &[],
        routes: &[],
    };
    let mut bench = Bench::new(&LOOKING);
    assert!(matches!(bench.record(&record("in")), Err(Failure::Unavailable { .. })));
    bench.secret("key", "value").record(&record("in")).unwrap();
    let give = std::panic::AssertUnwindSafe(|| {
        bench.secret("other", "value");
    });
    assert!(std::panic::catch_unwind(give).is_err(), "the manifest does not ask for it");
}

/// Calls, writes, and calls again if it is told to.
fn ask(record: &Record) -> Result<(), Failure> {
    let answer = Call::post(record.key_str().unwrap_or_default()).json(&1).send()?.success()?;
    sql::execute("INSERT INTO things VALUES (?1)", params![answer.json::<String>()?])?;
    match record.value {
        Some(_) => Call::get(record.key_str().unwrap_or_default()).send().map(drop).map_err(Failure::from),
        None => Ok(()),
    }
}

fn service(request: &Call) -> Result<outbound::Response, outbound::Error> {
    assert_eq!((request.method.as_str(), request.body.as_slice()), ("POST", &b"1"[..]));
    let status = if request.url.ends_with("busy") { 503 } else { 200 };
    Ok(outbound::Response { status, body: b"\"answer\"".to_vec(), ..outbound::Response::default() })
}

/// Writes a row, sends in both ways, and then fails if the record has a value.
fn sends(record: &Record) -> Result<(), Failure> {
    sql::execute("INSERT INTO things VALUES (?1)", params![record.key_str()])?;
    Event::new("out", "LATER").send_async()?;
    let receipt = Event::new("out", "NOW").id(format!("own {:?}", record.key_str())).send()?;
    crate::info!("{} at {}", receipt.id, receipt.offset);
    if record.value.is_some() { Err(Failure::reject("told to")) } else { Ok(()) }
}

#[test]
fn s0_5_what_was_sent_stays_sent_and_what_kafka_refuses_ends_the_delivery() {
    static SENDING: Handler = Handler { records: Some(sends), ..HANDLER };
    let mut bench = Bench::new(&SENDING);
    bench.record(&record("in").with_key("a")).unwrap();
    assert!(bench.record(&record("in").with_key("b").with_value("fails")).is_err());
    bench.refuse_sends("out-topic: no such topic");
    let refused = bench.record(&record("in").with_key("c")).unwrap_err();
    assert!(matches!(&refused, Failure::Unavailable { message, .. } if message == "out-topic: no such topic"));
    let published: Vec<_> = bench.events().iter().map(|event| (event.event_type.as_str(), event.via)).collect();
    assert_eq!(published, [("LATER", Via::SendAsync), ("NOW", Via::Send), ("NOW", Via::Send)]);
    assert_eq!(bench.query::<String>("SELECT id FROM things", params![]), ["a"]);
}

#[test]
fn s0_6_a_handler_is_told_what_became_of_what_it_sent() {
    let mut bench = Bench::new(&HANDLER);
    let sent = Sent { id: "e1".into(), ..Sent::default() };
    bench.completed(&sent, Err("timed out".into())).unwrap();
    assert_eq!(bench.query::<String>("SELECT id FROM things", params![]), ["e1: Err(\"timed out\")"]);
}

#[test]
fn a_service_is_asked_before_anything_is_written() {
    const GRANT: &str = "name = \"ask\"\ntopics = [\"in\"]\n[grant]\nhttp = [\"https://pay.example\"]\n";
    static ASKING: Handler = Handler {
        manifest: GRANT,
        migrations: MIGRATIONS,
        records: Some(ask),
        compensate: None,
        completed: None,
        timers: &[],
        routes: &[],
    };
    let mut bench = Bench::new(&ASKING);
    bench.service(service);
    let mut tried = |url: &str, value: Option<&str>| {
        let record = record("in").with_key(url);
        bench.record(&value.map_or(record.clone(), |value| record.with_value(value)))
    };
    let busy = tried("https://pay.example/busy", None).unwrap_err();
    assert!(matches!(&busy, Failure::Unavailable { message, .. } if message.contains("503")), "{busy}");
    for (url, why) in [("https://pay.example.evil/", "[grant]"), ("http://pay.example/", "[grant]")] {
        assert!(tried(url, None).unwrap_err().message().contains(why), "{url}");
    }
    assert!(tried("https://pay.example/", Some("again")).unwrap_err().message().contains("written already"));
    tried("https://pay.example/", None).unwrap();
    assert_eq!(bench.query::<String>("SELECT id FROM things", params![]), ["answer"]);
}

#[test]
fn s0_8_what_was_given_up_on_is_made_good_or_leaves_nothing() {
    let mut bench = Bench::new(&HANDLER);
    let given_up = Input::Record(record("in").with_key("k"));
    assert_eq!(bench.compensate(&given_up, "again"), Err(Failure::retry("once more")));
    bench.compensate(&given_up, "too late").unwrap();
    assert_eq!(bench.query::<String>("SELECT id FROM things", params![]), ["undone Some(\"k\"): too late"]);
}

#[test]
fn s2_13_a_timer_without_a_function_is_rejected_by_its_name() {
    let unknown = Bench::new(&HANDLER).fire("close-day");
    assert!(matches!(&unknown, Err(Failure::Reject(why)) if why.contains("\"close-day\"")), "{unknown:?}");
}

#[test]
#[should_panic(expected = "names no function for the schedule \"close-day\"")]
fn s2_13_a_schedule_of_the_manifest_needs_a_function() {
    static HANDLER: Handler = Handler {
        manifest: "name = \"days\"\n[[schedule]]\nname = \"close-day\"\ncron = \"0 0 * * *\"",
        migrations: &[],
        records: None,
        compensate: None,
        completed: None,
        timers: &[],
        routes: &[],
    };
    Bench::new(&HANDLER);
}
