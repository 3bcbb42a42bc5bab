//! The commit group: one transaction around deliveries, and what follows its end.
//!
//! A draft holds everything that the group would change in memory. It is made true after COMMIT and dropped
//! otherwise, so a group that breaks can be run again, each of its deliveries alone, as if it had never begun.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::pick::Pick;
use super::probation::Finding;
use super::traced::Traced;
use super::{CLEAR_WITHIN, Executor, STORE_PAUSE};
use crate::fault::{self, Moment};
use crate::guest::{LogLine, Sending};
use crate::lane::{Aside, Draft, Token};
use crate::ledger::pending::{self, NO_PARTITION, TIMERS};
use crate::ledger::{fallback, offset, outbox, timer};
use crate::metrics::meters::{self, Ending, Left, Undone};
use crate::outbound::Call;
use crate::policy::Circuit;
use crate::record::{Answer, Refusal};
use crate::store::{Error, Kind};

/// Why a group ended without a commit.
pub(super) enum Abort {
    /// A delivery ended the transaction; it is the last of the picks.
    Broken,
    /// A run must be undone, and the group has no savepoints.
    Undo,
    /// The lane was opened again elsewhere since.
    Stale(Token),
    /// The store failed.
    Store(Error),
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// One transaction's worth of work, before its end is known.
#[derive(Default)]
pub(super) struct Group {
    /// Whether a delivery that ends the transaction is dealt with here instead of breaking the group.
    pub(super) solo: bool,
    /// Whether each run can be undone by itself.
    pub(super) savepoints: bool,
    /// Statements that may write, when the present run began.
    pub(super) writes_before: u64,
    pub(super) picks: Vec<Pick>,
    pub(super) drafts: HashMap<Token, Draft>,
    /// The circuits of handlers that this group has changed.
    pub(super) circuits: HashMap<Arc<str>, Circuit>,
    /// What it has found of versions on probation.
    pub(super) findings: HashMap<Arc<str>, Finding>,
    /// Whether the present delivery has failed.
    pub(super) failing: bool,
    /// What became of each handler's requests, in their order.
    pub(super) answers: HashMap<Arc<str>, Vec<Answered>>,
    /// Deliveries of each handler that this group has set aside.
    pub(super) asked: HashMap<Arc<str>, usize>,
    /// What its deliveries send once it has committed.
    pub(super) sends: Vec<(Arc<str>, Sending)>,
    /// How many bytes that are for each handler.
    pub(super) sending: HashMap<Arc<str>, usize>,
    /// Whether nothing more joins it, since the last pick has to run alone.
    pub(super) closed: bool,
    /// How much each handler was told of what it has sent.
    pub(super) told: HashMap<Arc<str>, usize>,
    pub(super) log: Vec<Logged>,
    /// Deliveries that are told of.
    pub(super) traced: Vec<Traced>,
    /// Handlers and the topics that have refused events of theirs, which they compensate.
    refused: Vec<(Arc<str>, String)>,
    /// Rows of the outbox that wait no more.
    removed: u64,
    pub(super) next_outbox_id: i64,
    /// What its deliveries have come to, and the present one.
    counted: Vec<Counted>,
    present: Option<Counted>,
    /// Bytes of memory that the present run had, and whether an instance was made for it.
    pub(super) ran: Option<(usize, bool)>,
    /// How long its commit took.
    pub(super) commit_took: Duration,
    /// When it was done, where somebody is told.
    pub(super) committed_at: Option<Instant>,
}

/// What a delivery has come to, for its handler's meter once the group has committed.
pub(super) struct Counted {
    meter: Arc<meters::Handler>,
    input: meters::Input,
    /// How it ended, if it ran to an end.
    pub(super) ending: Option<Ending>,
    /// What became of its record, if that was left behind, and when the record was written (milliseconds since the Unix epoch).
    pub(super) left: Option<(Left, Option<i64>)>,
    took: Duration,
    ran: Option<(usize, bool)>,
}

impl Counted {
    /// Whether the meters take them together.
    fn is_like(&self, other: &Self) -> bool {
        let left = |counted: &Self| counted.left.map(|(left, _)| left);
        Arc::ptr_eq(&self.meter, &other.meter)
            && (self.input, self.ending, left(self)) == (other.input, other.ending, left(other))
    }

