//! A delivery that failed, inside the open group: it waits, or it is given up on.
//!
//! What the policy decides is written in the group's transaction, with the step of the lane. A record always goes
//! somewhere: pending, dead letter or fallback.

use super::Executor;
use super::group::{Abort, Group};
use super::record::Delivery;
use crate::kafka::dead_letter;
use crate::lane::Token;
use crate::lane::turn::Turn;
use crate::ledger::outbox::{Event, EventKind};
use crate::ledger::pending::Attempt;
use crate::ledger::{fallback, outbox, pending};
use crate::metrics::meters::Left;
use crate::outbound::recorded;
use crate::policy::circuit::Failed;
use crate::policy::{Failure, Next, Outcome, Situation, Treatment, decide};
use crate::record::Record;
use crate::store::Error;

impl Executor {
    /// The record failed: it waits, or it is given up on. Returns what the operator reads.
    pub(super) fn fail(&mut self, group: &mut Group, delivery: &Delivery, failure: &Failure) -> Result<String, Abort> {
        let spec = &delivery.live.environment.spec;
        let policy = if delivery.input.reason().is_some() { &spec.compensation } else { &spec.retry };
        delivery.has_ended(group, Err(failure.outcome));
        // A delivery that sends may have waited long.
        let (token, now) = (delivery.token, crate::clock::now());
        let treatment = policy.classes.of(failure.outcome).treatment;
        let dice = delivery.seed.dice(delivery.attempt);
        let probe = self.circuit_is_open(group, delivery);
        let others_pass = match probe {
            false => self.others_pass(delivery),
            true if treatment == Treatment::Reject => false,
            // Where the record behind tells nothing, one that failed by itself is to blame: else it would be tried for ever.
            true => self.rehearse(group, delivery)?.unwrap_or(treatment != Treatment::Unavailable),
        };
        if probe && others_pass {
            self.circuit_passes(group, delivery);
        } else if treatment != Treatment::Reject {
            let unavailable = treatment == Treatment::Unavailable && !others_pass;
            let failed = Failed { lane: token.0, unavailable, after: failure.after, now, dice };
            self.circuit_fails(group, delivery, failed);
        }
        let circuit_open = self.circuit_is_open(group, delivery);
        let situation = Situation { attempt: delivery.attempt, circuit_open, others_pass, now, dice };
        let outcome = format!("{}: {}", failure.outcome.name(), failure.message);
        let next = decide(policy, failure, situation);
        let spared = self.probation_fails(group, delivery, failure, next == Next::DeadLetter)?;
        let (due, attempts, when) = match next {
            Next::Retry { due } => (due, delivery.attempt, format!("tried again in {} ms", due - now)),
            // Not later than the circuit lets it.
            Next::Wait => (now, delivery.attempt - 1, "tried again when the circuit lets it".to_owned()),
            Next::DeadLetter if spared => (now, delivery.attempt, "kept, since its version is to blame".to_owned()),
            Next::DeadLetter => return self.give_up(group, delivery, failure),
        };
        let errors = delivery.errors_with(failure);
        self.turn(group, token, &delivery.live, now, |turn| turn.wait(&delivery.input, attempts, due, errors))?;
        self.take_run_back(delivery)?;
        Ok(format!("{outcome}; {when}"))
    }

    /// Whether others were done while this record alone stayed unavailable.
    fn others_pass(&self, delivery: &Delivery) -> bool {
        let retry = &delivery.live.environment.spec.retry;
        let last = delivery.input.pending().and_then(pending::Pending::last_failure);
        let passed_at = self.members.get(&delivery.handler).map_or(0, |member| member.passed_at);
        last.is_some_and(|(outcome, at)| {
            retry.classes.of(outcome).treatment == Treatment::Unavailable && passed_at > at
        })
    }

