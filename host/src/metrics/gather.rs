//! One scrape: the meters of all parts, and what only the stores, the disk and Kafka know.
//!
//! Stores are read by connections of its own, each bounded in time, so that no store's thread waits and none is held up by a slow one. What
//! cannot be had in time is left out, and said to be. Nothing is changed.

pub mod status;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::ends::{Ends, Known, Place};
use super::health::{self, HandlerState, Liveness, Readiness, Stage, StoreState};
use super::meters::{self, Input, Left, Undone, endings};
use super::page::{Format, Page};
use super::{families, process};
use crate::deploy::Deployer;
use crate::deploy::audit::Action;
use crate::executor::{self, Verb};
use crate::http::routes::Routes;
use crate::kafka::config::Connection as Kafka;
use crate::ledger::offset::{self, Stored};
use crate::ledger::stored::Table;
use crate::ledger::{fallback, outbox, pending};
use crate::relay;
use crate::store::{Connection, Error};
use crate::trace::Tracer;

/// How long one store may be read, and how long all of them.
const READ_WITHIN: Duration = Duration::from_millis(500);
const READ_ALL_WITHIN: Duration = Duration::from_secs(3);
/// How long Kafka's answer is waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What is wrong with a handler that misses its consumer or its routes.
const IDLE: &str = "it is live and does not read or answer; the log says why, and it is tried again";
/// What is wrong with one whose live version was found wanting.
const HELD: &str = "its live version has failed its probation, and waits for another one";

/// The parts of a running daemon.
pub struct Parts {
    /// Knows stores and handlers.
    pub deployer: Arc<Deployer>,
    /// Knows the producer.
    pub relay: relay::Handle,
    /// Know what requests came to.
    pub routes: Arc<Routes>,
    /// The cluster.
    pub kafka: Kafka,
    /// Knows what became of spans.
    pub tracer: Tracer,
    /// The data folder.
    pub data: PathBuf,
    /// How long a store's thread may be at one thing.
    pub stuck_after: Duration,
}

/// Gathers what a daemon tells of itself.
pub struct Gatherer {
    parts: Parts,
    ends: Ends,
    /// The first row of each store's outbox that may wait.
    marks: Mutex<HashMap<Arc<str>, i64>>,
}

/// A store, and what could be read of it.
struct Store {
    name: Arc<str>,
    meter: Arc<meters::Store>,
    path: Arc<Path>,
    read: Read,
}

/// What only the store's file knows, as far as there was time.
#[derive(Default)]
struct Read {
    /// Where the partitions of each handler go on that reads.
    offsets: HashMap<Arc<str>, Vec<(String, i32, Stored)>>,
    pending: Option<Vec<(String, u64, Option<i64>)>>,
    fallback: Option<Vec<(String, u64)>>,
    /// How many rows of the outbox are delayed.
    delayed: Option<u64>,
    /// Since when its oldest row waits, milliseconds since the Unix epoch, if one does.
    oldest: Option<Option<i64>>,
    /// Whether it is all there is.
    whole: bool,
}

impl Gatherer {
    /// For these parts, of which nothing is asked yet.
    pub fn new(parts: Parts) -> Result<Self> {
        let ends = Ends::start(parts.kafka.clone())?;
        Ok(Self { parts, ends, marks: Mutex::default() })
    }

    /// The whole page. Waits for the disk and for Kafka, for a bounded time.
    pub fn page(&self, stage: Stage, format: Format) -> String {
        let mut page = Page::default();
        let (stores, known) = self.look();
        common(&mut page, stage, self.readiness(stage, known.up).ready);
        if let Some(up) = known.up {
            page.count(&families::KAFKA_UP, &[], u64::from(up));
        }
        let now = crate::clock::now();
        for store in &stores {
            put_store(&mut page, store, now);
            for handler in store.meter.handlers() {
                put_handler(&mut page, store, &handler, &known, now);
            }
        }
        for ((topic, partition), end) in &known.ends {
            page.put(&families::END_OFFSET, &[topic, &partition.to_string()], *end as f64);
        }
        let acts = self.parts.deployer.acts();
        for action in Action::ALL {
            for (ok, result) in [(true, "done"), (false, "refused")] {
                let count = acts.get(&(*action, ok)).copied().unwrap_or(0);
                page.count(&families::AUDITED_ACTIONS, &[action.name(), result], count);
            }
        }
        let spans = self.parts.tracer.count();
        for (result, count) in [("exported", spans.exported), ("dropped", spans.dropped), ("failed", spans.failed)] {
            page.count(&families::TRACE_SPANS, &[result], count);
        }
        put_routes(&mut page, &self.parts.routes);
        self.parts.relay.statistics().put(&mut page, "relay");
        if let Some((free, size)) = disk(&self.parts.data) {
            page.count(&families::DATA_FREE, &[], free);
            page.count(&families::DATA_SIZE, &[], size);
        }
        page.write(families::ALL, format)
    }

