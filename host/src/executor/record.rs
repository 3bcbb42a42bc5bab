//! A delivery of one record, or of a timer, inside the open group.
//!
//! The record's effects, its inbox row, its pending row or dead letter, and the step past its offset go into the
//! group's transaction and draft together. Nothing here becomes true by itself.

use std::sync::Arc;
use std::time::Instant;

use super::group::{Abort, Group, Logged};
use super::run::Run;
use super::traced::told_of;
use super::{Executor, Live, event_id};
use crate::fault;
use crate::guest::{self, Context, Finished};
use crate::id::{InputId, Seed};
use crate::lane::Token;
use crate::lane::turn::{Input, Taken, Turn};
use crate::ledger::crash;
use crate::ledger::pending::{Purpose, TIMERS};
use crate::metrics::meters::{self, Ending, Left};
use crate::policy::{Failure, Outcome};
use crate::record::Record;
use crate::settings::units;
use crate::store::{Connection, Kind};
use crate::trace::{Incoming, Origin, Place};

/// One delivery's record, and what is known about it.
pub(super) struct Delivery {
    pub(super) token: Token,
    pub(super) handler: Arc<str>,
    pub(super) live: Arc<Live>,
    pub(super) input: Input,
    pub(super) record: Arc<Record>,
    pub(super) topic_id: String,
    pub(super) attempt: u32,
    pub(super) seed: Seed,
    pub(super) event_id: Option<String>,
    /// Under which name the inbox knows what was done.
    pub(super) inbox: Arc<str>,
    pub(super) source: String,
    pub(super) now: i64,
    /// When its attempt started: what its clock says.
    pub(super) started: i64,
    /// Whether its crash count is written while it runs.
    pub(super) counted: bool,
    /// Where it stands in a trace, and since when, where that is recorded.
    pub(super) place: Place,
    pub(super) since: Option<Instant>,
}

impl Executor {
    /// Delivers what is next on a lane. What the store does not take, though it is well, is the delivery's own fault.
    pub(super) fn deliver_record(&mut self, group: &mut Group, token: Token) -> Result<(), Abort> {
        match self.try_deliver(group, token) {
            Err(Abort::Store(error)) if error.kind != Kind::Store => {
                if !group.solo {
                    return Err(Abort::Broken);
                }
                self.restart(group)?;
                self.give_up_on_writing(group, token, &error)
            }
            result => result,
        }
    }

    fn try_deliver(&mut self, group: &mut Group, token: Token) -> Result<(), Abort> {
        let Some(mut delivery) = self.prepare(group, token)? else { return Ok(()) };
        if let Some(id) = &delivery.event_id
            && self.inbox.contains(self.connection(), &delivery.inbox, id)?
        {
            tracing::debug!(handler = %delivery.handler, topic = %delivery.record.topic, partition = delivery.record.partition,
                offset = delivery.record.offset, event_id = id, "duplicate");
            delivery.counts_as(group, Left::Duplicate);
            delivery.traced(group, "duplicate", Vec::new(), None);
            return self.leave(group, &delivery);
        }
        if delivery.input.reason().is_some() && !delivery.live.component.compensates() {
            let failure = Failure::new(Outcome::Reject, "the live version does not export `compensation`");
            let trouble = self.give_up(group, &delivery, &failure)?;
            delivery.traced(group, failure.outcome.name(), Vec::new(), Some(&trouble));
            group.log.push(delivery.logged(Vec::new(), Some(trouble)));
            return Ok(());
        }
        if delivery.is_timer() && delivery.input.reason().is_none() && !delivery.live.component.fires() {
            let failure = Failure::new(Outcome::Reject, "the live version does not export `timers`");
            let trouble = self.give_up(group, &delivery, &failure)?;
            delivery.traced(group, failure.outcome.name(), Vec::new(), Some(&trouble));
            group.log.push(delivery.logged(Vec::new(), Some(trouble)));
            return Ok(());
        }
        if let Some(crashes) = self.count_run(&mut delivery)? {
            let what = if delivery.is_timer() { "timer" } else { "record" };
            let message = format!("the daemon has ended {crashes} times while it ran this {what}");
            delivery.has_ended(group, Err(Outcome::Crash));
            let trouble = self.give_up(group, &delivery, &Failure::new(Outcome::Crash, message))?;
            delivery.traced(group, Outcome::Crash.name(), Vec::new(), Some(&trouble));
            group.log.push(delivery.logged(Vec::new(), Some(trouble)));
            return Ok(());
        }
        self.enter(group)?;
        let context = Context { warm: self.warm(&delivery.handler), ..self.context(&delivery, group) };
        let Some(connection) = self.connection.take() else { return Ok(()) };
        if delivery.input.reason().is_none() {
            fault::run(&delivery.record);
        }
        let finished = delivery.run(connection, context);
        let (run, mut left) = self.come_back(group, finished)?;
        let trouble = match run {
            Run::Done(()) => {
                if let (Some(id), Some(connection)) = (&delivery.event_id, &self.connection) {
                    self.inbox.add(connection, &delivery.inbox, id, delivery.now)?;
                    // What a replay does is done for what comes after it.
                    if delivery.inbox != delivery.handler && !self.inbox.contains(connection, &delivery.handler, id)? {
                        self.inbox.add(connection, &delivery.handler, id, delivery.now)?;
                    }
                }
                self.keep(group, &delivery.handler, &mut left)?;
                self.circuit_passes(group, &delivery);
                self.probation_ends(group, &delivery)?;
                self.leave(group, &delivery)?;
                group.drafts.entry(token).or_default().passed = !delivery.is_timer();
                delivery.has_ended(group, Ok(()));
                delivery.counts_as(group, Left::Done);
                delivery.traced(group, "done", std::mem::take(&mut left.spans), None);
                None
            }
            Run::Failed(failure) => {
                self.undo(group)?;
                let trouble = self.fail(group, &delivery, &failure)?;
                delivery.traced(group, failure.outcome.name(), std::mem::take(&mut left.spans), Some(&trouble));
                Some(trouble)
            }
            Run::Asks(call, position) => {
                self.undo(group)?;
                let trouble = self.set_aside(group, &delivery, call, position)?;
                // Else it runs again, and says it again.
                let Some(trouble) = trouble else { return Ok(()) };
                delivery.traced(group, Outcome::EffectsLimit.name(), std::mem::take(&mut left.spans), Some(&trouble));
                Some(trouble)
            }
            Run::RunsAlone => return Ok(()),
        };
        if trouble.is_some() || !left.log.is_empty() {
            group.log.push(delivery.logged(left.log, trouble));
        }
        Ok(())
    }

