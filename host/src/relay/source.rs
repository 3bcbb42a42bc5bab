//! One store's outbox on its way out: what was handed to the producer, what was acknowledged, what is held back.
//!
//! Rows are handed over in the order of their ids. A topic that refuses is held: its rows wait in the store, those
//! of other topics go on, and later it goes on from the first that was not taken. Kafka refuses whole batches, so a
//! row is refused for good only when it was sent alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::outlet::{Outlet, Report, Sent};
use super::verdict::{Verdict, judge};
use crate::executor;
use crate::kafka::topics::TopicError;
use crate::ledger::outbox::{self, EventKind, Span, Waiting};
use crate::store::{Connection, Error};

/// Rows of one store that wait for the broker at once.
const WINDOW: usize = 5_000;
/// Rows read at a time.
const BATCH: i64 = 500;
/// About how many bytes of rows are read at a time.
const BATCH_BYTES: usize = 8 << 20;
/// How long a topic that refused is left alone.
const HOLD: Duration = Duration::from_secs(5);

/// A row that the producer has.
struct Flying {
    topic: Arc<str>,
    kind: EventKind,
    /// What is said of it is said of no other.
    alone: bool,
}

/// A topic that refused.
struct Hold {
    /// The first row that it did not take.
    from: i64,
    until: Instant,
    /// Rows up to this one go alone; 0 if there is no such.
    alone: i64,
}

pub(super) struct Source {
    path: PathBuf,
    reader: Option<Connection>,
    executor: executor::Handle,
    woken: Arc<AtomicBool>,
    pub(super) rows_may_wait: bool,
    /// The last row that was looked at.
    after: i64,
    flying: BTreeMap<i64, Flying>,
    acknowledged: BTreeSet<i64>,
    holds: HashMap<Arc<str>, Hold>,
    failed: Vec<(i64, String)>,
    refused: Vec<(i64, String)>,
}

