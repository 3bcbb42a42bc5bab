//! Events that go past the outbox: what is lost then, what is doubled, and what is not.

use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Rec, SOON, Sandbox, Store, eventually};

use crate::rig::{Hostile, attempts, first_on, seen};

/// Commands that write a row of this id, and send an event with it as its id.
fn sending(id: &str, how: &str) -> Vec<Value> {
    vec![json!({ "do": "publish", "id": id, "event_id": id, "send": how })]
}

fn produce<'a>(hostile: &Hostile, records: impl IntoIterator<Item = &'a [Value]>) {
    hostile
        .client
        .produce_all(&hostile.input, records.into_iter().map(|commands| Out::new(json!(commands).to_string())));
}

/// The ids of the events on a topic, sorted.
fn ids(events: &[Rec]) -> Vec<String> {
    let mut ids: Vec<_> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    ids.sort();
    ids
}

fn numbered(of: impl IntoIterator<Item = u32>) -> Vec<String> {
    of.into_iter().map(|n| format!("r{n:03}")).collect()
}

#[test]
fn s0_5_each_send_is_published_once_also_where_its_delivery_was_in_a_group() {
    // Groups that a wait for Kafka does not close.
    let settings = "[handler.hostile.retry]\nmax-attempts = 1\n[store]\ngroup-time = \"1s\"";
    let hostile = Hostile::new(Kafka::shared(), settings);
    let sends = |n: &u32| n.is_multiple_of(10);
    let command = |n: u32| match n {
        n if sends(&n) => sending(&format!("r{n:03}"), "now"),
        n if n % 10 == 5 => vec![json!({ "do": "insert-or-rollback", "id": format!("r{n:03}"), "swallow": false })],
        n => vec![json!({ "do": "insert", "id": format!("r{n:03}") })],
    };
    let records: Vec<_> = (0..200).map(command).collect();
    // All waiting when the daemon comes, so that they are in groups.
    produce(&hostile, records.iter().map(Vec::as_slice));
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let kept = |n: &u32| n % 10 != 5;
    store.until("SELECT count(*) FROM seen", (0..200).filter(kept).count() as i64);
    assert_eq!(ids(&hostile.client.consume_all(&hostile.output)), numbered((0..200).filter(sends)));
    let expected: Vec<_> = numbered((0..200).filter(kept)).into_iter().map(|id| format!("{id}|1")).collect();
    assert_eq!(seen(&store), expected);
    let receipts = "SELECT count(*) FROM once WHERE id GLOB 'r??0: sent r??0 to [012]'";
    assert_eq!(store.count(receipts), 20, "{:?}", store.lines("SELECT id FROM once"));
    drop(daemon);
}

