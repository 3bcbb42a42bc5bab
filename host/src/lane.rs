//! Lanes: the records of one partition of one handler, in order; and the timers of one schedule.
//!
//! Its invariant: a lane hands out the next of its records or says that one of its pending records is due, and moves on
//! only when the executor says that a commit has made it so. Its pending records are in the store; here is only what is known of them in
//! short. A lane holds no more in memory than its marks allow; the rest stays in Kafka.

pub mod opening;
pub mod meter;
pub mod turn;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::guest::Answers;
use crate::ledger::offset::Replay;
use crate::ledger::pending::{TIMERS, Waiting};
use crate::outbound::{Answer, Call};
use crate::policy::Policy;
use crate::record::{Record, Timestamp};
use crate::schedule::Schedule;

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
    /// When a timer is to be fired, if the lane is a schedule's (its partition is [`TIMERS`] then, and its topic the schedule's name).
    pub schedule: Option<Schedule>,
    /// The store's count of openings; a group of an older one is rolled back.
    pub epoch: i64,
    /// The next offset, as committed; a schedule's next due time.
    pub next: i64,
    /// The replay that its records are read in, from where and up to where that goes.
    pub replay: Replay,
    /// Records that came from Kafka and are not done.
    pub queue: VecDeque<Arc<Record>>,
    /// What waits in the store.
    pub waiting: Waiting,
    /// Deliveries that wait for the outside, by their rows in the store.
    pub outside: HashMap<i64, Aside>,
    /// Those of them whose answer has come, in order.
    pub answered: VecDeque<i64>,
    /// Shared with the consumer, which pauses the partition by it.
    pub meter: Arc<Meter>,
    /// Deliveries made, so that pending records and new ones take turns.
    pub steps: u64,
    /// Deliveries that still run alone, each with its crash count, after an unclean stop or where a crash is counted.
    pub careful: usize,
    /// Whether any of its records had crashes to its count when it was opened.
    pub crashed: bool,
    /// Whether an operator has paused it: nothing new begins.
    pub paused: bool,
    /// Whether the lane stands in its handler's list of lanes to run.
    pub listed: bool,
    /// The due time for which the executor was last asked to wake it.
    pub alarm: Option<i64>,
}

/// A delivery that was set aside until a call to the outside is answered.
#[derive(Clone, Debug, Default)]
pub struct Aside {
    /// When its attempt started: its clock stands still through all runs. Milliseconds since the Unix epoch.
    pub started: i64,
    /// What its calls were answered so far.
    pub answers: Answers,
    /// Calls that were made for it.
    pub asked: usize,
    /// When its first run began, where its trace is recorded.
    pub since: Option<Instant>,
}

/// A call that is made once the group has committed.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The row of the delivery's record.
    pub id: i64,
    /// The delivery.
    pub aside: Aside,
    /// The call.
    pub call: Box<Call>,
}

/// What a commit group has done to a lane so far; becomes true only when the group commits.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Records taken from the front of the queue.
    pub taken: usize,
    /// The next offset after them, if any were taken; one more than the due time for which a timer was fired last.
    pub next: Option<i64>,
    /// Deliveries taken from the front of those that were answered.
    pub answered: usize,
    /// Calls to be made.
    pub asks: Vec<Ask>,
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
        match head {
            Head::Record(record) => {
                self.taken += 1;
                self.next = Some(record.offset + 1);
            }
            Head::Answered(_) => self.answered += 1,
            Head::Pending => {}
        }
        self.steps += 1;
        self.waiting = waiting.or(self.waiting);
    }
}

/// What a lane would run next.
#[derive(Clone, Debug)]
pub enum Head {
    /// The record in this row, whose call was answered.
    Answered(i64),
    /// The pending record that is due first.
    Pending,
    /// A record from Kafka.
    Record(Arc<Record>),
}

impl Lane {
    /// Under which name the inbox knows what the handler has done: its own, or in a replay one that it has not used before.
    pub fn inbox_name(&self, offset: i64) -> Arc<str> {
        if (self.replay.from..self.replay.until).contains(&offset) {
            format!("{}/{}", self.handler, self.replay.round).into()
        } else {
            self.handler.clone()
        }
    }

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