    /// Notes what a group's deliveries have come to, which was committed at `now`.
    fn settle(all: &[Self], now: i64) {
        for like in all.chunk_by(Self::is_like) {
            let Some(Self { meter, input, ending, left, .. }) = like.first() else { continue };
            let ran = || like.iter().filter_map(|counted| counted.ran);
            meter.ran(ran().map(|(memory, _)| memory).max().unwrap_or(0), ran().filter(|(_, made)| *made).count());
            if let Some(ending) = ending {
                meter.delivered(*input, *ending, like.iter().map(|counted| counted.took));
            }
            if let Some((left, _)) = left {
                meter.left(*left, like.len() as u64);
            }
            if let Some((Left::Done, _)) = left {
                let written = like.iter().filter_map(|counted| counted.left?.1);
                meter.end_to_end.observe_all(written.map(|written| u64::try_from(now - written).unwrap_or(0)));
            }
        }
    }
}

impl Group {
    /// What the present delivery has come to, so far.
    pub(super) fn counts(&mut self, meter: &Arc<meters::Handler>, input: meters::Input) -> &mut Counted {
        self.present.get_or_insert_with(|| Counted {
            meter: meter.clone(),
            input,
            ending: None,
            left: None,
            took: Duration::ZERO,
            ran: None,
        })
    }

    /// The present delivery is over.
    fn has_counted(&mut self, took: Duration) {
        let ran = self.ran.take();
        self.counted.extend(self.present.take().map(|counted| Counted { took, ran, ..counted }));
    }
}

/// What became of a request.
pub(super) enum Answered {
    /// It is answered.
    Now(Answer),
    /// It waits for a call.
    Later(Aside, Box<Call>),
}

/// What a delivery has to say once its end is known.
pub(super) struct Logged {
    pub(super) span: tracing::Span,
    pub(super) lines: Vec<LogLine>,
    pub(super) trouble: Option<String>,
}

impl Executor {
    /// Runs one group, if there is anything to do. `false` means that there is nothing.
    pub(super) fn run_group(&mut self) -> bool {
        let Some(first) = self.pick(&Group::default()) else {
            let due = self
                .relayed
                .since
                .is_some_and(|since| self.stopping || !self.resting.is_empty() || since.elapsed() >= CLEAR_WITHIN);
            let due = due || (!self.stopping && self.upkeep.idle().is_zero());
            return due && self.conclude(|executor, group| executor.fill(group, Vec::new()), false);
        };
        let solo = self.runs_solo(&first);
        self.conclude(move |executor, group| executor.fill(group, vec![first]), solo)
    }

    /// Runs a group to its end, whatever that is.
    fn conclude(&mut self, fill: impl FnOnce(&mut Self, &mut Group) -> Result<(), Abort>, solo: bool) -> bool {
        let savepoints = solo || self.virtual_tables || self.savepoints_for > 0;
        let mut group = Group { solo, savepoints, next_outbox_id: self.next_outbox_id, ..Group::default() };
        let started = Instant::now();
        let result = self.begin().and_then(|()| fill(self, &mut group)).and_then(|()| self.commit(&mut group));
        if solo && let Some(pick) = group.picks.first() {
            self.spend(pick, started, group.failing);
        }
        match result {
            Ok(()) => {
                self.meter.commit_time.time(group.commit_took);
                if !group.picks.is_empty() {
                    self.meter.group_deliveries.observe(group.picks.len() as u64);
                    self.meter.group_time.time(started.elapsed());
                }
                self.settle(group);
            }
            Err(abort) => self.abort(group, abort),
        }
        true
    }

    pub(super) fn begin(&mut self) -> Result<(), Abort> {
        let Some(connection) = &self.connection else { return Ok(()) };
        connection.execute("BEGIN IMMEDIATE", &[])?;
        Ok(self.upkeep.run(connection, &mut self.inbox, crate::clock::now(), Instant::now())?)
    }

    /// Runs deliveries until nothing waits or the group is full.
    fn fill(&mut self, group: &mut Group, first: Vec<Pick>) -> Result<(), Abort> {
        let started = Instant::now();
        let mut before = started;
        let mut next = first.into_iter().next();
        while let Some(pick) = next {
            group.picks.push(pick.clone());
            group.failing = false;
            let delivered = match &pick {
                Pick::Lane(token) => self.deliver_record(group, *token),
                Pick::Request(handler) => self.deliver_request(group, handler),
                Pick::Completed(handler) => self.deliver_completed(group, handler),
            };
            // Who breaks a group has used its time all the same.
            if !group.solo {
                self.spend(&pick, before, group.failing);
            }
            let now = Instant::now();
            self.charge(&pick, now - before);
            group.has_counted(now - before);
            before = now;
            delivered?;
            fault::reach(Moment::Delivered);
            if group.closed {
                group.picks.pop();
                self.keep_alone(&pick);
                self.put_back(&pick);
                break;
            }
            self.list_again(group, &pick);
            let full =
                group.solo || group.picks.len() >= self.settings.group_max || now - started >= self.settings.group_time;
            next = if full { None } else { self.pick(group).filter(|pick| self.may_join(pick)) };
        }
        Ok(())
    }

