//! One store's outbox on its way out: what was handed to the producer, what was acknowledged, what is held back.
//!
//! Rows are handed over in the order of their ids, and delayed ones in the order of their places once they are due. A
//! topic that refuses is held: its rows wait in the store, those of other topics go on, and later it goes on from the
//! first that was not taken. Kafka refuses whole batches, so a row is refused for good only when it was sent alone.

mod pump;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::hold::Hold;
use super::outlet::{Outlet, Report, Sent};
use super::readback::{Expected, ReadBack};
use crate::executor;
use crate::kafka::topics::TopicError;
use crate::kafka::verdict::{Verdict, judge};
use crate::ledger::outbox::{EventKind, Place, Waiting};
use crate::store::{Connection, Error};
use crate::trace::span::{self, Publish};
use crate::trace::{Context, Tracer};

/// Rows of one store that wait for the broker at once.
const WINDOW: usize = 5_000;
/// Rows read at a time.
const BATCH: usize = 500;
/// About how many bytes of rows are read at a time.
const BATCH_BYTES: usize = 8 << 20;
/// How long a row is out until somebody asks whether its topic is still the same.
const STUCK: Duration = Duration::from_secs(10);
/// How long a topic that refused is left alone.
const HOLD: Duration = Duration::from_secs(5);

/// A row that the producer has.
struct Flying {
    topic: Arc<str>,
    kind: EventKind,
    /// Where it stands, if it is delayed.
    place: Option<Place>,
    /// As its header has it.
    event_id: Option<String>,
    /// What is said of it is said of no other.
    alone: bool,
    since: Instant,
    /// From when on it could be published, milliseconds since the Unix epoch.
    ready_at: i64,
    /// Its trace, where that is recorded.
    traced: Option<Box<Traced>>,
}

/// What its span says of a row.
struct Traced {
    context: Context,
    event_id: String,
    handler: String,
}

pub(super) struct Source {
    path: PathBuf,
    reader: Option<Connection>,
    executor: executor::Handle,
    woken: Arc<AtomicBool>,
    rows_may_wait: bool,
    /// The last row that was looked at in the order of ids.
    after: i64,
    /// The last place that was looked at.
    due_after: Place,
    /// When there is a row to be handed over after that, not later than the first one's time.
    next_due: Option<i64>,
    /// The producer has no room, or the store cannot be read.
    stuck: bool,
    /// The operator takes rows out.
    paused: bool,
    flying: BTreeMap<i64, Flying>,
    /// Acknowledged, and to be read back.
    unread: BTreeMap<i64, Flying>,
    /// With when each could be published.
    acknowledged: BTreeMap<i64, i64>,
    holds: HashMap<Arc<str>, Hold>,
    failed: Vec<(i64, String)>,
    refused: Vec<(i64, String)>,
    tracer: Tracer,
}

impl Source {
    pub(super) fn new(path: PathBuf, executor: executor::Handle, woken: Arc<AtomicBool>, tracer: Tracer) -> Self {
        Self {
            path,
            reader: None,
            executor,
            woken,
            rows_may_wait: true,
            after: 0,
            due_after: Place::FIRST,
            next_due: None,
            stuck: false,
            paused: false,
            flying: BTreeMap::new(),
            unread: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            holds: HashMap::new(),
            failed: Vec::new(),
            refused: Vec::new(),
            tracer,
        }
    }

    /// Rows that are out and not done with.
    pub(super) fn open(&self) -> usize {
        self.flying.len() + self.unread.len()
    }

    /// Topics whose rows have been out for long.
    pub(super) fn stuck(&self) -> impl Iterator<Item = Arc<str>> {
        let long = |row: &&Flying| row.since.elapsed() > STUCK;
        self.flying.values().filter(long).map(|row| row.topic.clone())
    }

    pub(super) fn woken(&mut self) {
        // Before the store is read, so that a commit after the reading wakes again.
        self.woken.store(false, Ordering::Release);
        self.look_again();
    }

    /// Rows may wait of which nobody has said anything.
    pub(super) fn look_again(&mut self) {
        self.rows_may_wait = true;
        self.stuck = false;
    }