    /// Takes the lane's next input; `None` if there is nothing to run.
    pub(super) fn prepare(&self, group: &mut Group, token: Token) -> Result<Option<Delivery>, Abort> {
        let now = crate::clock::now();
        let Some((lane, member)) = self.lane(token) else { return Ok(None) };
        let live = member.live.clone();
        if !self.circuit_lets(group, token, member, now) {
            return Ok(None);
        }
        let full = self.is_full(group, &lane.handler);
        let Taken::Input(input) = self.turn(group, token, &live, now, |turn| turn.take(full))? else { return Ok(None) };
        Ok(self.delivery(token, live, input, now))
    }

    /// What is known about an input of a lane.
    pub(super) fn delivery(&self, token: Token, live: Arc<Live>, input: Input, now: i64) -> Option<Delivery> {
        let lane = self.lanes.get(&token)?;
        let record = input.record().clone();
        let topic_id = input.pending().map_or(&lane.topic_id, |pending| &pending.topic_id).clone();
        let refused = match input.pending().map(|pending| &pending.purpose) {
            Some(Purpose::Compensate { event, .. }) => event.as_ref(),
            _ => None,
        };
        let id = match refused {
            Some(event) => InputId::Event { event_id: event.event_id.clone() },
            None if record.partition == TIMERS => InputId::Timer { name: record.topic.to_string(), due: record.offset },
            None => InputId::Record { topic_id: topic_id.clone(), partition: record.partition, offset: record.offset },
        };
        let spec = &live.environment.spec;
        let seed = Seed::derive(self.identity.secret.as_bytes(), &spec.name, &id);
        let compensates = input.reason().is_some();
        let root = seed;
        let seed = if compensates { root.compensating() } else { root.clone() };
        let attempt = input.pending().map_or(0, |pending| pending.attempts) + 1;
        let origin = Origin { root: &root, seed: &seed, attempt };
        let place = self.outside.tracer.place(Incoming::of_record(&record.headers), origin);
        let since = place.recorded().map(|_| input.aside().and_then(|aside| aside.since).unwrap_or_else(Instant::now));
        Some(Delivery {
            token,
            handler: lane.handler.clone(),
            attempt,
            seed,
            place,
            since,
            // The inbox knows what was handled.
            event_id: if compensates || record.partition == TIMERS {
                None
            } else {
                event_id::find(&spec.event_id, &record)
            },
            inbox: lane.inbox_name(record.offset),
            source: refused.map_or_else(|| id.describe(&record.topic), |event| event.source.clone()),
            started: input.aside().map_or(now, |aside| aside.started),
            live,
            input,
            record,
            topic_id,
            now,
            counted: false,
        })
    }

