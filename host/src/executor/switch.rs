//! What happens between two groups: lanes are opened, versions go live, handlers leave.
//!
//! Each is one transaction of its own, and memory follows only after its commit: a version that fails to go live
//! leaves the old one running, with the old tables.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result, anyhow, bail};

use super::positions::Positions;
use super::{Executor, Joined, Live, Member, Open, Opened, Share, Version};
use crate::deploy::manifest::Start;
use crate::fault::{self, Moment};
use crate::guest::Environment;
use crate::lane::opening::{self, Opening};
use crate::lane::{Lane, Token};
use crate::ledger::crash;
use crate::ledger::deployment::{self, New, Status};
use crate::ledger::offset::{self, Replay, Stored};
use crate::ledger::pause;
use crate::ledger::pending::{self, NO_PARTITION, Rows, TIMERS};
use crate::ledger::probation::State;
use crate::ledger::timer;
use crate::metrics::meters::Facts;
use crate::policy::{self, Circuit, Policy, Spent};
use crate::record::Refusal;
use crate::store::Error;
use crate::store::rights::Rights;

impl Executor {
    /// Opens lanes: each gets a new epoch and its next offset, which are stored before the consumer reads.
    pub(super) fn open_lanes(&mut self, handler: &Arc<str>, lanes: Vec<Open>, complete: bool) -> Result<Vec<Opened>> {
        let member = self.members.get(handler).ok_or_else(|| anyhow!("handler {handler} was removed"))?;
        let live = member.live.clone();
        let start = live.environment.spec.start;
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        // What `start` and `adopt` mean is decided once, so for all partitions together.
        let adopted = offset::is_adopted(self.connection(), handler)?;
        let first = start != Start::Earliest && !offset::any(self.connection(), handler)?;
        if !complete && (adopted || first) {
            bail!(
                "Kafka does not answer for all of its partitions yet, and what `start` or `tidemill adopt` means is decided for all together"
            );
        }
        let opened =
            self.whole(|executor| executor.store_openings(handler, lanes, start, &live.environment.spec.retry));
        let opened = opened.with_context(|| format!("open partitions of handler {handler}"))?;
        Ok(opened.into_iter().map(|lane| self.admit(lane)).collect())
    }

    fn store_openings(
        &self,
        handler: &Arc<str>,
        lanes: Vec<Open>,
        start: Start,
        policy: &Policy,
    ) -> Result<Vec<Option<(Lane, u64)>>, Error> {
        let fresh = !offset::any(self.connection(), handler)?;
        let adopted = offset::take_adopted(self.connection(), handler)?;
        let owner = (!adopted).then_some(self.identity.store_id.as_str());
        let pauses = pause::all(self.connection(), handler)?;
        lanes
            .into_iter()
            .map(|open| {
                let (topic, partition) = (open.topic.clone(), open.partition);
                let stored = offset::find(self.connection(), handler, &topic, partition)?;
                let decided = opening::decide(stored.as_ref(), &open.seen, start, fresh, owner);
                let (next, lost) = match decided {
                    Opening::At { next, lost, warning } => {
                        if let Some(warning) = warning {
                            tracing::warn!(%handler, %topic, partition, "{warning}");
                        }
                        (next, lost)
                    }
                    Opening::Shut { reason } => {
                        tracing::error!(%handler, %topic, partition, "the partition is not read: {reason}");
                        return Ok(None);
                    }
                };
                let epoch = stored.as_ref().map_or(0, |s| s.epoch) + 1;
                let (topic_id, cluster_id) = (open.seen.topic_id, open.seen.cluster_id);
                let replay = stored.filter(|s| s.topic_id == topic_id).map_or_else(Replay::default, |s| s.replay);
                let row = Stored { topic_id: topic_id.clone(), cluster_id, next_offset: next, epoch, replay };
                offset::open(self.connection(), handler, &topic, partition, &row)?;
                let crashed = crash::open(self.connection(), handler, &topic, &topic_id, partition, next)?;
                let rows = Rows { connection: self.connection(), handler, topic: &topic, partition };
                let waiting = rows.open(crate::clock::now(), latest_due())?;
                let lane = Lane {
                    handler: handler.clone(),
                    topic: topic.clone(),
                    topic_id,
                    partition,
                    schedule: None,
                    epoch,
                    next,
                    replay,
                    queue: VecDeque::new(),
                    waiting,
                    outside: HashMap::new(),
                    answered: VecDeque::new(),
                    meter: open.meter,
                    steps: 0,
                    careful: self.careful(crashed),
                    crashed,
                    paused: pause::cover(&pauses, &topic, partition),
                    listed: false,
                    alarm: None,
                };
                lane.note_standing(policy);
                Ok(Some((lane, lost)))
            })
            .collect()
    }

