//! S0.4: a consumer of dead letters; what even that cannot do, or no topic takes, is kept in the store.

use serde_json::Value;
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, built, eventually};

use crate::rig::{Hostile, manifest, told};

/// The hostile handler once more, as a consumer of the dead letters of the first.
pub(crate) fn deploy_consumer_of_dead_letters(sandbox: &Sandbox) {
    let routes = manifest("hostile", &[]);
    let routes = &routes[routes.find("[[route]]").unwrap()..];
    let text = manifest(
        "hostile",
        &[
            ("name = \"hostile\"", "name = \"morgue\""),
            ("\"hostile-in\"", "\"hostile-in.DLT\""),
            ("hostile-out", "morgue-out"),
            (routes, ""),
        ],
    );
    sandbox.deploy_bytes("morgue.toml", text.as_bytes());
    sandbox.deploy_bytes("morgue.wasm", &built("hostile"));
}

#[test]
fn s0_4_a_dead_letter_is_consumed_like_any_record() {
    let sandbox = Sandbox::with(&["hostile"]);
    deploy_consumer_of_dead_letters(&sandbox);
    let daemon = Daemon::start(&sandbox);
    // The first handler has no such destination; the second has the topic's name for it.
    daemon.client().produce("hostile-in", &Out::new(r#"{"do":"fail-n","until":1,"id":"fine"}"#));
    let record =
        r#"[{"do":"sql","statements":["INSERT INTO once (id) VALUES ('only once')"],"id":"a"},{"do":"reject"}]"#;
    daemon.client().produce("hostile-in", &Out::new(record));
    let morgue = Store::open(&sandbox, "morgue");
    // It does what the record says, which is to be rejected here as well.
    morgue.until("SELECT count(*) FROM tm_fallback", 1);
    assert_eq!(morgue.count("SELECT count(*) FROM once"), 0);
    assert_eq!(Store::open(&sandbox, "hostile").lines("SELECT id FROM seen"), ["fine"]);
}

#[test]
fn s0_4_there_is_never_a_dlt_of_a_dlt_and_the_fallback_keeps_all_that_replay_needs() {
    let sandbox = Sandbox::with(&["hostile"]);
    deploy_consumer_of_dead_letters(&sandbox);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let record = Out::new(r#"{"do":"panic","id":"a"}"#).key("k").partition(2).header("trace", "one").null_header("x");
    client.produce("hostile-in", &record);
    client.produce("hostile-in.DLT", &Out::new(r#"{"do":"insert","id":"next"}"#).partition(2));
    let morgue = Store::open(&sandbox, "morgue");
    morgue.until("SELECT count(*) FROM tm_fallback", 1);
    morgue.until("SELECT count(*) FROM seen WHERE id = 'next'", 1);

    let row = morgue.line("SELECT kind, handler, key, value, cause FROM tm_fallback");
    assert!(row.starts_with(r#"dead-letter|morgue|k|{"do":"panic","id":"a"}|"#), "{row}");
    assert!(row.contains("dead letter"), "{row}");
    let place = morgue.line("SELECT source FROM tm_fallback");
    assert!(place.starts_with("hostile-in.DLT/2@"), "{place}");
    let headers = morgue.line("SELECT headers FROM tm_fallback");
    for name in ["trace", "kafka_dlt-original-topic", "kafka_dlt-original-offset", "kafka_dlt-exception-message"] {
        assert!(headers.contains(name), "{name} in {headers}");
    }
    assert!(headers.contains("hostile-in.DLT"), "both places are told: {headers}");
    serde_json::from_str::<Value>(&headers).expect("the headers are JSON");
    eventually(SOON, "the outbox is empty", || morgue.count("SELECT count(*) FROM tm_outbox") == 0);
    assert_eq!(client.partitions("hostile-in.DLT.DLT"), 0);
    daemon.says(&["WARN", "kept in tm_fallback", "dead letter already"]);
}

#[test]
fn s0_4_a_dead_letter_that_its_topic_refuses_is_kept_and_the_others_go_on() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let (client, dlt) = (&hostile.client, format!("{}.DLT", hostile.input));
    client.create_topic_with(&dlt, 3, &[("max.message.bytes", "3000")]);
    let daemon = Daemon::start(&hostile.sandbox);
    // With its headers it is larger than the dead letter topic takes, but not larger than its own topic did.
    let large = format!(r#"{{"do":"reject","id":"{}"}}"#, "x".repeat(10_000));
    let records = [told("small", "reject"), Out::new(&large).key("k"), told("after", "reject")];
    client.produce_all(&hostile.input, records.map(|record| record.partition(1)));
    let store = Store::open(&hostile.sandbox, "hostile");
    eventually(LONG, "two dead letters", || client.consume_all(&dlt).len() == 2);
    store.until("SELECT count(*) FROM tm_fallback", 1);
    let row = store.line("SELECT kind, topic, partition, key, value FROM tm_fallback");
    assert_eq!(row, format!("dead-letter|{dlt}|1|k|{large}"));
    let cause = store.line("SELECT cause FROM tm_fallback");
    assert!(cause.to_lowercase().contains("size"), "{cause}");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    daemon.says(&["ERROR", &dlt, "kept in tm_fallback"]);
}

#[test]
fn s0_4_a_dead_letter_topic_that_a_policy_forbids_ends_in_the_fallback() {
    // Kafka itself makes no more than 10,000 partitions at once.
    let hostile = Hostile::new(Kafka::shared(), "dead-letter = { partitions = 20000 }\n");
    let daemon = Daemon::start(&hostile.sandbox);
    hostile.send(&serde_json::json!({ "do": "reject", "id": "a" }));
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 1);
    let cause = store.line("SELECT cause FROM tm_fallback");
    assert!(cause.contains("refuses to create topic") && cause.contains("partitions"), "{cause}");
    daemon.says(&["ERROR", "a dead letter cannot be published", "kept in tm_fallback"]);
}

#[test]
fn s0_4_a_dead_letter_topic_that_the_daemon_may_not_write_or_create_ends_in_the_fallback() {
    let kafka = Kafka::start_with(1, |command| {
        let authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer";
        command.env("KAFKA_EXTRA", format!("{authorizer}\nallow.everyone.if.no.acl.found=true"));
    });
    let hostile = Hostile::new(&kafka, "");
    let there = hostile.sandbox.unique("there");
    hostile.client.create_topic(&format!("{there}.DLT"), 3);
    hostile.client.create_topic(&there, 3);
    let text = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    let topics = format!("topics = [\"{}\", \"{there}\"]", hostile.input);
    hostile.sandbox.write_toml(&text.replace(&format!("topics = [\"{}\"]", hostile.input), &topics));
    let [may_not_write, may_not_create] = [&there, &hostile.input].map(|topic| format!("{topic}.DLT"));
    let topics = ["--topic", &may_not_write, "--topic", &may_not_create];
    let rules: [(&str, &[&str], &[&str]); 4] = [
        ("--allow-principal", &["All"], &["--cluster"]),
        ("--deny-principal", &["Create"], &["--cluster"]),
        ("--allow-principal", &["Describe"], &topics),
        ("--deny-principal", &["Write", "Create"], &topics),
    ];
    for (kind, operations, resources) in rules {
        let operations = operations.iter().flat_map(|operation| ["--operation", operation]);
        let rule: Vec<&str> = ["--force", "--add", kind, "User:ANONYMOUS"].into_iter().chain(operations).collect();
        kafka.tool("acls", &[&rule, resources].concat());
    }
    let daemon = Daemon::start(&hostile.sandbox);
    let record = Out::new(r#"{"do":"reject","id":"a"}"#).key("k").partition(2).header("trace", "one").null_header("x");
    for topic in [&there, &hostile.input] {
        let (_, offset) = hostile.client.produce(topic, &record);
        assert_eq!(offset, 0);
    }
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 2);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    for topic in [&there, &hostile.input] {
        let dlt = format!("{topic}.DLT");
        let row = format!(
            "SELECT kind, handler, partition, key, value, headers, source, cause FROM tm_fallback WHERE topic = '{dlt}'"
        );
        let row = store.line(&row);
        assert!(
            row.starts_with(r#"dead-letter|hostile|2|k|{"do":"reject","id":"a"}|[["trace","one"],["x",null],"#),
            "{row}"
        );
        assert!(row.contains(&format!(r#"["kafka_dlt-original-topic","{topic}"]"#)), "{row}");
        assert!(row.contains(&format!("|{topic}/2@0")), "{row}");
    }
    let cause = |dlt: &str| store.line(&format!("SELECT cause FROM tm_fallback WHERE topic = '{dlt}'"));
    assert!(cause(&may_not_write).contains("TopicAuthorizationFailed"), "{}", cause(&may_not_write));
    assert!(cause(&may_not_create).contains("not authorised to create"), "{}", cause(&may_not_create));
    // The records behind go on.
    hostile.client.produce(&there, &told("after", "insert").partition(2));
    store.until("SELECT count(*) FROM seen WHERE id = 'after'", 1);
    daemon.says(&["ERROR", "kept in tm_fallback"]);
}

#[test]
fn s0_4_a_record_of_springs_older_headers_is_known_as_a_dead_letter_too() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    // As its retry topics write them.
    let letter = Out::new(r#"{"do":"reject","id":"a"}"#).header("kafka_original-topic", "orders");
    daemon.client().produce("hostile-in", &letter);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 1);
    assert!(daemon.client().consume_all("hostile-in.DLT").is_empty());
}

#[test]
fn s0_4_a_dead_letter_topic_that_cannot_be_made_ends_in_the_fallback() {
    // With the source's name before it, it is longer than a topic's name may be.
    let ending = ".".repeat(240);
    let more = format!("dead-letter = {{ topic = \"{{topic}}{ending}\", partition = 0 }}\n");
    let hostile = Hostile::new(Kafka::shared(), &more);
    let daemon = Daemon::start(&hostile.sandbox);
    hostile.send(&serde_json::json!({ "do": "reject", "id": "a" }));
    hostile.send(&serde_json::json!({ "do": "insert", "id": "b" }));
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 1);
    store.until("SELECT count(*) FROM seen WHERE id = 'b'", 1);
    let cause = store.line("SELECT cause FROM tm_fallback");
    assert!(cause.contains(&ending), "{cause}");
    daemon.says(&["ERROR", "a dead letter cannot be published", "kept in tm_fallback"]);
}
