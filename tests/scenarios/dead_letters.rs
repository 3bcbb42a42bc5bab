//! S0.2, S0.3: how often a record is tried, and the dead letter that it becomes.

use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Rec, SOON, Sandbox, Store, eventually, eventually_some};

use crate::rig::{Hostile, attempts, first_on, manifest, put_beside, told};

fn times(attempts: &[Value]) -> Vec<i64> {
    attempts.iter().map(|attempt| attempt["at"].as_i64().unwrap()).collect()
}

/// A record that never succeeds.
fn failing() -> Out {
    Out::new(r#"{"do":"fail-n","until":99}"#)
}

fn reject(client: &Client, topic: &str, partition: i32) -> (i32, i64) {
    client.produce(topic, &Out::new(r#"{"do":"reject"}"#).partition(partition))
}

#[test]
fn s0_2_a_handler_that_names_no_policy_gets_the_default() {
    let sandbox = Sandbox::with(&["hostile"]);
    let retry = "[retry]\nmax-attempts = 2\nbackoff = { kind = \"fixed\", interval = \"50ms\" }\n";
    put_beside(&sandbox, "hostile.toml", &manifest("hostile", &[(retry, "")]));
    sandbox.write_toml("[defaults.retry]\nmax-attempts = 5\nbackoff = { kind = \"fixed\", interval = \"120ms\" }\n");
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("hostile-in", &failing());
    let dead = first_on(&daemon.client(), "hostile-in.DLT");
    let tried = attempts(&dead);
    assert_eq!(tried.len(), 5, "{tried:?}");
    assert!(times(&tried).windows(2).all(|pair| pair[1] - pair[0] >= 120), "{tried:?}");
}

#[test]
fn s0_2_the_operator_overrides_the_policy_of_one_handler() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(
        "[defaults.retry]\nmax-attempts = 9\n[handler.hostile.retry]\nmax-attempts = 3\nbackoff = { kind = \"fixed\", interval = \"80ms\" }\n",
    );
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce("hostile-in", &failing());
    let tried = attempts(&first_on(&client, "hostile-in.DLT"));
    assert_eq!(tried.iter().map(|a| a["attempt"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(times(&tried).windows(2).all(|pair| pair[1] - pair[0] >= 80), "{tried:?}");
}

#[test]
fn s0_2_a_record_that_recovers_in_time_is_done_and_those_behind_it_have_waited() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.retry]\nmax-attempts = 4\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let slow = Out::new(json!({ "do": "fail-n", "until": 4, "id": "slow" }).to_string());
    client.produce_all("hostile-in", [slow.partition(0), told("behind", "insert").partition(0)]);
    // Another partition waits for nothing.
    client.produce("hostile-in", &told("beside", "insert").partition(1));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 3);
    let order = store.lines("SELECT id, attempt FROM seen WHERE partition = 0 ORDER BY seq");
    assert_eq!(order, ["slow|4", "behind|1"]);
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
    assert!(client.consume_all("hostile-in.DLT").is_empty());
}

#[test]
fn s0_2_a_failing_record_waits_whole_in_the_store_through_a_kill() {
    let sandbox = Sandbox::with(&["hostile"]);
    let retry = "[handler.hostile.retry]\nmax-attempts = 3\nbackoff = { kind = \"fixed\", interval = \"3s\" }\n";
    sandbox.write_toml(retry);
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let record = Out::new(r#"{"do":"fail-n","until":3,"id":"a"}"#).key("k").header("h", "1").null_header("h");
    let (partition, offset) = client.produce("hostile-in", &record);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_pending", 1);
    let row = store.line("SELECT partition, \"offset\", key, value, headers, scope, attempts > 0 FROM tm_pending");
    let value = r#"{"do":"fail-n","until":3,"id":"a"}"#;
    assert!(row.starts_with(&format!("{partition}|{offset}|k|{value}|")), "{row}");
    assert!(row.ends_with("|partition|1"), "{row}");
    let next = format!("SELECT next_offset FROM tm_offset WHERE partition = {partition}");
    assert_eq!(store.count(&next), offset + 1, "the offset has moved past it");
    daemon.kill9();
    let daemon = Daemon::start(&sandbox);
    // The attempts made before count.
    store.until("SELECT attempt FROM seen WHERE id = 'a'", 3);
    assert!(daemon.client().consume_all("hostile-in.DLT").is_empty());
}

#[test]
fn s0_3_a_dead_letter_is_the_record_unchanged_with_the_headers_of_spring_kafka() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let (client, dlt) = (&hostile.client, format!("{}.DLT", hostile.input));
    let daemon = Daemon::start(&hostile.sandbox);
    client.produce(&hostile.input, &Out::new("{}").partition(2));
    let record = Out::new(r#"{"do":"fail-n","until":99}"#)
        .key([0u8, 159, 146, 150])
        .partition(2)
        .timestamp(1_767_322_245_678)
        .header("trace", "one")
        .null_header("trace")
        .header("other", [0u8, 255]);
    let (partition, offset) = client.produce(&hostile.input, &record);
    eventually(LONG, "both dead letters", || client.consume_all(&dlt).len() == 2);
    assert_eq!(client.partitions(&dlt), 3, "as many partitions as the source");
    let found = client.consume_all(&dlt).remove(1);
    assert_eq!((found.partition, partition, offset), (2, 2, 1));
    assert_eq!(found.key.as_deref(), Some(&[0u8, 159, 146, 150][..]));
    assert_eq!(found.text(), r#"{"do":"fail-n","until":99}"#);
    let own: Vec<_> = found.headers.iter().take(3).cloned().collect();
    let expected = [("trace", Some(b"one".to_vec())), ("trace", None), ("other", Some(vec![0, 255]))];
    assert_eq!(own, expected.map(|(name, value)| (name.to_owned(), value)));

    let bytes = |name: &str| found.header(&format!("kafka_dlt-{name}")).unwrap().to_vec();
    let text = |name: &str| String::from_utf8(bytes(name)).unwrap();
    assert_eq!(text("original-topic"), hostile.input);
    assert_eq!(bytes("original-partition"), [0, 0, 0, 2]);
    assert_eq!(bytes("original-offset"), [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bytes("original-timestamp"), 1_767_322_245_678_i64.to_be_bytes());
    assert_eq!(text("original-timestamp-type"), "CreateTime");
    assert_eq!(text("original-consumer-group"), hostile.group);
    assert_eq!(text("exception-fqcn"), "tidemill.DeliveryFailed");
    assert_eq!(text("exception-cause-fqcn"), "tidemill.Retry");
    assert_eq!(text("exception-message"), "attempt 2 fails, 99 will not");
    assert_eq!(attempts(&found).len(), 2);
    assert_eq!(found.headers.len(), 3 + 10, "{:?}", found.headers);
    daemon.says(&["WARN", "given up on after 2 attempts", &dlt]);
}

#[test]
fn s0_3_a_null_value_stays_null() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("hostile-in", &Out::tombstone().key("gone"));
    let dead = first_on(&daemon.client(), "hostile-in.DLT");
    assert_eq!((dead.key_text().as_str(), dead.value), ("gone", None));
}

#[test]
fn s0_3_dead_letters_go_to_the_same_partition_or_to_a_fixed_one() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    for partition in [2, 0, 1] {
        let (_, offset) = reject(&daemon.client(), "hostile-in", partition);
        assert_eq!(offset, 0);
    }
    let places = |daemon: &Daemon, topic: &str| -> Vec<(i32, Vec<u8>)> {
        let letters = daemon.client().consume_all(topic);
        letters.iter().map(|l| (l.partition, l.header("kafka_dlt-original-partition").unwrap().to_vec())).collect()
    };
    let same = [(0, vec![0, 0, 0, 0]), (1, vec![0, 0, 0, 1]), (2, vec![0, 0, 0, 2])];
    eventually(SOON, "each on its partition", || places(&daemon, "hostile-in.DLT") == same);
    daemon.terminate();

    sandbox.write_toml("[handler.hostile.dead-letter]\ntopic = \"dead-{topic}\"\npartition = 0\n");
    let daemon = Daemon::start(&sandbox);
    for partition in [2, 0, 1] {
        reject(&daemon.client(), "hostile-in", partition);
    }
    let fixed = |daemon: &Daemon| places(daemon, "dead-hostile-in");
    eventually(SOON, "all on partition 0", || fixed(&daemon).len() == 3);
    assert!(fixed(&daemon).iter().all(|(partition, _)| *partition == 0));
}

#[test]
fn s1_7_three_retries_a_second_apart_and_then_the_dlt_is_made_as_the_settings_say() {
    let settings = "retry = { max-attempts = 4, backoff = { kind = \"fixed\", interval = \"1s\" } }\n\
                    dead-letter = { topic = \"{topic}-dlt\", partitions = 5, replicas = 1 }\n";
    let hostile = Hostile::new(Kafka::shared(), settings);
    let dlt = format!("{}-dlt", hostile.input);
    let _daemon = Daemon::start(&hostile.sandbox);
    assert_eq!(hostile.client.partitions(&dlt), 0, "it is not made before it is needed");
    hostile.client.produce(&hostile.input, &Out::new(r#"{"do":"fail-n","until":99}"#).partition(1));
    let dead = first_on(&hostile.client, &dlt);
    let tried = attempts(&dead);
    assert_eq!(tried.len(), 4, "the first attempt and three retries: {tried:?}");
    assert!(times(&tried).windows(2).all(|pair| pair[1] - pair[0] >= 1_000), "{tried:?}");
    assert_eq!((hostile.client.partitions(&dlt), dead.partition), (5, 1));

    // Deleted while the daemon runs, it is made once more for the next one.
    hostile.client.delete_topic(&dlt);
    hostile.client.produce(&hostile.input, &told("b", "reject").partition(2));
    let dead = eventually_some(LONG, "the next dead letter", || hostile.client.consume_all(&dlt).into_iter().next());
    assert_eq!((hostile.client.partitions(&dlt), dead.partition), (5, 2));
    assert_eq!(Store::open(&hostile.sandbox, "hostile").count("SELECT count(*) FROM tm_fallback"), 0);
}

#[test]
fn s1_7_a_dead_letter_that_waits_knows_how_its_topic_is_made_even_when_its_handler_is_gone() {
    let kafka = Kafka::start(1);
    let settings = "retry = { max-attempts = 2, backoff = { kind = \"fixed\", interval = \"2s\" } }\n\
                    dead-letter = { partitions = 5 }\n";
    let hostile = Hostile::new(&kafka, settings);
    let mut daemon = Daemon::start(&hostile.sandbox);
    hostile.client.produce(&hostile.input, &told("a", "panic").partition(1));
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_pending", 1);
    kafka.pause();
    store.until("SELECT count(*) FROM tm_outbox WHERE kind = 'dead-letter'", 1);
    daemon.kill9();
    hostile.sandbox.remove("hostile.wasm");
    kafka.unpause();
    let _daemon = Daemon::start(&hostile.sandbox);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let dlt = format!("{}.DLT", hostile.input);
    assert_eq!((hostile.client.partitions(&dlt), hostile.client.consume_all(&dlt).len()), (5, 1));
}

#[test]
fn s1_7_a_topic_of_the_settings_goes_before_what_the_handler_says() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let dlt = format!("{}.DLT", hostile.input);
    let common = "[defaults.dead-letter]\npartitions = 5\n";
    let listed = format!("[[topic]]\nname = \"{dlt}\"\npartitions = 2\n");
    let text = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    hostile.sandbox.write_toml(&format!("{text}{common}{listed}"));
    let _daemon = Daemon::start(&hostile.sandbox);
    hostile.client.produce(&hostile.input, &told("a", "reject").key("k").partition(2));
    first_on(&hostile.client, &dlt);
    assert_eq!(hostile.client.partitions(&dlt), 2);
}

#[test]
fn s0_3_a_rejected_record_goes_at_once() {
    let sandbox = Sandbox::with(&["hostile"]);
    // With a wait that nobody would sit through.
    sandbox
        .write_toml("[handler.hostile.retry]\nmax-attempts = 10\nbackoff = { kind = \"fixed\", interval = \"1h\" }\n");
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("hostile-in", &Out::new(r#"{"do":"reject","message":"no such product"}"#));
    let dead = first_on(&daemon.client(), "hostile-in.DLT");
    assert_eq!(attempts(&dead).len(), 1);
    assert_eq!(dead.header_text("kafka_dlt-exception-message").as_deref(), Some("no such product"));
    assert_eq!(dead.header_text("kafka_dlt-exception-cause-fqcn").as_deref(), Some("tidemill.Reject"));
}

#[test]
fn s2_9_an_event_that_can_never_be_read_is_a_dead_letter_and_those_behind_it_go_on() {
    let sandbox = Sandbox::with(&["notification"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let good = r#"{"eventId":"e1","eventType":"ORDER_PAID","timestamp":"2026-01-02T03:04:05.678Z","orderId":1,"userId":"7","totalAmount":"1.00"}"#;
    let bad = [good.replace("ORDER_PAID", "ORDER_EATEN").replace("e1", "e0"), "not JSON".into(), "{}".into()];
    client.produce_all("order-events", bad.iter().map(|bad| Out::new(bad).partition(1)));
    client.produce("order-events", &Out::new(good).partition(1));
    Store::open(&sandbox, "notification").until("SELECT count(*) FROM notifications", 1);
    eventually(SOON, "three dead letters", || client.consume_all("order-events.DLT").len() == 3);
    let letters = client.consume_all("order-events.DLT");
    assert_eq!(letters.iter().map(Rec::text).collect::<Vec<_>>(), bad);
    let why = letters[0].header_text("kafka_dlt-exception-message").unwrap();
    assert!(why.contains("ORDER_EATEN"), "{why}");
}
