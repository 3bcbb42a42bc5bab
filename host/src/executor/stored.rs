//! Rows of the ledger that the operator puts back, publishes again, tries now or takes out.
//!
//! A row leaves its table in the transaction that puts it elsewhere, so nothing is lost and nothing done twice. What is under way is not
//! touched: neither a record that waits for a call to the outside, nor an event that the relay has reported.

use std::sync::Arc;

use super::Executor;
use super::failed::{reason_of, uncompensated};
use super::letters::{Disposed, Draft, Return};
use crate::kafka::dead_letter;
use crate::lane::turn::Input;
use crate::ledger::fallback::Kept;
use crate::ledger::outbox::EventKind;
use crate::ledger::pending::{Attempt, NO_PARTITION, Pending, Purpose, Rows};
use crate::ledger::stored::{self, Table};
use crate::ledger::{crash, fallback, outbox, pending};
use crate::metrics::meters::Left;
use crate::policy::{Failure, Outcome};
use crate::record::{Record, Timestamp};
use crate::store::Error;

/// What is to be done with a row.
pub struct Chore {
    /// Of which table it is.
    pub table: Table,
    /// Its number.
    pub id: i64,
    /// What it stands for, as [`stored::find`] knows it.
    pub check: String,
    /// What is to become of it.
    pub verb: Verb,
    /// Who wants it.
    pub who: String,
}

/// What can become of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It goes back to its handler; an event to its topic. Only of the fallback.
    Replay,
    /// It goes to its topic. Only of the fallback.
    Publish,
    /// It is tried now. Of what waits.
    Retry,
    /// It is taken out: what waits is kept elsewhere, and what is in the fallback is gone.
    Discard,
}

impl Verb {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Replay, Self::Publish, Self::Retry, Self::Discard];

    /// As the metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Publish => "publish",
            Self::Retry => "retry",
            Self::Discard => "discard",
        }
    }

    /// Whether a row of this table can become that.
    pub fn is_of(self, table: Table) -> bool {
        match self {
            Self::Replay | Self::Publish => table == Table::Fallback,
            Self::Retry => table != Table::Fallback,
            Self::Discard => true,
        }
    }
}

impl Executor {
    pub(super) fn run_chore(&self, chore: Chore, draft: &mut Draft) -> Result<Disposed, Error> {
        let (connection, now) = (self.connection(), crate::clock::now());
        let Chore { table, id, check, verb, who } = chore;
        if stored::find(connection, table, id, &check)?.is_none() {
            return Ok(Err("it is not there any more".to_owned()));
        }
        match (table, verb) {
            (Table::Fallback, Verb::Replay | Verb::Publish) => {
                let Some(kept) = fallback::get(connection, id)? else { return Ok(Err(String::new())) };
                let disposed = match (verb, kept.event.kind) {
                    (_, EventKind::Event | EventKind::Record) => self.publish_kept(kept, draft, now)?,
                    (Verb::Publish, EventKind::DeadLetter { .. }) => self.publish_kept(kept, draft, now)?,
                    (Verb::Publish, kind) => {
                        Err(format!("a {} is never published: replay it without --to-topic", kind.name()))
                    }
                    _ => self.return_kept(&kept, &who, draft, now)?,
                };
                if disposed.is_ok() {
                    fallback::remove(connection, id)?;
                }
                Ok(disposed)
            }
            (Table::Fallback, _) => fallback::remove(connection, id).map(|()| Ok(None)),
            (Table::Outbox, Verb::Discard) => self.discard_event(id, &who, draft, now),
            // The relay tries it, and nothing of it is in the ledger.
            (Table::Outbox, _) => Ok(Ok(None)),
            (Table::Pending, _) => {
                let Some((handler, pending)) = pending::one(connection, id)? else { return Ok(Err(String::new())) };
                let Some(handler) = self.members.get_key_value(handler.as_str()).map(|(handler, _)| handler) else {
                    return Ok(Err(format!("handler {handler} does not run: deploy it first")));
                };
                match verb {
                    Verb::Discard => self.discard_pending(handler, &pending, &who, draft, now),
                    _ => self.hurry_pending(handler, pending, draft, now),
                }
            }
        }
    }

