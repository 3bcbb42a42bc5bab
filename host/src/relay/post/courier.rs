//! One HTTP destination: which row goes to it next, and when.
//!
//! Rows of one key go one after the other, in the order in which they came; those of different keys side by side. A row
//! that fails holds up its own key, and while none gets through it opens the destination's circuit, and all wait. It reads
//! no clock and sends nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::request::Verdict;
use crate::policy::circuit::{Failed, Settings};
use crate::policy::{Backoff, Circuit, millis};

/// Rows of one store that wait in memory at once: their ids and keys. The others are read when there is room again.
const ROWS: usize = 10_000;
/// Keys that try one row each when a pause is over.
const PROBES: usize = 3;

/// Rows that go one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) store: Arc<str>,
    order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Order {
    Key(Bytes),
    /// A row without a key is in no order.
    Row(i64),
}

impl Lane {
    pub(super) fn of(store: &Arc<str>, key: Option<Bytes>, id: i64) -> Self {
        Self { store: store.clone(), order: key.map_or(Order::Row(id), Order::Key) }
    }
}

/// The rows of a lane, the first of which may be out.
struct Queue {
    number: u64,
    rows: VecDeque<i64>,
    /// How many rows the destination had answered for when the first one began its first try, or ended its last.
    passes: Option<u64>,
    /// How often the first row has failed while others were taken.
    faults: u32,
}

/// What an answer changes for the destination as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It takes nothing, for now.
    Opened,
    /// It takes events again.
    Closed,
    /// It takes events, and not this one.
    Alone,
    /// None.
    Nothing,
}

pub(super) struct Courier {
    backoff: Backoff,
    circuit_settings: Settings,
    concurrency: usize,
    circuit: Circuit,
    lanes: HashMap<Lane, Queue>,
    /// Lanes whose first row can go.
    ready: VecDeque<Lane>,
    /// Those that wait for a time, by their numbers.
    late: BTreeSet<(i64, u64)>,
    numbers: HashMap<u64, Lane>,
    next_number: u64,
    flying: usize,
    /// Rows that the destination has answered for, whatever it said of them.
    passes: u64,
    /// The destination asks to be left alone until then, in milliseconds since the Unix epoch.
    quiet_until: i64,
    waiting: HashMap<Arc<str>, usize>,
}

impl Courier {
    pub(super) fn new(backoff: Backoff, concurrency: usize) -> Self {
        Self {
            backoff,
            circuit_settings: Settings { wait: backoff, probes: PROBES, ..Settings::default() },
            concurrency,
            circuit: Circuit::default(),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            late: BTreeSet::new(),
            numbers: HashMap::new(),
            next_number: 0,
            flying: 0,
            passes: 0,
            quiet_until: i64::MIN,
            waiting: HashMap::new(),
        }
    }

    /// Whether rows of this store can be added.
    pub(super) fn has_room(&self, store: &str) -> bool {
        self.waiting.get(store).is_none_or(|rows| *rows < ROWS)
    }

    /// Rows that are out.
    pub(super) fn flying(&self) -> usize {
        self.flying
    }