    /// The record becomes a dead letter, or stays in the fallback where it is one already, as a timer does; then it is compensated, by a
    /// handler that does. What could not be compensated stays in the fallback.
    pub(super) fn give_up(
        &mut self,
        group: &mut Group,
        delivery: &Delivery,
        failure: &Failure,
    ) -> Result<String, Abort> {
        let spec = &delivery.live.environment.spec;
        let outcome = format!("{}: {}", failure.outcome.name(), failure.message);
        let mut event = delivery.letter(&delivery.record, failure, &delivery.errors_with(failure));
        if let Some(reason) = delivery.input.reason() {
            event.kind = EventKind::Compensation;
            event.topic = delivery.record.topic.to_string();
            let cause = uncompensated(&outcome, reason);
            fallback::insert(self.connection(), &event, &spec.name, &delivery.source, &cause, delivery.now)?;
            self.leave(group, delivery)?;
            return Ok(format!("{outcome}; kept in tm_fallback, since it cannot be compensated: a person has to"));
        }
        let said = if delivery.is_timer() {
            fallback::insert(self.connection(), &event, &spec.name, &delivery.source, &outcome, delivery.now)?;
            format!("{outcome}; given up on after {} attempts, kept in tm_fallback", delivery.attempt)
        } else if dead_letter::is_dead_letter(&delivery.record) {
            let cause = format!("it came from a dead letter topic already: {outcome}");
            delivery.counts_as(group, Left::Fallback);
            fallback::insert(self.connection(), &event, &spec.name, &delivery.source, &cause, delivery.now)?;
            format!("{outcome}; kept in tm_fallback, since it is a dead letter already")
        } else {
            delivery.place.mark_last(&mut event.headers);
            let id = group.next_outbox_id;
            // One that waits already is this very dead letter, from before the operator let the handler read again.
            outbox::insert(self.connection(), id, &event, &spec.name, &delivery.source, delivery.now)?;
            group.next_outbox_id += 1;
            delivery.counts_as(group, Left::DeadLetter);
            format!("{outcome}; given up on after {} attempts, dead letter to {}", delivery.attempt, event.topic)
        };
        if !delivery.live.component.compensates() {
            self.leave(group, delivery)?;
            return Ok(said);
        }
        self.forget_crashes(delivery)?;
        let compensate = |turn: &mut Turn<'_>| turn.compensate(&delivery.input, &outcome);
        self.turn(group, delivery.token, &delivery.live, delivery.now, compensate)?;
        Ok(format!("{said}; it is compensated"))
    }

    /// Neither the record's effects nor its dead letter can be written, for example because they are too large: the
    /// fallback names the record, which Kafka still has.
    pub(super) fn give_up_on_writing(&mut self, group: &mut Group, token: Token, error: &Error) -> Result<(), Abort> {
        let Some(delivery) = self.prepare(group, token)? else { return Ok(()) };
        let spec = &delivery.live.environment.spec;
        let failure = Failure::new(Outcome::EffectsLimit, format!("it cannot be written: {error}"));
        let bare = Record { key: None, value: None, headers: Vec::new(), ..(*delivery.record).clone() };
        let event = delivery.letter(&bare, &failure, "[]");
        let cause = format!("{}; only its place is kept: {}", failure.message, delivery.source);
        fallback::insert(self.connection(), &event, &spec.name, &delivery.source, &cause, delivery.now)?;
        delivery.traced(group, failure.outcome.name(), Vec::new(), Some(&cause));
        group.log.push(delivery.logged(Vec::new(), Some(cause)));
        delivery.has_ended(group, Err(failure.outcome));
        delivery.counts_as(group, Left::Fallback);
        self.leave(group, &delivery)
    }
}

const SINCE: &str = "; it was given up on since: ";

/// Why something is kept that was to be compensated for this reason.
pub(super) fn uncompensated(outcome: &str, reason: &str) -> String {
    format!("it could not be compensated: {outcome}{SINCE}{reason}")
}

/// The reason again.
pub(super) fn reason_of(cause: &str) -> &str {
    cause.split_once(SINCE).map_or(cause, |(_, reason)| reason)
}

impl Delivery {
    /// What it becomes when it is given up on: the record, unchanged or without what cannot be written; a timer stays in the store.
    pub(super) fn letter(&self, record: &Record, failure: &Failure, errors: &str) -> Event {
        let event = dead_letter::event(&self.live.environment.spec, &self.seed, record, failure, errors);
        if self.is_timer() {
            return Event { kind: EventKind::Timer, topic: record.topic.to_string(), partition: None, ..event };
        }
        event
    }

    /// The history of its attempts, with this one.
    fn errors_with(&self, failure: &Failure) -> String {
        let before = self.input.pending().map_or("[]", |pending| pending.errors.as_str());
        let asked = self.input.aside().filter(|_| self.live.environment.spec.dead_letter.answers);
        let attempt = Attempt {
            number: self.attempt,
            at: self.now,
            clock: Some(self.started).filter(|started| *started != self.now),
            outcome: failure.outcome.name(),
            message: &failure.message,
            answers: asked.and_then(|aside| recorded::write(&aside.answers)),
        };
        pending::push_error(before, attempt)
    }
}