    /// Writes next offsets and what the relay has reported, and commits.
    fn commit(&mut self, group: &mut Group) -> Result<(), Abort> {
        for (token, draft) in &group.drafts {
            let Some(lane) = self.lanes.get(token) else { return Err(Abort::Stale(*token)) };
            if lane.partition == NO_PARTITION {
                continue;
            }
            let (connection, handler, topic) = (self.connection(), &lane.handler, &lane.topic);
            let (from, to) = (lane.next, lane.place(Some(draft)));
            let moved = match (lane.partition, &lane.schedule) {
                (TIMERS, None) => continue,
                (TIMERS, Some(_)) => {
                    timer::advance(connection, handler, topic, (from, to), draft.next.map(|next| next - 1))?
                }
                (partition, _) => offset::advance(connection, handler, topic, partition, lane.epoch, from, to)?,
            };
            if !moved {
                return Err(Abort::Stale(*token));
            }
        }
        let (connection, now) = (self.connection(), crate::clock::now());
        for &(from, to) in &self.relayed.published {
            group.removed += if self.keep.is_zero() {
                outbox::clear(connection, from, to)?
            } else {
                outbox::mark_published(connection, from, to, now)?
            };
        }
        if !self.keep.is_zero() && !self.relayed.published.is_empty() {
            let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
            outbox::purge(connection, now.saturating_sub(keep))?;
        }
        for (id, error) in &self.relayed.failed {
            outbox::note_failure(connection, *id, error)?;
        }
        for (id, error) in &self.relayed.refused {
            if let Some(publisher) = outbox::publisher(connection, *id)?
                && let Some((handler, member)) = self.members.get_key_value(publisher.as_str())
                && member.live.component.compensates()
                && let Some(topic) = pending::add_refused(connection, *id, error, now)?
            {
                group.refused.push((handler.clone(), topic));
            }
            group.removed += fallback::take_from_outbox(connection, *id, error, now)?;
        }
        fault::reach(Moment::Committing);
        let began = Instant::now();
        match connection.execute("COMMIT", &[]) {
            // Whose fault it is shows when each runs alone.
            Err(error) if error.kind == Kind::Constraint && !group.solo => return Err(Abort::Broken),
            committed => committed?,
        };
        group.commit_took = began.elapsed();
        group.committed_at = (!group.traced.is_empty()).then(Instant::now);
        fault::reach(Moment::Committed);
        Ok(())
    }

    /// After the commit, and only then: memory moves on, and the world is told.
    fn settle(&mut self, group: Group) {
        if self.unwell.take().is_some() {
            tracing::info!(store = %self.name, "the store can be written again");
            self.meter.unwell.store(false, Ordering::Relaxed);
        }
        if !group.counted.is_empty() {
            Counted::settle(&group.counted, crate::clock::now());
        }
        self.relayed = super::Relayed::default();
        self.committed();
        let (added, removed) = (self.added(&group), group.removed);
        self.next_outbox_id = group.next_outbox_id;
        self.savepoints_for = self.savepoints_for.saturating_sub(u32::from(group.savepoints && !group.solo));
        for pick in &group.picks {
            self.one_less_alone(pick);
            if let Pick::Lane(token) = pick {
                self.counted.retain(|(lane, _), _| lane != token);
            }
        }
        for (handler, topic) in group.refused {
            self.open_refused(&handler, &topic);
        }
        for (handler, circuit) in group.circuits {
            self.settle_circuit(&handler, circuit);
        }
        for (handler, finding) in group.findings {
            self.settle_finding(&handler, finding);
        }
        for (token, draft) in group.drafts {
            let Some(lane) = self.lanes.get_mut(&token) else { continue };
            let Some(member) = self.members.get_mut(&lane.handler) else { continue };
            if let Some(next) = draft.next.filter(|_| lane.schedule.is_none()) {
                member.positions.set(&lane.topic, lane.partition, next);
            }
            if draft.passed {
                member.passed_at = crate::clock::now();
            }
            member.outside += draft.asks.len();
            member.outside -= draft.answered.min(member.outside);
            let (asks, handler) = (lane.settle(draft, &member.live.environment.spec.retry), lane.handler.clone());
            asks.into_iter().for_each(|ask| self.ask(token, &handler, ask));
            self.set_alarm(token);
        }
        for (handler, answers) in group.answers {
            let Some(member) = self.members.get_mut(&handler) else { continue };
            let ended: Vec<_> = member.requests.drain(..answers.len().min(member.requests.len())).collect();
            for (waiting, answer) in ended.into_iter().zip(answers) {
                match answer {
                    Answered::Now(answer) => drop(waiting.reply.send(answer)),
                    Answered::Later(aside, call) => {
                        self.ask_for_request(&handler, super::Waiting { aside: Some(aside), ..waiting }, call);
                    }
                }
            }
        }
        for (handler, told) in group.told {
            if let Some(member) = self.members.get_mut(&handler) {
                member.sends.drain(..told.min(member.sends.len()));
            }
        }
        group.sends.into_iter().for_each(|(handler, sending)| self.send(handler, sending));
        self.tell_of(group.traced, group.picks.len(), group.committed_at, group.commit_took);
        for logged in group.log {
            logged.emit();
        }
        if added > 0 {
            (self.wake)();
        }
        self.count(added, removed);
    }

