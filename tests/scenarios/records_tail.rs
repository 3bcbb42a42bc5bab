//! Records as they stand in Kafka, for people: what is asked for, in words, and nothing that a terminal would follow.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Sandbox, eventually};

use crate::deploying::{file_that_says, refused, works};

/// 2026-01-31T09:30:00Z
const AT: i64 = 1_769_851_800_000;

/// A topic of two partitions with three records on the first one and one on the second.
fn fill(client: &Client, topic: &str) {
    // Its records are older than Kafka would keep them.
    client.create_topic_with(topic, 2, &[("retention.ms", "-1")]);
    let wild = Out::new("a\u{1b}[2J\u{9b}31m\nb").key("k\n1").header("tenant", "a").partition(0).timestamp(AT);
    let event =
        Out::new(r#"{ "amount": 10.50, "big": 100000000000000000001 }"#).key("2").partition(0).timestamp(AT + 1_000);
    let event = event.header("event-id", "e-1").header("event-type", "ORDER_CREATED").header("tenant", "b");
    let cloud = Out::new("x").header("ce_specversion", "1.0").header("ce_id", "c-1").header("ce_type", "T");
    let cloud = cloud.header("ce_source", "/shop").partition(0).timestamp(AT + 2_000);
    let letter = Out::tombstone().key([0xff, 0x00]).partition(1).timestamp(AT + 3_000);
    let letter =
        letter.header("kafka_dlt-original-topic", "in").header("kafka_dlt-original-partition", 4i32.to_be_bytes());
    let letter =
        letter.header("kafka_dlt-original-offset", 41i64.to_be_bytes()).header("kafka_dlt-exception-message", "no");
    let letter = letter.header("kafka_dlt-original-timestamp", AT.to_be_bytes());
    client.produce_all(topic, [wild, event, cloud, letter]);
}

#[test]
fn s0_3_records_are_told_in_lines_as_they_are_asked_for() {
    let (kafka, sandbox) = (Kafka::shared(), Sandbox::new());
    let topic = sandbox.unique("tail");
    fill(&kafka.client(), &topic);
    let tail = |arguments: &[&str]| -> Vec<String> {
        let all = [&["records", "tail", &topic, "--bootstrap", kafka.bootstrap()], arguments].concat();
        let text = works(&sandbox, &all);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        let mut lines: Vec<String> = text.lines().map(|line| line.replace(&topic, "t")).collect();
        // Partitions take turns as they come.
        lines.sort();
        lines
    };
    let lines = [
        r"t/0@0  2026-01-31T09:30:00.000Z  k\n1  a\u001b[2J\u009b31m\nb",
        r#"t/0@1  2026-01-31T09:30:01.000Z  2  [event ORDER_CREATED e-1]  {"amount":10.50,"big":100000000000000000001}"#,
        "t/0@2  2026-01-31T09:30:02.000Z  [cloud event, binary: T c-1 from /shop]  x",
        "t/1@0  2026-01-31T09:30:03.000Z  hex:ff00  [dead letter of in/4@41 in group -: no]  null",
    ];
    assert_eq!(tail(&[]), lines);
    assert_eq!(tail(&["--partition", "1"]), lines[3..]);
    assert_eq!(tail(&["--partition", "0", "--from", "2"]), lines[2..3]);
    assert_eq!(tail(&["--from", "2026-01-31T09:30:02Z"]), lines[2..]);
    assert_eq!(tail(&["--from", "latest"]), [""; 0]);
    assert_eq!(tail(&["--key", "2"]), lines[1..2]);
    assert_eq!(tail(&["--header", "tenant=a"]), lines[..1]);
    assert_eq!(tail(&["--header", "tenant=a", "--header", "event-id=e-1"]), [""; 0]);
    assert_eq!(tail(&["--grep", "10.50"]), lines[1..2]);
    assert_eq!(tail(&["--partition", "0", "--limit", "2"]), lines[..2]);
    let told: Vec<Value> =
        tail(&["--json", "--grep", "31m"]).iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((told.len(), &told[0]["value"]), (1, &json!("a\u{1b}[2J\u{9b}31m\nb")));
    assert_eq!((&told[0]["key"], &told[0]["timestamp"]), (&json!("k\n1"), &json!(AT)));
    // One of them whole.
    let whole = works(&sandbox, &["records", "show", &format!("{topic}/1@0"), "--bootstrap", kafka.bootstrap()]);
    for line in [
        "key     hex:ff00",
        "header  kafka_dlt-original-partition = 4",
        "header  kafka_dlt-original-offset = 41",
        "header  kafka_dlt-original-timestamp = 2026-01-31T09:30:00.000Z",
        "value   null",
    ] {
        assert!(whole.lines().any(|told| told == line), "{line}: {whole}");
    }
    let whole = works(&sandbox, &["records", "show", &format!("{topic}/0@1"), "--bootstrap", kafka.bootstrap()]);
    assert!(whole.contains("{\n  \"amount\": 10.50,\n  \"big\": 100000000000000000001\n}"), "{whole}");
    for (arguments, said) in [
        (&["records", "tail", "no\nwhere", "--bootstrap", kafka.bootstrap()][..], r"there is no topic no\nwhere at"),
        (
            &["records", "tail", &topic, "--partition", "7", "--bootstrap", kafka.bootstrap()],
            "has no partition 7: it has 2",
        ),
    ] {
        let line = refused(&sandbox, arguments);
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn s0_3_what_comes_is_followed_and_is_what_a_replay_reads() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    let wasm = file_that_says(&sandbox, "v1");
    crate::deploying::deploy(&sandbox, &wasm);
    let client = daemon.client();
    client.produce("hostile-in", &Out::new(r#"{"do":"insert","id":"early"}"#).partition(0));
    let mut command = sandbox.command(&["records", "tail", "hostile-in", "--follow", "--json", "--from", "earliest"]);
    let mut follows = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follows.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("early"));
    client.produce("hostile-in", &Out::new(r#"{"do":"insert","id":"late"}"#).partition(1));
    let late = lines.next().unwrap();
    assert!(late.contains("late"), "{late}");
    follows.kill().unwrap();
    follows.wait().unwrap();
    let file = sandbox.root().join("record.json");
    std::fs::write(&file, late).unwrap();
    let told = works(&sandbox, &["replay", file.to_str().unwrap(), "--on", wasm.to_str().unwrap(), "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["outcome"], json!("done"));
    // Who has read enough ends it.
    let pipe = format!("{} records tail hostile-in | head -1", tidemill_tests::sandbox::program().display());
    let mut shell = sandbox.command(&[]);
    let environment: Vec<_> =
        shell.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    shell = std::process::Command::new("bash");
    let out =
        shell.args(["-o", "pipefail", "-c", &pipe]).envs(environment).current_dir(sandbox.root()).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    eventually(LONG, "nothing was committed for its group", || {
        client.committed("tidemill-records", "hostile-in", 0).is_none()
    });
}
