//! The contract: a component built against 0.1.0 keeps running, byte for byte the same file.
//!
//! `fixtures/contract-0.1.0.wasm` is never built again; its source lies beside it. If this turns red, the contract has
//! been changed where it may only grow.

use tidemill_tests::{Daemon, Out, Sandbox, Store, sandbox, token};

use crate::rig::first_on;

fn deploy(sandbox: &Sandbox) {
    let file = sandbox::repository().join("tests/fixtures/contract-0.1.0.wasm");
    sandbox.deploy_bytes("contract.wasm", &std::fs::read(file).unwrap());
}

#[test]
fn contract_0_1_0_a_component_built_against_it_still_takes_records() {
    let sandbox = Sandbox::new();
    deploy(&sandbox);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let record = Out::new("금액").key("k").partition(2).timestamp(1_767_322_245_678);
    let record = record.header("id", "event-1").header("again", "1").null_header("again");
    client.produce("contract-in", &record);
    let store = Store::open(&sandbox, "contract");
    store.until("SELECT count(*) FROM tm_inbox", 1);
    let now = store.line("SELECT text FROM told WHERE what = 'now'").parse::<i64>().unwrap();
    assert!(now > 1_767_322_245_678);
    let told = store.lines("SELECT what, text FROM told WHERE what <> 'now' ORDER BY seq");
    let expected = [
        "topic|contract-in",
        "partition|2",
        "offset|0",
        "timestamp|1767322245678",
        "key|k",
        "value|금액",
        "header|id=event-1",
        "header|again=1",
        "header|again=none",
        "attempt|1",
        "event-id|event-1",
        "random|5",
        "setting|green",
        "no setting|none",
        "settings|colour=green",
        "settings|size=7",
        "changed|1",
        "columns|n,i,r,t,b",
        "kinds|same",
        "error|statement",
        "error|constraint not null",
        "error|denied",
        "error|destination",
        "next-id|used",
    ];
    assert_eq!(told, expected);
    let event = first_on(&client, "contract-out");
    assert_eq!((event.key_text().as_str(), event.text().as_str()), ("k", "금액"));
    let own: Vec<_> = event.headers.iter().take(2).cloned().collect();
    assert_eq!(own, [("x".to_owned(), Some(b"1".to_vec())), ("x".to_owned(), None)]);
    assert_eq!(event.header_text("event-type").as_deref(), Some("CONTRACT"));
    for level in ["ERROR", "WARN", "INFO"] {
        daemon.says(&[level, "contract 0.1.0 was here"]);
    }
}

#[test]
fn contract_0_1_0_every_failure_still_means_the_same() {
    let sandbox = Sandbox::new();
    deploy(&sandbox);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let send = |value: &str, partition: i32| {
        client
            .produce("contract-in", &Out::new(value).partition(partition).header("id", format!("{value}-{partition}")))
    };
    send("reject", 0);
    send("retry", 0);
    send("unavailable", 1);
    let store = Store::open(&sandbox, "contract");
    let dead = first_on(&client, "contract-in.DLT");
    assert_eq!(dead.header_text("kafka_dlt-exception-message").as_deref(), Some("never"));
    store.until("SELECT count(*) FROM told WHERE what = 'attempt' AND text = '2'", 1);
    // Unavailable counts no attempt, however often; then the way is open.
    store.until("SELECT count(*) FROM tm_pending WHERE attempts = 0 AND json_array_length(errors) > 3", 1);
    send("open", 0);
    store.until("SELECT count(*) FROM told WHERE what = 'value' AND text = 'unavailable'", 1);
    store.until("SELECT count(*) FROM tm_pending", 0);
    assert_eq!(client.consume_all("contract-in.DLT").len(), 1);
}

#[test]
fn contract_0_1_0_a_component_built_against_it_still_answers_requests() {
    let sandbox = Sandbox::new();
    deploy(&sandbox);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let write =
        daemon.call("POST", "/contract/a%20b?q=1").token(&user).header("X-Contract", "hello").body("body").send();
    let write = write.expect_status(201);
    assert_eq!(write.text(), "POST|/contract/a%20b|/contract/{name}|name=a b|q=1|hello|body|7");
    assert_eq!(write.header("x-contract"), Some("0.1.0"));
    let read = daemon.call("GET", "/contract/x").send().expect_status(200);
    assert_eq!(read.text(), "GET|/contract/x|/contract/{name}|name=x|none|none||nobody");
    let store = Store::open(&sandbox, "contract");
    assert_eq!(store.count("SELECT count(*) FROM told WHERE what = 'request'"), 1, "a GET wrote nothing");
}

#[test]
fn contract_0_1_0_the_text_has_not_changed_where_it_may_only_grow() {
    let root = sandbox::repository();
    let then = std::fs::read_to_string(root.join("tests/fixtures/contract-0.1.0/handler.wit")).unwrap();
    let now = std::fs::read_to_string(root.join("wit/handler.wit")).unwrap();
    for interface in ["types", "records", "http", "sql", "publisher", "config", "log", "delivery"] {
        assert_eq!(words(&then, interface), words(&now, interface), "interface {interface}");
    }
}

/// An interface without its comments.
fn words(text: &str, interface: &str) -> Vec<String> {
    let start = text.find(&format!("interface {interface} {{")).unwrap_or_else(|| panic!("no interface {interface}"));
    let lines = text[start..].lines().take_while(|line| *line != "}");
    lines.map(|line| line.split("///").next().unwrap().trim().to_owned()).filter(|line| !line.is_empty()).collect()
}
