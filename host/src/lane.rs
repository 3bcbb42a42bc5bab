//! Lanes: the records of one partition of one handler, in order.
//!
//! Its invariant: a lane hands out the next of its records or says that one of its pending records is due, and moves on
//! only when the executor says that a commit has made it so. Its pending records are in the store; here is only what is known of them in
//! short. A lane holds no more in memory than its marks allow; the rest stays in Kafka.

pub mod opening;
pub mod meter;
pub mod turn;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ledger::pending::Waiting;
use crate::policy::Policy;
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
    /// What waits in the store.
    pub waiting: Waiting,
    /// Shared with the consumer, which pauses the partition by it.
    pub meter: Arc<Meter>,
    /// Deliveries made, so that pending records and new ones take turns.
    pub steps: u64,
    /// Deliveries that still run alone, each with its crash count, after an unclean stop.
    pub careful: usize,
    /// Whether the lane stands in its handler's list of lanes to run.
    pub listed: bool,
    /// The due time for which the executor was last asked to wake it.
    pub alarm: Option<i64>,
}

/// What a commit group has done to a lane so far; becomes true only when the group commits.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Records taken from the front of the queue.
    pub taken: usize,
    /// The next offset after them, if any were taken.
    pub next: Option<i64>,
    /// What waits in the store now, if that has changed.
    pub waiting: Option<Waiting>,
    /// Deliveries made.
    pub steps: u64,
    /// Whether any of them was done.
    pub passed: bool,
}

impl Draft {
    /// One input of the lane was dealt with.
    pub fn step(&mut self, head: &Head, waiting: Option<Waiting>) {
        if let Head::Record(record) = head {
            self.taken += 1;
            self.next = Some(record.offset + 1);
        }
        self.steps += 1;
        self.waiting = waiting.or(self.waiting);
    }
}

/// What a lane would run next.
#[derive(Clone, Debug)]
pub enum Head {
    /// The pending record that is due first.
    Pending,
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

    /// What waits in the store under this draft.
    pub fn waiting(&self, draft: Option<&Draft>) -> Waiting {
        draft.and_then(|draft| draft.waiting).unwrap_or(self.waiting)
    }

    /// What runs next under this draft, at `now`; `None` if there is nothing, or it is not due.
    pub fn head(&self, draft: Option<&Draft>, policy: &Policy, now: i64) -> Option<Head> {
        let waiting = self.waiting(draft);
        let due = waiting.due.is_some_and(|due| due <= now);
        let queued = match stands(&waiting, policy) {
            true => None,
            false => self.queue.get(draft.map_or(0, |draft| draft.taken)),
        };
        let odd = !(self.steps + draft.map_or(0, |draft| draft.steps)).is_multiple_of(2);
        match queued {
            Some(record) if !due || odd => Some(Head::Record(record.clone())),
            _ => due.then_some(Head::Pending),
        }
    }

    /// Makes a draft true, after its commit.
    pub fn settle(&mut self, draft: Draft, policy: &Policy) {
        for record in self.queue.drain(..draft.taken.min(self.queue.len())) {
            self.meter.remove(record.size());
        }
        if let Some(next) = draft.next {
            self.next = next;
        }
        self.waiting = draft.waiting.unwrap_or(self.waiting);
        self.steps += draft.steps;
        self.meter.set_blocked(stands(&self.waiting, policy));
    }
}

/// Whether no new record may run: one that waits holds up all, or too many wait.
pub fn stands(waiting: &Waiting, policy: &Policy) -> bool {
    waiting.blocking > 0 || waiting.records >= policy.max_pending || waiting.bytes >= policy.max_pending_bytes
}
