//! One input of a lane, inside the open transaction: taken, and then done or put aside.
//!
//! Every step changes the store's rows and the lane's draft together, so that what the draft says is what the
//! transaction holds. Nothing here decides what becomes of a failure.

use std::sync::Arc;

use super::{Aside, Ask, Draft, Head, Lane};
use crate::ledger::pending::{Pending, Purpose, Rows, TIMERS, Waiting};
use crate::outbound::Call;
use crate::policy::{Order, Policy};
use crate::record::Record;
use crate::store::{Connection, Error};

/// What is to be delivered.
#[derive(Clone, Debug)]
pub enum Input {
    /// A record that was never tried.
    Fresh(Arc<Record>),
    /// One that waits in the store.
    Pending(Box<Pending>),
    /// One whose call to the outside was answered.
    Answered(Box<Pending>, Aside),
}

impl Input {
    /// The record.
    pub fn record(&self) -> &Arc<Record> {
        match self {
            Self::Fresh(record) => record,
            Self::Pending(pending) | Self::Answered(pending, _) => &pending.record,
        }
    }

    /// Its row, if it has one.
    pub fn pending(&self) -> Option<&Pending> {
        match self {
            Self::Fresh(_) => None,
            Self::Pending(pending) | Self::Answered(pending, _) => Some(pending),
        }
    }

    /// What its calls were answered, if it has made any.
    pub fn aside(&self) -> Option<&Aside> {
        match self {
            Self::Answered(_, aside) => Some(aside),
            Self::Fresh(_) | Self::Pending(_) => None,
        }
    }

    /// Why it is to be compensated, if it is.
    pub fn reason(&self) -> Option<&str> {
        match &self.pending()?.purpose {
            Purpose::Handle => None,
            Purpose::Compensate { reason, .. } => Some(reason),
        }
    }

    fn head(&self) -> Head {
        match self {
            Self::Fresh(record) => Head::Record(record.clone()),
            Self::Pending(_) => Head::Pending,
            Self::Answered(pending, _) => Head::Answered(pending.id),
        }
    }
}

/// What a lane's turn brings.
pub enum Taken {
    /// To be delivered.
    Input(Input),
    /// A record had to queue behind another one of its key; the lane has stepped past it.
    Parked,
    /// Nothing is there to run.
    Nothing,
}

/// A lane's turn.
pub struct Turn<'a> {
    /// The store.
    pub connection: &'a Connection,
    /// The lane.
    pub lane: &'a Lane,
    /// What the group has done to it so far.
    pub draft: &'a mut Draft,
    /// The policy of its handler.
    pub policy: &'a Policy,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