    /// Tells the meter of the record that is first in memory.
    pub fn note_oldest(&self) {
        self.meter.set_oldest(self.queue.front().and_then(|record| record.timestamp.millis()));
    }

    /// What waits in the store under this draft.
    pub fn waiting(&self, draft: Option<&Draft>) -> Waiting {
        draft.and_then(|draft| draft.waiting).unwrap_or(self.waiting)
    }

    /// What runs next under this draft, at `now`; `None` if there is nothing, or it is not due. Where the handler is `full`
    /// nothing new begins.
    pub fn head(&self, draft: Option<&Draft>, policy: &Policy, full: bool, now: i64) -> Option<Head> {
        if let Some(id) = self.answered.get(draft.map_or(0, |draft| draft.answered)) {
            return Some(Head::Answered(*id));
        }
        if full || self.paused {
            return None;
        }
        let waiting = self.waiting(draft);
        let due = waiting.due.is_some_and(|due| due <= now);
        let queued = match stands(&waiting, policy) {
            true => None,
            false if self.schedule.is_some() => self.timer(draft, now),
            false => self.queue.get(draft.map_or(0, |draft| draft.taken)).cloned(),
        };
        let odd = !(self.steps + draft.map_or(0, |draft| draft.steps)).is_multiple_of(2);
        match queued {
            Some(record) if !due || odd => Some(Head::Record(record)),
            _ => due.then_some(Head::Pending),
        }
    }

    /// The timer that is to be fired at `now`, as a record without key and value, whose offset is the due time.
    fn timer(&self, draft: Option<&Draft>, now: i64) -> Option<Arc<Record>> {
        let due = self.schedule.as_ref()?.due(self.place(draft), now)?;
        Some(Arc::new(Record {
            topic: self.topic.clone(),
            partition: TIMERS,
            offset: due,
            timestamp: Timestamp::CreateTime(due),
            key: None,
            value: None,
            headers: Vec::new(),
        }))
    }

    /// The next offset, or due time, under this draft.
    pub fn place(&self, draft: Option<&Draft>) -> i64 {
        match (draft.and_then(|draft| draft.next), &self.schedule) {
            (Some(next), Some(schedule)) => schedule.times.from(next),
            (Some(next), None) => next,
            (None, _) => self.next,
        }
    }

    /// When something of it is due that waits for its time: a pending record, or a timer. Milliseconds since the Unix epoch.
    pub fn due(&self) -> Option<i64> {
        let timer = self.schedule.as_ref().filter(|_| self.waiting.blocking == 0).map(|_| self.next);
        self.waiting.due.into_iter().chain(timer).min()
    }

    /// Makes a draft true, after its commit. Returns the calls that are to be made now.
    pub fn settle(&mut self, draft: Draft, policy: &Policy) -> Vec<Ask> {
        for id in self.answered.drain(..draft.answered.min(self.answered.len())) {
            self.outside.remove(&id);
        }
        for ask in &draft.asks {
            self.outside.insert(ask.id, ask.aside.clone());
        }
        for record in self.queue.drain(..draft.taken.min(self.queue.len())) {
            self.meter.remove(record.size());
        }
        self.next = self.place(Some(&draft));
        self.waiting = draft.waiting.unwrap_or(self.waiting);
        self.steps += draft.steps;
        self.note_standing(policy);
        self.note_oldest();
        draft.asks
    }

    /// Tells the meter whether the lane stands still.
    pub fn note_standing(&self, policy: &Policy) {
        self.meter.set_blocked(self.paused || stands(&self.waiting, policy));
    }

    /// A delivery's call was answered; one that is not known (any more) is passed over.
    pub fn answer(&mut self, id: i64, fingerprint: [u8; 32], answer: Answer) {
        if let Some(aside) = self.outside.get_mut(&id) {
            Arc::make_mut(&mut aside.answers).push((fingerprint, answer));
            self.answered.push_back(id);
        }
    }
}

/// Whether no new record may run: one that waits holds up all, or too many wait.
pub fn stands(waiting: &Waiting, policy: &Policy) -> bool {
    waiting.blocking > 0 || waiting.records >= policy.max_pending || waiting.bytes >= policy.max_pending_bytes
}