    /// Takes a lane up before which so many records were lost.
    fn admit(&mut self, lane: Option<(Lane, u64)>) -> Opened {
        let Some((lane, lost)) = lane else { return Opened::Shut };
        self.next_token += 1;
        let (token, next) = (Token(self.next_token), lane.next);
        // Kafka is told at once: a kill may have kept the last offset from it, and whose group it is must be known
        // before a partition's first record is.
        if let Some(member) = self.members.get(&lane.handler) {
            member.positions.set(&lane.topic, lane.partition, next);
            member.meter.add_lane(token, lane.meter.clone());
            member.meter.lost.fetch_add(lost, Ordering::Relaxed);
        }
        self.lanes.insert(token, lane);
        self.set_alarm(token);
        Opened::At { token, next }
    }

    /// Makes a version live: its migrations and the switch are one transaction.
    pub(super) fn switch(&mut self, version: Version) -> Result<Joined> {
        let handler: Arc<str> = version.spec.name.as_str().into();
        let new = New {
            handler: &handler,
            group: &version.spec.group,
            sha256: &version.sha256,
            manifest: &version.manifest,
            source: &version.source,
            artifact: &version.artifact,
            instead_of: version.instead_of.as_deref(),
            who: &version.who,
        };
        let now = crate::clock::now();
        let rights = Arc::new(Rights {
            user: handler.clone(),
            grants: version.spec.tables.clone(),
            tables: self.tables.clone(),
        });
        let switched = self.whole(|executor| -> Result<_, Error> {
            let owners = deployment::migrate(executor.connection(), &rights, &version.migrations, now)?;
            let made = executor.take_place(new, &version, now)?;
            let (schedules, latest) = (&version.spec.schedules, latest_due());
            let dues = timer::take_up(executor.connection(), &handler, schedules, now, latest)?;
            let virtual_tables = executor.connection().has_virtual_tables()?;
            fault::reach(Moment::Migrated);
            Ok((made, virtual_tables, owners, dues))
        });
        let ((number, new, state), virtual_tables, owners, dues) = switched?;
        fault::reach(Moment::Switched);
        self.virtual_tables = virtual_tables;
        self.tables.set(owners);
        self.next_owner += 1;
        let environment = Arc::new(Environment { spec: version.spec, owner: self.next_owner, rights });
        let (meter, spec) = (self.meter.add_handler(&handler), &environment.spec);
        meter.set_facts(Facts {
            group: spec.group.clone(),
            version: number,
            artifact: version.artifact,
            memory_limit: spec.limits.memory,
            reads: spec.reads(),
        });
        let live = Arc::new(Live::new(version.component, environment, number, meter.clone()));
        let trial = self.trial(&state, version.probation, &live);
        let circuit = match state {
            // Its probation has ended before a restart, and nobody has acted on it.
            State::Failed(why) => {
                live.condemn(why);
                Circuit::held(now)
            }
            // Another version has another policy, and may mend what made the circuit open.
            _ => Circuit::default(),
        };
        meter.set_circuit(&circuit);
        let member = match self.members.remove(&handler) {
            Some(member) => {
                Member { live: live.clone(), solo: 0, circuit, trial, warm: None, spent: Spent::default(), ..member }
            }
            None => {
                self.line_up(Share { handler: handler.clone(), used: self.used });
                Member {
                    slot: Arc::new(RwLock::new(None)),
                    live: live.clone(),
                    positions: Arc::new(Positions::default()),
                    requests: VecDeque::new(),
                    ready: VecDeque::new(),
                    requests_first: false,
                    solo: 0,
                    circuit,
                    trial,
                    passed_at: 0,
                    outside: 0,
                    outside_requests: HashMap::new(),
                    sending: 0,
                    sends: VecDeque::new(),
                    sends_first: false,
                    warm: None,
                    spent: Spent::default(),
                    meter,
                }
            }
        };
        *member.slot.write().unwrap_or_else(PoisonError::into_inner) = Some(live);
        let joined = Joined { slot: member.slot.clone(), positions: member.positions.clone(), version: number, new };
        self.members.insert(handler.clone(), member);
        if new {
            self.look_at_due(&handler);
        }
        self.lanes_of(&handler).into_iter().for_each(|token| self.list(token));
        self.note_pauses(&handler);
        if let Err(error) = self.open_own(&handler, dues) {
            tracing::warn!(%handler, %error, "look for refused events to compensate, and timers to try again; it is done at the next start");
        }
        Ok(joined)
    }

