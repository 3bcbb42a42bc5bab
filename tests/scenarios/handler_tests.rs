//! H6, S2.7: a handler's `.wasm` on a rig does what it does under a daemon.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Out, SOON, Sandbox, Store, eventually, eventually_some, sandbox};

/// `tidemill rig`, as any language would speak to it.
pub(crate) struct Rig {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    news: Vec<Value>,
}

impl Rig {
    pub(crate) fn start(sandbox: &Sandbox, handler: &str, arguments: &[&str]) -> Self {
        let mut command = Self::command(sandbox, handler, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut rig = Self { child, input, output, news: Vec::new() };
        assert_eq!(rig.answer().expect("it begins")["ok"]["handler"], handler);
        rig
    }

    fn command(sandbox: &Sandbox, handler: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(sandbox::program());
        let file = sandbox.handler(&format!("{handler}.wasm"));
        command.arg("rig").arg(file).args(arguments).current_dir(sandbox.root());
        command
    }

    fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).ok()
    }

    /// `None` if it has died.
    pub(crate) fn try_ask(&mut self, command: &Value) -> Option<Value> {
        writeln!(self.input.as_mut().unwrap(), "{command}").ok()?;
        let answer = self.answer()?;
        self.news.push(answer.clone());
        Some(answer)
    }

    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        let answer = self.try_ask(command).unwrap_or_else(|| panic!("it has died of {command}"));
        assert_eq!(answer.get("error"), None, "{command}: {answer}");
        answer["ok"].clone()
    }

    fn error(&mut self, command: &Value) -> String {
        let answer = self.try_ask(command).unwrap();
        answer["error"].as_str().unwrap_or_else(|| panic!("{command} was done: {answer}")).to_owned()
    }

    pub(crate) fn rows(&mut self, sql: &str) -> Vec<String> {
        let answer = self.ask(&json!({ "do": "query", "sql": sql }));
        let text = |cell: &Value| match cell {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let row = |row: &Value| row.as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("|");
        answer["rows"].as_array().unwrap().iter().map(row).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

const SEEN: &str =
    "SELECT id, topic, partition, \"offset\", attempt FROM seen ORDER BY topic, partition, \"offset\", seq";
const DRAWN: &str = "SELECT id, attempt, random, hash_seed, event_id, next_id, sql_random FROM drawn ORDER BY id";
const INBOX: &str = "SELECT event_id FROM tm_inbox ORDER BY 1";
const ONCE: &str = "SELECT id FROM once ORDER BY 1";
const LEDGER: &str =
    "SELECT (SELECT count(*) FROM tm_pending), (SELECT count(*) FROM tm_outbox), group_concat(next_offset)
                      FROM (SELECT next_offset FROM tm_offset ORDER BY partition)";

/// Each with its partition.
fn records() -> Vec<(i32, Value)> {
    vec![
        (0, json!({ "do": "insert", "id": "a" })),
        (0, json!({ "do": "publish", "id": "b", "count": 2 })),
        (0, json!({ "do": "insert", "id": "a" })),
        (0, json!({ "do": "fail-n", "id": "again", "until": 2 })),
        (0, json!([{ "do": "publish", "id": "never" }, { "do": "reject" }])),
        (1, json!({ "do": "fail-n", "id": "no", "until": 99, "undo": [{ "do": "insert", "id": "made good" }] })),
        (0, json!({ "do": "panic", "id": "trap" })),
        (1, json!({ "do": "clock", "id": "c" })),
        (0, json!({ "do": "publish", "id": "b" })),
        (0, json!({ "do": "insert", "id": "last" })),
        (1, json!({ "do": "insert", "id": "last of 1" })),
    ]
}

/// What a dead letter or an event is, but for the time at which an attempt failed.
fn comparable(key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<(String, Option<Vec<u8>>)>) -> String {
    let header = |(name, value): &(String, Option<Vec<u8>>)| {
        let mut value = value.clone().unwrap_or_default();
        if name == "kafka_dlt-exception-stacktrace" {
            let mut errors: Value = serde_json::from_slice(&value).unwrap();
            errors.as_array_mut().unwrap().iter_mut().for_each(|error| error["at"] = Value::Null);
            value = errors.to_string().into_bytes();
        }
        format!("{name}={value:?}")
    };
    let headers: Vec<String> = headers.iter().map(header).collect();
    format!("{:?} {:?} {headers:?}", key.map(String::from_utf8_lossy), value.map(String::from_utf8_lossy))
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Null => None,
        hex => {
            let digits = hex["hex"].as_str().unwrap();
            Some((0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect())
        }
    }
}

fn on_rig(events: &Value, topic: &str) -> Vec<String> {
    let of_topic = events.as_array().unwrap().iter().filter(|event| event["topic"] == topic);
    let mut all: Vec<String> = of_topic
        .map(|event| {
            let pair = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), bytes(&pair[1]));
            let mut headers: Vec<_> = event["headers"].as_array().unwrap().iter().map(pair).collect();
            if event["kind"] == "event" {
                for (name, key) in [("event-id", "id"), ("event-type", "type")] {
                    headers.push((name.to_owned(), bytes(&event[key])));
                }
            }
            comparable(bytes(&event["key"]).as_deref(), bytes(&event["value"]).as_deref(), headers)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn h6_s2_7_a_rig_and_a_daemon_agree_on_rows_events_ids_and_dead_letters() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[[topic]]\nname = \"hostile-in\"\npartitions = 2\n[handler.hostile]\nevent-id = \"/id\"\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    for (n, (partition, commands)) in (0..).zip(records()) {
        let out = Out::new(commands.to_string()).key(format!("k{partition}")).partition(partition);
        client.produce("hostile-in", &out.timestamp(1_700_000_000_000 + n));
    }
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT sum(next_offset) FROM tm_offset WHERE topic = 'hostile-in'", records().len() as i64);
    store.until("SELECT count(*) FROM tm_pending", 0);
    let body = json!({ "do": "insert", "id": "asked" }).to_string();
    daemon.call("POST", "/hostile").header("idempotency-key", "k").body(&body).send().expect_status(200);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let on_daemon = |topic: &str, expected: usize| {
        let found = eventually_some(LONG, &format!("{expected} records are on {topic}"), || {
            let all = client.consume_all(topic);
            (all.len() == expected).then_some(all)
        });
        let mut all: Vec<String> =
            found.into_iter().map(|rec| comparable(rec.key.as_deref(), rec.value.as_deref(), rec.headers)).collect();
        all.sort();
        all
    };

    // The ids are the same where the store's secret and the topic's id are.
    let [secret, topic_id] = ["SELECT value FROM tm_meta WHERE key = 'secret'", "SELECT min(topic_id) FROM tm_offset"];
    let (secret, topic_id) = (store.line(secret), store.line(topic_id));
    let set = ["--set", "event-id=/id", "--seed", &secret, "--topic-id", &topic_id];
    let mut rig = Rig::start(&sandbox, "hostile", &set);
    let mut ended = Vec::new();
    for (n, (partition, commands)) in (0..).zip(records()) {
        let record = json!({
            "do": "record", "topic": "hostile-in", "partition": partition, "key": format!("k{partition}"),
            "value": commands.to_string(), "timestamp": 1_700_000_000_000_i64 + n,
        });
        ended.push(rig.ask(&record)["ended"].as_str().unwrap().to_owned());
        rig.ask(&json!({ "do": "advance", "by": "10s" }));
    }
    let request = json!({
        "do": "request", "method": "POST", "path": "/hostile", "headers": [["idempotency-key", "k"]], "body": body,
    });
    assert_eq!(rig.ask(&request)["status"], 200);
    assert_eq!(
        ended,
        ["done", "done", "duplicate", "retry", "dead-letter", "retry", "retry", "done", "duplicate", "done", "done"]
    );
    for sql in [SEEN, DRAWN, INBOX, ONCE, LEDGER] {
        assert_eq!(rig.rows(sql), store.lines(sql), "{sql}");
    }
    let events = rig.ask(&json!({ "do": "events" }));
    let (out, dead) = (on_rig(&events, "hostile-out"), on_rig(&events, "hostile-in.DLT"));
    assert_eq!((out.len(), dead.len()), (3, 3));
    assert_eq!(out, on_daemon("hostile-out", 3));
    assert_eq!(dead, on_daemon("hostile-in.DLT", 3));
}

#[test]
fn h6_calls_are_answered_by_the_test_and_one_that_is_not_expected_is_told() {
    let sandbox = Sandbox::with(&["hostile"]);
    let url = "http://payments.example/charges";
    let mut rig = Rig::start(&sandbox, "hostile", &["--set", "grant.http=[\"http://payments.example\"]"]);
    let call = json!([{ "do": "call", "id": "c", "url": url, "body": "20000", "row": false }]);
    let record = json!({ "do": "record", "topic": "hostile-in", "value": call.to_string() });
    let answer = |status: u16, body: &str| {
        json!({ "do": "answer", "number": status, "method": "POST", "url": url,
                "then": { "answer": { "status": status, "body": body } } })
    };
    // The first is asked for again, as the manifest has it.
    rig.ask(&answer(503, "later"));
    rig.ask(&answer(200, "paid"));
    assert_eq!(rig.ask(&record)["ended"], "done");
    let news = rig.news.last().unwrap().clone();
    assert_eq!((news["used"].clone(), news["calls"].as_array().unwrap().len()), (json!([503, 200]), 2));
    assert!(news["calls"][1]["headers"].to_string().contains("idempotency-key"), "{news}");
    assert_eq!(rig.rows(ONCE), ["c: 200 paid"]);
    assert_ne!(rig.ask(&record)["ended"], "done");
    assert_eq!(rig.news.last().unwrap()["unexpected"][0]["url"], url);
}

#[test]
fn h6_a_process_that_is_killed_at_any_moment_goes_on_with_its_store_and_its_topics() {
    let sandbox = Sandbox::with(&["hostile"]);
    for moment in ["delivered", "committing", "committed", "acknowledged"] {
        let data = format!("rig-{moment}");
        let mut rig = Rig::start(&sandbox, "hostile", &["--data", &data]);
        rig.ask(&json!({ "do": "kill-at", "moment": moment }));
        let publish = json!({ "do": "publish", "id": moment });
        let record = json!({ "do": "record", "topic": "hostile-in", "value": publish.to_string() });
        assert_eq!(rig.try_ask(&record), None, "{moment}");
        drop(rig);
        let mut rig = Rig::start(&sandbox, "hostile", &["--data", &data]);
        assert_eq!(rig.ask(&json!({ "do": "ended", "topic": "hostile-in" })), json!({ "ended": "done" }));
        let events = rig.ask(&json!({ "do": "events" }));
        // One that Kafka has, and the store does not know of, comes again with its id.
        let times = if moment == "acknowledged" { 2 } else { 1 };
        assert_eq!(events.as_array().unwrap().len(), times, "{moment}");
        assert!(events.as_array().unwrap().iter().all(|event| event["id"] == events[0]["id"]));
        assert_eq!(rig.rows("SELECT count(*) FROM seen"), ["1"], "{moment}");
    }
}

#[test]
fn h6_time_passes_from_one_due_time_to_the_next() {
    let sandbox = Sandbox::with(&["hostile"]);
    let retry = "retry.backoff={ kind = \"fixed\", interval = \"10m\" }";
    let mut rig = Rig::start(&sandbox, "hostile", &["--set", retry, "--set", "retry.max-attempts=3", "--now", "0"]);
    let commands = json!({ "do": "fail-n", "until": 9 });
    let failed = rig.ask(&json!({ "do": "record", "topic": "hostile-in", "value": commands.to_string() }));
    assert_eq!((failed["ended"].clone(), failed["due"].clone()), (json!("retry"), json!(600_000)));
    let delayed = json!({ "do": "publish", "after_ms": 900_000 });
    rig.ask(&json!({ "do": "record", "topic": "hostile-in", "partition": 1, "value": delayed.to_string() }));
    rig.ask(&json!({ "do": "advance", "by": "15m" }));
    let published = |rig: &mut Rig| {
        let events = rig.ask(&json!({ "do": "events" }));
        events.as_array().unwrap().iter().filter(|event| event["published"] == true).count()
    };
    assert_eq!(published(&mut rig), 1, "the delayed event is due");
    let pending = rig.ask(&json!({ "do": "pending" }));
    assert_eq!((pending[0]["attempts"].clone(), pending[0]["due"].clone()), (json!(2), json!(1_200_000)));
    rig.ask(&json!({ "do": "advance", "by": "1h" }));
    let ended = rig.ask(&json!({ "do": "ended", "topic": "hostile-in", "offset": 0 }));
    assert_eq!((ended["ended"].clone(), ended["attempts"].clone()), (json!("dead-letter"), json!(3)));
    let events = rig.ask(&json!({ "do": "events" }));
    let history = events.as_array().unwrap().iter().find(|event| event["kind"] == "dead-letter").unwrap()["headers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pair| pair[0] == "kafka_dlt-exception-stacktrace")
        .unwrap()[1]
        .clone();
    let history: Value = serde_json::from_str(history.as_str().unwrap()).unwrap();
    let at: Vec<i64> = history.as_array().unwrap().iter().map(|error| error["at"].as_i64().unwrap()).collect();
    assert_eq!(at, [0, 600_000, 1_200_000]);
}

#[test]
fn h6_what_cannot_be_done_is_told_and_changes_nothing() {
    let sandbox = Sandbox::with(&["hostile"]);
    let refused = |arguments: &[&str]| {
        let out = Rig::command(&sandbox, "hostile", arguments).stdin(Stdio::null()).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let wrong = refused(&["--set", "retry.max-atempts=2"]);
    assert!(wrong.contains("max-atempts") && wrong.contains("did you mean `max-attempts`"), "{wrong}");
    assert!(refused(&["--set", "retry"]).contains("KEY=VALUE"));
    let mut daemon = Daemon::start(&sandbox);
    eventually(SOON, "the daemon has a store", || sandbox.store_file("hostile").exists());
    daemon.terminate();
    let data = sandbox.data().display().to_string();
    assert!(refused(&["--data", &data]).contains("is a daemon's"));

    let mut rig = Rig::start(&sandbox, "hostile", &[]);
    for (command, said) in [
        (json!({ "do": "nothing" }), "unknown variant"),
        (json!({ "do": "record", "topic": "hostile-in", "vale": "" }), "unknown field `vale`"),
        (json!({ "do": "record", "topic": "elsewhere" }), "does not read topic \"elsewhere\""),
        (json!({ "do": "advance", "by": "soon" }), "`by`"),
        (json!({ "do": "query", "sql": "DELETE FROM seen" }), "readonly"),
        (json!({ "do": "kill-at", "moment": "midnight" }), "there is no moment \"midnight\""),
        (json!({ "do": "prepare", "sql": "INSERT INTO nowhere VALUES (1)" }), "no such table"),
    ] {
        let error = rig.error(&command);
        assert!(error.contains(said), "{command}: {error}");
    }
    assert_eq!(rig.rows(LEDGER), ["0|0|"]);
    let taken = json!({ "do": "record", "topic": "hostile-in", "offset": 5, "value": "{\"do\":\"insert\"}" });
    assert_eq!(rig.ask(&taken)["ended"], "done");
    assert!(rig.error(&taken).contains("the next one is 6"));
}