#[test]
fn s0_5_what_cannot_be_published_rolls_the_delivery_back() {
    let missing = Hostile::new(Kafka::shared(), "");
    let topic = missing.sandbox.unique("later");
    let settings = std::fs::read_to_string(missing.sandbox.toml()).unwrap();
    let settings = settings.replace(&format!("out = \"{}\"", missing.output), &format!("out = \"{topic}\""));
    missing.sandbox.write_toml(&format!(
        "{settings}\n[handler.hostile.send]\ntimeout = \"700ms\"\n[handler.hostile.circuit]\nwait = \"1s\"\nmax-wait = \"1s\""
    ));
    let daemon = Daemon::start(&missing.sandbox);
    let store = Store::open(&missing.sandbox, "hostile");
    produce(&missing, [&sending("a", "now")[..]]);
    // While its topic is away nothing is counted, and nothing becomes a dead letter.
    let opens = daemon.says(&["the circuit opens"]);
    // Its pause begins when the wait for Kafka has ended.
    assert!(!opens.contains("wait_ms=-"), "{opens}");
    let asked = daemon.call("POST", "/hostile").body(&json!(sending("b", "now")).to_string()).send();
    let problem = asked.expect_status(503).json();
    assert!(problem["detail"].as_str().unwrap().contains("Kafka has not taken what this request sends"), "{problem}");
    daemon.says(&["unavailable: send to", &topic]);
    assert_eq!(store.count("SELECT (SELECT count(*) FROM seen) + (SELECT count(*) FROM once)"), 0);
    assert_eq!(store.line("SELECT attempts FROM tm_pending"), "0");
    missing.client.create_topic(&topic, 1);
    store.until("SELECT count(*) FROM seen WHERE id = 'a'", 1);
    assert_eq!(ids(&missing.client.consume_all(&topic)), ["a"]);

    // What Kafka will never take is the record's own fault.
    let large = json!([{ "do": "publish", "id": "large", "send": "now", "bytes": 1_500_000 }]);
    missing.send(&large);
    let letter = first_on(&missing.client, &format!("{}.DLT", missing.input));
    let failed: Vec<_> =
        attempts(&letter).iter().map(|failed| failed["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(failed, ["retry", "retry"]);
    assert!(attempts(&letter)[0]["message"].as_str().unwrap().contains("Message size too large"), "{letter:?}");
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id = 'large'"), 0);

    // A delivery that fails later has published all the same: that is what the outbox is for.
    let commands = json!([sending("c", "now")[0], { "do": "fail-n", "until": 9 }]);
    missing.send(&commands);
    eventually(LONG, "it was given up on", || missing.client.consume_all(&format!("{}.DLT", missing.input)).len() == 2);
    assert_eq!(ids(&missing.client.consume_all(&topic)), ["a", "c", "c"]);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id = 'c'"), 0);
    let reading = daemon.call("GET", "/hostile?command=%7B%22do%22%3A%22publish%22%2C%22send%22%3A%22now%22%7D").send();
    let problem = reading.expect_status(422).json();
    assert_eq!(problem["detail"], "a request that only reads cannot publish");
}

#[test]
fn s0_5_how_often_a_send_is_tried_is_a_setting() {
    for (tries, status) in [(3, 200), (2, 503)] {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("hostile-out", 1, 1).unwrap();
        let sandbox = Sandbox::with(&["hostile"]);
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[handler.hostile.send]\nmax-attempts = {tries}\n",
            cluster.bootstrap_servers()
        ));
        let daemon = Daemon::start(&sandbox);
        let fails = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
        cluster.request_errors(RDKafkaApiKey::Produce, &[fails, fails]);
        daemon.call("POST", "/hostile").body(&json!(sending("a", "now")).to_string()).send().expect_status(status);
        let published = Client::new(&cluster.bootstrap_servers()).consume_all("hostile-out").len();
        let kept = Store::open(&sandbox, "hostile").count("SELECT count(*) FROM seen");
        let expected = usize::from(status == 200);
        assert_eq!((published, kept), (expected, expected as i64), "{tries} tries");
    }
}

#[test]
fn s0_5_a_send_waits_for_kafka_longer_than_the_delivery_may_run() {
    let kafka = Kafka::start(1);
    let hostile = Hostile::new(&kafka, "[handler.hostile.send]\ntimeout = \"20s\"");
    let daemon = Daemon::start(&hostile.sandbox);
    let post = |id: &str| daemon.call("POST", "/hostile").body(&json!(sending(id, "now")).to_string());
    post("first").send().expect_status(200);
    kafka.pause();
    let begun = Instant::now();
    let asking = post("second");
    let answered = std::thread::spawn(move || asking.send());
    // Four times `limits.time`.
    eventually(SOON, "a second has passed", || begun.elapsed() > Duration::from_secs(1));
    assert!(!answered.is_finished());
    kafka.unpause();
    answered.join().unwrap().expect_status(200);
    assert_eq!(ids(&hostile.client.consume_all(&hostile.output)), ["first", "second"]);
    assert_eq!(seen(&Store::open(&hostile.sandbox, "hostile")), ["first|1", "second|1"]);
}

#[test]
fn s0_5_a_record_that_sends_and_then_fails_is_given_up_on_after_an_outage_too() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let topic = hostile.sandbox.unique("later");
    let settings = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    let settings = settings.replace(&format!("out = \"{}\"", hostile.output), &format!("out = \"{topic}\""));
    let circuit =
        "[handler.hostile]\nsend = { timeout = \"700ms\" }\ncircuit = { wait = \"100ms\", max-wait = \"200ms\" }";
    hostile.sandbox.write_toml(&settings.replace("[handler.hostile]", circuit));
    let daemon = Daemon::start(&hostile.sandbox);
    // On one partition there is nobody beside it to show that the outage is over.
    let panics = json!([sending("panics", "now")[0], { "do": "panic" }]);
    for commands in [panics, json!(sending("behind", "now"))] {
        hostile.client.produce(&hostile.input, &Out::new(commands.to_string()).partition(0));
    }
    daemon.says(&["the circuit opens"]);
    hostile.client.create_topic(&topic, 1);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE id = 'behind'", 1);
    let letter = first_on(&hostile.client, &format!("{}.DLT", hostile.input));
    let failed: Vec<_> =
        attempts(&letter).iter().map(|failed| failed["outcome"].as_str().unwrap().to_owned()).collect();
    let counted: Vec<_> = failed.iter().filter(|outcome| *outcome != "unavailable").collect();
    assert_eq!(counted, ["trap", "trap"], "{failed:?}");
    // What was sent stays sent: once for each attempt.
    assert_eq!(ids(&hostile.client.consume_all(&topic)), ["behind", "panics", "panics"]);
}

