//! A delivery of one record, inside the open group.
//!
//! The record's effects, its inbox row, its pending row or dead letter, and the step past its offset go into the
//! group's transaction and draft together. Nothing here becomes true by itself.

use std::sync::Arc;

use super::group::{Abort, Group, Logged};
use super::{Executor, Live, event_id};
use crate::guest::{self, Context, Ended};
use crate::id::{InputId, Seed};
use crate::kafka::dead_letter;
use crate::lane::{Input, Token};
use crate::ledger::pending::{self, Pending};
use crate::ledger::{fallback, inbox, outbox};
use crate::policy::{Failure, Next, decide};
use crate::record::Record;
use crate::store::{Error, Kind};

/// One delivery's record, and what is known about it.
struct Delivery {
    token: Token,
    live: Arc<Live>,
    input: Input,
    record: Arc<Record>,
    topic_id: String,
    pending: Option<Arc<Pending>>,
    attempt: u32,
    seed: Seed,
    event_id: Option<String>,
    source: String,
    now: i64,
}

impl Executor {
    /// Delivers the head of a lane. What the store does not take, though it is well, is the delivery's own fault.
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
        let Some(delivery) = self.prepare(group, token) else { return Ok(()) };
        let handler = delivery.live.environment.spec.name.clone();
        if let Some(id) = &delivery.event_id
            && inbox::contains(self.connection(), &handler, id)?
        {
            tracing::debug!(handler, topic = %delivery.record.topic, partition = delivery.record.partition,
                offset = delivery.record.offset, event_id = id, "duplicate");
            return self.done(group, &delivery);
        }
        self.connection().execute("SAVEPOINT delivery", &[])?;
        let Some(connection) = self.connection.take() else { return Ok(()) };
        let context = Context {
            environment: delivery.live.environment.clone(),
            seed: delivery.seed.clone(),
            now: delivery.now,
            input_time: delivery.record.timestamp.millis().unwrap_or(0),
            attempt: delivery.attempt,
            event_id: delivery.event_id.clone(),
            source: delivery.source.clone(),
            next_outbox_id: Some(group.next_outbox_id),
            deadline: None,
        };
        let finished = guest::delivery::handle_record(&delivery.live.component, connection, context, &delivery.record);
        self.connection = Some(finished.connection);
        let failure = match finished.result {
            Ok(()) if self.connection().violates_deferred_keys() => {
                Some(Failure::Trap { message: "the delivery leaves a deferred foreign key violated".into() })
            }
            Ok(()) => None,
            Err(Ended::Failed(failure)) => Some(failure),
            Err(Ended::Store(error)) => return Err(Abort::Store(error)),
            Err(Ended::Broken(_)) if !group.solo => return Err(Abort::Broken),
            Err(Ended::Broken(failure)) => {
                self.restart(group)?;
                self.connection().execute("SAVEPOINT delivery", &[])?;
                Some(failure)
            }
        };
        let trouble = match failure {
            None => {
                if let Some(next) = finished.next_outbox_id {
                    group.next_outbox_id = next;
                }
                if let Some(id) = &delivery.event_id {
                    inbox::add(self.connection(), &handler, id, delivery.now)?;
                }
                self.connection().execute("RELEASE delivery", &[])?;
                self.done(group, &delivery)?;
                None
            }
            Some(failure) => {
                self.connection().execute("ROLLBACK TO delivery", &[])?;
                self.connection().execute("RELEASE delivery", &[])?;
                Some(self.fail(group, &delivery, &failure)?)
            }
        };
        if trouble.is_some() || !finished.log.is_empty() {
            let span = tracing::info_span!("delivery", handler, topic = %delivery.record.topic,
                partition = delivery.record.partition, offset = delivery.record.offset, attempt = delivery.attempt);
            group.log.push(Logged { span, lines: finished.log, trouble });
        }
        Ok(())
    }

    fn prepare(&self, group: &Group, token: Token) -> Option<Delivery> {
        let now = crate::clock::now();
        let lane = self.lanes.get(&token)?;
        let live = self.members.get(&lane.handler)?.live.clone();
        let input = lane.head(group.drafts.get(&token), now)?;
        let (record, topic_id, pending) = match &input {
            Input::Record(record) => (record.clone(), lane.topic_id.clone(), None),
            Input::Pending(pending) => {
                (Arc::new(pending.record.clone()), pending.topic_id.clone(), Some(pending.clone()))
            }
        };
        let id = InputId::Record { topic_id: topic_id.clone(), partition: record.partition, offset: record.offset };
        let spec = &live.environment.spec;
        Some(Delivery {
            token,
            attempt: pending.as_ref().map_or(0, |p| p.attempts) + 1,
            seed: Seed::derive(self.identity.secret.as_bytes(), &spec.name, &id),
            event_id: event_id::find(&spec.event_id, &record),
            source: id.describe(&record.topic),
            live,
            input,
            record,
            topic_id,
            pending,
            now,
        })
    }

    /// The record is done (or was before): the lane steps past it.
    fn done(&mut self, group: &mut Group, delivery: &Delivery) -> Result<(), Abort> {
        if let Some(pending) = &delivery.pending {
            pending::delete(self.connection(), pending.id)?;
        }
        group.drafts.entry(delivery.token).or_default().step(&delivery.input, None);
        Ok(())
    }

    /// The record failed: it waits, or it is given up on. Returns what the operator reads.
    fn fail(&mut self, group: &mut Group, delivery: &Delivery, failure: &Failure) -> Result<String, Abort> {
        let spec = &delivery.live.environment.spec;
        let before = delivery.pending.as_ref().map_or("[]", |p| p.errors.as_str());
        let errors = pending::push_error(before, delivery.attempt, delivery.now, failure.name(), failure.message());
        let outcome = format!("{}: {}", failure.name(), failure.message());
        let (due, attempts) = match decide(&spec.retry, failure, delivery.attempt, delivery.now) {
            Next::Retry { due } => (due, delivery.attempt),
            Next::Wait { due } => (due, delivery.attempt - 1),
            Next::DeadLetter => return self.give_up(group, delivery, failure, &errors, &outcome),
        };
        let waits = match &delivery.pending {
            Some(pending) => {
                pending::update(self.connection(), pending.id, attempts, due, &errors)?;
                Pending { attempts, due, errors, ..(**pending).clone() }
            }
            None => {
                let mut pending = Pending {
                    id: 0,
                    record: (*delivery.record).clone(),
                    topic_id: delivery.topic_id.clone(),
                    attempts,
                    due,
                    errors,
                };
                pending.id = pending::insert(self.connection(), &spec.name, &pending)?;
                pending
            }
        };
        group.drafts.entry(delivery.token).or_default().step(&delivery.input, Some(Arc::new(waits)));
        Ok(format!("{outcome}; tried again in {} ms", due - delivery.now))
    }

    fn give_up(
        &mut self,
        group: &mut Group,
        delivery: &Delivery,
        failure: &Failure,
        errors: &str,
        outcome: &str,
    ) -> Result<String, Abort> {
        let spec = &delivery.live.environment.spec;
        let event = dead_letter::event(spec, &delivery.seed, &delivery.record, failure, errors);
        let said = if dead_letter::is_dead_letter(&delivery.record) {
            let cause = format!("it came from a dead letter topic already: {outcome}");
            fallback::insert(self.connection(), &event, &spec.name, &delivery.source, &cause, delivery.now)?;
            format!("{outcome}; kept in tm_fallback, since it is a dead letter already")
        } else {
            let id = group.next_outbox_id;
            // One that waits already is this very dead letter, from before the operator let the handler read again.
            outbox::insert(self.connection(), id, &event, &spec.name, &delivery.source, delivery.now)?;
            group.next_outbox_id += 1;
            format!("{outcome}; given up on after {} attempts, dead letter to {}", delivery.attempt, event.topic)
        };
        self.done(group, delivery)?;
        Ok(said)
    }

    /// Neither the record's effects nor its dead letter can be written, for example because they are too large: the
    /// fallback names the record, which Kafka still has.
    fn give_up_on_writing(&mut self, group: &mut Group, token: Token, error: &Error) -> Result<(), Abort> {
        let Some(delivery) = self.prepare(group, token) else { return Ok(()) };
        let spec = &delivery.live.environment.spec;
        let failure = Failure::Limit { message: format!("it cannot be written: {error}") };
        let bare = Record { key: None, value: None, headers: Vec::new(), ..(*delivery.record).clone() };
        let event = dead_letter::event(spec, &delivery.seed, &bare, &failure, "[]");
        let cause = format!("{}; only its place is kept: {}", failure.message(), delivery.source);
        fallback::insert(self.connection(), &event, &spec.name, &delivery.source, &cause, delivery.now)?;
        let span = tracing::error_span!("delivery", handler = spec.name, record = delivery.source);
        group.log.push(Logged { span, lines: Vec::new(), trouble: Some(cause) });
        self.done(group, &delivery)
    }
}
