//! S0.1, S2.6: topics are the operator's: named by settings, created when missing, left alone when there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tidemill::deploy::manifest::Manifest;
use tidemill_tests::{Daemon, Kafka, LONG, SOON, Sandbox, Store, eventually, sandbox, token};

use crate::rig::{ORDER, first_on, messages};

#[test]
fn s0_1_topic_names_come_from_the_settings() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let overrides = "[handler.order.publish]\norder-events = \"orders-under-test\"\n[handler.notification]\ntopics = [\"orders-under-test\"]\n";
    sandbox.write_toml(overrides);
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    eventually(SOON, "the notification", || messages(&daemon, &user).len() == 1);
    assert_eq!(daemon.client().consume_all("orders-under-test").len(), 1);
    assert_eq!(daemon.client().consume_all("order-events").len(), 0);
    assert_eq!(
        Store::open(&sandbox, "notification").lines("SELECT DISTINCT topic FROM tm_offset"),
        ["orders-under-test"]
    );
    daemon.terminate();

    // The very files, with nothing overridden, use the names of their manifests.
    let plain = Sandbox::with(&["order", "notification"]);
    let daemon = Daemon::start(&plain);
    daemon.post("/api/orders", &token(&plain, "7"), ORDER).expect_status(201);
    first_on(&daemon.client(), "order-events");
    assert_eq!(daemon.client().partitions("orders-under-test"), 0);
}

#[test]
fn s0_1_no_topic_name_is_in_the_code_of_a_handler() {
    let folders = std::fs::read_dir(sandbox::repository().join("handlers")).unwrap();
    let handlers: Vec<(PathBuf, Manifest)> = folders
        .filter_map(|entry| {
            let folder = entry.unwrap().path();
            let text = std::fs::read_to_string(folder.join("handler.toml")).ok()?;
            Some((folder, Manifest::parse(&text, "handler.toml").unwrap()))
        })
        .collect();
    let published = handlers.iter().flat_map(|(_, manifest)| manifest.publish.values().map(|topic| topic.as_str()));
    let read = handlers.iter().flat_map(|(_, manifest)| manifest.topics.iter().flatten().map(String::as_str));
    let topics: BTreeSet<&str> = published.chain(read).collect();
    assert!(handlers.len() > 10 && topics.len() > 10, "{topics:?}");
    for (folder, manifest) in &handlers {
        for file in std::fs::read_dir(folder.join("src")).unwrap().map(|entry| entry.unwrap().path()) {
            if file.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            // A name of its own for where it publishes, which `[publish]` maps to a topic, may be that topic's.
            for topic in topics.iter().filter(|topic| !manifest.publish.contains_key(**topic)) {
                assert!(!code.contains(&format!("\"{topic}\"")), "{}: {topic}", file.display());
            }
        }
    }
}

#[test]
fn s2_6_topics_are_created_with_partitions_and_replicas_and_left_alone_when_there() {
    let kafka = Kafka::shared();
    let sandbox = Sandbox::with(&["order"]);
    let [made, found] = ["made", "found"].map(|name| sandbox.unique(name));
    kafka.client().create_topic_with(&found, 2, &[("retention.ms", "3600000")]);
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[[topic]]\nname = \"{made}\"\npartitions = 5\nreplicas = 1\n\
         [[topic]]\nname = \"{found}\"\npartitions = 7\n[handler.order.publish]\norder-events = \"{made}\"\n",
        kafka.bootstrap()
    ));
    let daemon = Daemon::start(&sandbox);
    daemon.says(&["INFO", &made, "topic created"]);
    daemon.says(&["WARN", &found, "left alone"]);
    let described = kafka.tool("topics", &["--describe", "--topic", &made]);
    assert!(described.contains("PartitionCount: 5"), "{described}");
    assert!(described.contains("ReplicationFactor: 1"), "{described}");
    let described = kafka.tool("topics", &["--describe", "--topic", &found]);
    assert!(described.contains("PartitionCount: 2") && described.contains("retention.ms=3600000"), "{described}");
    // One that was made by hand is used like any other.
    daemon.post("/api/orders", &token(&sandbox, "7"), ORDER).expect_status(201);
    assert_eq!(first_on(&kafka.client(), &made).key_text(), "1");
}

#[test]
fn s2_6_the_embedded_broker_has_the_configured_partitions() {
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml("[[topic]]\nname = \"order-events\"\npartitions = 5\n[[topic]]\nname = \"extra\"\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    eventually(SOON, "both topics", || client.partitions("order-events") == 5 && client.partitions("extra") == 3);
}

#[test]
fn a_topic_that_appears_later_is_read_from_its_first_record() {
    let kafka = Kafka::shared();
    let sandbox = Sandbox::with(&["hostile"]);
    let topic = sandbox.unique("later");
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[handler.hostile]\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\n[handler.hostile.consumer]\nsession-timeout = \"6s\"\n",
        kafka.bootstrap()
    ));
    let daemon = Daemon::start(&sandbox);
    let client = kafka.client();
    client.create_topic(&topic, 3);
    client.produce_all(&topic, (0..10).map(|n| crate::rig::told(&format!("r{n}"), "insert")));
    let store = Store::open(&sandbox, "hostile");
    eventually(LONG * 2, "all records of the new topic", || store.count("SELECT count(*) FROM seen") == 10);
    assert!(!daemon.log().contains("panicked"));
}
