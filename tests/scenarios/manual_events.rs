//! S1.3: events that code outside of any handler publishes in its name, by command or by HTTP, are those of its outbox.

use std::fs::{self, File};
use std::process::Output;

use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Reply, Sandbox, Store, eventually, token};

use crate::deploying::{refused, works};

/// Nothing listens there.
const NOBODY: &str = "[kafka]\nbootstrap = \"127.0.0.1:1\"\n";
/// Everybody may publish to the hostile handler's destination.
const OPEN: &str = "[handler.hostile.events]\ndestinations = [\"out\"]\nauth = \"none\"\n";
const WAITING: &str = "SELECT count(*) FROM tm_outbox";

/// The hostile handler under these settings.
fn hostile(settings: &str) -> (Sandbox, Daemon) {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(settings);
    let daemon = Daemon::start(&sandbox);
    (sandbox, daemon)
}

fn publish<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["publish", "--handler", "hostile"], arguments].concat()
}

/// Publishes a line for each of the values.
fn publish_lines(sandbox: &Sandbox, arguments: &[&str], values: &[String]) -> Output {
    let lines = sandbox.root().join("lines");
    fs::write(&lines, values.iter().map(|value| format!("{value}\n")).collect::<String>()).unwrap();
    sandbox.command(&publish(&[&["out", "-"], arguments].concat())).stdin(File::open(lines).unwrap()).output().unwrap()
}

fn post(daemon: &Daemon, query: &str, body: &str) -> Reply {
    daemon.call("POST", &format!("/events/hostile/out{query}")).body(body).send()
}

fn event_id(reply: &Reply) -> String {
    reply.json()["eventId"].as_str().unwrap().to_owned()
}

/// The answer is a problem (RFC 9457) that says this.
fn problem(reply: Reply, status: u16, says: &str) {
    let reply = reply.expect_status(status);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(says), "{detail}");
}

#[test]
fn s1_3_a_manual_event_is_in_the_outbox_before_it_is_sent_and_a_kill_after_the_answer_loses_none() {
    let (sandbox, mut daemon) = hostile(&format!("{NOBODY}{OPEN}"));
    let told = works(
        &sandbox,
        &publish(&[
            "out",
            "by command",
            "--key",
            "k",
            "--header",
            "tenant=eu",
            "--event-type",
            "SAID",
            "--event-version",
            "2",
        ]),
    );
    let answer = post(&daemon, "?key=%EC%97%B4%EC%87%A0&type=SAID&version=3", "by http").expect_status(202);
    daemon.kill9();
    // No wait: with the answer the rows are there.
    let store = Store::open(&sandbox, "hostile");
    let columns = "event_type, partition_key, payload, topic, status, handler, kind, attempts";
    assert_eq!(
        store.lines(&format!("SELECT {columns} FROM tm_outbox ORDER BY id")),
        [
            "SAID|k|by command|hostile-out|waiting|hostile|event|0",
            "SAID|열쇠|by http|hostile-out|waiting|hostile|event|0",
        ]
    );
    let ids = store.lines("SELECT event_id FROM tm_outbox ORDER BY id");
    assert_eq!((told.trim(), event_id(&answer)), (format!("hostile-out {}", ids[0]).as_str(), ids[1].clone()));
    let sources = store.lines("SELECT source FROM tm_outbox ORDER BY id");
    assert!(sources[0].starts_with("POST /admin/v1/handlers/hostile/events "), "{sources:?}");
    assert!(sources[1].starts_with("POST /events/hostile/{destination} "), "{sources:?}");
    // What is done by command is noted.
    let acts: Vec<Value> = sandbox.audit().into_iter().filter(|line| line["action"] == "publish").collect();
    assert_eq!(acts.len(), 1);
    assert_eq!((&acts[0]["handler"], &acts[0]["detail"]), (&json!("hostile"), &json!(ids[0])));
    assert_eq!((&acts[0]["ok"], &acts[0]["who"]), (&json!(true), &json!("token")));

    sandbox.write_toml(OPEN);
    let daemon = Daemon::start(&sandbox);
    store.until(WAITING, 0);
    let mut events = daemon.client().consume_all("hostile-out");
    events.sort_by_key(|event| event.text());
    let heads: Vec<_> = events.iter().map(|event| (event.text(), event.key_text())).collect();
    assert_eq!(heads, [("by command".into(), "k".into()), ("by http".into(), "열쇠".to_owned())], "each once");
    let header = |event: usize, name| events[event].header_text(name);
    assert_eq!((header(0, "event-id").unwrap(), header(1, "event-id").unwrap()), (ids[0].clone(), ids[1].clone()));
    assert_eq!((header(0, "event-type"), header(0, "tenant")), (Some("SAID".into()), Some("eu".into())));
    assert_eq!((header(0, "event-version"), header(1, "event-version")), (Some("2".into()), Some("3".into())));
    // None of it was a delivery of the handler's.
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0);
}