    /// Hands over nothing more for now. Returns which of these rows it has handed over, and those of which it knows what became of them.
    pub(super) fn pause(&mut self, rows: &[i64]) -> BTreeSet<i64> {
        self.paused = true;
        let has = |id: &&i64| {
            self.flying.contains_key(id)
                || self.unread.contains_key(id)
                || self.acknowledged.contains_key(id)
                || self.refused.iter().any(|(refused, _)| refused == *id)
        };
        rows.iter().filter(has).copied().collect()
    }

    pub(super) fn resume(&mut self) {
        self.paused = false;
        self.look_again();
    }

    /// Tries topics now that are held.
    pub(super) fn hurry(&mut self, topics: &BTreeSet<String>) {
        let now = Instant::now();
        for (_, hold) in self.holds.iter_mut().filter(|(topic, _)| topics.contains(&***topic)) {
            hold.until = hold.until.min(now);
        }
        self.look_again();
    }

    /// A new producer knows nothing of what the old one had: go back to the first row that it did not deliver.
    pub(super) fn rewind(&mut self) {
        // A topic that is held goes on from the first row that has not arrived, those in flight included.
        for (id, row) in std::mem::take(&mut self.flying) {
            self.go_back(id, &row);
        }
        self.look_again();
    }

    /// A row that was handed over is to be looked at again.
    fn go_back(&mut self, id: i64, row: &Flying) {
        if let Some(hold) = self.holds.get_mut(&row.topic) {
            hold.back_to(id, row.place);
        }
        match row.place {
            Some(place) => {
                self.due_after = self.due_after.min(place.before());
                self.expect(place.due);
            }
            None => self.after = self.after.min(id - 1),
        }
    }

    /// Takes in what became of a row.
    pub(super) fn settle(&mut self, report: Report, outlet: &mut Outlet, read_back: Option<&ReadBack>) {
        match report.result {
            Ok((partition, offset)) => {
                if let Some(row) = self.flying.remove(&report.id) {
                    if offset >= 0 {
                        self.tell(&row, Ok((partition, offset)));
                    }
                    match read_back {
                        _ if offset < 0 => self.arrived_nowhere(report.id, &row),
                        Some(read_back) => self.expect_back(report.id, row, partition, offset, read_back),
                        None => drop(self.acknowledged.insert(report.id, row.ready_at)),
                    }
                }
            }
            // The row stays among those in flight, and the new producer begins with the first of them.
            Err(code) if judge(code) == Verdict::Producer => outlet.give_up(code),
            Err(code) => {
                if let Some(row) = self.flying.remove(&report.id) {
                    self.not_taken(report.id, &row, code, outlet);
                }
            }
        }
        self.look_again();
    }

    /// librdkafka says so of what nobody has answered for, when a later request to its partition succeeds, and where a
    /// broker calls it a duplicate. It is there then, unless its topic was made again in between.
    fn arrived_nowhere(&mut self, id: i64, row: &Flying) {
        tracing::warn!(store = %self.executor.name(), row = id, topic = %row.topic, "Kafka has acknowledged an event and does not say where it is: it is published again, with its id");
        self.go_back(id, row);
    }

    fn expect_back(&mut self, id: i64, row: Flying, partition: i32, offset: i64, read_back: &ReadBack) {
        read_back.expect(Expected {
            store: self.executor.name().clone(),
            row: id,
            topic: row.topic.clone(),
            partition,
            offset,
            event_id: row.event_id.clone(),
        });
        self.unread.insert(id, row);
    }

    /// A row was read back, or it is not where it was acknowledged.
    pub(super) fn read_back(&mut self, id: i64, found: bool) {
        let Some(row) = self.unread.remove(&id) else { return };
        if found {
            self.acknowledged.insert(id, row.ready_at);
        } else {
            tracing::warn!(store = %self.executor.name(), row = id, topic = %row.topic, "an event that Kafka has acknowledged cannot be read back: it is published again");
            self.go_back(id, &row);
        }
        self.look_again();
    }

