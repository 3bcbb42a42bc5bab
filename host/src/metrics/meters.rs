//! What is counted where it happens: one meter for each store, handler and route, shared with whoever scrapes.
//!
//! Its invariant: the numbers of deliveries grow only once their group has committed, by its executor alone. A meter is a few relaxed
//! atomics; no lock is taken for a delivery, and nothing here is read by what it counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::{Histogram, LONG, NUMBERS, SHORT};
use super::statistics::Statistics;
use crate::executor::Verb;
use crate::lane::{Meter, Token};
use crate::ledger::stored::Table;
use crate::policy::{Circuit, Outcome};

/// What a delivery was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A record.
    Record,
    /// A timer.
    Timer,
    /// What was given up on, to be made good.
    Compensation,
    /// An HTTP request.
    Request,
    /// What became of an event that was sent past the outbox.
    Report,
}

impl Input {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Record, Self::Timer, Self::Compensation, Self::Request, Self::Report];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Timer => "timer",
            Self::Compensation => "compensation",
            Self::Request => "request",
            Self::Report => "report",
        }
    }
}

/// What became of a record that its handler has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It took effect.
    Done,
    /// Its event had been done before.
    Duplicate,
    /// It was given up on, and is in the outbox for its dead letter topic.
    DeadLetter,
    /// It was given up on, and is kept in the store.
    Fallback,
}

impl Left {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Done, Self::Duplicate, Self::DeadLetter, Self::Fallback];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Duplicate => "duplicate",
            Self::DeadLetter => "dead-letter",
            Self::Fallback => "fallback",
        }
    }
}

/// How a delivery ended: well, or with an outcome.
pub type Ending = Result<(), Outcome>;

/// All endings, with the label's value of each.
pub fn endings() -> impl Iterator<Item = (usize, &'static str)> {
    std::iter::once("done").chain(Outcome::ALL.map(Outcome::name)).enumerate()
}

fn place(ending: Ending) -> usize {
    ending.err().map_or(0, |outcome| outcome as usize + 1)
}

/// A handler's deliveries for one kind of input.
#[derive(Debug)]
pub struct Deliveries {
    endings: [AtomicU64; Outcome::ALL.len() + 1],
    /// How long each took.
    pub time: Histogram,
}

impl Deliveries {
    /// How many ended so, by the number from [`endings`].
    pub fn ended(&self, ending: usize) -> u64 {
        self.endings.get(ending).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// What is known of a handler's live version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The consumer group.
    pub group: String,
    /// Counts the handler's deployments.
    pub version: i64,
    /// The artifact's version.
    pub artifact: String,
    /// `limits.memory`, bytes.
    pub memory_limit: usize,
    /// Whether it reads topics.
    pub reads: bool,
}

/// A handler's numbers.
#[derive(Debug)]
pub struct Handler {
    /// Its name.
    pub name: Arc<str>,
    facts: Mutex<Facts>,
    left: [AtomicU64; Left::ALL.len()],
    /// Records that Kafka had removed before they were read.
    pub lost: AtomicU64,
    deliveries: [Deliveries; Input::ALL.len()],
    /// From a record's timestamp to its commit.
    pub end_to_end: Histogram,
    circuit: AtomicU8,
    pauses: AtomicUsize,
    opened: AtomicU64,
    memory: AtomicU64,
    instances: AtomicU64,
    lanes: Mutex<HashMap<Token, Arc<Meter>>>,
    /// What librdkafka says of the client that reads for it.
    pub reading: Arc<Statistics>,
}

impl Handler {
    /// One that has done nothing.
    pub fn new(name: Arc<str>) -> Self {
        let deliveries = || Deliveries { endings: Default::default(), time: Histogram::new(&SHORT) };
        Self {
            name,
            facts: Mutex::default(),
            left: Default::default(),
            lost: AtomicU64::new(0),
            deliveries: std::array::from_fn(|_| deliveries()),
            end_to_end: Histogram::new(&LONG),
            circuit: AtomicU8::new(0),
            pauses: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            instances: AtomicU64::new(0),
            lanes: Mutex::default(),
            reading: Arc::default(),
        }
    }

    /// Another version is live.
    pub fn set_facts(&self, facts: Facts) {
        *lock(&self.facts) = facts;
        self.memory.store(0, Ordering::Relaxed);
    }

    /// What is known of the live version.
    pub fn facts(&self) -> Facts {
        lock(&self.facts).clone()
    }

    /// Deliveries of this kind, which have all ended so, took this long.
    pub fn delivered(&self, input: Input, ending: Ending, took: impl ExactSizeIterator<Item = Duration>) {
        let Some(deliveries) = self.deliveries.get(input as usize) else { return };
        if let Some(count) = deliveries.endings.get(place(ending)) {
            count.fetch_add(took.len() as u64, Ordering::Relaxed);
        }
        deliveries.time.times(took);
    }