#[test]
fn s1_3_a_kill_before_the_answer_leaves_an_event_whole_or_none_and_its_key_finds_it() {
    for (moment, rows) in [("committed:1", 1), ("committing:1", 0)] {
        let sandbox = Sandbox::with(&["hostile"]);
        sandbox.write_toml(&format!("{NOBODY}{OPEN}"));
        let mut daemon = Daemon::start_with(&sandbox, |command| {
            command.env("TIDEMILL_TEST_KILL_AT", moment);
        });
        let call = |daemon: &Daemon| {
            daemon.call("POST", "/events/hostile/out?type=SAID").header("Idempotency-Key", "k-1").body("{}")
        };
        call(&daemon).try_send().expect_err("nobody answers");
        daemon.wait_exit();
        let store = Store::open(&sandbox, "hostile");
        assert_eq!(store.count(WAITING), rows, "{moment}");
        let daemon = Daemon::start(&sandbox);
        let answer = call(&daemon).send().expect_status(202);
        assert_eq!(store.line("SELECT event_id FROM tm_outbox"), event_id(&answer), "{moment}");
    }
    // A command has no key, and says that it does not know.
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(NOBODY);
    let _daemon = Daemon::start_with(&sandbox, |command| {
        command.env("TIDEMILL_TEST_KILL_AT", "committed:1");
    });
    let error = refused(&sandbox, &publish(&["out", "{}"]));
    assert!(error.contains("whether the event is published is not known"), "{error}");
    let error = refused(&sandbox, &publish(&["out", "{}"]));
    assert!(error.starts_with("error: no daemon answers"), "{error}");
    assert_eq!(Store::open(&sandbox, "hostile").count(WAITING), 1);
}

#[test]
fn s1_3_an_idempotency_key_twice_is_one_event() {
    let (sandbox, mut daemon) = hostile(&format!("{NOBODY}{OPEN}"));
    let call = |daemon: &Daemon, query: &str, body: &str| {
        let path = format!("/events/hostile/out{query}");
        daemon.call("POST", &path).header("Idempotency-Key", "k-1").header("event-key", "7").body(body)
    };
    let first = call(&daemon, "?type=SAID", "{}").send().expect_status(202);
    let again = call(&daemon, "?type=SAID", "{}").send().expect_status(202);
    assert_eq!(first.json(), again.json());
    daemon.kill9();
    let daemon = Daemon::start(&sandbox);
    assert_eq!(call(&daemon, "?type=SAID", "{}").send().expect_status(202).json(), first.json());
    // Another event under the same key is none: other bytes, or other words about them.
    problem(call(&daemon, "?type=SAID", "[]").send(), 422, "Idempotency-Key");
    problem(call(&daemon, "?type=OTHER", "{}").send(), 422, "Idempotency-Key");
    problem(call(&daemon, "?type=SAID", "{}").header("event-version", "2").send(), 422, "Idempotency-Key");
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(store.lines("SELECT event_id FROM tm_outbox"), [event_id(&first)]);
    // Without one each is an event, and an id of one's own is good once.
    post(&daemon, "?id=own", "{}").expect_status(202);
    problem(post(&daemon, "?id=own", "{}"), 409, "own");
    post(&daemon, "", "{}").expect_status(202);
    assert_eq!(store.count(WAITING), 3);
}

