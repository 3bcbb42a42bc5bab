//! Who a topic is, and whose a group is: a topic made again under its name, and two hosts that share a group.

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Sandbox, Store, eventually};

use crate::rig::{PARTITIONS, Rig, in_order_for_each_key, once_each};

/// Invariant 2: offsets of a topic that is gone mean nothing on the one that has its name now. The partition stops and
/// says what to do; after `tidemill adopt` every record of the new topic is read, whatever the offsets were.
fn made_again(before: u64, after: u64) {
    let kafka = Kafka::shared();
    let rig = Rig::new(kafka);
    rig.produce(0..before);
    let mut daemon = rig.start();
    rig.settle(before);
    rig.client.delete_topic(&rig.input);
    rig.client.create_topic(&rig.input, PARTITIONS);
    rig.produce(before..before + after);
    let said = daemon.says(&["ERROR", &rig.input, "tidemill adopt"]);
    assert!(said.contains("deleted and made again"), "{said}");
    let store = rig.store();
    // Every partition says so sooner or later, and none is read.
    eventually(LONG, "each partition is stopped", || {
        let log = daemon.log();
        let of = |p: &i32| {
            log.lines().any(|line| {
                line.contains("ERROR") && line.contains(&format!("partition={p}")) && line.contains("tidemill adopt")
            })
        };
        (0..PARTITIONS).all(|p| of(&p))
    });
    assert_eq!(
        store.count("SELECT count(*) FROM seen") as u64,
        before,
        "records of the new topic before anybody said so"
    );
    let running = rig.sandbox.tidemill(&["adopt", "hostile"]);
    assert!(!running.status.success(), "adopt while the daemon runs");
    daemon.terminate();

    let adopted = rig.sandbox.tidemill(&["adopt", "hostile", "--topic", &rig.input]);
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    let mut daemon = rig.start();
    store.until("SELECT count(*) FROM seen", (before + after) as i64);
    let rows = store.lines("SELECT id FROM seen");
    once_each(&rows, (0..before + after).map(|n| format!("r{n}")));
    store.until("SELECT count(*) FROM tm_outbox", 0);
    // Also those at offsets that the old topic had: event ids come from the topic's id, not from its name.
    let events = rig.client.consume_all(&rig.output);
    let ids: std::collections::HashSet<_> = events.iter().map(|event| event.header_text("event-id")).collect();
    assert_eq!(ids.len() as u64, before + after);
    daemon.terminate();
}

#[test]
fn s3_4_a_topic_made_again_with_fewer_records_is_not_read_at_old_offsets() {
    made_again(300, 100);
}

#[test]
fn s3_4_a_topic_made_again_with_more_records_is_not_read_at_old_offsets() {
    made_again(100, 600);
}

/// The same with leaders that have changed often: then librdkafka takes what it hears of the new topic for old, and by itself
/// would neither read from it nor publish to it.
#[test]
fn s3_4_a_topic_made_again_after_many_leaders_is_noticed_by_a_running_daemon() {
    let kafka = Kafka::start(3);
    let rig = Rig::new(&kafka);
    let mut daemon = rig.start();
    let send = json!({ "do": "publish", "id": "request", "send": "now" }).to_string();
    let sends = || daemon.call("POST", "/hostile").body(&send).send().status == 200;
    assert!(sends());
    rig.produce(0..300);
    rig.settle(300);
    for broker in [1, 2, 3, 1, 2, 3] {
        kafka.kill_one(broker);
        kafka.resume_one(broker);
    }
    rig.produce(300..600);
    rig.settle(600);
    let again = |topic: &str| {
        rig.client.delete_topic(topic);
        rig.client.create_topic(topic, PARTITIONS);
    };
    again(&rig.output);
    rig.produce(600..900);
    let store = rig.store();
    store.until("SELECT count(*) FROM seen WHERE topic IS NOT NULL", 900);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    eventually(LONG, "a delivery sends to it", sends);
    let of_the_last = |id: &String| id[1..].parse::<u64>().unwrap() >= 600;
    let mut events = rig.client.consume_all(&rig.output);
    events.retain(|event| event.key.is_some());
    let ids: Vec<String> = in_order_for_each_key(&events).into_iter().filter(of_the_last).collect();
    once_each(&ids, (600..900).map(|n| format!("r{n}")));
    again(&rig.input);
    rig.produce(900..1_000);
    daemon.says(&["ERROR", &rig.input, "deleted and made again", "tidemill adopt"]);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE topic IS NOT NULL"), 900);
    daemon.terminate();
}

/// Invariant 2: two hosts with stores of their own would each apply a part of the records. The second one refuses.
#[test]
fn s3_2_a_second_store_in_the_same_group_is_refused() {
    let rig = Rig::new(Kafka::shared());
    // Not every partition has a record.
    rig.client.produce(&rig.input, &Rig::record(0).partition(0));
    let mut first = rig.start();
    let store = rig.store();
    store.until("SELECT count(*) FROM seen", 1);
    first.says(&["partitions assigned"]);
    let id = store.line("SELECT value FROM tm_meta WHERE key = 'store-id'");
    eventually(tidemill_tests::SOON, "Kafka knows whose every partition is", || {
        (0..PARTITIONS).all(|p| {
            rig.client.committed(&rig.group, &rig.input, p).is_some_and(|(_, by)| by == format!("tidemill:{id}"))
        })
    });

    let second = Sandbox::with(&["hostile"]);
    second.write_toml(&rig.settings("route = [{ method = \"GET\", path = \"/hostile\" }]"));
    let mut other = Daemon::start(&second);
    let said = other.says(&["ERROR", &id, "tidemill adopt"]);
    assert!(said.contains("another store"), "{said}");
    for n in 1..60 {
        rig.client.produce(&rig.input, &Rig::record(n).partition((n % 6) as i32));
    }
    // The partitions that the second one was given wait, until it is gone.
    other.terminate();
    store.until("SELECT count(*) FROM seen", 60);
    once_each(&store.lines("SELECT id FROM seen"), (0..60).map(|n| format!("r{n}")));
    assert_eq!(Store::open(&second, "hostile").count("SELECT count(*) FROM seen"), 0);
    first.terminate();
}