    /// Its deliveries of this kind.
    pub fn deliveries(&self, input: Input) -> Option<&Deliveries> {
        self.deliveries.get(input as usize)
    }

    /// So many records were left behind.
    pub fn left(&self, left: Left, records: u64) {
        if let Some(count) = self.left.get(left as usize) {
            count.fetch_add(records, Ordering::Relaxed);
        }
    }

    /// How many records were left behind so.
    pub fn has_left(&self, left: Left) -> u64 {
        self.left.get(left as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Deliveries had so many bytes of linear memory at most, and so many instances were made for them.
    pub fn ran(&self, memory: usize, made: usize) {
        self.memory.fetch_max(memory as u64, Ordering::Relaxed);
        self.instances.fetch_add(made as u64, Ordering::Relaxed);
    }

    /// The most memory that a delivery of the live version has had, bytes.
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Instances that were made.
    pub fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }

    /// The circuit is as a commit has left it.
    pub fn set_circuit(&self, circuit: &Circuit) {
        let now = u8::from(circuit.is_open()) + u8::from(circuit.is_held());
        if self.circuit.swap(now, Ordering::Relaxed) == 0 && now == 1 {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether its circuit is open, and whether another version has to close it.
    pub fn circuit(&self) -> (bool, bool) {
        let now = self.circuit.load(Ordering::Relaxed);
        (now > 0, now > 1)
    }

    /// So many pauses of it are in force.
    pub fn set_pauses(&self, pauses: usize) {
        self.pauses.store(pauses, Ordering::Relaxed);
    }

    /// How many pauses of it are in force.
    pub fn pauses(&self) -> usize {
        self.pauses.load(Ordering::Relaxed)
    }

    /// How often its circuit has opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A lane was opened.
    pub fn add_lane(&self, token: Token, lane: Arc<Meter>) {
        lock(&self.lanes).insert(token, lane);
    }

    /// A lane was closed.
    pub fn remove_lane(&self, token: Token) {
        lock(&self.lanes).remove(&token);
    }

    /// The lanes that are open.
    pub fn lanes(&self) -> Vec<Arc<Meter>> {
        lock(&self.lanes).values().cloned().collect()
    }
}

/// By which way events leave.
#[derive(Debug)]
pub struct Relayed {
    /// Events that were acknowledged.
    pub published: AtomicU64,
    /// Events that were refused for good.
    pub refused: AtomicU64,
    /// From the delivery to the acknowledgement.
    pub time: Histogram,
}

impl Relayed {
    fn new() -> Self {
        Self { published: AtomicU64::new(0), refused: AtomicU64::new(0), time: Histogram::new(&LONG) }
    }

    /// Events were acknowledged at `now` that could have been published `since`, all in milliseconds since the Unix epoch.
    pub fn acknowledged(&self, since: impl ExactSizeIterator<Item = i64>, now: i64) {
        self.published.fetch_add(since.len() as u64, Ordering::Relaxed);
        self.time.observe_all(since.map(|since| u64::try_from(now - since).unwrap_or(0)));
    }

    /// An event was refused for good.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a group was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// A delivery has ended the transaction.
    Broken,
    /// A run had to be undone, and the group had no savepoints.
    NoSavepoints,
    /// A lane was opened elsewhere.
    Stale,
    /// The store failed.
    Store,
}

impl Undone {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Broken, Self::NoSavepoints, Self::Stale, Self::Store];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::NoSavepoints => "no-savepoints",
            Self::Stale => "stale",
            Self::Store => "store",
        }
    }
}

/// A store's numbers.
#[derive(Debug)]
pub struct Store {
    /// Deliveries in a group.
    pub group_deliveries: Histogram,
    /// From a group's begin to the end of its commit.
    pub group_time: Histogram,
    /// The commit.
    pub commit_time: Histogram,
    /// Checkpoints of the log.
    pub checkpoint_time: Arc<Histogram>,
    undone: [AtomicU64; Undone::ALL.len()],
    tended: [[AtomicU64; Verb::ALL.len()]; Table::ALL.len()],
    /// Rows that wait in the outbox.
    pub outbox_rows: AtomicU64,
    /// Whether the outbox is full.
    pub outbox_full: AtomicBool,
    /// Whether the store could not be written when that was last tried.
    pub unwell: AtomicBool,
    /// What the store's thread is at.
    pub beat: Beat,
    /// By Kafka.
    pub by_kafka: Relayed,
    /// By HTTP.
    pub by_http: Relayed,
    handlers: Mutex<BTreeMap<Arc<str>, Arc<Handler>>>,
}

impl Store {
    /// One that has done nothing, with the checkpoints of its connection.
    pub fn new(checkpoint_time: Arc<Histogram>) -> Self {
        Self {
            group_deliveries: Histogram::new(&NUMBERS),
            group_time: Histogram::new(&SHORT),
            commit_time: Histogram::new(&SHORT),
            checkpoint_time,
            undone: Default::default(),
            tended: Default::default(),
            outbox_rows: AtomicU64::new(0),
            outbox_full: AtomicBool::new(false),
            unwell: AtomicBool::new(false),
            beat: Beat::default(),
            by_kafka: Relayed::new(),
            by_http: Relayed::new(),
            handlers: Mutex::default(),
        }
    }

