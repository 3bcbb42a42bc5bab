//! What happens between two groups: lanes are opened, versions go live, handlers leave.
//!
//! Each is one transaction of its own, and memory follows only after its commit: a version that fails to go live
//! leaves the old one running, with the old tables.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result, anyhow, bail};

use super::positions::Positions;
use super::{Executor, Joined, Live, Member, Open, Opened, Share, Version};
use crate::deploy::manifest::Start;
use crate::fault::{self, Moment};
use crate::guest::Environment;
use crate::lane::opening::{self, Opening};
use crate::lane::{self, Lane, Token};
use crate::ledger::crash;
use crate::ledger::deployment::{self, New, Status};
use crate::ledger::offset::{self, Stored};
use crate::ledger::pending::{self, NO_PARTITION, Rows};
use crate::ledger::probation::State;
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
        self.connection().execute("BEGIN IMMEDIATE", &[])?;
        let opened = self.store_openings(handler, lanes, start, &live.environment.spec.retry);
        let committed = opened.and_then(|opened| {
            self.connection().execute("COMMIT", &[])?;
            Ok(opened)
        });
        match committed {
            Ok(opened) => Ok(opened.into_iter().map(|lane| self.admit(lane)).collect()),
            Err(error) => {
                let _ = self.rollback();
                Err(error).with_context(|| format!("open partitions of handler {handler}"))
            }
        }
    }

    fn store_openings(
        &self,
        handler: &Arc<str>,
        lanes: Vec<Open>,
        start: Start,
        policy: &Policy,
    ) -> Result<Vec<Option<Lane>>, Error> {
        let fresh = !offset::any(self.connection(), handler)?;
        let adopted = offset::take_adopted(self.connection(), handler)?;
        let owner = (!adopted).then_some(self.identity.store_id.as_str());
        lanes
            .into_iter()
            .map(|open| {
                let (topic, partition) = (open.topic.clone(), open.partition);
                let stored = offset::find(self.connection(), handler, &topic, partition)?;
                let decided = opening::decide(stored.as_ref(), &open.seen, start, fresh, owner);
                let next = match decided {
                    Opening::At { next, warning } => {
                        if let Some(warning) = warning {
                            tracing::warn!(%handler, %topic, partition, "{warning}");
                        }
                        next
                    }
                    Opening::Shut { reason } => {
                        tracing::error!(%handler, %topic, partition, "the partition is not read: {reason}");
                        return Ok(None);
                    }
                };
                let epoch = stored.map_or(0, |s| s.epoch) + 1;
                let (topic_id, cluster_id) = (open.seen.topic_id, open.seen.cluster_id);
                let row = Stored { topic_id: topic_id.clone(), cluster_id, next_offset: next, epoch };
                offset::open(self.connection(), handler, &topic, partition, &row)?;
                let crashed = crash::open(self.connection(), handler, &topic, &topic_id, partition, next)?;
                let rows = Rows { connection: self.connection(), handler, topic: &topic, partition };
                let waiting = rows.open(crate::clock::now(), latest_due())?;
                open.meter.set_blocked(lane::stands(&waiting, policy));
                Ok(Some(Lane {
                    handler: handler.clone(),
                    topic,
                    topic_id,
                    partition,
                    epoch,
                    next,
                    queue: VecDeque::new(),
                    waiting,
                    outside: HashMap::new(),
                    answered: VecDeque::new(),
                    meter: open.meter,
                    steps: 0,
                    careful: self.careful(crashed),
                    crashed,
                    listed: false,
                    alarm: None,
                }))
            })
            .collect()
    }

    fn admit(&mut self, lane: Option<Lane>) -> Opened {
        let Some(lane) = lane else { return Opened::Shut };
        self.next_token += 1;
        let (token, next) = (Token(self.next_token), lane.next);
        // Kafka is told at once: a kill may have kept the last offset from it, and whose group it is must be known
        // before a partition's first record is.
        if let Some(member) = self.members.get(&lane.handler) {
            member.positions.set(&lane.topic, lane.partition, next);
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
        let switched = self.connection().execute("BEGIN IMMEDIATE", &[]).and_then(|_| {
            let owners = deployment::migrate(self.connection(), &rights, &version.migrations, now)?;
            let made = self.take_place(new, &version, now)?;
            let virtual_tables = self.connection().has_virtual_tables()?;
            fault::reach(Moment::Migrated);
            self.connection().execute("COMMIT", &[])?;
            fault::reach(Moment::Switched);
            Ok((made, virtual_tables, owners))
        });
        let (number, new, state) = match switched {
            Ok((made, virtual_tables, owners)) => {
                self.virtual_tables = virtual_tables;
                self.tables.set(owners);
                made
            }
            Err(error) => {
                self.rollback()?;
                return Err(error.into());
            }
        };
        self.next_owner += 1;
        let environment = Arc::new(Environment { spec: version.spec, owner: self.next_owner, rights });
        let live = Arc::new(Live::new(version.component, environment, number));
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
                }
            }
        };
        *member.slot.write().unwrap_or_else(PoisonError::into_inner) = Some(live);
        let joined = Joined { slot: member.slot.clone(), positions: member.positions.clone(), version: number, new };
        self.members.insert(handler.clone(), member);
        if new {
            self.look_at_due(&handler);
        }
        let lanes: Vec<Token> =
            self.lanes.iter().filter(|(_, lane)| lane.handler == handler).map(|(token, _)| *token).collect();
        lanes.into_iter().for_each(|token| self.list(token));
        match pending::topics_of_refused(self.connection(), &handler) {
            Ok(topics) => topics.iter().for_each(|topic| self.open_refused(&handler, topic)),
            Err(error) => {
                tracing::warn!(%handler, %error, "look for refused events to compensate; it is done at the next start")
            }
        }
        Ok(joined)
    }

    /// Opens the lane of a handler's events that a topic has refused, or looks at it again.
    pub(super) fn open_refused(&mut self, handler: &Arc<str>, topic: &str) {
        let rows = Rows { connection: self.connection(), handler, topic, partition: NO_PARTITION };
        let waiting = match rows.open(crate::clock::now(), latest_due()) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%handler, topic, %error, "look for refused events to compensate; it is done at the next start");
                return;
            }
        };
        let of_topic =
            |lane: &Lane| lane.partition == NO_PARTITION && lane.handler == *handler && *lane.topic == *topic;
        let open = self.lanes.iter_mut().find(|(_, lane)| of_topic(lane));
        let token = match open {
            Some((token, lane)) => {
                lane.waiting = waiting;
                *token
            }
            None => {
                self.next_token += 1;
                let lane = Lane {
                    handler: handler.clone(),
                    topic: topic.into(),
                    topic_id: String::new(),
                    partition: NO_PARTITION,
                    epoch: 0,
                    next: 0,
                    queue: VecDeque::new(),
                    waiting,
                    outside: HashMap::new(),
                    answered: VecDeque::new(),
                    meter: Arc::default(),
                    steps: 0,
                    careful: self.careful(false),
                    crashed: self.unclean,
                    listed: false,
                    alarm: None,
                };
                self.lanes.insert(Token(self.next_token), lane);
                Token(self.next_token)
            }
        };
        self.set_alarm(token);
    }

    /// How many deliveries of a new lane run alone.
    fn careful(&self, crashed: bool) -> usize {
        if self.unclean || crashed { self.settings.group_max } else { 0 }
    }

    /// Forgets a handler; its tables, its offsets and what it left in the outbox stay.
    pub(super) fn remove(&mut self, handler: &Arc<str>) {
        self.turn.retain(|share| share.handler != *handler);
        self.lanes.retain(|_, lane| lane.handler != *handler);
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