    fn not_taken(&mut self, id: i64, row: &Flying, code: RDKafkaErrorCode, outlet: &mut Outlet) {
        let error = format!("{code} (topic {})", row.topic);
        let verdict = judge(code);
        if verdict == Verdict::Record && !row.alone {
            self.send_alone(id, row, code);
            return;
        }
        // A dead letter topic that was there, and is gone, is made again like one that never was.
        if matches!(row.kind, EventKind::DeadLetter { .. })
            && is_unknown(code)
            && (outlet.forget(&row.topic) || self.holds.contains_key(&row.topic))
        {
            self.hold(id, &row.topic.clone(), row.place, &error);
            return;
        }
        if !matches!(row.kind, EventKind::DeadLetter { .. }) && is_unknown(code) {
            outlet.forget(&row.topic);
        }
        if verdict == Verdict::Record
            || (verdict == Verdict::Destination && matches!(row.kind, EventKind::DeadLetter { .. }))
        {
            tracing::error!(store = %self.executor.name(), row = id, topic = %row.topic, %code,
                "Kafka refuses an event for good: it is kept in tm_fallback");
            self.tell(row, Err(&error));
            self.refused.push((id, error));
            return;
        }
        self.hold(id, &row.topic.clone(), row.place, &error);
    }

    /// What became of a row, where its trace is recorded.
    fn tell(&self, row: &Flying, end: Result<(i32, i64), &str>) {
        if let Some(traced) = &row.traced {
            let publish = Publish { topic: &row.topic, event_id: &traced.event_id, handler: &traced.handler };
            let (own, parent) = (traced.context.child(traced.event_id.as_bytes()), traced.context);
            self.tracer.tell(publish.told(own, parent, span::since(row.ready_at), end));
        }
    }

    fn traced(&self, row: &Waiting) -> Option<Box<Traced>> {
        let context = self.tracer.record_of(&row.event.headers)?;
        Some(Box::new(Traced { context, event_id: row.event.event_id.clone(), handler: row.handler.clone() }))
    }

    /// The row was in a batch that was refused, perhaps for another's sake or for the size of the whole.
    fn send_alone(&mut self, id: i64, row: &Flying, code: RDKafkaErrorCode) {
        let topic = &row.topic;
        if !self.holds.contains_key(topic) {
            tracing::warn!(store = %self.executor.name(), %topic, %code,
                "Kafka refuses a batch of events: each is sent alone. If the topic takes less than others, lower `batch.size` under [kafka.librdkafka]");
        }
        let hold = self.held(topic, Instant::now());
        hold.back_to(id, row.place);
        if row.place.is_none() {
            hold.alone = hold.alone.max(id);
        }
    }

    fn hold(&mut self, id: i64, topic: &Arc<str>, place: Option<Place>, error: &str) {
        if !self.holds.contains_key(topic) {
            tracing::warn!(store = %self.executor.name(), %topic, error,
                "events for this topic wait: create it or grant WRITE on it, or set the clock right, as the error says; they are sent once it takes them");
        }
        let until = Instant::now() + HOLD;
        let hold = self.held(topic, until);
        hold.back_to(id, place);
        hold.until = until;
        self.failed.push((id, error.to_owned()));
    }

    /// The topic's hold, at first one that has taken everything up to now.
    fn held(&mut self, topic: &Arc<str>, until: Instant) -> &mut Hold {
        let new = Hold { from: self.after + 1, due_after: None, until, alone: 0 };
        self.holds.entry(topic.clone()).or_insert(new)
    }

