//! S3.4 and compacted topics: where a group starts, and what it meets there.

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Store, eventually};

use crate::rig::{Hostile, seen, told};

/// The hostile handler, on a topic with settings of its own.
fn on_topic(kafka: &Kafka, partitions: i32, settings: &[(&str, &str)], more: &str) -> Hostile {
    let mut hostile = Hostile::new(kafka, more);
    let topic = hostile.sandbox.unique("topic");
    hostile.client.create_topic_with(&topic, partitions, settings);
    let toml = std::fs::read_to_string(hostile.sandbox.toml()).unwrap().replace(&hostile.input, &topic);
    hostile.sandbox.write_toml(&toml);
    hostile.input = topic;
    hostile
}

#[test]
fn s3_4_a_new_group_starts_at_a_time() {
    let kafka = Kafka::shared();
    // The middle of three times in each of two partitions; the third has only an old record.
    // They are older than Kafka keeps records unless it is told otherwise.
    let hostile = on_topic(kafka, 3, &[("retention.ms", "-1")], "start = \"2026-01-02T00:00:00Z\"\n");
    let day = |day: i64| 1_767_225_600_000 + (day - 1) * 86_400_000;
    let record = |id: &str, partition: i32, at: i64| told(id, "insert").partition(partition).timestamp(at);
    let records = [
        record("a-old", 0, day(1)),
        record("a-on-time", 0, day(2)),
        record("a-late", 0, day(3)),
        record("b-old", 1, day(2) - 1),
        record("b-late", 1, day(2) + 1),
        record("c-old", 2, day(1)),
    ];
    hostile.client.produce_all(&hostile.input, records);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_offset", 3);
    // Whatever comes from now on is read, however old it says that it is.
    hostile.client.produce(&hostile.input, &record("c-new", 2, day(1)));
    store.until("SELECT count(*) FROM seen", 4);
    assert_eq!(seen(&store), ["a-late|1", "a-on-time|1", "b-late|1", "c-new|1"]);
    daemon.terminate();
}

/// A compacted topic keeps the last record of each key: there are gaps between offsets, and null values.
#[test]
fn compacted_topics_are_read_across_their_gaps_and_a_tombstone_has_no_value() {
    let kafka = Kafka::shared();
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "100"),
        // A tombstone stays for as long.
        ("delete.retention.ms", "86400000"),
    ];
    let hostile = on_topic(kafka, 1, &settings, "");
    let record = |id: &str, key: &str| told(id, "insert").key(key);
    let first = (0..40).map(|n| record(&format!("old-{n}"), ["kept", "gone", "other"][n % 3]));
    hostile.client.produce_all(&hostile.input, first);
    let gone = json!({ "do": "insert", "id": "tombstone" }).to_string();
    hostile.client.produce_all(
        &hostile.input,
        [
            record("last-of-kept", "kept"),
            Out::tombstone().key("gone").header("commands", gone),
            record("last-of-other", "other"),
        ],
    );
    // The segment that is written to is never compacted; a later record begins the next one.
    let mut fillers = 0;
    eventually(LONG * 2, "the topic is compacted", || {
        fillers += 1;
        hostile.client.produce(&hostile.input, &record("filler", "filler"));
        hostile.client.consume_all(&hostile.input).iter().all(|record| !record.text().contains("old-"))
    });
    let offsets: Vec<i64> = hostile.client.consume_all(&hostile.input).iter().map(|record| record.offset).collect();
    assert!(offsets.windows(2).any(|pair| pair[1] > pair[0] + 1) || offsets[0] > 0, "no gap in {offsets:?}");

    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let end = 43 + fillers;
    eventually(SOON, "all is read", || {
        store.try_rows(&format!("SELECT 1 FROM tm_offset WHERE next_offset = {end}")).is_ok_and(|rows| !rows.is_empty())
    });
    store.until("SELECT count(*) FROM seen WHERE id IN ('last-of-kept', 'tombstone', 'last-of-other')", 3);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id LIKE 'old-%'"), 0);
    // It goes on behind gaps that the store stands in, too.
    daemon.kill9();
    daemon = Daemon::start(&hostile.sandbox);
    hostile.client.produce(&hostile.input, &record("new", "kept"));
    store.until("SELECT count(*) FROM seen WHERE id = 'new'", 1);
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
    daemon.terminate();
}

/// A partition that is resumed brings nothing for up to a second, so a lane that is full and drains has to wait instead.
#[test]
fn s0_12_a_partition_whose_lane_drains_is_never_paused() {
    const RECORDS: i64 = 20_000;
    let hostile = on_topic(Kafka::shared(), 1, &[], "");
    let toml = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    hostile.sandbox.write_toml(&format!("[log]\nlevel = \"info,tidemill::kafka=debug\"\n{toml}"));
    hostile.client.produce_all(&hostile.input, (0..RECORDS).map(|n| told(&format!("r{n}"), "insert")));
    let daemon = Daemon::start(&hostile.sandbox);
    Store::open(&hostile.sandbox, "hostile").until("SELECT count(*) FROM seen", RECORDS);
    assert_eq!(daemon.log().matches("a partition is paused").count(), 0);
}