    /// One step of a lane, in the group's transaction and its draft.
    pub(super) fn turn<T>(
        &self,
        group: &mut Group,
        token: Token,
        live: &Live,
        now: i64,
        step: impl FnOnce(&mut Turn<'_>) -> Result<T, crate::store::Error>,
    ) -> Result<T, Abort> {
        let Some(lane) = self.lanes.get(&token) else { return Err(Abort::Stale(token)) };
        let draft = group.drafts.entry(token).or_default();
        let policy = &live.environment.spec.retry;
        Ok(step(&mut Turn { connection: self.connection(), lane, draft, policy, now })?)
    }

    pub(super) fn context(&self, delivery: &Delivery, group: &Group) -> Context {
        Context {
            environment: delivery.live.environment.clone(),
            seed: delivery.seed.clone(),
            now: delivery.started,
            input_time: delivery.record.timestamp.millis().unwrap_or(0),
            attempt: delivery.attempt,
            event_id: delivery.event_id.clone(),
            record: Some(delivery.record.clone()),
            source: delivery.source.clone(),
            next_outbox_id: Some(group.next_outbox_id),
            answers: delivery.input.aside().map_or_else(Default::default, |aside| aside.answers.clone()),
            deadline: None,
            sender: group.solo.then(|| self.outside.sender.clone()),
            warm: None,
            trace: None,
            place: delivery.place.clone(),
        }
    }

    /// The record is done (or was before), or given up on: the lane steps past it.
    pub(super) fn leave(&mut self, group: &mut Group, delivery: &Delivery) -> Result<(), Abort> {
        self.turn(group, delivery.token, &delivery.live, delivery.now, |turn| turn.leave(&delivery.input))?;
        self.forget_crashes(delivery)
    }

    /// The run has ended, and the record waits: the process has survived it.
    pub(super) fn take_run_back(&self, delivery: &Delivery) -> Result<(), Abort> {
        if delivery.counted {
            crash::take_back(self.connection(), &delivery.handler, &delivery.topic_id, &delivery.record)?;
        }
        Ok(())
    }

    pub(super) fn forget_crashes(&self, delivery: &Delivery) -> Result<(), Abort> {
        // It may run uncounted now, and have crashed a process before.
        if delivery.counted || self.lanes.get(&delivery.token).is_some_and(|lane| lane.crashed) {
            crash::forget(self.connection(), &delivery.handler, &delivery.topic_id, &delivery.record)?;
        }
        Ok(())
    }

    /// Where a lane is careful, commits that this record is about to run. Returns the crashes before, if those are enough.
    fn count_run(&mut self, delivery: &mut Delivery) -> Result<Option<u32>, Abort> {
        if self.lanes.get(&delivery.token).is_none_or(|lane| lane.careful == 0) {
            return Ok(None);
        }
        delivery.counted = true;
        let place = (delivery.token, crash::offset(&delivery.record));
        let crashes = match self.counted.get(&place) {
            // A run of this process that was thrown away, not a crash.
            Some(crashes) => *crashes,
            None => {
                let counted = crash::count(self.connection(), &delivery.handler, &delivery.topic_id, &delivery.record)?;
                self.connection().execute("COMMIT", &[])?;
                self.committed();
                self.counted.insert(place, counted - 1);
                self.begin()?;
                counted - 1
            }
        };
        let most = delivery.live.environment.spec.retry.attempts_for(Outcome::Crash);
        Ok((crashes >= most).then_some(crashes))
    }
}

impl Delivery {
    /// Whether it fires a timer, or compensates one.
    pub(super) fn is_timer(&self) -> bool {
        self.record.partition == TIMERS
    }

    fn kind(&self) -> meters::Input {
        match self.input.reason() {
            Some(_) => meters::Input::Compensation,
            None if self.is_timer() => meters::Input::Timer,
            None => meters::Input::Record,
        }
    }

    /// It ran, and ended so.
    pub(super) fn has_ended(&self, group: &mut Group, ending: Ending) {
        group.counts(&self.live.meter, self.kind()).ending = Some(ending);
    }

    /// Its record is left behind, if it is one.
    pub(super) fn counts_as(&self, group: &mut Group, left: Left) {
        if self.kind() == meters::Input::Record {
            let left = (left, self.record.timestamp.millis());
            group.counts(&self.live.meter, meters::Input::Record).left = Some(left);
        }
    }

    /// Gives the input to an instance.
    pub(super) fn run(&self, connection: Box<Connection>, context: Context) -> Finished<()> {
        let (component, record) = (&self.live.component, &self.record);
        match self.input.pending().map(|pending| &pending.purpose) {
            Some(Purpose::Compensate { reason, event }) => {
                guest::delivery::compensate(component, connection, context, record, event.as_ref(), reason)
            }
            _ if self.is_timer() => guest::delivery::fire(component, connection, context, record),
            _ => guest::delivery::handle_record(component, connection, context, record),
        }
    }

    /// What it has to say once its end is known.
    pub(super) fn logged(&self, lines: Vec<guest::LogLine>, trouble: Option<String>) -> Logged {
        let version = self.live.version;
        let (trace_id, span_id) = told_of(&self.place);
        // Of the highest level, so that a line names its record at whatever level there are lines.
        let span = match self.input.reason() {
            None if self.is_timer() => tracing::error_span!("timer", handler = %self.handler, version,
                name = %self.record.topic, due = units::show_time(self.record.offset), attempt = self.attempt,
                trace_id, span_id),
            None => tracing::error_span!("delivery", handler = %self.handler, version, topic = %self.record.topic,
                partition = self.record.partition, offset = self.record.offset, attempt = self.attempt, trace_id,
                span_id),
            Some(_) => tracing::error_span!("compensation", handler = %self.handler, version, source = self.source,
                attempt = self.attempt, trace_id, span_id),
        };
        Logged { span, lines, trouble }
    }
}
