//! The partitions of one consumer: expected, open, paused.
//!
//! A partition is expected from its assignment until everything about it is known; then the store is asked where to
//! start, and the client reads from there. One that cannot be looked at holds up no other. It is paused only when its lane
//! is full and does not drain, and only what was paused here is resumed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;

use super::Plan;
use super::look::look;
use super::rebalancer::{Rebalancer, list_of};
use crate::executor::{Handle, Open, Opened};
use crate::kafka::identity::TopicId;
use crate::lane::opening::Seen;
use crate::lane::{Meter, Token};
use crate::record::Record;

/// How long to wait before the cluster is asked again: at first, and at most.
const ASK_AGAIN: Duration = Duration::from_millis(500);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(10);

/// What a rebalance brought, in order.
pub(super) enum Event {
    /// Partitions to be opened.
    Assigned(Vec<(String, i32)>),
    /// Partitions that were given up.
    Revoked(Vec<(String, i32)>),
}

/// How much of one lane may be in memory.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    /// Records.
    pub(super) records: usize,
    /// Bytes.
    pub(super) bytes: usize,
}

impl Marks {
    /// Whether a lane has so many times as much.
    fn reached_by(self, meter: &Meter, times: usize) -> bool {
        meter.records() >= self.records.saturating_mul(times) || meter.bytes() >= self.bytes.saturating_mul(times)
    }

    /// Whether a lane has half of it at most.
    fn has_room(self, meter: &Meter) -> bool {
        meter.records() <= self.records / 2 && meter.bytes() <= self.bytes / 2
    }
}

struct Reader {
    token: Token,
    /// The offset after the last record that came from the client.
    next: i64,
    meter: Arc<Meter>,
    batch: Vec<Record>,
    paused: bool,
    full_since: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Assignment {
    readers: HashMap<Arc<str>, HashMap<i32, Reader>>,
    /// The ids of the topics that are read.
    topic_ids: HashMap<Arc<str>, String>,
    /// Partitions that wait to be opened.
    expected: Vec<(String, i32)>,
    /// Those that are not read until the operator has decided.
    shut: Vec<(String, i32)>,
    /// Not before this is the cluster asked again, and how long the next wait is.
    ask_at: Option<Instant>,
    waited: Duration,
}

impl Assignment {
    /// Nothing waits to be opened.
    pub(super) fn is_settled(&self) -> bool {
        self.expected.is_empty()
    }

    /// Whether a partition is open here.
    pub(super) fn holds(&self, topic: &str, partition: i32) -> bool {
        self.readers.get(topic).is_some_and(|readers| readers.contains_key(&partition))
    }

    pub(super) fn expect(&mut self, partitions: Vec<(String, i32)>) {
        self.expected.extend(partitions);
        self.ask_at = None;
        self.waited = ASK_AGAIN;
    }

    /// Puts a record into its lane's batch; one of a partition that is not open is dropped, since it stays in Kafka.
    pub(super) fn receive(&mut self, topic: &str, partition: i32, record: impl FnOnce() -> Record) {
        let Some((name, readers)) =
            self.readers.get_key_value(topic).map(|(name, _)| name.clone()).zip(self.readers.get_mut(topic))
        else {
            return;
        };
        if let Some(reader) = readers.get_mut(&partition) {
            let record = Record { topic: name, ..record() };
            reader.next = record.offset + 1;
            reader.meter.add(record.size());
            reader.batch.push(record);
        }
    }

    pub(super) fn hand_over(&mut self, executor: &Handle) -> Result<()> {
        for reader in self.readers.values_mut().flat_map(HashMap::values_mut) {
            if !reader.batch.is_empty() {
                executor.records(reader.token, std::mem::take(&mut reader.batch))?;
            }
        }
        Ok(())
    }

    /// Forgets partitions; returns their lanes.
    pub(super) fn forget(&mut self, partitions: &[(String, i32)]) -> Vec<Token> {
        self.expected.retain(|partition| !partitions.contains(partition));
        self.shut.retain(|partition| !partitions.contains(partition));
        partitions
            .iter()
            .filter_map(|(topic, partition)| self.readers.get_mut(topic.as_str())?.remove(partition))
            .map(|reader| reader.token)
            .collect()
    }