    /// What the stores and Kafka know.
    fn look(&self) -> (Vec<Store>, Known) {
        let until = Instant::now() + READ_ALL_WITHIN;
        let listed = self.parts.deployer.stores().listed();
        let stores: Vec<Store> = listed.into_iter().map(|store| self.read(store, until)).collect();
        let known = self.ends.of(places(&stores), ENDS_WITHIN);
        (stores, known)
    }

    /// Whether the daemon is ready. `kafka` is what is known of that.
    pub fn readiness(&self, stage: Stage, kafka: Option<bool>) -> Readiness {
        let deployer = &self.parts.deployer;
        let idle = deployer.idle_handlers().into_iter().map(|name| HandlerState { name, trouble: IDLE });
        let handlers = deployer.stores().listed().into_iter().flat_map(|(store, _)| store.meter().handlers());
        let held = handlers.filter(|handler| handler.circuit().1);
        let held = held.map(|handler| HandlerState { name: handler.name.to_string(), trouble: HELD });
        health::readiness(stage, &self.states(), &idle.chain(held).collect::<Vec<_>>(), kafka)
    }

    /// Whether Kafka has answered the last question, which is asked again unless that was done a moment ago. Waits for nothing.
    pub fn kafka(&self) -> Option<bool> {
        self.ends.up()
    }

    /// Whether the daemon lives.
    pub fn liveness(&self) -> Liveness {
        health::liveness(&self.states(), self.parts.stuck_after)
    }

    fn states(&self) -> Vec<StoreState> {
        let state = |(handle, _): (executor::Handle, Arc<Path>)| StoreState {
            name: handle.name().to_string(),
            unwell: handle.meter().unwell.load(Ordering::Relaxed),
            outbox_full: handle.meter().outbox_full.load(Ordering::Relaxed),
            busy: handle.meter().beat.since(),
        };
        self.parts.deployer.stores().listed().into_iter().map(state).collect()
    }

    fn read(&self, (handle, path): (executor::Handle, Arc<Path>), until: Instant) -> Store {
        let (name, meter) = (handle.name().clone(), handle.meter().clone());
        let mut read = Read::default();
        let within = until.min(Instant::now() + READ_WITHIN);
        match self.read_file(&name, &path, &meter, within, &mut read) {
            Ok(()) => read.whole = true,
            Err(error) => tracing::debug!(store = %name, %error, "read a store for a scrape"),
        }
        Store { name, meter, path, read }
    }

    /// What is read soonest comes first, so that a large outbox hides no lag.
    fn read_file(
        &self,
        name: &Arc<str>,
        path: &Path,
        meter: &meters::Store,
        until: Instant,
        read: &mut Read,
    ) -> Result<(), Error> {
        let reader = Connection::open_reader(path)?;
        reader.bound_all(until);
        for handler in meter.handlers().into_iter().filter(|handler| handler.facts().reads) {
            read.offsets.insert(handler.name.clone(), offset::all(&reader, &handler.name)?);
        }
        read.fallback = Some(fallback::count(&reader)?);
        read.pending = Some(pending::count(&reader)?);
        let (delayed, due) = outbox::delayed(&reader)?;
        read.delayed = Some(delayed);
        // Where none waits, all that are kept would be looked through.
        let rows = meter.outbox_rows.load(Ordering::Relaxed);
        let oldest = if rows > delayed { self.oldest(name, &reader)? } else { None };
        read.oldest = Some(oldest.into_iter().chain(due).min());
        Ok(())
    }

