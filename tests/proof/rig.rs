//! What most proofs share: the hostile handler on topics of its own on Apache Kafka, and what must be true at the end.
//!
//! Every record writes one row and publishes one event, so whatever was lost, doubled or put out of order shows.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::json;
use tidemill_tests::sandbox::repository;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Rec, Sandbox, Store, eventually};

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 6;
/// Keys that records are spread over.
pub(crate) const KEYS: u64 = 50;

/// The hostile handler on topics of its own.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    pub(crate) bootstrap: String,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) group: String,
}

impl Rig {
    /// On this cluster, with the handler deployed.
    pub(crate) fn new(kafka: &Kafka) -> Self {
        let rig = Self::bare(kafka);
        rig.sandbox.deploy_bytes("hostile.toml", manifest().as_bytes());
        rig.sandbox.deploy("hostile");
        rig.sandbox.write_toml(&rig.settings(""));
        rig
    }

    /// Topics and a sandbox with nothing in it.
    pub(crate) fn bare(kafka: &Kafka) -> Self {
        let sandbox = Sandbox::new();
        let [input, output, group] = ["in", "out", "group"].map(|name| sandbox.unique(name));
        let client = kafka.client();
        client.create_topic(&input, PARTITIONS);
        client.create_topic(&output, PARTITIONS);
        Self { sandbox, client, bootstrap: kafka.bootstrap().to_owned(), input, output, group }
    }

    /// `tidemill.toml`, with more lines for the handler.
    pub(crate) fn settings(&self, more: &str) -> String {
        format!(
            "[kafka]\nbootstrap = \"{}\"\n\n[handler.hostile]\ngroup = \"{}\"\ntopics = [\"{}\"]\npublish = {{ out = \"{}\" }}\n{more}\n",
            self.bootstrap, self.group, self.input, self.output
        )
    }

    /// The handler's store.
    pub(crate) fn store(&self) -> Store {
        Store::open(&self.sandbox, "hostile")
    }

    /// The record of this number: a row and an event, both by its number, under one of [`KEYS`] keys.
    pub(crate) fn record(n: u64) -> Out {
        // Spread, and the same for the same number.
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Out::new(json!({ "do": "publish", "id": format!("r{n}") }).to_string()).key(format!("k{}", key % KEYS))
    }

    /// Produces the records of these numbers, in order.
    pub(crate) fn produce(&self, numbers: std::ops::Range<u64>) {
        self.client.produce_all(&self.input, numbers.map(Self::record));
    }

    /// Waits until all records up to this number are done, the outbox is empty, and Kafka knows the offsets; then
    /// holds everything up to what must be true of records 0 to `total`.
    pub(crate) fn settle(&self, total: u64) {
        let store = self.store();
        let mut last = (-1, std::time::Instant::now());
        // The deadline is for standing still, not for the whole of a long run.
        loop {
            let count = store.count("SELECT count(*) FROM seen WHERE topic IS NOT NULL");
            if count >= total as i64 {
                break;
            }
            if count != last.0 {
                last = (count, std::time::Instant::now());
            }
            assert!(last.1.elapsed() < LONG, "{count} of {total} records are done, and no more come");
            crate::dice::pass(std::time::Duration::from_millis(50));
        }
        store.until("SELECT count(*) FROM tm_outbox", 0);
        self.offsets_agree(&store, total);
        self.check(&store, total);
    }

    /// Kafka's committed offset is the store's, and both are the end of the topic.
    fn offsets_agree(&self, store: &Store, total: u64) {
        let offsets = || -> BTreeMap<i32, i64> {
            let sql = "SELECT partition, next_offset FROM tm_offset WHERE topic = '{}'".replace("{}", &self.input);
            let lines = store.lines(&sql);
            lines
                .iter()
                .map(|l| l.split_once('|').unwrap())
                .map(|(p, o)| (p.parse().unwrap(), o.parse().unwrap()))
                .collect()
        };
        assert_eq!(offsets().len(), PARTITIONS as usize, "{:?}", offsets());
        assert_eq!(offsets().values().sum::<i64>(), total as i64, "next offsets {:?}", offsets());
        let id = store.line("SELECT value FROM tm_meta WHERE key = 'store-id'");
        for (partition, next) in offsets() {
            let what = format!("Kafka's committed offset of partition {partition} is the store's, {next}");
            let mut seen = None;
            eventually(LONG / 3, &what, || {
                seen = self.client.committed(&self.group, &self.input, partition);
                seen == Some((next, format!("tidemill:{id}")))
            });
        }
    }

    fn check(&self, store: &Store, total: u64) {
        let rows = store.lines("SELECT id FROM seen WHERE topic IS NOT NULL");
        once_each(&rows, (0..total).map(|n| format!("r{n}")));
        for table in ["tm_pending", "tm_fallback"] {
            assert_eq!(store.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
        let mut events = self.client.consume_all(&self.output);
        // Those of requests have no key, and so no order.
        events.retain(|event| event.key.is_some());
        let ids = in_order_for_each_key(&events);
        once_each(&ids, (0..total).map(|n| format!("r{n}")));
        println!("{total} records; {} events for {} ids", events.len(), ids.len());
    }

    /// Runs the daemon.
    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(&self.sandbox)
    }
}

/// The hostile handler's manifest, but without an inbox: nothing but offsets keeps a record from being applied twice.
pub(crate) fn manifest() -> String {
    let text = std::fs::read_to_string(repository().join("tests/guests/hostile/handler.toml")).unwrap();
    let without = text.replace("event-id = \"offset\"\n", "");
    assert_ne!(without, text);
    without
}

/// Fails unless `found` has each of `expected` once and nothing else.
pub(crate) fn once_each(found: &[String], expected: impl Iterator<Item = String>) {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for id in found {
        *counts.entry(id.as_str()).or_default() += 1;
    }
    let doubled: Vec<_> = counts.iter().filter(|(_, n)| **n > 1).take(10).collect();
    assert!(doubled.is_empty(), "applied more than once: {doubled:?}");
    let expected: HashSet<String> = expected.collect();
    let lost: Vec<_> = expected.iter().filter(|id| !counts.contains_key(id.as_str())).take(10).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let strange: Vec<_> = counts.keys().filter(|id| !expected.contains(**id)).take(10).collect();
    assert!(strange.is_empty(), "nobody asked for: {strange:?}");
}

/// The records' ids in the events, each event id once; fails when the first appearances of one key's are out of order.
pub(crate) fn in_order_for_each_key(events: &[Rec]) -> Vec<String> {
    let mut ids = Vec::new();
    let mut known: HashMap<String, String> = HashMap::new();
    let mut last: HashMap<String, u64> = HashMap::new();
    for event in events {
        let value = event.json();
        let id = value["id"].as_str().unwrap().to_owned();
        let event_id = event.header_text("event-id").expect("an event id");
        assert_eq!(value["eventId"], json!(event_id));
        if let Some(before) = known.insert(event_id.clone(), id.clone()) {
            assert_eq!(before, id, "event id {event_id} stands for two records");
            continue;
        }
        let number: u64 = id[1..].parse().unwrap();
        let before = last.insert(event.key_text(), number);
        assert!(before.is_none_or(|before| before < number), "key {}: {id} after r{before:?}", event.key_text());
        ids.push(id);
    }
    ids
}