    pub(super) fn forget_all(&mut self) -> Vec<Token> {
        self.expected.clear();
        self.shut.clear();
        self.readers.drain().flat_map(|(_, readers)| readers.into_values()).map(|reader| reader.token).collect()
    }

    /// The topics that are read.
    pub(super) fn topics(&self) -> Vec<&str> {
        self.readers.iter().filter(|(_, readers)| !readers.is_empty()).map(|(topic, _)| &**topic).collect()
    }

    /// The first of these topics that is read, and was another one when it was opened.
    pub(super) fn made_again<'a>(&self, ids: &'a HashMap<String, TopicId>) -> Option<&'a str> {
        let another = |(topic, id): &(&String, &TopicId)| {
            self.topic_ids.get(topic.as_str()).is_some_and(|known| known != id.as_str())
        };
        ids.iter().find(another).map(|(topic, _)| topic.as_str())
    }

    /// Gives all partitions up on the client and expects them anew; returns their old lanes, or `None` where the client keeps them.
    pub(super) fn reopen(&mut self, client: &BaseConsumer<Rebalancer>) -> Option<Vec<Token>> {
        let list = client.assignment().ok()?;
        let held: Vec<(String, i32)> = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        if let Err(error) = client.context().put_down(client, &unplaced(&held)) {
            tracing::warn!(%error, "give partitions up to open them anew");
            return None;
        }
        self.expected.append(&mut self.shut);
        let tokens = self.forget(&held);
        self.expect(held);
        Some(tokens)
    }

    /// Opens what is expected, as far as Kafka and the store answer; the rest is tried again later. Returns whether
    /// anything was opened.
    pub(super) fn open(&mut self, client: &BaseConsumer<Rebalancer>, plan: &Plan) -> bool {
        if self.expected.is_empty() || self.ask_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let (handler, before) = (&plan.spec.name, self.expected.len());
        match look(client, plan, &self.expected).and_then(|seen| self.take_up(client, plan, seen)) {
            Ok(0) => self.waited = ASK_AGAIN,
            Ok(left) => {
                tracing::warn!(
                    handler,
                    partitions = left,
                    "partitions cannot be looked at yet; they are read as soon as Kafka answers"
                );
                self.wait();
            }
            Err(error) => {
                tracing::warn!(
                    handler,
                    error = format!("{error:#}"),
                    "assigned partitions cannot be opened yet; it is tried again"
                );
                self.wait();
            }
        }
        self.expected.len() < before
    }

    fn wait(&mut self) {
        self.ask_at = Some(Instant::now() + self.waited);
        self.waited = (self.waited * 2).min(ASK_AGAIN_MAX);
    }

    /// Asks the store where to start and assigns to the client. A lane that stays shut is never assigned. Returns
    /// how many partitions are still expected.
    fn take_up(&mut self, client: &BaseConsumer<Rebalancer>, plan: &Plan, seen: Vec<Option<Seen>>) -> Result<usize> {
        let tried = seen.len();
        let complete = tried == self.expected.len() && seen.iter().all(Option::is_some);
        let known = self.expected.iter().zip(seen).filter_map(|(named, seen)| Some((named.clone(), seen?)));
        let (named, seen): (Vec<(String, i32)>, Vec<Seen>) = known.unzip();
        for ((topic, _), seen) in named.iter().zip(&seen) {
            self.topic_ids.insert(topic.as_str().into(), seen.topic_id.clone());
        }
        let meters: Vec<Arc<Meter>> = named.iter().map(|_| Arc::default()).collect();
        let lanes = named.iter().zip(&meters).zip(seen).map(|(((topic, partition), meter), seen)| Open {
            topic: topic.as_str().into(),
            partition: *partition,
            seen,
            meter: meter.clone(),
        });
        let opened = plan.executor.open(&plan.spec.name.as_str().into(), lanes.collect(), complete)?;
        let starts = named.iter().zip(&opened).filter_map(|((topic, partition), opened)| match opened {
            Opened::At { next, .. } => Some((topic.as_str(), *partition, Offset::Offset(*next))),
            Opened::Shut => None,
        });
        let starts: Vec<_> = starts.collect();
        // librdkafka remembers that a partition was paused, also when it comes back after it was given up.
        client.resume(&list_of(&starts)?).context("resume partitions")?;
        client.context().take_up(client, &starts, &self.held()).context("assign partitions")?;
        self.expected.retain(|partition| !named.contains(partition));
        // Those that did not answer come last.
        let unanswered = tried - named.len();
        self.expected.rotate_left(unanswered);
        let shut = named.iter().zip(&opened).filter(|(_, opened)| matches!(opened, Opened::Shut));
        self.shut.extend(shut.map(|(named, _)| named.clone()));
        let mut read = 0;
        for (((topic, partition), opened), meter) in named.iter().zip(&opened).zip(meters) {
            if let Opened::At { token, next } = opened {
                read += 1;
                let (token, next) = (*token, *next);
                let reader = Reader { token, next, meter, batch: Vec::new(), paused: false, full_since: None };
                self.readers.entry(topic.as_str().into()).or_default().insert(*partition, reader);
            }
        }
        tracing::info!(handler = %plan.spec.name, partitions = read, shut = named.len() - read, "partitions assigned");
        Ok(self.expected.len())
    }

    /// What is read, and where it goes on.
    fn held(&self) -> Vec<(&str, i32, Offset)> {
        let mut held = Vec::new();
        for (topic, readers) in &self.readers {
            held.extend(readers.iter().map(|(partition, reader)| (&**topic, *partition, Offset::Offset(reader.next))));
        }
        held
    }

    /// Whether a lane that is read has reached a mark, and takes one record at a time at most. One that has room has drained.
    pub(super) fn is_full(&mut self, marks: Marks) -> bool {
        let mut any = false;
        for reader in self.readers.values_mut().flat_map(HashMap::values_mut) {
            if !marks.reached_by(&reader.meter, 1) {
                reader.full_since = None;
            } else if !reader.paused {
                any = true;
            }
        }
        any
    }

    /// Back-pressure with two marks. A lane that drains is not paused, since that throws away what librdkafka has fetched, and
    /// a partition that is resumed brings nothing for up to a second. One that stands still is, and one that drains slower than it fills.
    pub(super) fn press(&mut self, client: &BaseConsumer<Rebalancer>, marks: Marks, drain: Duration) {
        let mut wait = false;
        for (topic, readers) in &mut self.readers {
            for (partition, reader) in readers {
                let meter = &reader.meter;
                let change = if reader.paused {
                    marks.has_room(meter).then_some(false)
                } else if marks.reached_by(meter, 1) {
                    let since = *reader.full_since.get_or_insert_with(Instant::now);
                    wait |= !meter.blocked();
                    let stands = meter.blocked() || since.elapsed() > drain;
                    (stands || marks.reached_by(meter, 2)).then_some(true)
                } else {
                    None
                };
                let Some(pause) = change else { continue };
                let done = list_of(&[(&**topic, *partition, Offset::Invalid)])
                    .and_then(|list| if pause { client.pause(&list) } else { client.resume(&list) });
                match done {
                    Ok(()) => {
                        tracing::debug!(%topic, partition, pause, "a partition is paused or resumed");
                        reader.paused = pause;
                    }
                    Err(error) => {
                        tracing::warn!(%topic, partition, pause, %error, "pause or resume a partition")
                    }
                }
            }
        }
        if wait {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Partitions whose offsets do not matter.
pub(super) fn unplaced(partitions: &[(String, i32)]) -> Vec<(&str, i32, Offset)> {
    partitions.iter().map(|(topic, partition)| (topic.as_str(), *partition, Offset::Invalid)).collect()
}