    /// Puts what is kept back into the outbox, under its own id.
    fn publish_kept(&self, kept: Kept, draft: &mut Draft, now: i64) -> Result<Disposed, Error> {
        let Kept { mut event, handler, source, .. } = kept;
        let live = self.members.get(handler.as_str()).map(|member| &member.live);
        let mut note = None;
        match event.kind {
            EventKind::DeadLetter { .. } => {
                match dead_letter::kept(&letter(&event)) {
                    Ok(was) if dead_letter::is_dead_letter(&was.record) => {
                        return Ok(Err(
                            "its record came from a dead letter topic, and never goes to another one".into()
                        ));
                    }
                    Ok(_) => {}
                    Err(why) => return Ok(Err(why)),
                }
                if let Some(live) = live {
                    let (partitions, replicas) =
                        (live.environment.spec.dead_letter.partitions, live.environment.spec.dead_letter.replicas);
                    event.kind = EventKind::DeadLetter { partitions, replicas };
                }
            }
            EventKind::Event if pending::compensates(self.connection(), &handler, &event.event_id)? => {
                return Ok(Err("its handler is compensating it (tidemill pending list): wait until it has".into()));
            }
            EventKind::Event if live.is_some_and(|live| live.component.compensates()) => {
                note = Some("its handler may have compensated it");
            }
            _ => {}
        }
        if self.backlog.is_full() {
            return Ok(Err("too many events wait for Kafka (outbox.max-rows): replay it later".to_owned()));
        }
        if !outbox::insert(self.connection(), draft.next_outbox_id, &event, &handler, &source, now)? {
            return Ok(Err("an event of its id waits in the outbox already".to_owned()));
        }
        draft.next_outbox_id += 1;
        Ok(Ok(note))
    }

    /// Puts what is kept back to its handler.
    fn return_kept(&self, kept: &Kept, who: &str, draft: &mut Draft, now: i64) -> Result<Disposed, Error> {
        let was = match dead_letter::kept(&letter(&kept.event)) {
            Ok(was) => was,
            Err(why) => return Ok(Err(why)),
        };
        let handler: &Arc<str> = &kept.handler.as_str().into();
        let purpose = match kept.event.kind {
            EventKind::Compensation if was.record.partition == NO_PARTITION => {
                let why = "it is an event that Kafka refused and that could not be compensated: the event itself is a row of its own here";
                return Ok(Err(why.to_owned()));
            }
            EventKind::Compensation => {
                if self.members.get(handler).is_some_and(|member| !member.live.component.compensates()) {
                    return Ok(Err(format!("the live version of handler {handler} does not export `compensation`")));
                }
                Purpose::Compensate { reason: reason_of(&kept.cause).to_owned(), event: None }
            }
            _ => Purpose::Handle,
        };
        let errors = was.history(who, now);
        self.give_back(Return { handler, record: &was.record, purpose, errors }, draft, now)
    }

    /// Takes an event out that the relay does not have, as it was asked before.
    fn discard_event(&self, id: i64, who: &str, draft: &mut Draft, now: i64) -> Result<Disposed, Error> {
        let relayed = &self.relayed;
        if relayed.published.iter().any(|(from, to)| (*from..=*to).contains(&id)) {
            return Ok(Err("its destination has it".to_owned()));
        }
        if relayed.refused.iter().any(|(refused, _)| *refused == id) {
            return Ok(Err("its destination has refused it: it is in the fallback in a moment".to_owned()));
        }
        draft.removed += fallback::take_from_outbox(self.connection(), id, &discarded(who), now)?;
        Ok(Ok(None))
    }

