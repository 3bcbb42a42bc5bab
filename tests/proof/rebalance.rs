//! A member of another kind comes into the group and leaves it again, while records flow.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tidemill_tests::{Kafka, LONG};

use crate::dice::{Dice, full, rounds};
use crate::flow::Flow;
use crate::rig::Rig;

/// Joins the rig's group, waits until it was given partitions, holds them for a while and leaves. It commits nothing.
fn visit(rig: &Rig, stay: Duration) -> i32 {
    let foreign: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &rig.bootstrap)
        .set("group.id", &rig.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "latest")
        .create()
        .unwrap();
    foreign.subscribe(&[&rig.input]).unwrap();
    let (began, mut since, mut held) = (Instant::now(), None, 0);
    while since.is_none_or(|since: Instant| since.elapsed() < stay) {
        assert!(began.elapsed() < LONG, "the foreign member is given partitions");
        let _ = foreign.poll(Duration::from_millis(20));
        held = foreign.assignment().unwrap().count() as i32;
        if held > 0 {
            since.get_or_insert_with(Instant::now);
        }
    }
    held
}

/// Invariants 1 and 2: partitions that go away and come back go on where the store stands.
#[test]
fn s1_10_a_foreign_member_comes_and_goes_and_nothing_is_lost_or_doubled() {
    let mut dice = Dice::new("rebalance");
    let rig = Rig::new(Kafka::shared());
    let mut daemon = rig.start();
    rig.store().until("SELECT count(*) FROM tm_offset", crate::rig::PARTITIONS.into());
    let flow = Flow::start(&rig, 0, u64::MAX, if full() { 400 } else { 100 });
    for _ in 0..rounds(3, 15) {
        let held = visit(&rig, dice.within(Duration::from_millis(700)));
        println!("the foreign member held {held} partitions; {} records sent", flow.sent());
    }
    let total = flow.stop();
    rig.settle(total);
    assert!(daemon.find(&["partitions revoked"]).is_some());
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
}