#[test]
fn s1_3_an_event_has_the_envelope_the_topic_and_the_delay_of_its_destination() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!(
        "{OPEN}[handler.hostile]\nenvelope = \"payload\"\n[handler.hostile.publish]\ndays = \"days-{{date:%Y}}\"\n"
    ));
    let daemon = Daemon::start(&sandbox);
    let arguments = ["--event-type", "PAID", "--event-version", "2", "--event-id", "e-1"];
    works(&sandbox, &publish(&[&["out", r#"{"amount":25.00}"#], &arguments[..]].concat()));
    let id = event_id(&post(&daemon, "?type=PAID", r#"{"amount":9007199254740993}"#).expect_status(202));
    let store = Store::open(&sandbox, "hostile");
    store.until(WAITING, 0);
    let mut values: Vec<String> = daemon.client().consume_all("hostile-out").iter().map(|event| event.text()).collect();
    values.sort_by_key(String::len);
    assert_eq!(
        values,
        [
            r#"{"eventId":"e-1","eventType":"PAID","eventVersion":2,"payload":{"amount":25.00}}"#.to_owned(),
            format!(r#"{{"eventId":"{id}","eventType":"PAID","payload":{{"amount":9007199254740993}}}}"#),
        ]
    );

    let told = works(&sandbox, &publish(&["days", "1", "--event-type", "PAID", "--delay", "1h"]));
    let topic = store.line("SELECT topic FROM tm_outbox");
    assert!(told.starts_with(&format!("{topic} ")) && topic.starts_with("days-2"), "{told} {topic}");
    works(&sandbox, &publish(&["out", "1", "--event-type", "PAID", "--at", "2026-01-31T12:00:00Z"]));
    post(&daemon, "?type=PAID&delay=2h", "1").expect_status(202);
    let delays =
        store.lines("SELECT (not_before - created_at) / 3600000 FROM tm_outbox WHERE not_before > 0 ORDER BY id");
    assert_eq!(delays, ["1", "2"], "a time that has passed is no delay");

    // What the envelope does not take is refused, and nothing of it stays.
    let rows = store.count("SELECT max(id) FROM tm_outbox");
    let why = refused(&sandbox, &publish(&["out", "25,00", "--event-type", "PAID"]));
    assert!(why.contains("is not the JSON that the envelope of the manifest needs"), "{why}");
    problem(post(&daemon, "?type=PAID", "25,00"), 422, "is not the JSON that the envelope of the manifest needs");
    problem(post(&daemon, "", "25.00"), 422, "the event has no type");
    problem(post(&daemon, "?type=PAID&delay=400d", "1"), 422, "365 days after the delivery at most");
    assert_eq!(store.count("SELECT max(id) FROM tm_outbox"), rows);
}

/// What leaves one daemon by HTTP is in the outbox of another once, with its id, though it is sent again.
#[test]
fn s1_3_an_event_goes_from_one_daemon_to_the_outbox_of_another() {
    let (there, receiver) = hostile(&format!("{NOBODY}{OPEN}"));
    let destination = format!(
        "[[destination]]\ntopic = \"hostile-out\"\ntype = \"http\"\nurl = \"{}/events/hostile/out\"\n[outbox]\nkeep = \"1h\"\n",
        receiver.url()
    );
    let (here, sender) = hostile(&format!("{NOBODY}{OPEN}{destination}"));
    let said = "?key=%EC%97%B4%EC%87%A0&type=SAID&version=2";
    let ids = [event_id(&post(&sender, said, "1")), event_id(&post(&sender, said, "2"))];
    let (from, to) = (Store::open(&here, "hostile"), Store::open(&there, "hostile"));
    from.until("SELECT count(*) FROM tm_outbox WHERE status = 'published'", 2);
    let again = receiver.call("POST", "/events/hostile/out").header("event-type", "SAID").header("event-version", "2");
    let again = again.header("event-key-bin", "7Je07Ieg").header("Idempotency-Key", &ids[0]);
    assert_eq!(event_id(&again.header("event-id", &ids[0]).body("1").send().expect_status(202)), ids[0]);
    let rows = "SELECT event_id, partition_key, event_type, payload, headers FROM tm_outbox ORDER BY id";
    assert_eq!(to.lines(rows), from.lines(rows));
    assert_eq!(to.lines("SELECT event_id FROM tm_outbox ORDER BY id"), ids);
}

#[test]
fn s1_3_what_cannot_be_published_is_said_and_nothing_is_kept() {
    let sandbox = Sandbox::with(&["hostile", "order"]);
    let open = "[handler.hostile.events]\ndestinations = [\"out\"]\n";
    let limits = "[handler.hostile.limits]\nevent-bytes = \"1KiB\"\n[http]\nbody-limit = \"2KiB\"\n";
    let settings = format!("{NOBODY}{open}{limits}[handler.hostile.publish]\nclosed = \"closed\"\n");
    sandbox.write_toml(&settings);
    let asked = || refused(&sandbox, &publish(&["out", "{}"]));
    assert!(asked().contains("no daemon runs on the data folder"));
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");

    let large = "x".repeat(1_500);
    for (arguments, says) in [
        (&["publish", "--handler", "nobody", "out", "{}"][..], "there is no handler nobody, and there never was"),
        (&["publish", "--handler", "hostile", "nowhere", "{}"], "handler hostile names no destination `nowhere`"),
        // Another handler's.
        (&["publish", "--handler", "hostile", "order-events", "{}"], "names no destination `order-events`"),
        (&["publish", "--handler", "hostile", "out", &large], "limits.event-bytes"),
        (&["publish", "--handler", "hostile", "out", "{}", "--event-id", " "], "an event id has 1 to 1024 bytes"),
        (&["publish", "--handler", "hostile", "out", "{}", "--delay", "30"], "\"30\" is not a duration"),
        (&["publish", "--handler", "hostile", "out", "{}", "--at", "noon"], "\"noon\" is none"),
        (&["publish", "--handler", "hostile", "out", "-", "--event-id", "e"], "leave --event-id out"),
    ] {
        let why = refused(&sandbox, arguments);
        assert!(why.contains(says), "{arguments:?}: {why}");
    }
    for wrong in
        [&["publish", "out", "{}"][..], &publish(&["out", "{}", "--delay", "1s", "--at", "2027-01-01T00:00:00Z"])]
    {
        assert_eq!(sandbox.tidemill(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let refusals = sandbox.audit().iter().filter(|line| line["action"] == "publish" && line["ok"] == false).count();
    assert_eq!(refusals, 5, "each that was understood");

    let user = token(&sandbox, "7");
    let send = |path: &str, body: &str| daemon.call("POST", path).token(&user).body(body).send();
    problem(daemon.call("POST", "/events/hostile/out").body("{}").send(), 401, "token");
    problem(send("/events/hostile/nowhere", "{}"), 404, "there is no destination `nowhere` here; there is out");
    problem(send("/events/hostile/closed", "{}"), 404, "there is no destination `closed` here");
    problem(send("/events/order/order-events", "{}"), 404, "no handler has a route");
    problem(send("/events/hostile/out?typ=A", "{}"), 400, "`typ` is not known in the query");
    problem(send("/events/hostile/out", &large), 413, "limits.event-bytes");
    problem(send("/events/hostile/out", &large.repeat(2)), 413, "http.body-limit");
    let get = daemon.get("/events/hostile/out", &user);
    assert_eq!(get.header("allow"), Some("POST"));
    problem(get, 405, "POST");
    let batch = |body: Value| sandbox.admin("POST", "handlers/hostile/events").body(&body.to_string()).send();
    problem(batch(json!({ "events": [] })), 422, "from 1 to 1000 events");
    problem(batch(json!({ "events": [{ "destination": "out" }] })), 400, "missing field `value`");
    let two = json!([{ "destination": "out", "value": "1" }, { "destination": "nowhere", "value": "2" }]);
    problem(batch(json!({ "events": two })), 404, "event 2 of 2: [publish] of handler hostile names no destination");
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 0);
    send("/events/hostile/out", "{}").expect_status(202);
    assert_eq!(store.count(WAITING), 1);

    works(&sandbox, &["undeploy", "hostile"]);
    assert!(asked().contains("handler hostile does not run"));
    problem(send("/events/hostile/out", "{}"), 404, "no handler has a route");
    daemon.terminate();
    // What is opened must be there.
    sandbox.deploy("hostile");
    sandbox.write_toml(&settings.replace("[\"out\"]", "[\"out\", \"owt\"]"));
    let why = String::from_utf8(sandbox.tidemill(&["check"]).stderr).unwrap();
    assert!(why.contains("`events.destinations` opens `owt`") && why.contains("it names `closed`, `out`"), "{why}");
}

#[test]
fn s1_3_a_full_outbox_takes_no_manual_event_until_kafka_takes_some() {
    let full = "[outbox]\nmax-rows = 3\n";
    let (sandbox, mut daemon) = hostile(&format!("{NOBODY}{OPEN}{full}"));
    (0..3).for_each(|_| drop(post(&daemon, "", "{}").expect_status(202)));
    let reply = post(&daemon, "", "{}");
    assert_eq!(reply.header("retry-after"), Some("5"));
    problem(reply, 503, "outbox.max-rows");
    assert!(refused(&sandbox, &publish(&["out", "{}"])).contains("outbox.max-rows"));
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(store.count(WAITING), 3);
    daemon.terminate();
    sandbox.write_toml(&format!("{OPEN}{full}"));
    let daemon = Daemon::start(&sandbox);
    eventually(LONG, "events are taken again", || post(&daemon, "", "{}").status == 202);
    store.until(WAITING, 0);
    assert_eq!(daemon.client().consume_all("hostile-out").len(), 4);
}

#[test]
fn s1_3_automatic_and_manual_events_keep_the_order_of_their_commits() {
    const EACH: usize = 100;
    let topic = "[[topic]]\nname = \"hostile-out\"\npartitions = 1\n[outbox]\nkeep = \"1h\"\n";
    let (sandbox, daemon) = hostile(&format!("{OPEN}{topic}"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..EACH {
                let command = json!({ "do": "publish", "id": format!("automatic {n}") }).to_string();
                daemon.call("POST", "/hostile").body(&command).send().expect_status(200);
            }
        });
        scope.spawn(|| {
            for _ in 0..EACH {
                post(&daemon, "?key=k", "{}").expect_status(202);
            }
        });
        let lines: Vec<String> = (0..EACH).map(|n| n.to_string()).collect();
        let out = publish_lines(&sandbox, &["--key", "k"], &lines);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    });
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_outbox WHERE status = 'published'", 3 * EACH as i64);
    let events = daemon.client().consume_all("hostile-out");
    let ids: Vec<String> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    assert_eq!(ids, store.lines("SELECT event_id FROM tm_outbox ORDER BY id"));
    // Each of the three is in its own order too, and they are not three blocks.
    let lines: Vec<String> =
        events.iter().map(|event| event.text()).filter(|text| text.parse::<u8>().is_ok()).collect();
    assert_eq!(lines, (0..EACH).map(|n| n.to_string()).collect::<Vec<_>>());
    let kinds = store.lines("SELECT substr(source, 1, 8) FROM tm_outbox ORDER BY id");
    assert!(kinds.windows(2).filter(|pair| pair[0] != pair[1]).count() > 3, "{kinds:?}");
}

#[test]
fn s1_3_a_thousand_lines_are_a_thousand_events_in_their_order_and_a_few_commits() {
    const LINES: usize = 1_000;
    let (sandbox, _daemon) = hostile(&format!("{NOBODY}{OPEN}"));
    let values: Vec<String> = (0..LINES).map(|n| format!("line {n}")).collect();
    let out = publish_lines(&sandbox, &[], &values);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(store.lines("SELECT payload FROM tm_outbox ORDER BY id"), values);
    let printed: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(printed, store.lines("SELECT topic || ' ' || event_id FROM tm_outbox ORDER BY id"));
    let acts: Vec<Value> = sandbox.audit().into_iter().filter(|line| line["action"] == "publish").collect();
    let events: usize = acts.iter().map(|act| act["detail"].as_str().unwrap().split(' ').count()).sum();
    assert!(events == LINES && acts.len() < LINES / 5, "{} acts of {events} events", acts.len());
}

#[test]
fn s1_3_lines_are_published_up_to_the_batch_that_is_refused_and_no_further() {
    let settings = format!("{NOBODY}[handler.hostile]\nenvelope = \"payload\"\n");
    let (sandbox, _daemon) = hostile(&settings);
    let mut values: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    values[250] = "25,00".into();
    let out = publish_lines(&sandbox, &["--event-type", "PAID"], &values);
    let why = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), why.lines().count()), (Some(1), 1), "{why}");
    assert!(why.starts_with("error: lines ") && why.contains("is not the JSON that the envelope"), "{why}");
    let store = Store::open(&sandbox, "hostile");
    let printed = String::from_utf8(out.stdout).unwrap().lines().count();
    assert!(why.contains(&format!("lines {} to ", printed + 1)), "{printed} were published: {why}");
    let kept = store.lines("SELECT payload ->> 'payload' FROM tm_outbox ORDER BY id");
    assert!(kept == values[..printed] && printed <= 250, "{kept:?}");
}
