//! A member of another kind comes into the group and leaves it again, while records flow.

use std::time::Duration;

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Out, eventually};

use crate::dice::{Dice, full, rounds};
use crate::flow::Flow;
use crate::rig::{PARTITIONS, Rig, once_each};

/// Invariants 1 and 2: partitions that go away and come back go on where the store stands.
#[test]
fn s1_10_a_foreign_member_comes_and_goes_and_nothing_is_lost_or_doubled() {
    let mut dice = Dice::new("rebalance");
    let rig = Rig::new(Kafka::shared());
    let mut daemon = rig.start();
    rig.store().until("SELECT count(*) FROM tm_offset", PARTITIONS.into());
    let flow = Flow::start(&rig, 0, u64::MAX, if full() { 400 } else { 100 });
    for _ in 0..rounds(3, 15) {
        let held = rig.client.visit_group(&rig.group, &rig.input, dice.within(Duration::from_millis(700)));
        println!("the foreign member held {held} partitions; {} records sent", flow.sent());
    }
    let total = flow.stop();
    rig.settle(total);
    assert!(daemon.find(&["partitions revoked"]).is_some());
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
}

/// A partition that is paused, since its lane waits for a retry and is full, goes away and comes back: it is read on.
/// (librdkafka keeps a pause across assignments.)
#[test]
fn s1_10_a_paused_partition_that_goes_and_comes_back_is_read_on() {
    const BEHIND: usize = 200;
    let rig = Rig::new(Kafka::shared());
    let more = "[handler.hostile.consumer]\nhigh-mark = 20\n[handler.hostile.retry]\nmax-attempts = 100000\n\
                backoff = { kind = \"fixed\", interval = \"200ms\" }";
    rig.sandbox.write_toml(&rig.settings(more));
    // The first of each partition waits until somebody lets it go.
    let wait = "SELECT json(CASE WHEN EXISTS (SELECT 1 FROM once WHERE id = 'go') THEN '1' ELSE 'wait' END)";
    let mut ids = Vec::new();
    for partition in 0..PARTITIONS {
        let first = format!("first-{partition}");
        let waits = json!({ "do": "sql", "statements": [wait], "id": first });
        let behind = (0..BEHIND).map(|n| format!("behind-{partition}-{n}")).collect::<Vec<_>>();
        let records = behind.iter().map(|id| json!({ "do": "insert", "id": id }));
        let records = std::iter::once(waits).chain(records);
        rig.client.produce_all(&rig.input, records.map(|record| Out::new(record.to_string()).partition(partition)));
        ids.push(first);
        ids.extend(behind);
    }
    let mut daemon = Daemon::start_with(&rig.sandbox, |command| {
        command.env("TIDEMILL_LOG_LEVEL", "info,tidemill::kafka=debug");
    });
    let store = rig.store();
    eventually(LONG, "every partition is paused", || {
        let log = daemon.log();
        let paused = |p: i32| log.contains(&format!("partition={p} pause=true"));
        (0..PARTITIONS).all(paused)
    });
    let held = rig.client.visit_group(&rig.group, &rig.input, Duration::from_millis(300));
    assert!(held > 0);
    let go = r#"{"do":"sql","statements":["INSERT INTO once (id) VALUES ('go')"],"row":false}"#;
    daemon.call("POST", "/hostile").body(go).send().expect_status(200);
    store.until("SELECT count(*) FROM seen", ids.len() as i64);
    once_each(&store.lines("SELECT id FROM seen"), ids.into_iter());
    assert!(daemon.find(&["partitions revoked"]).is_some());
    daemon.terminate();
}