    /// A group was undone.
    pub fn undo(&self, why: Undone) {
        if let Some(count) = self.undone.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many groups were undone so.
    pub fn has_undone(&self, why: Undone) -> u64 {
        self.undone.get(why as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// So many rows of a table were dealt with so by an operator.
    pub fn tend(&self, table: Table, verb: Verb, rows: u64) {
        if let Some(count) = self.tended.get(table as usize).and_then(|verbs| verbs.get(verb as usize)) {
            count.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// How many rows of a table operators have dealt with so.
    pub fn has_tended(&self, table: Table, verb: Verb) -> u64 {
        let count = self.tended.get(table as usize).and_then(|verbs| verbs.get(verb as usize));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The meter of a handler, which is made for one that is new.
    pub fn add_handler(&self, name: &Arc<str>) -> Arc<Handler> {
        let mut handlers = lock(&self.handlers);
        handlers.entry(name.clone()).or_insert_with(|| Arc::new(Handler::new(name.clone()))).clone()
    }

    /// A handler is gone, and its series with it.
    pub fn remove_handler(&self, name: &str) {
        lock(&self.handlers).remove(name);
    }

    /// The handlers that run.
    pub fn handlers(&self) -> Vec<Arc<Handler>> {
        lock(&self.handlers).values().cloned().collect()
    }
}

/// When a thread last went round, if it is at something.
#[derive(Debug, Default)]
pub struct Beat(AtomicU64);

impl Beat {
    /// It begins something.
    pub fn begin(&self) {
        self.0.store(millis().max(1), Ordering::Relaxed);
    }

    /// It waits for something to do.
    pub fn rest(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long it has been at one thing; zero at rest.
    pub fn since(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_millis(millis().saturating_sub(at)),
        }
    }
}

/// Milliseconds on the monotonic clock, since it was first asked for here.
fn millis() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Requests that came too often, by what there were too many of.
#[derive(Debug, Default)]
pub struct Limited {
    /// From one address.
    pub by_address: AtomicU64,
    /// As one user.
    pub by_user: AtomicU64,
    /// With tokens that are not good, from one address.
    pub by_logins: AtomicU64,
}

/// A route's numbers.
#[derive(Debug)]
pub struct Route {
    answers: Mutex<BTreeMap<u16, u64>>,
    /// From the request's head to its answer.
    pub time: Histogram,
}

impl Default for Route {
    fn default() -> Self {
        Self { answers: Mutex::default(), time: Histogram::new(&SHORT) }
    }
}

impl Route {
    /// A request was answered with this status.
    pub fn answered(&self, status: u16, took: Duration) {
        *lock(&self.answers).entry(status).or_default() += 1;
        self.time.time(took);
    }

    /// How many requests were answered with each status.
    pub fn answers(&self) -> BTreeMap<u16, u64> {
        lock(&self.answers).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::circuit::{Failed, Settings};

    #[test]
    fn each_number_has_a_place_of_its_own() {
        for (n, input) in Input::ALL.into_iter().enumerate() {
            assert_eq!(input as usize, n, "{input:?}");
        }
        for (n, left) in Left::ALL.into_iter().enumerate() {
            assert_eq!(left as usize, n, "{left:?}");
        }
        for (n, why) in Undone::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n, "{why:?}");
        }
        for (n, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, n, "{table:?}");
        }
        for (n, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, n, "{verb:?}");
        }
        let names: Vec<&str> = endings().map(|(_, name)| name).collect();
        for outcome in Outcome::ALL {
            assert_eq!(names.get(place(Err(outcome))), Some(&outcome.name()));
        }
    }

    #[test]
    fn a_circuit_that_stays_open_has_opened_once() {
        let (handler, settings) = (Handler::new("h".into()), Settings::default());
        let mut circuit = Circuit::default();
        for now in [0, 60_000, 120_000] {
            circuit.fail(&settings, Failed { lane: 1, unavailable: true, after: None, now, dice: 0.0 });
            handler.set_circuit(&circuit);
        }
        assert_eq!((handler.circuit(), handler.opened()), ((true, false), 1));
        circuit.pass(&settings);
        handler.set_circuit(&circuit);
        assert_eq!((handler.circuit(), handler.opened()), ((false, false), 1));
        handler.set_circuit(&Circuit::held(0));
        assert_eq!(handler.circuit(), (true, true));
    }

    #[test]
    fn a_thread_at_rest_is_at_nothing() {
        let beat = Beat::default();
        assert_eq!(beat.since(), Duration::ZERO);
        beat.begin();
        let begun = Instant::now();
        while beat.since() < Duration::from_millis(5) {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        beat.rest();
        assert_eq!(beat.since(), Duration::ZERO);
    }
}
