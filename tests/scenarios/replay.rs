//! A record, or a dead letter, on any version and a copy of the store, without a daemon and with nothing changed.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Out, Sandbox, Service, Store};

use crate::deploying::{deploy, file_that_says, refused, works};
use crate::rig::first_on;

const DLT: &str = "hostile-in.DLT";

/// What Kafka has at this place, in a file.
fn shown(sandbox: &Sandbox, place: &str) -> String {
    let file = sandbox.root().join("record.json");
    fs::write(&file, works(sandbox, &["records", "show", "--json", place])).unwrap();
    file.to_str().unwrap().to_owned()
}

fn replay(sandbox: &Sandbox, file: &str, arguments: &[&str]) -> Value {
    let all = [&["replay", file, "--json"], arguments].concat();
    serde_json::from_str(&works(sandbox, &all)).unwrap()
}

/// All files of the data folder that the daemon's work is in, with their content.
fn content(sandbox: &Sandbox) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for folder in ["stores", "versions"] {
        for file in fs::read_dir(sandbox.data().join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
            // Every reader of a store writes its index of the WAL anew.
            if file.extension().is_none_or(|extension| extension != "db-shm") && file.is_file() {
                all.push((file.clone(), fs::read(file).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_replayed_record_draws_and_publishes_what_it_did_in_the_daemon_and_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[handler.hostile]\nevent-id = \"id\"\n");
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let (client, store) = (daemon.client(), Store::open(&sandbox, "hostile"));
    let command = json!({ "do": "clock", "id": "c" }).to_string();
    let (partition, offset) = client.produce("hostile-in", &Out::new(command).header("id", "one").partition(1));
    let drawn = "SELECT id, attempt, now, system_now, monotonic, random, hash_seed, event_id, next_id, sql_random, sql_now FROM drawn";
    store.until("SELECT count(*) FROM drawn", 1);
    let event = first_on(&client, "hostile-out");
    let file = shown(&sandbox, &format!("hostile-in/{partition}@{offset}"));
    let beside = replay(&sandbox, &file, &["--on", "hostile"]);
    daemon.terminate();
    let before = content(&sandbox);
    let told = replay(&sandbox, &file, &["--on", "hostile@1"]);
    assert_eq!(told, beside);
    assert_eq!(content(&sandbox), before);
    assert_eq!(
        (&told["outcome"], &told["before"], &told["clock"]),
        (&json!("done"), &json!("done"), &json!("when it was done"))
    );
    let statements = told["statements"].as_array().unwrap();
    let insert = statements.iter().find(|s| s["sql"].as_str().unwrap().contains("INTO drawn")).unwrap();
    let params: Vec<String> =
        insert["params"].as_array().unwrap().iter().map(|p| p.as_str().map_or(p.to_string(), str::to_owned)).collect();
    assert_eq!((params.join("|"), &insert["changed"]), (store.line(drawn), &json!(1)));
    let published = &told["events"][0];
    assert_eq!(published["id"].as_str().unwrap(), event.header_text("event-id").unwrap());
    assert_eq!(published["value"].as_str().unwrap(), event.text());
    // A clock that is given moves what was drawn from it, and no random number.
    let later = replay(&sandbox, &file, &["--on", "hostile", "--at", "2030-01-01T00:00:00Z"]);
    assert_eq!((&later["at"], &later["clock"]), (&json!("2030-01-01T00:00:00.000Z"), &json!("as given")));
    assert_ne!(later["statements"], told["statements"]);
    assert_eq!(later["events"], told["events"]);
}

#[test]
fn a_dead_letter_fails_again_as_it_did_and_another_version_is_compared_by_its_effects() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let client = daemon.client();
    let command = json!({ "do": "fail-n", "until": 9, "version": "v1", "id": "x" }).to_string();
    client.produce("hostile-in", &Out::new(command).key("k"));
    let letter = first_on(&client, DLT);
    let file = shown(&sandbox, &format!("{DLT}/{}@{}", letter.partition, letter.offset));
    let told = replay(&sandbox, &file, &["--on", "hostile"]);
    assert_eq!(told["record"]["topic"], json!("hostile-in"));
    assert_eq!((&told["outcome"], &told["attempt"], &told["before"]), (&json!("retry"), &json!(2), &json!("passed")));
    assert_eq!(told["next"], json!(format!("it would become a dead letter in {DLT}")));
    assert_eq!(told["error"].as_str().unwrap(), letter.header_text("kafka_dlt-exception-message").unwrap());
    assert_eq!((&told["clock"], &told["events"]), (&json!("its last attempt's"), &json!([])));
    // It would have been tried again after the first.
    let first = replay(&sandbox, &file, &["--on", "hostile", "--attempt", "1"]);
    assert_eq!(first["next"], json!("it would be tried again after 50 ms"));
    let mended = file_that_says(&sandbox, "v2");
    let mended = mended.to_str().unwrap();
    let both = works(&sandbox, &["replay", &file, "--on", "hostile", "--compare", mended]);
    let changed: Vec<&str> = both.lines().filter(|line| line.starts_with(['+', '-'])).collect();
    assert_eq!(changed.first(), Some(&"--- hostile"), "{both}");
    assert!(changed.iter().any(|line| line.starts_with("-outcome   retry: ")), "{both}");
    assert!(changed.contains(&"+outcome   done"), "{both}");
    let same = works(&sandbox, &["replay", &file, "--on", mended, "--compare", mended]);
    assert!(same.lines().last().unwrap().starts_with("both do the same"), "{same}");
    // Nothing of all that is in the store.
    assert_eq!(Store::open(&sandbox, "hostile").count("SELECT count(*) FROM seen"), 0);
}

#[test]
fn a_replayed_call_leaves_the_process_never_and_is_answered_with_what_was_given() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[handler.hostile.grant]\nhttp = [\"http://127.0.0.1:9\"]\n");
    let daemon = Daemon::start(&sandbox);
    let wasm = file_that_says(&sandbox, "v1");
    deploy(&sandbox, &wasm);
    let url = "http://127.0.0.1:9/pay";
    let command = json!({ "do": "call", "url": url, "body": "b", "id": "c", "row": false });
    let file = sandbox.root().join("record.json");
    // As a person writes it.
    fs::write(&file, json!({ "topic": "hostile-in", "value": command.to_string() }).to_string()).unwrap();
    let file = file.to_str().unwrap();
    let answer = json!({ "method": "POST", "url": url, "then": { "answer": { "status": 200, "body": "paid" } } });
    let told = replay(&sandbox, file, &["--on", wasm.to_str().unwrap(), "--answer", &answer.to_string()]);
    assert_eq!((&told["outcome"], &told["before"]), (&json!("done"), &json!("new")));
    assert_eq!(
        told["calls"],
        json!([{ "method": "POST", "url": url, "body": "b", "answered": { "status": 200, "body": "paid" } }])
    );
    let kept = &told["statements"][0];
    assert_eq!(kept["params"], json!(["c: 200 paid"]), "{told}");
    let without = works(&sandbox, &["replay", file, "--on", "hostile"]);
    assert!(
        without.contains(&format!("no answer is given to POST {url}")) && without.contains("give one with --answer"),
        "{without}"
    );
    assert_eq!(Store::open(&sandbox, "hostile").count("SELECT count(*) FROM once"), 0);
    drop(daemon);
}

#[test]
fn a_dead_letter_is_replayed_with_what_its_service_had_answered() {
    let service = Service::start();
    let sandbox = Sandbox::new();
    let answers = "dead-letter = { answers = true }";
    sandbox.write_toml(&format!("[handler.hostile]\n{answers}\ngrant = {{ http = [\"{}\"] }}\n", service.url()));
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let call = json!({ "do": "call", "url": format!("{}/pay", service.url()), "body": "b", "id": "c", "row": false });
    let command = json!([call, { "do": "reject", "message": "no" }]).to_string();
    daemon.client().produce("hostile-in", &Out::new(command));
    let letter = first_on(&daemon.client(), DLT);
    let file = shown(&sandbox, &format!("{DLT}/{}@{}", letter.partition, letter.offset));
    let told = replay(&sandbox, &file, &["--on", "hostile"]);
    assert_eq!((&told["outcome"], &told["clock"]), (&json!("reject"), &json!("its last attempt's")));
    assert_eq!(told["calls"][0]["answered"], json!({ "status": 200, "body": "b" }), "{told}");
    assert_eq!((&told["unanswered"], service.asked().len()), (&json!([]), 1));
    // The command that followed the call did its statement.
    assert_eq!(told["statements"][0]["params"], json!(["c: 200 b"]));
}

#[test]
fn what_cannot_be_replayed_is_told_in_one_line() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    let wasm = file_that_says(&sandbox, "v1");
    deploy(&sandbox, &wasm);
    let wasm = wasm.to_str().unwrap();
    let file = |name: &str, text: &str| {
        let file = sandbox.root().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let good = file("good.json", r#"{"topic": "hostile-in", "value": "x"}"#);
    let other = file("other.json", r#"{"topic": "other", "value": "x"}"#);
    let letter = r#"{"topic": "hostile-in.DLT", "headers": [["kafka_dlt-original-topic", "hostile-in"]]}"#;
    let letter = file("letter.json", letter);
    let cases: [(&[&str], &str); 11] = [
        (&["replay", "/nowhere/record.json", "--on", wasm], "read /nowhere/record.json"),
        (&["replay", &file("broken.json", "{\"topic\""), "--on", wasm], "broken.json is no record: write {\"topic\""),
        (&["replay", &file("key.json", r#"{"topic": "t", "valeu": 1}"#), "--on", wasm], "unknown field `valeu`"),
        (&["replay", &letter, "--on", wasm], "kafka_dlt-original-partition"),
        (&["replay", &other, "--on", wasm], "does not read topic other: it reads hostile-in"),
        (&["replay", &good, "--on", "stranger"], "there is no file stranger, and no store in"),
        (&["replay", &good, "--on", "hostile@7"], "has no such version: `tidemill versions hostile`"),
        (&["replay", &good, "--on", "hostile@x"], "write a handler's version as hostile@3"),
        (&["replay", &good, "--on", &good], "good.json"),
        (&["replay", &good, "--on", wasm, "--store", &good], "copy the store"),
        (&["replay", &good, "--on", wasm, "--answer", "{}"], "--answer {}"),
    ];
    for (arguments, said) in cases {
        let line = refused(&sandbox, arguments);
        assert!(line.contains(said), "{arguments:?}: {line}");
    }
    for (place, said) in [
        ("hostile-in/0@0", "has no record at offset 0: it has 0 to 0"),
        ("nowhere/0@0", "there is no nowhere/0 at"),
        ("hostile-in/9@0", "there is no hostile-in/9 at"),
    ] {
        let line = refused(&sandbox, &["records", "show", place]);
        assert!(line.contains(said), "{place}: {line}");
    }
    drop(daemon);
}
