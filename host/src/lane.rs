//! Lanes: the records of one partition of one handler, in order.
//!
//! Its invariant: a lane hands out its head and nothing else, and moves on only when the executor says that a
//! commit has made it so. A lane holds no more in memory than its marks allow; the rest stays in Kafka.

pub mod opening;
pub mod meter;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ledger::pending::Pending;
use crate::record::Record;

pub use meter::Meter;

/// Names one opening of a lane in this process; a lane that is opened again gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A lane, as its store's executor holds it.
pub struct Lane {
    /// The handler's name.
    pub handler: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The topic's id.
    pub topic_id: String,
    /// The partition.
    pub partition: i32,
    /// The store's count of openings; a group of an older one is rolled back.
    pub epoch: i64,
    /// The next offset, as committed.
    pub next: i64,
    /// Records that came from Kafka and are not done.
    pub queue: VecDeque<Arc<Record>>,
    /// The record that blocks the lane until it is due, and those behind it (oldest first).
    pub pending: VecDeque<Arc<Pending>>,
    /// Shared with the consumer, which pauses the partition by it.
    pub meter: Arc<Meter>,
    /// Whether the lane stands in its handler's list of lanes to run.
    pub listed: bool,
}

/// What a commit group has done to a lane so far; becomes true only when the group commits.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Records taken from the front of the queue.
    pub taken: usize,
    /// The next offset after them, if any were taken.
    pub next: Option<i64>,
    /// Records taken from the front of `pending`.
    pub popped: usize,
    /// The record that now waits before all others.
    pub waits: Option<Arc<Pending>>,
}

impl Draft {
    /// The input that was the lane's head is done with, or waits (again).
    pub fn step(&mut self, input: &Input, waits: Option<Arc<Pending>>) {
        match input {
            Input::Record(record) => {
                self.taken += 1;
                self.next = Some(record.offset + 1);
            }
            // One that this group itself put aside is not among the lane's yet.
            Input::Pending(_) if self.waits.is_some() => {}
            Input::Pending(_) => self.popped += 1,
        }
        self.waits = waits;
    }
}

/// What a lane would run next.
#[derive(Clone)]
pub enum Input {
    /// A record that failed before.
    Pending(Arc<Pending>),
    /// A record from Kafka.
    Record(Arc<Record>),
}

impl Lane {
    /// Takes records from the consumer, skipping what the store has done already.
    pub fn push(&mut self, records: Vec<Record>) {
        let mut expected = self.queue.back().map_or(self.next, |last| last.offset + 1);
        for record in records {
            if record.offset < expected {
                self.meter.remove(record.size());
                continue;
            }
            expected = record.offset + 1;
            self.queue.push_back(Arc::new(record));
        }
    }

    /// What runs next under this draft, at `now`; `None` if there is nothing, or it is not due.
    pub fn head(&self, draft: Option<&Draft>, now: i64) -> Option<Input> {
        let waiting = match draft {
            None => self.pending.front(),
            Some(Draft { waits: Some(pending), .. }) => Some(pending),
            Some(draft) => self.pending.get(draft.popped),
        };
        match waiting {
            Some(pending) if pending.due <= now => Some(Input::Pending(pending.clone())),
            Some(_) => None,
            None => self.queue.get(draft.map_or(0, |d| d.taken)).cloned().map(Input::Record),
        }
    }

    /// Makes a draft true, after its commit.
    pub fn settle(&mut self, draft: Draft) {
        for record in self.queue.drain(..draft.taken.min(self.queue.len())) {
            self.meter.remove(record.size());
        }
        if let Some(next) = draft.next {
            self.next = next;
        }
        self.pending.drain(..draft.popped.min(self.pending.len()));
        if let Some(pending) = draft.waits {
            self.pending.push_front(pending);
        }
        self.meter.set_blocked(!self.pending.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timestamp;
    use proptest::prelude::*;

    fn record(offset: i64) -> Arc<Record> {
        let topic = "t".into();
        Arc::new(Record {
            topic,
            partition: 0,
            offset,
            timestamp: Timestamp::None,
            key: None,
            value: None,
            headers: vec![],
        })
    }

    fn lane(waiting: i64, queued: i64) -> Lane {
        let pending = |offset| Pending {
            id: offset + 1,
            record: (*record(offset)).clone(),
            topic_id: "i".into(),
            attempts: 1,
            due: 0,
            errors: "[]".into(),
        };
        let meter = Arc::new(Meter::default());
        let queue: VecDeque<_> = (waiting..waiting + queued).map(record).collect();
        queue.iter().for_each(|record| meter.add(record.size()));
        Lane {
            handler: "h".into(),
            topic: "t".into(),
            topic_id: "i".into(),
            partition: 0,
            epoch: 1,
            next: waiting,
            queue,
            pending: (0..waiting).map(pending).map(Arc::new).collect(),
            meter,
            listed: false,
        }
    }

    proptest! {
        /// Whatever fails how often, and wherever groups begin, commit or are thrown away: each record ends once,
        /// in order, and none is passed by.
        #[test]
        fn records_end_once_and_in_order(
            waiting in 0i64..4, queued in 0i64..8,
            schedule in prop::collection::vec((prop::bool::weighted(0.4), prop::bool::weighted(0.3), any::<bool>()), 0..200),
        ) {
            let mut lane = lane(waiting, queued);
            let (mut ended, mut in_group) = (Vec::new(), Vec::new());
            let (mut draft, mut next_id) = (Draft::default(), 100);
            let steps = schedule.into_iter().chain(std::iter::repeat_n((false, true, true), 20));
            for (fails, group_ends, commits) in steps {
                if let Some(input) = lane.head(Some(&draft), 0) {
                    let (offset, pending) = match &input {
                        Input::Record(record) => (record.offset, None),
                        Input::Pending(pending) => (pending.record.offset, Some(pending.clone())),
                    };
                    let waits = fails.then(|| match pending {
                        Some(pending) => pending,
                        None => {
                            next_id += 1;
                            let record = (*record(offset)).clone();
                            Arc::new(Pending { id: next_id, record, topic_id: "i".into(), attempts: 1, due: 0, errors: "[]".into() })
                        }
                    });
                    if waits.is_none() {
                        in_group.push(offset);
                    }
                    draft.step(&input, waits);
                }
                if group_ends {
                    let done = std::mem::take(&mut draft);
                    if commits {
                        lane.settle(done);
                        ended.append(&mut in_group);
                    }
                    in_group.clear();
                }
            }
            prop_assert_eq!(ended, (0..waiting + queued).collect::<Vec<_>>());
            prop_assert_eq!((lane.next, lane.meter.records(), lane.meter.bytes()), (waiting + queued, 0, 0));
        }
    }
}