impl Source {
    pub(super) fn new(path: PathBuf, executor: executor::Handle, woken: Arc<AtomicBool>) -> Self {
        Self {
            path,
            reader: None,
            executor,
            woken,
            rows_may_wait: true,
            after: 0,
            flying: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            holds: HashMap::new(),
            failed: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Rows that are out and not acknowledged.
    pub(super) fn open(&self) -> usize {
        self.flying.len()
    }

    pub(super) fn woken(&mut self) {
        // Before the store is read, so that a commit after the reading wakes again.
        self.woken.store(false, Ordering::Release);
        self.rows_may_wait = true;
    }

    /// A new producer knows nothing of what the old one had: go back to the first row that it did not deliver.
    pub(super) fn rewind(&mut self) {
        // A topic that is held goes on from the first row that has not arrived, those in flight included.
        for (&id, row) in &self.flying {
            if let Some(hold) = self.holds.get_mut(&row.topic) {
                hold.from = hold.from.min(id);
            }
        }
        if let Some((&first, _)) = self.flying.first_key_value() {
            self.after = self.after.min(first - 1);
        }
        self.flying.clear();
        self.rows_may_wait = true;
    }

    /// Takes in what became of a row.
    pub(super) fn settle(&mut self, report: Report, outlet: &mut Outlet) {
        match report.result {
            Ok(()) => {
                if self.flying.remove(&report.id).is_some() {
                    self.acknowledged.insert(report.id);
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
        self.rows_may_wait = true;
    }

    fn not_taken(&mut self, id: i64, row: &Flying, code: RDKafkaErrorCode, outlet: &mut Outlet) {
        let error = format!("{code} (topic {})", row.topic);
        let verdict = judge(code);
        if verdict == Verdict::Record && !row.alone {
            self.send_alone(id, &row.topic.clone(), code);
            return;
        }
        // A dead letter topic that was there, and is gone, is made again like one that never was.
        if matches!(row.kind, EventKind::DeadLetter { .. })
            && is_unknown(code)
            && (outlet.forget(&row.topic) || self.holds.contains_key(&row.topic))
        {
            self.hold(id, &row.topic.clone(), &error);
            return;
        }
        if verdict == Verdict::Record
            || (verdict == Verdict::Destination && matches!(row.kind, EventKind::DeadLetter { .. }))
        {
            tracing::error!(store = %self.executor.name(), row = id, topic = %row.topic, %code,
                "Kafka refuses an event for good: it is kept in tm_fallback");
            self.refused.push((id, error));
            return;
        }
        self.hold(id, &row.topic.clone(), &error);
    }

    /// The row was in a batch that was refused, perhaps for another's sake or for the size of the whole.
    fn send_alone(&mut self, id: i64, topic: &Arc<str>, code: RDKafkaErrorCode) {
        if !self.holds.contains_key(topic) {
            tracing::warn!(store = %self.executor.name(), %topic, %code,
                "Kafka refuses a batch of events: each is sent alone. If the topic takes less than others, lower `batch.size` under [kafka.librdkafka]");
        }
        let hold = self.holds.entry(topic.clone()).or_insert(Hold { from: id, until: Instant::now(), alone: id });
        hold.from = hold.from.min(id);
        hold.alone = hold.alone.max(id);
    }

    fn hold(&mut self, id: i64, topic: &Arc<str>, error: &str) {
        if !self.holds.contains_key(topic) {
            tracing::warn!(store = %self.executor.name(), %topic, error,
                "events for this topic wait: create it or grant WRITE on it; they are sent once it takes them");
        }
        let until = Instant::now() + HOLD;
        let hold = self.holds.entry(topic.clone()).or_insert(Hold { from: id, until, alone: 0 });
        hold.from = hold.from.min(id);
        hold.until = until;
        self.failed.push((id, error.to_owned()));
    }

    /// Tells the store what it can note.
    pub(super) fn report(&mut self) {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for id in std::mem::take(&mut self.acknowledged) {
            match ranges.last_mut() {
                Some((_, to)) if *to + 1 == id => *to = id,
                _ => ranges.push((id, id)),
            }
        }
        if !ranges.is_empty() {
            let _ = self.executor.published(ranges);
        }
        for (id, error) in self.failed.drain(..) {
            let _ = self.executor.not_published(vec![id], error);
        }
        for (id, error) in self.refused.drain(..) {
            let _ = self.executor.refused(id, error);
        }
    }

    /// Hands rows to the producer until none waits or there is no room.
    pub(super) fn pump(&mut self, outlet: &mut Outlet) {
        if let Err(error) = self.release(outlet) {
            tracing::warn!(store = %self.executor.name(), %error, "read the outbox");
            self.reader = None;
        }
        while self.rows_may_wait && self.flying.len() < WINDOW {
            let rows = match self.read(|reader, after| outbox::waiting(reader, Span::After(after), BATCH, BATCH_BYTES))
            {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(store = %self.executor.name(), %error, "read the outbox");
                    self.reader = None;
                    self.rows_may_wait = false;
                    return;
                }
            };
            if rows.is_empty() {
                self.rows_may_wait = false;
            }
            for row in rows {
                let held = self.holds.contains_key(row.event.topic.as_str());
                if !held && !self.hand_over(outlet, &row, false) {
                    // After a report there may be room again.
                    self.rows_may_wait = false;
                    return;
                }
                self.after = row.id;
            }
        }
    }

    /// Tries topics again that were held, from the first row that each did not take.
    fn release(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        let now = Instant::now();
        let due: Vec<Arc<str>> =
            self.holds.iter().filter(|(_, h)| h.until <= now).map(|(topic, _)| topic.clone()).collect();
        for topic in due {
            // Those that are still out may fail as well, and would be overtaken.
            if self.flying.values().any(|row| row.topic == topic) {
                continue;
            }
            let Some(Hold { from, alone, .. }) = self.holds.get(&topic) else { continue };
            let (from, to, alone) = (*from, self.after, *alone);
            let batch = if from <= alone { 1 } else { BATCH };
            let rows =
                self.read(|reader, _| outbox::waiting(reader, Span::Of(&topic, from, to), batch, BATCH_BYTES))?;
            self.holds.remove(&topic);
            // The batch may have been cut short: it goes on behind its last row until there is none.
            let mut rest = rows.last().map(|row| row.id + 1);
            for row in &rows {
                if !self.hand_over(outlet, row, row.id <= alone) {
                    rest = Some(row.id);
                    break;
                }
                if self.holds.contains_key(&topic) {
                    rest = None;
                    break;
                }
            }
            if let Some(from) = rest {
                self.holds.insert(topic, Hold { from, until: now, alone });
            }
        }
        Ok(())
    }

    /// `false` if the producer has no room.
    fn hand_over(&mut self, outlet: &mut Outlet, row: &Waiting, alone: bool) -> bool {
        let topic: Arc<str> = row.event.topic.as_str().into();
        let mut flying = Flying { topic: topic.clone(), kind: row.event.kind, alone };
        match outlet.send(self.executor.name(), row, alone) {
            Sent::Taken => drop(self.flying.insert(row.id, flying)),
            Sent::Full => return false,
            Sent::Refused(code) => {
                // By the producer itself, which has looked at this row only.
                flying.alone = true;
                self.not_taken(row.id, &flying, code, outlet);
            }
            Sent::NoTopic(error) if !is_final(&error) => self.hold(row.id, &topic, &error.to_string()),
            Sent::NoTopic(error) => {
                tracing::error!(store = %self.executor.name(), row = row.id, %error, "a dead letter cannot be published: it is kept in tm_fallback");
                self.refused.push((row.id, error.to_string()));
            }
        }
        true
    }

    /// When a held topic is to be tried again.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.holds.values().map(|hold| hold.until).min()
    }

    fn read<T>(&mut self, read: impl FnOnce(&Connection, i64) -> Result<T, Error>) -> Result<T, Error> {
        if self.reader.is_none() {
            self.reader = Some(Connection::open_reader(&self.path)?);
        }
        match &self.reader {
            Some(reader) => read(reader, self.after),
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
        let outbound = crate::outbound::Outbound::new(runtime.handle().clone()).unwrap();
        let keep = executor::Keep { outbox: Duration::ZERO, inbox: None, answers: None };
        let (executor, thread) = executor::spawn("test", &path, &settings, keep, Box::new(|| {}), outbound).unwrap();
        let mut source = Source::new(path, executor.clone(), Arc::default());
        let topic: Arc<str> = "t".into();
        let flying = || Flying { topic: topic.clone(), kind: EventKind::Event, alone: false };
        source.flying = [(10, flying()), (11, flying())].into();
        source.after = 99;
        source.hold(20, &topic, "thrown away");
        source.rewind();
        assert_eq!((source.after, source.open()), (9, 0));
        assert_eq!(source.holds.get(&topic).map(|hold| hold.from), Some(10));
        executor.stop();
        thread.join().unwrap();
        for code in [RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeInflight] {
            assert_eq!(judge(code), Verdict::Producer);
        }
    }
}
