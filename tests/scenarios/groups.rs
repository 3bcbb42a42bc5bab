//! Several groups on one topic, and what Kafka is told of each.

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Store, eventually};

use crate::rig::{Hostile, services, told};

#[test]
fn s3_1_each_group_sees_every_record_and_one_that_fails_slows_nobody() {
    const RECORDS: i64 = 300;
    let groups = ["payment", "inventory", "notification"];
    let topic: &[&str] = &[];
    let sandbox = services(&groups.map(|group| (group, "order-events", topic)));
    let mut toml = std::fs::read_to_string(sandbox.toml()).unwrap();
    toml = toml.replacen("[[topic]]\nname = \"order-events\"\n", "", 2);
    let settings = |version: &str| {
        let payment = format!("retry = {{ max-attempts = 1000 }}\nsettings = {{ version = \"{version}\" }}");
        format!("{toml}[handler.payment]\n{payment}\n")
    };
    sandbox.write_toml(&settings("broken"));
    sandbox.deploy("order");
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let record = |n: i64| {
        let fail = json!({ "do": "fail-n", "until": 999, "version": "broken", "id": format!("r{n}") });
        Out::new(fail.to_string()).key(format!("k{}", n % 10))
    };
    client.produce_all("order-events", (0..RECORDS).map(record));
    let [payment, inventory, notification] = groups.map(|group| Store::open(&sandbox, group));
    for store in [&inventory, &notification] {
        store.until("SELECT count(*) FROM seen", RECORDS);
    }
    // Every partition of the failing one stands at its first record meanwhile, and the order is not slowed either.
    payment.until("SELECT count(*) FROM tm_pending WHERE attempts > 1", 3);
    assert_eq!(payment.count("SELECT count(*) FROM seen"), 0);
    let user = tidemill_tests::sandbox::token(&sandbox, "7");
    daemon.post("/api/orders", &user, crate::rig::ORDER).expect_status(201);
    daemon.terminate();
    sandbox.write_toml(&settings("mended"));
    let daemon = Daemon::start(&sandbox);
    // What stands on the embedded broker is gone with it; what waited in the store is not.
    payment.until("SELECT count(*) FROM seen", 3);
    daemon.client().produce_all("order-events", (0..RECORDS).map(record));
    payment.until("SELECT count(*) FROM seen", RECORDS + 3);
}

#[test]
fn s4_3_how_often_kafka_is_told_offsets_is_a_setting_and_the_store_is_right_in_any_case() {
    let kafka = Kafka::shared();
    for (interval, soon) in [("0s", true), ("1h", false)] {
        let hostile = Hostile::new(kafka, &format!("consumer = {{ commit-interval = \"{interval}\" }}\n"));
        let mut daemon = Daemon::start(&hostile.sandbox);
        let store = Store::open(&hostile.sandbox, "hostile");
        store.until("SELECT count(*) FROM tm_offset", 3);
        let committed = || hostile.client.committed(&hostile.group, &hostile.input, 0).map(|(offset, _)| offset);
        eventually(SOON, "where it starts is told at once", || committed() == Some(0));
        hostile.client.produce_all(&hostile.input, (0..5).map(|n| told(&format!("r{n}"), "insert").partition(0)));
        store.until("SELECT next_offset FROM tm_offset WHERE partition = 0", 5);
        if soon {
            eventually(SOON, "Kafka is told", || committed() == Some(5));
        } else {
            assert_eq!(committed(), Some(0));
        }
        // An orderly stop tells it in any case.
        daemon.terminate();
        eventually(LONG, "Kafka was told at the end", || committed() == Some(5));
    }
}

#[test]
fn s4_3_who_must_have_an_event_before_it_is_published_is_a_setting() {
    let kafka = Kafka::start(3);
    let hostile = Hostile::new(&kafka, "");
    let topic = hostile.sandbox.unique("all-three");
    hostile.client.create_topic_with(&topic, 1, &[("min.insync.replicas", "3")]);
    let publish = format!("out = \"{}\"", hostile.output);
    let toml = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    let toml = toml.replace(&publish, &format!("{publish}, all-three = \"{topic}\""));
    let copies = hostile.sandbox.unique("copies");
    let made = format!("[[topic]]\nname = \"{copies}\"\npartitions = 2\nreplicas = 3\n");
    hostile.sandbox.write_toml(&format!("{toml}{made}"));
    let mut daemon = Daemon::start(&hostile.sandbox);
    // S2.6: a topic of more than one copy.
    daemon.says(&["INFO", &copies, "topic created"]);
    let described = kafka.tool("topics", &["--describe", "--topic", &copies]);
    assert!(described.contains("PartitionCount: 2") && described.contains("ReplicationFactor: 3"), "{described}");
    let leader = hostile.client.leaders(&topic)[0];
    let missing = (1..=3).find(|broker| *broker != leader as u32).unwrap();
    kafka.kill_one(missing);
    let event = |id: &str, to: &str| json!({ "do": "publish", "id": id, "event_id": id, "destination": to });
    // The cluster keeps one event from the topic, until all have it or the operator wants less; others go on.
    let waits = "SELECT count(*) FROM tm_outbox WHERE event_id LIKE 'waits%'";
    let store = Store::open(&hostile.sandbox, "hostile");
    let mut sent = 0;
    eventually(LONG, "the missing replica is noticed", || {
        sent += 1;
        let (waiting, going) = (format!("waits{sent}"), format!("goes{sent}"));
        hostile.send(&json!([event(&waiting, "all-three"), event(&going, "out")]));
        eventually(LONG, "what came later is published", || {
            let unsent = format!("SELECT count(*) FROM tm_outbox WHERE event_id = '{going}'");
            store.count("SELECT count(*) FROM seen") == sent && store.count(&unsent) == 0
        });
        store.count(waits) > 0
    });
    daemon.terminate();
    assert!(store.count(waits) > 0);
    hostile.sandbox.write_toml(&toml.replace("[kafka]\n", "[kafka]\nacks = 1\n"));
    let daemon = Daemon::start(&hostile.sandbox);
    daemon.says(&["WARN", "kafka.acks is 1"]);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    // Kafka shows it to readers once all have it.
    kafka.resume_one(missing);
    eventually(LONG, "it can be read", || hostile.client.consume_all(&topic).len() as i64 == sent);
}
