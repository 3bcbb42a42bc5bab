//! A daemon at one look: what `tidemill status` shows.
//!
//! It is made of what the page of metrics is made of, at the same places, so that the two never disagree. Counters go on from the start of the
//! process; a rate is for who looks twice.

use std::sync::atomic::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Gatherer, Store, age, disk, meters};
use crate::metrics::ends::Known;
use crate::metrics::health::{Readiness, Stage};
use crate::metrics::meters::{Input, Left};
use crate::metrics::process;
use crate::policy::Outcome;

/// A daemon.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// When this was so, milliseconds since the Unix epoch.
    pub at: i64,
    /// When it was started, milliseconds since the Unix epoch.
    pub started: Option<i64>,
    /// The data folder.
    pub data: String,
    /// Where Kafka is, and whether that has answered of late.
    pub kafka: Kafka,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// Its handlers, by their names.
    pub handlers: Vec<Handler>,
    /// Its stores.
    pub stores: Vec<Stored>,
    /// Room on the disk of the data folder, in bytes.
    pub disk_free: Option<u64>,
    /// The size of that disk, in bytes.
    pub disk_size: Option<u64>,
    /// Files and connections that are open.
    pub files_open: Option<u64>,
    /// How many may be.
    pub files_most: Option<u64>,
}

/// The cluster.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StatusOfKafka")]
pub struct Kafka {
    /// `host:port,host:port`
    pub bootstrap: String,
    /// Whether it is the daemon's own.
    pub embedded: bool,
    /// Whether it has answered the last question; none where nothing was asked.
    pub answers: Option<bool>,
}

/// A handler that runs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StatusOfHandler")]
pub struct Handler {
    /// Its name.
    pub handler: String,
    /// Its consumer group.
    pub group: String,
    /// Its store.
    pub store: String,
    /// The number of the live version.
    pub version: i64,
    /// That one's artifact.
    pub artifact: String,
    /// Whether it reads topics.
    pub reads: bool,
    /// Records that it has left behind since the start of the daemon.
    pub records: u64,
    /// Its deliveries, of all kinds, since then.
    pub deliveries: u64,
    /// Deliveries since then that did not end well.
    pub failed: u64,
    /// Records since then that were given up on.
    pub dead_letters: u64,
    /// Records in Kafka that it has not left behind, where Kafka says where partitions end.
    pub lag: Option<i64>,
    /// Records that wait in the store, if that could be read in time.
    pub pending: Option<u64>,
    /// The age of the oldest record that was read and is not done, in seconds.
    pub oldest: Option<f64>,
    /// What was given up on and lies in the store, for a person to look at.
    pub fallback: Option<u64>,
    /// Whether its circuit is open.
    pub circuit_open: bool,
    /// Whether its version was found wanting, so that another has to take its place.
    pub held: bool,
    /// Pauses in force.
    pub pauses: usize,
}

/// A store.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StatusOfStored")]
pub struct Stored {
    /// Its name.
    pub store: String,
    /// Whether its last commit has not failed.
    pub writable: bool,
    /// Events that wait to be published.
    pub outbox: u64,
    /// Those of them that are delayed, if the store could be read in time.
    pub delayed: Option<u64>,
    /// For how many seconds the oldest that is due has waited.
    pub oldest: Option<f64>,
    /// Whether it takes no more.
    pub outbox_full: bool,
    /// Events that were acknowledged since the start of the daemon.
    pub published: u64,
    /// The size of the database, in bytes.
    pub database: u64,
    /// The size of its log, in bytes.
    pub log: u64,
}

impl Gatherer {
    /// The daemon, as it is now. Waits for the disk and for Kafka, for a bounded time.
    pub fn status(&self, stage: Stage) -> Status {
        let (stores, known) = self.look();
        let now = crate::clock::now();
        let mut handlers: Vec<Handler> = Vec::new();
        for store in &stores {
            handlers.extend(store.meter.handlers().iter().map(|handler| Handler::of(store, handler, &known, now)));
        }
        handlers.sort_by(|a, b| a.handler.cmp(&b.handler));
        let mut stores: Vec<Stored> = stores.iter().map(|store| Stored::of(store, now)).collect();
        stores.sort_by(|a, b| a.store.cmp(&b.store));
        let (disk_free, disk_size) = disk(&self.parts.data).unzip();
        let kafka = &self.parts.kafka;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now,
            started: process::started().map(|started| (started * 1e3) as i64),
            data: self.parts.data.display().to_string(),
            kafka: Kafka { bootstrap: kafka.bootstrap.clone(), embedded: kafka.is_embedded(), answers: known.up },
            readiness: self.readiness(stage, known.up),
            handlers,
            stores,
            disk_free,
            disk_size,
            files_open: process::open_files(),
            files_most: process::most_files(),
        }
    }
}

impl Handler {
    fn of(store: &Store, handler: &meters::Handler, known: &Known, now: i64) -> Self {
        let (name, facts) = (&*handler.name, handler.facts());
        let all = || Input::ALL.into_iter().filter_map(|input| handler.deliveries(input));
        let deliveries: u64 = all().map(|deliveries| deliveries.time.count()).sum();
        let failed = all().flat_map(|all| (1..=Outcome::ALL.len()).map(|ending| all.ended(ending))).sum();
        let lag = |(topic, partition, stored): &(String, i32, crate::ledger::offset::Stored)| {
            let end = known.ends.get(&(topic.clone(), *partition))?;
            Some((end - stored.next_offset).max(0))
        };
        let offsets = store.read.offsets.get(name);
        let pending = store.pending(name);
        let oldest = pending.map(|(_, since)| {
            let lanes = handler.lanes();
            age(lanes.iter().filter_map(|lane| lane.oldest()).chain(since).min(), now)
        });
        let fallback = store.read.fallback.as_ref();
        let (circuit_open, held) = handler.circuit();
        Self {
            handler: name.to_owned(),
            group: facts.group,
            store: store.name.to_string(),
            version: facts.version,
            artifact: facts.artifact,
            reads: facts.reads,
            records: Left::ALL.into_iter().map(|left| handler.has_left(left)).sum(),
            deliveries,
            failed,
            dead_letters: handler.has_left(Left::DeadLetter) + handler.has_left(Left::Fallback),
            lag: offsets.filter(|_| known.up == Some(true)).and_then(|all| all.iter().map(lag).sum()),
            pending: pending.map(|(records, _)| records),
            oldest: oldest.filter(|_| facts.reads),
            fallback: fallback.map(|all| all.iter().find(|row| row.0 == name).map_or(0, |row| row.1)),
            circuit_open,
            held,
            pauses: handler.pauses(),
        }
    }
}

impl Stored {
    fn of(store: &Store, now: i64) -> Self {
        let meter = &store.meter;
        let size = |wanted: &str| store.sizes().find(|(file, _)| *file == wanted).map_or(0, |(_, size)| size);
        let relayed = [&meter.by_kafka, &meter.by_http];
        Self {
            store: store.name.to_string(),
            writable: !meter.unwell.load(Ordering::Relaxed),
            outbox: meter.outbox_rows.load(Ordering::Relaxed),
            delayed: store.read.delayed,
            oldest: store.read.oldest.map(|oldest| age(oldest, now)),
            outbox_full: meter.outbox_full.load(Ordering::Relaxed),
            published: relayed.iter().map(|relayed| relayed.published.load(Ordering::Relaxed)).sum(),
            database: size("db"),
            log: size("wal"),
        }
    }
}