#[test]
fn s0_5_a_delivery_that_sends_for_too_long_is_to_blame_itself() {
    let settings = "retry = { max-attempts = 1 }\nsend = { timeout = \"100ms\" }\nlimits = { events = 100000 }\n";
    let hostile = Hostile::new(Kafka::shared(), settings);
    let daemon = Daemon::start(&hostile.sandbox);
    hostile.send(&json!([{ "do": "publish", "id": "flood", "send": "now", "count": 100_000, "key": "k" }]));
    let letter = first_on(&hostile.client, &format!("{}.DLT", hostile.input));
    let last = attempts(&letter).pop().unwrap();
    assert_eq!(last["outcome"], "time-limit", "{last}");
    assert_eq!(seen(&Store::open(&hostile.sandbox, "hostile")), Vec::<String>::new());
    drop(daemon);
}

#[test]
fn s0_6_an_event_is_sent_after_the_commit_and_its_handler_is_told_what_became_of_it() {
    let hostile = Hostile::new(Kafka::shared(), "[handler.hostile.retry]\nmax-attempts = 1");
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let fails = [sending("fails", "async"), vec![json!({ "do": "fail-n", "until": 9 })]].concat();
    let panics = json!({ "do": "publish", "id": "panics", "event_id": "panics", "send": "async", "key": "panic" });
    let records = [sending("a", "async"), fails, vec![panics], sending("b", "async")];
    produce(&hostile, records.iter().map(Vec::as_slice));
    store.until("SELECT count(*) FROM once WHERE id GLOB 'told out [ab]: in partition [012]'", 2);
    daemon.call("POST", "/hostile").body(&json!(sending("c", "async")).to_string()).send().expect_status(200);
    store.until("SELECT count(*) FROM once WHERE id GLOB 'told out [abc]: in partition [012]'", 3);
    // A report that its handler fails on leaves nothing, and is not made again.
    daemon.says(&["trap: ", "told to panic", "it is not told again"]);
    assert_eq!(store.count("SELECT count(*) FROM once"), 3);
    assert_eq!(ids(&hostile.client.consume_all(&hostile.output)), ["a", "b", "c", "panics"]);
    assert_eq!(seen(&store), ["a|1", "b|1", "c|1", "panics|1"]);
}

#[test]
fn s0_6_the_handler_is_told_of_an_event_that_kafka_does_not_take() {
    let hostile = Hostile::new(Kafka::shared(), "[handler.hostile.send]\ntimeout = \"500ms\"");
    let settings = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    hostile
        .sandbox
        .write_toml(&settings.replace(&format!("out = \"{}\"", hostile.output), "out = \"nowhere-to-be-found\""));
    let _daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    produce(&hostile, [&sending("a", "async")[..]]);
    store.until("SELECT count(*) FROM once WHERE id GLOB 'told out a: nowhere-to-be-found: *'", 1);
    // What the delivery did besides stays: nobody waits for the event.
    assert_eq!(seen(&store), ["a|1"]);
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
}

#[test]
fn s0_6_events_that_are_small_enough_go_out_though_their_sum_is_not() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let topic = hostile.sandbox.unique("small");
    hostile.client.create_topic_with(&topic, 1, &[("max.message.bytes", "10000")]);
    let settings = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    hostile.sandbox.write_toml(&settings.replace(&hostile.output, &topic));
    let _daemon = Daemon::start(&hostile.sandbox);
    hostile.send(&json!([{ "do": "publish", "id": "many", "send": "async", "count": 50, "bytes": 2_000 }]));
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM once WHERE id GLOB 'told out *: in partition 0'", 50);
    assert_eq!(hostile.client.consume_all(&topic).len(), 50);
}

/// As documented: the gap between the commit and the send, which the outbox does not have.
#[test]
fn s0_6_a_daemon_that_ends_after_the_commit_loses_what_it_had_not_sent() {
    let hostile = Hostile::new(Kafka::shared(), "");
    produce(&hostile, [&sending("lost", "async")[..]]);
    let mut killed = Daemon::launch(&hostile.sandbox, |command| {
        command.env("TIDEMILL_TEST_KILL_AT", "committed:1");
    });
    eventually(LONG, "it ends at its first commit with a record", || !killed.runs());
    let _daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 1);
    produce(&hostile, [&sending("next", "async")[..]]);
    store.until("SELECT count(*) FROM once WHERE id GLOB 'told out next: *'", 1);
    assert_eq!(ids(&hostile.client.consume_all(&hostile.output)), ["next"]);
    assert_eq!(store.count("SELECT count(*) FROM once"), 1);
}