    /// Lets a record that waits for its time be tried now.
    fn hurry_pending(
        &self,
        handler: &Arc<str>,
        pending: Pending,
        draft: &mut Draft,
        now: i64,
    ) -> Result<Disposed, Error> {
        let record = pending.record.clone();
        let (token, mut waiting) = self.waiting_with(draft, handler, &record)?;
        if token.and_then(|token| self.lanes.get(&token)).is_some_and(|lane| lane.outside.contains_key(&pending.id)) {
            return Ok(Err(UNDER_WAY.to_owned()));
        }
        if pending.due.is_none() {
            return Ok(Err("it stands behind another record of its key, and runs once that is done".to_owned()));
        }
        let rows = Rows { connection: self.connection(), handler, topic: &record.topic, partition: record.partition };
        rows.update(&Pending { due: Some(now), ..pending }, &mut waiting)?;
        draft.lanes.insert((handler.clone(), record.topic.clone(), record.partition), (token, waiting));
        let circuit_open = self.members.get(handler).is_some_and(|member| member.circuit.is_open());
        Ok(Ok(match token {
            None => Some("it waits until the partition is read here again"),
            Some(_) if circuit_open => Some("it waits until its handler's circuit lets it"),
            Some(_) => None,
        }))
    }

    /// Gives a record up for which nothing is under way: it becomes a dead letter, or stays in the fallback where it cannot be one.
    fn discard_pending(
        &self,
        handler: &Arc<str>,
        pending: &Pending,
        who: &str,
        draft: &mut Draft,
        now: i64,
    ) -> Result<Disposed, Error> {
        let (connection, record) = (self.connection(), &pending.record);
        let (token, mut waiting) = self.waiting_with(draft, handler, record)?;
        let (Some(token), Some(member)) = (token, self.members.get(handler)) else {
            return Ok(Err("its partition is not read here now: discard it where it is, or later".to_owned()));
        };
        if self.lanes.get(&token).is_some_and(|lane| lane.outside.contains_key(&pending.id)) {
            return Ok(Err(UNDER_WAY.to_owned()));
        }
        let input = Input::Pending(Box::new(pending.clone()));
        let Some(delivery) = self.delivery(token, member.live.clone(), input, now) else {
            return Ok(Err("its partition was closed: discard it again".to_owned()));
        };
        let why = discarded(who);
        let number = pending.attempts;
        let attempt = Attempt { number, at: now, clock: None, outcome: "discarded", message: &why, answers: None };
        let errors = pending::push_error(&pending.errors, attempt);
        let mut event = delivery.letter(record, &Failure::new(Outcome::Reject, why.as_str()), &errors);
        let (mut cause, is_record) = (None, !delivery.is_timer() && delivery.input.reason().is_none());
        if let Purpose::Compensate { reason, .. } = &pending.purpose {
            (event.kind, event.topic) = (EventKind::Compensation, record.topic.to_string());
            cause = Some(uncompensated(&why, reason));
        } else if delivery.is_timer() || dead_letter::is_dead_letter(record) {
            cause = Some(why);
        }
        let (left, note) = match cause {
            Some(cause) => {
                fallback::insert(connection, &event, handler, &delivery.source, &cause, now)?;
                (Left::Fallback, "it is in the fallback")
            }
            None if self.backlog.is_full() => {
                let why =
                    "too many events wait for Kafka (outbox.max-rows), and it would be one more: discard it later";
                return Ok(Err(why.to_owned()));
            }
            None => {
                outbox::insert(connection, draft.next_outbox_id, &event, handler, &delivery.source, now)?;
                draft.next_outbox_id += 1;
                (Left::DeadLetter, "it is a dead letter")
            }
        };
        draft.left.extend(is_record.then(|| (member.meter.clone(), left)));
        let rows = Rows { connection, handler, topic: &record.topic, partition: record.partition };
        rows.remove(pending, now, &mut waiting)?;
        crash::forget(connection, handler, &pending.topic_id, record)?;
        draft.lanes.insert((handler.clone(), record.topic.clone(), record.partition), (Some(token), waiting));
        Ok(Ok(Some(note)))
    }
}

const UNDER_WAY: &str = "a call to a service outside is under way for it: wait until that is answered";

fn discarded(who: &str) -> String {
    format!("discarded by {who}")
}

/// What is kept, as it would be read from its topic.
fn letter(event: &outbox::Event) -> Record {
    Record {
        topic: event.topic.as_str().into(),
        partition: event.partition.unwrap_or(NO_PARTITION),
        offset: 0,
        timestamp: Timestamp::None,
        key: event.key.clone(),
        value: event.value.clone(),
        headers: event.headers.clone(),
    }
}