    /// What upkeep and the inbox have done in the transaction is true.
    pub(super) fn committed(&mut self) {
        self.upkeep.settle();
        self.inbox.settle();
    }

    /// The group is gone: nothing of it happened. Its deliveries are run again, or wait for the store.
    fn abort(&mut self, group: Group, abort: Abort) {
        if let Err(error) = self.rollback() {
            tracing::warn!(store = %self.name, %error, "roll back a group");
        }
        for pick in &group.picks {
            if let Pick::Lane(token) = pick {
                self.list(*token);
            }
        }
        self.meter.undo(match &abort {
            Abort::Broken => Undone::Broken,
            Abort::Undo => Undone::NoSavepoints,
            Abort::Stale(_) => Undone::Stale,
            Abort::Store(_) => Undone::Store,
        });
        match abort {
            Abort::Broken => {
                tracing::debug!(store = %self.name, deliveries = group.picks.len(), "a delivery broke its group; each runs alone");
                if let Some(offender) = group.picks.last() {
                    self.keep_alone(offender);
                }
                for pick in group.picks {
                    // All picks are listed again: they wait for the store with the others.
                    if self.unwell.is_some_and(|until| Instant::now() < until) {
                        break;
                    }
                    self.conclude(move |executor, group| executor.fill(group, vec![pick]), true);
                }
            }
            Abort::Undo => {
                tracing::debug!(store = %self.name, deliveries = group.picks.len(), "a delivery must be undone; its group runs again with savepoints");
            }
            Abort::Stale(token) => {
                let lane = self.lanes.get(&token);
                if let Some(lane) = lane {
                    tracing::warn!(store = %self.name, handler = %lane.handler, topic = %lane.topic, partition = lane.partition,
                        "the lane was opened elsewhere: its work was rolled back, and goes on there");
                }
                self.close_lane(token);
            }
            Abort::Store(error) => self.store_failed(&error),
        }
    }

    pub(super) fn rollback(&mut self) -> Result<(), Error> {
        self.inbox.roll_back();
        // They remember what did not happen.
        self.members.values_mut().for_each(|member| member.warm = None);
        let connection = self.connection();
        if connection.in_transaction() { connection.execute("ROLLBACK", &[]).map(drop) } else { Ok(()) }
    }

    /// Throws the one delivery of a solo group away and begins the group's transaction anew.
    pub(super) fn restart(&mut self, group: &mut Group) -> Result<(), Abort> {
        self.rollback()?;
        group.failing = true;
        group.drafts.clear();
        group.circuits.clear();
        group.findings.clear();
        group.traced.clear();
        group.asked.clear();
        group.sends.clear();
        group.sending.clear();
        group.present = None;
        group.next_outbox_id = self.next_outbox_id;
        self.begin()
    }

    /// No handler is to blame: records wait where they are, and requests are told to come again.
    fn store_failed(&mut self, error: &Error) {
        if self.unwell.is_none() {
            let advice = match error.kind {
                Kind::Store => "free disk space, or check the disk and the data folder",
                _ => "this is unexpected: please report it with the daemon's log",
            };
            tracing::error!(store = %self.name, %error, "the store cannot be written: {advice}. Records wait, requests get 503, and it is tried again every second; nothing is lost");
        }
        self.unwell = Some(Instant::now() + STORE_PAUSE);
        self.meter.unwell.store(true, Ordering::Relaxed);
        for waiting in self.members.values_mut().flat_map(|m| m.requests.drain(..)) {
            let _ = waiting.reply.send(Err(Refusal::StoreUnavailable));
        }
    }
}

impl Logged {
    pub(super) fn emit(self) {
        let _entered = self.span.entered();
        for line in self.lines {
            let message = line.message;
            match line.level {
                tracing::Level::ERROR => tracing::error!(target: "handler", "{message}"),
                tracing::Level::WARN => tracing::warn!(target: "handler", "{message}"),
                tracing::Level::INFO => tracing::info!(target: "handler", "{message}"),
                tracing::Level::DEBUG => tracing::debug!(target: "handler", "{message}"),
                _ => tracing::trace!(target: "handler", "{message}"),
            }
        }
        if let Some(trouble) = self.trouble {
            tracing::warn!("{trouble}");
        }
    }
}