    /// A row that came after those before.
    pub(super) fn add(&mut self, lane: Lane, id: i64) {
        *self.waiting.entry(lane.store.clone()).or_default() += 1;
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.rows.push_back(id);
            return;
        }
        self.next_number += 1;
        let number = self.next_number;
        self.numbers.insert(number, lane.clone());
        self.ready.push_back(lane.clone());
        self.lanes.insert(lane, Queue { number, rows: [id].into(), passes: None, faults: 0 });
    }

    /// The row that goes now (milliseconds since the Unix epoch), if one can.
    pub(super) fn next(&mut self, now: i64) -> Option<(Lane, i64)> {
        while let Some(&(due, number)) = self.late.first()
            && due <= now
        {
            self.late.pop_first();
            self.ready.extend(self.numbers.get(&number).cloned());
        }
        if self.is_full() || now < self.quiet_until {
            return None;
        }
        let lets = |lane: &Lane| {
            let number = self.lanes.get(lane).map_or(0, |queue| queue.number);
            self.circuit.lets(&self.circuit_settings, number, now)
        };
        let lane = self.ready.iter().position(lets).and_then(|position| self.ready.remove(position))?;
        let queue = self.lanes.get_mut(&lane)?;
        queue.passes.get_or_insert(self.passes);
        self.flying += 1;
        let id = *queue.rows.front()?;
        Some((lane, id))
    }

    /// What became of a lane's first row; `dice`, from 0 to 1, is for jitter.
    pub(super) fn settle(&mut self, lane: &Lane, verdict: &Verdict, now: i64, dice: f64) -> Change {
        self.flying = self.flying.saturating_sub(1);
        let Verdict::Later { after, busy, .. } = *verdict else {
            let was_open = self.circuit.is_open();
            self.circuit.pass(&self.circuit_settings);
            self.passes += 1;
            self.done(lane);
            return if was_open { Change::Closed } else { Change::Nothing };
        };
        let Some(queue) = self.lanes.get_mut(lane) else { return Change::Nothing };
        let alone = queue.passes.replace(self.passes) != Some(self.passes) && !busy;
        if alone {
            queue.faults += 1;
            let wait = self.backoff.wait(queue.faults, dice).max(after.unwrap_or_default());
            self.late.insert((now.saturating_add(millis(wait)), queue.number));
            return if queue.faults == 1 { Change::Alone } else { Change::Nothing };
        }
        let was_open = self.circuit.is_open();
        let failed = Failed { lane: queue.number, unavailable: true, after: None, now, dice };
        self.circuit.fail(&self.circuit_settings, failed);
        self.quiet_until = self.quiet_until.max(now.saturating_add(millis(after.unwrap_or(Duration::ZERO))));
        self.ready.push_back(lane.clone());
        if was_open { Change::Nothing } else { Change::Opened }
    }

    /// Lets all be tried now.
    pub(super) fn hurry(&mut self) {
        for (_, number) in std::mem::take(&mut self.late) {
            self.ready.extend(self.numbers.get(&number).cloned());
        }
        self.circuit = Circuit::default();
        self.quiet_until = i64::MIN;
    }

    /// The lane's first row is gone: the next one can go.
    pub(super) fn done(&mut self, lane: &Lane) {
        if let Some(rows) = self.waiting.get_mut(&lane.store) {
            *rows = rows.saturating_sub(1);
        }
        let Some(queue) = self.lanes.get_mut(lane) else { return };
        queue.rows.pop_front();
        if queue.rows.is_empty() {
            self.numbers.remove(&queue.number);
            self.lanes.remove(lane);
        } else {
            (queue.passes, queue.faults) = (None, 0);
            self.ready.push_back(lane.clone());
        }
    }

    /// A row that was to go is not in its store any more.
    pub(super) fn gone(&mut self, lane: &Lane) {
        self.flying = self.flying.saturating_sub(1);
        self.done(lane);
    }

    /// Whether as many are out as may be: fewer while it is only tried whether it takes events.
    fn is_full(&self) -> bool {
        self.flying >= if self.circuit.is_open() { PROBES.min(self.concurrency) } else { self.concurrency }
    }

    /// When a row can go that waits for nothing but its time, in milliseconds since the Unix epoch.
    pub(super) fn next_time(&self) -> Option<i64> {
        let ready = (!self.ready.is_empty()).then(|| self.circuit.until().unwrap_or(i64::MIN));
        let late = self.late.first().map(|(due, _)| *due);
        ready.into_iter().chain(late).min().map(|at| at.max(self.quiet_until)).filter(|_| !self.is_full())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff =
        Backoff { interval: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(30), jitter: 0.0 };

    fn lane(key: &str) -> Lane {
        Lane::of(&"s".into(), Some(Bytes::copy_from_slice(key.as_bytes())), 0)
    }

    fn courier(rows: &[(&str, i64)]) -> Courier {
        let mut courier = Courier::new(BACKOFF, 4);
        rows.iter().for_each(|(key, id)| courier.add(lane(key), *id));
        courier
    }

    fn later() -> Verdict {
        Verdict::Later { error: String::new(), after: None, busy: false }
    }

    fn out(courier: &mut Courier, now: i64) -> Vec<i64> {
        std::iter::from_fn(|| courier.next(now)).map(|(_, id)| id).collect()
    }

    #[test]
    fn s4_6_rows_of_one_key_go_one_after_the_other_and_others_beside_them() {
        let mut courier = courier(&[("a", 1), ("a", 2), ("b", 3), ("a", 4)]);
        assert_eq!(out(&mut courier, 0), [1, 3]);
        courier.settle(&lane("a"), &Verdict::Taken, 0, 0.0);
        assert_eq!(out(&mut courier, 0), [2]);
        courier.settle(&lane("b"), &Verdict::Refused(String::new()), 0, 0.0);
        assert!(out(&mut courier, 0).is_empty());
        courier.settle(&lane("a"), &Verdict::Taken, 0, 0.0);
        assert_eq!(out(&mut courier, 0), [4]);
    }

    #[test]
    fn s4_6_a_destination_that_is_down_is_probed_and_goes_on_with_the_first_that_passes() {
        let mut courier = courier(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]);
        assert_eq!(out(&mut courier, 0), [1, 2, 3, 4], "as many as may be under way");
        let changes = ["a", "b", "c", "d"].map(|key| courier.settle(&lane(key), &later(), 0, 0.0));
        assert_eq!(changes, [Change::Opened, Change::Nothing, Change::Nothing, Change::Nothing]);
        assert!(out(&mut courier, 999).is_empty());
        assert_eq!(courier.next_time(), Some(1_000));
        // Not those alone that have failed.
        assert_eq!(out(&mut courier, 1_000), [5, 1, 2]);
        assert_eq!(courier.settle(&lane("e"), &later(), 1_000, 0.0), Change::Nothing);
        assert_eq!(courier.settle(&lane("a"), &Verdict::Taken, 1_001, 0.0), Change::Closed);
        assert_eq!(out(&mut courier, 1_002), [3, 4, 5]);
    }

    #[test]
    fn s4_6_an_event_that_fails_while_others_pass_waits_alone_and_longer_each_time() {
        let mut courier = courier(&[("bad", 1), ("bad", 2)]);
        let mut now = 0;
        assert_eq!(out(&mut courier, now), [1]);
        assert_eq!(courier.settle(&lane("bad"), &later(), now, 0.0), Change::Opened);
        let mut waits = vec![];
        for id in 10..18 {
            now = courier.next_time().unwrap();
            courier.add(lane("good"), id);
            let mut sent = out(&mut courier, now);
            sent.sort_unstable();
            assert_eq!(sent, [1, id]);
            courier.settle(&lane("good"), &Verdict::Taken, now, 0.0);
            let change = courier.settle(&lane("bad"), &later(), now, 0.0);
            assert_ne!(change, Change::Opened, "the others go on");
            waits.push((courier.next_time().unwrap() - now) / 1_000);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn s4_6_a_destination_that_asks_for_time_gets_it() {
        let mut courier = courier(&[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(out(&mut courier, 0), [1, 2, 3]);
        let busy = Verdict::Later { error: String::new(), after: Some(Duration::from_secs(9)), busy: true };
        courier.settle(&lane("c"), &Verdict::Taken, 0, 0.0);
        courier.settle(&lane("a"), &busy, 5, 0.0);
        // One that was out already gets through, and changes nothing about that.
        courier.settle(&lane("b"), &Verdict::Taken, 6, 0.0);
        courier.add(lane("d"), 4);
        assert!(out(&mut courier, 9_004).is_empty());
        assert_eq!(courier.next_time(), Some(9_005));
        assert_eq!(out(&mut courier, 9_005), [1, 4]);
    }

    #[test]
    fn a_store_has_so_many_rows_in_memory_and_no_more() {
        let mut courier = courier(&[]);
        (0..ROWS as i64).for_each(|id| courier.add(lane("a"), id));
        assert!(!courier.has_room("s") && courier.has_room("other"));
        courier.next(0);
        courier.settle(&lane("a"), &Verdict::Taken, 0, 0.0);
        assert!(courier.has_room("s"));
    }

    proptest! {
        /// Whatever the answers are: each row is answered for once, one key's in their order, and no more are out than may be.
        #[test]
        fn every_row_goes_and_each_key_keeps_its_order(keys in prop::collection::vec(0u8..5, 1..60), answers in prop::collection::vec((0u8..8, 0usize..4), 0..200)) {
            let mut courier = courier(&[]);
            let name = |key: u8| format!("k{key}");
            for (id, key) in keys.iter().enumerate() {
                courier.add(lane(&name(*key)), id as i64);
            }
            let (mut now, mut flying, mut done): (i64, Vec<(Lane, i64)>, Vec<i64>) = (0, vec![], vec![]);
            let mut answers = answers.into_iter();
            while done.len() < keys.len() {
                flying.extend(std::iter::from_fn(|| courier.next(now)));
                prop_assert!(flying.len() <= 4 && flying.len() == courier.flying());
                if flying.is_empty() {
                    let next = courier.next_time();
                    prop_assert!(next.is_some_and(|next| next > now), "it stands still at {now}: {next:?}");
                    now = next.unwrap();
                    continue;
                }
                let (answer, which) = answers.next().unwrap_or((0, 0));
                let (lane, id) = flying.remove(which % flying.len());
                prop_assert!(flying.iter().all(|(other, _)| *other != lane), "two of one key are out");
                let verdict = match answer {
                    0..3 => Verdict::Taken,
                    3 => Verdict::Refused(String::new()),
                    4 => Verdict::Later { error: String::new(), after: Some(Duration::from_secs(3)), busy: true },
                    5 => Verdict::Later { error: String::new(), after: Some(Duration::from_secs(2)), busy: false },
                    _ => later(),
                };
                if !matches!(verdict, Verdict::Later { .. }) {
                    done.push(id);
                }
                courier.settle(&lane, &verdict, now, 0.5);
            }
            for key in 0..5 {
                let of_key: Vec<i64> = done.iter().copied().filter(|id| keys.get(*id as usize) == Some(&key)).collect();
                prop_assert!(of_key.is_sorted());
            }
        }
    }
}