    /// Opens the lanes of a handler that are none of Kafka's partitions: refused events to compensate, and its timers, with their next due
    /// times.
    fn open_own(&mut self, handler: &Arc<str>, dues: Vec<i64>) -> Result<(), Error> {
        let Some(live) = self.members.get(handler).map(|member| member.live.clone()) else { return Ok(()) };
        let schedules = &live.environment.spec.schedules;
        // A schedule that is gone leaves its lane to what is still to be tried again.
        let of_handler = |lane: &&mut Lane| lane.partition == TIMERS && lane.handler == *handler;
        self.lanes.values_mut().filter(of_handler).for_each(|lane| lane.schedule = None);
        for (schedule, due) in schedules.iter().zip(dues) {
            let token = self.own_lane(handler, &schedule.name, TIMERS)?;
            if let Some(lane) = self.lanes.get_mut(&token) {
                (lane.schedule, lane.next) = (Some(schedule.clone()), due);
            }
            self.set_alarm(token);
        }
        for partition in [NO_PARTITION, TIMERS] {
            for topic in pending::topics(self.connection(), handler, partition)? {
                let token = self.own_lane(handler, &topic, partition)?;
                self.set_alarm(token);
            }
        }
        Ok(())
    }

    /// A lane of the handler's own, opened where it is not.
    pub(super) fn own_lane(&mut self, handler: &Arc<str>, topic: &str, partition: i32) -> Result<Token, Error> {
        if let Some(token) = self.lane_of(handler, topic, partition) {
            return Ok(token);
        }
        let rows = Rows { connection: self.connection(), handler, topic, partition };
        let lane = Lane {
            waiting: rows.open(crate::clock::now(), latest_due())?,
            handler: handler.clone(),
            topic: topic.into(),
            topic_id: String::new(),
            partition,
            schedule: None,
            epoch: 0,
            next: 0,
            replay: Replay::default(),
            queue: VecDeque::new(),
            outside: HashMap::new(),
            answered: VecDeque::new(),
            meter: Arc::default(),
            steps: 0,
            careful: self.careful(false),
            crashed: self.unclean,
            paused: pause::cover(&pause::all(self.connection(), handler)?, topic, partition),
            listed: false,
            alarm: None,
        };
        self.next_token += 1;
        self.lanes.insert(Token(self.next_token), lane);
        Ok(Token(self.next_token))
    }

    /// Looks at a handler's events that a topic has refused, of which there is one more.
    pub(super) fn open_refused(&mut self, handler: &Arc<str>, topic: &str) {
        // Others of the lane may wait for calls that are under way, so it is opened only where it is not.
        let opened = self.own_lane(handler, topic, NO_PARTITION).and_then(|token| {
            let rows = Rows { connection: self.connection(), handler, topic, partition: NO_PARTITION };
            Ok((rows.look()?, token))
        });
        match opened {
            Ok((waiting, token)) => {
                if let Some(lane) = self.lanes.get_mut(&token) {
                    lane.waiting = waiting;
                }
                self.set_alarm(token);
            }
            Err(error) => {
                tracing::warn!(%handler, topic, %error, "look for refused events to compensate; it is done at the next start");
            }
        }
    }

    /// How many deliveries of a new lane run alone.
    fn careful(&self, crashed: bool) -> usize {
        if self.unclean || crashed { self.settings.group_max } else { 0 }
    }

    /// Forgets a handler; its tables, its offsets and what it left in the outbox stay.
    pub(super) fn remove(&mut self, handler: &Arc<str>) {
        self.turn.retain(|share| share.handler != *handler);
        self.lanes.retain(|_, lane| lane.handler != *handler);
        self.meter.remove_handler(handler);
        if let Some(member) = self.members.remove(handler) {
            *member.slot.write().unwrap_or_else(PoisonError::into_inner) = None;
            for waiting in member.requests.into_iter().chain(member.outside_requests.into_values()) {
                let _ = waiting.reply.send(Err(Refusal::Gone));
            }
        }
        if let Err(error) = deployment::retire(self.connection(), handler, Status::Removed) {
            tracing::warn!(%handler, %error, "note that a handler was removed");
        }
    }
}

/// The latest that a pending record can be due. Jitter may double the longest wait.
fn latest_due() -> i64 {
    crate::clock::now().saturating_add(2 * policy::millis(policy::WAIT_MAX))
}