    /// A row is to be handed over at this time.
    fn expect(&mut self, due: i64) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }

    /// Tells the store what it can note.
    pub(super) fn report(&mut self) {
        let meter = &self.executor.meter().by_kafka;
        let acknowledged = std::mem::take(&mut self.acknowledged);
        if !acknowledged.is_empty() {
            meter.acknowledged(acknowledged.values().copied(), crate::clock::now());
            let ranges = super::ranges(acknowledged.into_keys());
            let _ = self.executor.published(ranges);
        }
        for (id, error) in self.failed.drain(..) {
            let _ = self.executor.not_published(vec![id], error);
        }
        for (id, error) in self.refused.drain(..) {
            meter.refuse();
            let _ = self.executor.refused(id, error);
        }
    }

    /// `false` if the producer has no room.
    fn hand_over(&mut self, outlet: &mut Outlet, row: &Waiting, alone: bool) -> bool {
        // Met again, since an earlier one is sent again.
        if self.flying.contains_key(&row.id) || self.unread.contains_key(&row.id) {
            return true;
        }
        let topic: Arc<str> = row.event.topic.as_str().into();
        let event_id = (row.event.kind == EventKind::Event).then(|| row.event.event_id.clone());
        let mut flying = Flying {
            topic: topic.clone(),
            kind: row.event.kind,
            place: row.place(),
            event_id,
            alone,
            since: Instant::now(),
            ready_at: row.ready_at(),
            traced: self.traced(row),
        };
        match outlet.send(self.executor.name(), row, alone) {
            Sent::Taken => drop(self.flying.insert(row.id, flying)),
            Sent::Full => {
                // After a report there may be room again.
                self.stuck = true;
                return false;
            }
            Sent::Refused(code) => {
                // By the producer itself, which has looked at this row only.
                flying.alone = true;
                self.not_taken(row.id, &flying, code, outlet);
            }
            // A dead letter goes to the fallback, and an event waits for its topic.
            Sent::NoTopic(error) if !matches!(row.event.kind, EventKind::DeadLetter { .. }) || !is_final(&error) => {
                self.hold(row.id, &topic, row.place(), &error.to_string())
            }
            Sent::NoTopic(error) => {
                tracing::error!(store = %self.executor.name(), row = row.id, %error, "a dead letter cannot be published: it is kept in tm_fallback");
                self.refused.push((row.id, error.to_string()));
            }
        }
        true
    }

    /// When a held topic is to be tried again.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.holds.values().map(|hold| hold.until).min().filter(|_| !self.paused)
    }

    /// When a delayed row is to be handed over, milliseconds since the Unix epoch, if only time stands before it.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.next_due.filter(|_| !self.stuck && !self.paused && self.open() < WINDOW)
    }

    fn read<T>(&mut self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        if self.reader.is_none() {
            self.reader = Some(Connection::open_reader(&self.path)?);
        }
        match &self.reader {
            Some(reader) => read(reader),
            None => unreachable!("it was opened above"),
        }
    }
}

/// Nothing that passes by itself, and nothing that a broker coming back would mend.
fn is_final(error: &TopicError) -> bool {
    matches!(
        error,
        TopicError::Name { .. }
            | TopicError::NotAuthorized { .. }
            | TopicError::Partitions { .. }
            | TopicError::Policy { .. }
    )
}

fn is_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(code, UnknownTopic | UnknownTopicOrPartition | UnknownPartition)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What was in flight when the producer failed comes before what it had only queued, and a hold may be of those.
    #[test]
    fn a_new_producer_begins_with_the_first_row_that_did_not_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let settings = crate::settings::Store { group_max: 1, group_time: Duration::ZERO, synchronous_full: false };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outside = executor::Outside {
            outbound: crate::outbound::Outbound::new(runtime.handle().clone()).unwrap(),
            sender: crate::kafka::sender::Sender::new(Default::default(), Default::default()),
            tracer: Default::default(),
        };
        let outbox =
            crate::settings::Outbox { keep: Duration::ZERO, sweep: Duration::ZERO, max_rows: 1, read_back: false };
        let keep = executor::Keep { inbox: None, answers: None };
        let (executor, thread) =
            executor::spawn("test", &path, &settings, &outbox, keep, Box::new(|| {}), outside).unwrap();
        let mut source = Source::new(path, executor.clone(), Arc::default(), Tracer::default());
        let topic: Arc<str> = "t".into();
        let flying = |place| Flying {
            topic: topic.clone(),
            kind: EventKind::Event,
            place,
            event_id: None,
            alone: false,
            since: Instant::now(),
            ready_at: 0,
            traced: None,
        };
        source.flying = [(3, flying(Some(Place { due: 70, id: 3 }))), (10, flying(None)), (11, flying(None))].into();
        (source.after, source.due_after) = (99, Place { due: 80, id: 1 });
        source.hold(20, &topic, None, "thrown away");
        source.rewind();
        assert_eq!((source.after, source.open()), (9, 0));
        assert_eq!((source.due_after, source.next_due()), (Place { due: 70, id: 2 }, Some(70)));
        let held = source.holds.get(&topic).map(|hold| (hold.from, hold.due_after));
        assert_eq!(held, Some((10, Some(Place { due: 70, id: 2 }))));
        executor.stop();
        thread.join().unwrap();
        for code in [RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeInflight] {
            assert_eq!(judge(code), Verdict::Producer);
        }
    }
}