    fn oldest(&self, name: &Arc<str>, reader: &Connection) -> Result<Option<i64>, Error> {
        let from = self.marks().get(name).copied().unwrap_or(0);
        let (mark, found) = match outbox::oldest(reader, from) {
            Ok(Some((id, created_at))) => (id, Ok(Some(created_at))),
            Ok(None) => (from, Ok(None)),
            Err((came, error)) => (came, Err(error)),
        };
        self.marks().insert(name.clone(), mark);
        found
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, i64>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a daemon tells that has no parts yet.
pub fn standby(stage: Stage, format: Format) -> String {
    let mut page = Page::default();
    common(&mut page, stage, false);
    page.write(families::ALL, format)
}

fn common(page: &mut Page, stage: Stage, ready: bool) {
    page.count(&families::BUILD, &[env!("CARGO_PKG_VERSION")], 1);
    page.count(&families::READY, &[], u64::from(ready));
    page.count(&families::STANDBY, &[], u64::from(stage == Stage::Standby));
    process::put(page);
}

/// The partitions of handlers that run and read.
fn places(stores: &[Store]) -> Vec<Place> {
    let rows = stores.iter().flat_map(|store| store.read.offsets.values().flatten());
    let mut places: Vec<Place> = rows.map(|(topic, partition, _)| (topic.clone(), *partition)).collect();
    places.sort_unstable();
    places.dedup();
    places
}

fn age(since: Option<i64>, now: i64) -> f64 {
    since.map_or(0.0, |since| (now - since).max(0) as f64 / 1e3)
}

fn put_store(page: &mut Page, store: &Store, now: i64) {
    let (name, meter) = (&*store.name, &store.meter);
    let flag = |flag: &std::sync::atomic::AtomicBool| u64::from(flag.load(Ordering::Relaxed));
    page.histogram(&families::GROUP_DELIVERIES, &[name], &meter.group_deliveries);
    page.histogram(&families::GROUP_TIME, &[name], &meter.group_time);
    page.histogram(&families::COMMIT_TIME, &[name], &meter.commit_time);
    page.histogram(&families::CHECKPOINT_TIME, &[name], &meter.checkpoint_time);
    for why in Undone::ALL {
        page.count(&families::GROUPS_UNDONE, &[name, why.name()], meter.has_undone(why));
    }
    page.count(&families::STORE_WRITABLE, &[name], 1 - flag(&meter.unwell));
    page.put(&families::STORE_STUCK, &[name], meter.beat.since().as_secs_f64());
    page.count(&families::OUTBOX_ROWS, &[name], meter.outbox_rows.load(Ordering::Relaxed));
    page.count(&families::OUTBOX_FULL, &[name], flag(&meter.outbox_full));
    for (by, relayed) in [("kafka", &meter.by_kafka), ("http", &meter.by_http)] {
        let (published, refused) = (&relayed.published, &relayed.refused);
        page.count(&families::PUBLISHED, &[name, by], published.load(Ordering::Relaxed));
        page.count(&families::REFUSED, &[name, by], refused.load(Ordering::Relaxed));
        page.histogram(&families::RELAY_TIME, &[name, by], &relayed.time);
    }
    for table in Table::ALL {
        for verb in Verb::ALL.into_iter().filter(|verb| verb.is_of(table)) {
            page.count(&families::TENDED, &[name, table.name(), verb.name()], meter.has_tended(table, verb));
        }
    }
    for (file, size) in store.sizes() {
        page.count(&families::STORE_BYTES, &[name, file], size);
    }
    let read = &store.read;
    page.count(&families::SCRAPE_INCOMPLETE, &[name], u64::from(!read.whole));
    if let Some(rows) = read.delayed {
        page.count(&families::OUTBOX_DELAYED, &[name], rows);
    }
    if let Some(oldest) = read.oldest {
        page.put(&families::OUTBOX_OLDEST, &[name], age(oldest, now));
    }
    if let Some(found) = &read.fallback {
        let running = meter.handlers();
        let mut fallback: BTreeMap<&str, u64> = running.iter().map(|handler| (&*handler.name, 0)).collect();
        fallback.extend(found.iter().map(|(handler, rows)| (handler.as_str(), *rows)));
        for (handler, rows) in fallback {
            page.count(&families::FALLBACK, &[name, handler], rows);
        }
    }
}

impl Store {
    /// How large its files are that are there, in bytes.
    fn sizes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let files = [("db", self.path.to_path_buf()), ("wal", beside(&self.path, "-wal"))];
        files.into_iter().filter_map(|(file, path)| Some((file, std::fs::metadata(path).ok()?.len())))
    }

    /// How many records of a handler wait in it, and since when the first does, if it could be read.
    fn pending(&self, handler: &str) -> Option<(u64, Option<i64>)> {
        let pending = self.read.pending.as_ref()?;
        Some(pending.iter().find(|row| row.0 == handler).map_or((0, None), |row| (row.1, row.2)))
    }
}

/// What is free on the disk of a folder to who is not its administrator, and its size, in bytes.
pub fn disk(folder: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

/// SQLite names its log so.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn put_handler(page: &mut Page, store: &Store, handler: &meters::Handler, known: &Known, now: i64) {
    let (name, facts) = (&*handler.name, handler.facts());
    let group = facts.group.as_str();
    let version = facts.version.to_string();
    page.count(&families::HANDLER, &[name, group, &store.name, &version, &facts.artifact], 1);
    for input in Input::ALL {
        let Some(deliveries) = handler.deliveries(input) else { continue };
        // A series for each outcome is there from the start, so that its first step is seen; of a kind that a handler has not, none is.
        let has = deliveries.time.count() > 0 || (input == Input::Record && facts.reads);
        for (ending, outcome) in endings().filter(|_| has) {
            page.count(&families::ATTEMPTS, &[name, input.name(), outcome], deliveries.ended(ending));
        }
        if has {
            page.histogram(&families::PROCESSING, &[name, input.name()], &deliveries.time);
        }
    }
    let (open, held) = handler.circuit();
    page.count(&families::CIRCUIT_OPEN, &[name], u64::from(open));
    page.count(&families::CIRCUIT_OPENED, &[name], handler.opened());
    page.count(&families::HELD, &[name], u64::from(held));
    page.count(&families::PAUSES, &[name], handler.pauses() as u64);
    page.count(&families::MEMORY_MAX, &[name], handler.memory());
    page.count(&families::MEMORY_LIMIT, &[name], facts.memory_limit as u64);
    page.count(&families::INSTANCES, &[name], handler.instances());
    let pending = store.pending(name);
    if let Some((records, _)) = pending {
        page.count(&families::PENDING, &[name], records);
    }
    if !facts.reads {
        return;
    }
    for left in Left::ALL {
        page.count(&families::RECORDS, &[name, left.name()], handler.has_left(left));
    }
    page.count(&families::LOST, &[name], handler.lost.load(Ordering::Relaxed));
    page.histogram(&families::END_TO_END, &[name], &handler.end_to_end);
    let lanes = handler.lanes();
    page.count(&families::LANE_RECORDS, &[name], lanes.iter().map(|lane| lane.records() as u64).sum());
    page.count(&families::LANE_BYTES, &[name], lanes.iter().map(|lane| lane.bytes() as u64).sum());
    handler.reading.put(page, name);
    if let Some((_, since)) = pending {
        let oldest = lanes.iter().filter_map(|lane| lane.oldest()).chain(since).min();
        page.put(&families::OLDEST_UNPROCESSED, &[name], age(oldest, now));
    }
    for (topic, partition, stored) in store.read.offsets.get(name).into_iter().flatten() {
        // A topic that is gone has no end.
        let Some(end) = known.ends.get(&(topic.clone(), *partition)) else { continue };
        let next = stored.next_offset;
        let (partition, lag) = (partition.to_string(), (end - next).max(0) as f64);
        page.put(&families::NEXT_OFFSET, &[name, group, topic, &partition], next as f64);
        page.put(&families::LAG, &[name, group, topic, &partition], lag);
        page.put(&families::GROUP_LAG, &[group, topic, &partition], lag);
    }
}

fn put_routes(page: &mut Page, routes: &Routes) {
    let mut put = |labels: [&str; 3], meter: &meters::Route| {
        let [handler, method, route] = labels;
        for (status, count) in meter.answers() {
            page.count(&families::HTTP_REQUESTS, &[handler, method, route, &status.to_string()], count);
        }
        page.histogram(&families::HTTP_TIME, &labels, &meter.time);
    };
    for (target, meter) in routes.meters() {
        put([&target.handler, &target.route.method, &target.route.path], &meter);
    }
    put(["", "", ""], routes.unrouted());
    let limited = routes.limited();
    for (by, count) in [("address", &limited.by_address), ("user", &limited.by_user), ("logins", &limited.by_logins)] {
        page.count(&families::HTTP_LIMITED, &[by], count.load(Ordering::Relaxed));
    }
}