impl Turn<'_> {
    fn rows(&self) -> Rows<'_> {
        let Lane { handler, topic, partition, .. } = self.lane;
        Rows { connection: self.connection, handler, topic, partition: *partition }
    }

    /// Takes what is next. A record whose key has others waiting goes behind them. Where the handler is `full` nothing new
    /// begins.
    pub fn take(&mut self, full: bool) -> Result<Taken, Error> {
        let taken = match self.lane.head(Some(&*self.draft), self.policy, full, self.now) {
            None => Taken::Nothing,
            Some(Head::Answered(id)) => match (self.rows().get(id)?, self.lane.outside.get(&id)) {
                (Some(pending), Some(aside)) => Taken::Input(Input::Answered(Box::new(pending), aside.clone())),
                _ => {
                    self.draft.step(&Head::Answered(id), None);
                    Taken::Parked
                }
            },
            Some(Head::Pending) => match self.rows().first_due(self.now)? {
                Some(pending) => Taken::Input(Input::Pending(Box::new(pending))),
                None => Taken::Nothing,
            },
            Some(Head::Record(record)) => match &record.key {
                Some(key) if self.waiting().records > 0 && self.rows().hold(key)? => {
                    let behind = Pending { due: None, ..self.fresh(&record, Order::Key) };
                    self.change(&Input::Fresh(record), |rows, waiting| rows.add(&behind, waiting))?;
                    Taken::Parked
                }
                _ => Taken::Input(Input::Fresh(record)),
            },
        };
        Ok(taken)
    }

    /// The input is done, or given up on.
    pub fn leave(&mut self, input: &Input) -> Result<(), Error> {
        let now = self.now;
        match input {
            Input::Fresh(_) => self.draft.step(&input.head(), None),
            Input::Pending(pending) | Input::Answered(pending, _) => {
                self.change(input, |rows, waiting| rows.remove(pending, now, waiting))?;
            }
        }
        Ok(())
    }

    /// The input was given up on, and waits to be compensated for this reason.
    pub fn compensate(&mut self, input: &Input, reason: &str) -> Result<(), Error> {
        let purpose = Purpose::Compensate { reason: reason.to_owned(), event: None };
        self.set(input, |pending| Pending { purpose, attempts: 0, errors: "[]".into(), ..pending }, self.now)
    }

    /// The input waits (again) until `due`, with so many attempts made and these errors.
    pub fn wait(&mut self, input: &Input, attempts: u32, due: i64, errors: String) -> Result<(), Error> {
        self.set(input, |pending| Pending { attempts, errors, ..pending }, due)
    }

    /// The input waits for a call, which is made once the group has committed; it holds its place in the order.
    pub fn set_aside(&mut self, input: &Input, aside: Aside, call: Box<Call>) -> Result<(), Error> {
        let id = match input {
            Input::Fresh(record) => {
                let pending = self.fresh(record, self.scope(record));
                self.change(input, |rows, waiting| rows.add(&pending, waiting))?
            }
            Input::Pending(pending) | Input::Answered(pending, _) => {
                let pending = Pending { due: None, ..(**pending).clone() };
                self.change(input, |rows, waiting| rows.update(&pending, waiting))?;
                Some(pending.id)
            }
        };
        // One that is there already waits by itself.
        self.draft.asks.extend(id.map(|id| Ask { id, aside, call }));
        Ok(())
    }

    fn scope(&self, record: &Record) -> Order {
        match (self.policy.order, &record.key) {
            // One timer at a time.
            _ if self.lane.partition == TIMERS => Order::Partition,
            (Order::Key, None) => Order::None,
            (order, _) => order,
        }
    }

    fn set(&mut self, input: &Input, set: impl FnOnce(Pending) -> Pending, due: i64) -> Result<(), Error> {
        match input {
            Input::Fresh(record) => {
                let pending = Pending { due: Some(due), ..set(self.fresh(record, self.scope(record))) };
                self.change(input, |rows, waiting| rows.add(&pending, waiting)).map(drop)
            }
            Input::Pending(pending) | Input::Answered(pending, _) => {
                let pending = Pending { due: Some(due), ..set((**pending).clone()) };
                self.change(input, |rows, waiting| rows.update(&pending, waiting))
            }
        }
    }

    fn fresh(&self, record: &Arc<Record>, scope: Order) -> Pending {
        Pending {
            id: 0,
            record: record.clone(),
            topic_id: self.lane.topic_id.clone(),
            purpose: Purpose::Handle,
            scope,
            attempts: 0,
            due: None,
            errors: "[]".into(),
        }
    }

    fn waiting(&self) -> Waiting {
        self.lane.waiting(Some(&*self.draft))
    }

    fn change<T>(
        &mut self,
        input: &Input,
        change: impl FnOnce(Rows<'_>, &mut Waiting) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut waiting = self.waiting();
        let changed = change(self.rows(), &mut waiting)?;
        self.draft.step(&input.head(), Some(waiting));
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::lane::Meter;
    use crate::ledger::offset::Replay;
    use crate::ledger::schema;
    use crate::record::Timestamp;

    const RECORDS: i64 = 14;

    fn record(offset: i64, key: Option<u8>) -> Arc<Record> {
        Arc::new(Record {
            topic: "t".into(),
            partition: 0,
            offset,
            timestamp: Timestamp::None,
            key: key.map(|key| Bytes::from(vec![key])),
            value: Some(Bytes::from_static(b"v")),
            headers: vec![],
        })
    }

    fn lane(records: &[Arc<Record>]) -> Lane {
        let meter = Arc::new(Meter::default());
        records.iter().for_each(|record| meter.add(record.size()));
        Lane {
            handler: "h".into(),
            topic: "t".into(),
            topic_id: "i".into(),
            partition: 0,
            schedule: None,
            epoch: 1,
            next: 0,
            replay: Replay::default(),
            queue: records.iter().cloned().collect(),
            waiting: Waiting::default(),
            outside: HashMap::new(),
            answered: VecDeque::new(),
            meter,
            steps: 0,
            careful: 0,
            crashed: false,
            paused: false,
            listed: false,
            alarm: None,
        }
    }

    /// Of the next step: what becomes of the input, whether the group ends after it and commits, and how time goes on.
    #[derive(Clone, Debug)]
    struct Step {
        fails: bool,
        after: i64,
        group_ends: bool,
        commits: bool,
        reopens: bool,
        later: i64,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let flag = prop::bool::weighted;
        let step = (flag(0.4), 0i64..5, flag(0.3), flag(0.7), flag(0.1), 0i64..3).prop_map(
            |(fails, after, group_ends, commits, reopens, later)| Step {
                fails,
                after,
                group_ends,
                commits,
                reopens,
                later,
            },
        );
        prop::collection::vec(step, 0..120)
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let order = prop::sample::select(&[Order::Partition, Order::Key, Order::None][..]);
        (order, 1u64..8).prop_map(|(order, max_pending)| Policy { order, max_pending, ..Policy::default() })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        /// Whatever fails how often, and wherever groups begin, commit, are thrown away or the lane is opened anew: each
        /// record ends once; in order for what the policy keeps in order; none runs before it is due; no more wait than may.
        #[test]
        fn records_end_once_and_in_the_order_of_the_policy(
            keys in prop::collection::vec(prop::option::weighted(0.8, 0u8..3), RECORDS as usize), policy in policies(), steps in steps(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = Connection::open_writer(&folder.path().join("store.db"), false).unwrap();
            schema::prepare(&store).unwrap();
            let records: Vec<_> = (0..RECORDS).zip(&keys).map(|(offset, key)| record(offset, *key)).collect();
            let mut lane = lane(&records);
            let (mut draft, mut now) = (Draft::default(), 0);
            let (mut ended, mut in_group): (Vec<i64>, Vec<i64>) = (vec![], vec![]);
            let (mut due, mut due_in_group): (BTreeMap<i64, i64>, _) = (BTreeMap::new(), BTreeMap::new());
            store.batch("BEGIN").unwrap();
            let last = Step { fails: false, after: 0, group_ends: true, commits: true, reopens: false, later: 10 };
            for step in steps.into_iter().chain(std::iter::repeat_n(last, 4 * RECORDS as usize)) {
                let mut turn = Turn { connection: &store, lane: &lane, draft: &mut draft, policy: &policy, now };
                if let Taken::Input(input) = turn.take(false).unwrap() {
                    let offset = input.record().offset;
                    prop_assert!(due_in_group.get(&offset).is_none_or(|due| *due <= now), "{offset} ran before it was due");
                    prop_assert!(!ended.contains(&offset) && !in_group.contains(&offset), "{offset} ran twice");
                    let attempts = input.pending().map_or(0, |pending| pending.attempts) + 1;
                    if step.fails {
                        turn.wait(&input, attempts, now + step.after, "[]".into()).unwrap();
                        due_in_group.insert(offset, now + step.after);
                    } else {
                        turn.leave(&input).unwrap();
                        in_group.push(offset);
                    }
                }
                prop_assert!(lane.waiting(Some(&draft)).records <= policy.max_pending);
                if step.group_ends {
                    let done = std::mem::take(&mut draft);
                    if step.commits {
                        store.batch("COMMIT").unwrap();
                        prop_assert!(lane.settle(done, &policy).is_empty());
                        ended.append(&mut in_group);
                        due.clone_from(&due_in_group);
                    } else {
                        store.batch("ROLLBACK").unwrap();
                        due_in_group.clone_from(&due);
                    }
                    in_group.clear();
                    store.batch("BEGIN").unwrap();
                    if step.reopens {
                        let rows = Rows { connection: &store, handler: "h", topic: "t", partition: 0 };
                        prop_assert_eq!(rows.open(now, i64::MAX).unwrap(), lane.waiting, "what is known in short is what the store holds");
                        lane.queue = records.iter().filter(|record| record.offset >= lane.next).cloned().collect::<VecDeque<_>>();
                    }
                }
                now += step.later;
            }
            prop_assert_eq!(ended.iter().copied().collect::<BTreeSet<_>>(), (0..RECORDS).collect::<BTreeSet<_>>());
            prop_assert_eq!(ended.len(), RECORDS as usize);
            prop_assert_eq!((lane.next, lane.meter.records(), lane.meter.bytes()), (RECORDS, 0, 0));
            prop_assert_eq!(lane.waiting, Waiting::default());
            let in_order = |offsets: &[i64]| offsets.windows(2).all(|pair| pair.first() < pair.last());
            if policy.order == Order::Partition {
                prop_assert!(in_order(&ended), "{ended:?}");
            }
            if policy.order != Order::None {
                for key in 0u8..3 {
                    let of_key: Vec<i64> = ended.iter().copied().filter(|offset| keys.get(*offset as usize) == Some(&Some(key))).collect();
                    prop_assert!(in_order(&of_key), "key {key}: {of_key:?}");
                }
            }
        }
    }
}
