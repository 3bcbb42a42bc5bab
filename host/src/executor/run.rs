//! One run of a guest inside the open group: what it has changed is kept whole, or undone whole.
//!
//! Most groups have no savepoints, which cost a third of what SQLite does for a small delivery: where a run that has
//! begun to write must be undone, its group is rolled back and runs again with them. One that has only read is undone already.
//! No delivery notices which kind of group it is in.

use std::sync::Arc;

use opentelemetry_sdk::trace::SpanData;

use super::Executor;
use super::group::{Abort, Group};
use crate::guest::{Ended, Finished, LogLine, Sending, Warm};
use crate::outbound::Call;
use crate::policy::{Failure, Outcome};

/// Groups that have savepoints after one would have needed them.
const SAVEPOINTS_FOR: u32 = 64;

/// How a run ended, as far as its group has to know.
pub(super) enum Run<T> {
    /// Well: to be kept, or undone.
    Done(T),
    /// It failed: to be undone.
    Failed(Failure),
    /// It calls a service, and has changed nothing. The number is the call's position.
    Asks(Box<Call>, usize),
    /// It sends, and leads the next group; nothing of it is left.
    RunsAlone,
}

/// What a run leaves besides its end.
pub(super) struct Left {
    pub(super) log: Vec<LogLine>,
    next_outbox_id: Option<i64>,
    sends: Vec<Sending>,
    warm: Option<Warm>,
    /// What it did, where its trace is recorded.
    pub(super) spans: Vec<SpanData>,
}

impl Left {
    /// Of what has only put events into the outbox: the id of the next row.
    pub(super) fn enqueued(next_outbox_id: i64) -> Self {
        let (log, sends, spans) = Default::default();
        Self { log, next_outbox_id: Some(next_outbox_id), sends, warm: None, spans }
    }
}

impl Executor {
    /// A run begins.
    pub(super) fn enter(&mut self, group: &mut Group) -> Result<(), Abort> {
        if group.savepoints {
            self.connection().execute("SAVEPOINT delivery", &[])?;
        }
        group.writes_before = self.connection().writes_begun();
        Ok(())
    }

    /// The guest has come back with the connection.
    pub(super) fn come_back<T>(&mut self, group: &mut Group, finished: Finished<T>) -> Result<(Run<T>, Left), Abort> {
        let Finished { connection, result, log, next_outbox_id, sends, warm, memory, made, spans } = finished;
        self.connection = Some(connection);
        group.ran = Some((memory, made));
        group.failing = matches!(result, Err(Ended::Failed(_) | Ended::Broken(_)));
        let run = match result {
            Ok(_) if self.connection().violates_deferred_keys() => {
                group.failing = true;
                Run::Failed(Failure::new(Outcome::Trap, "it leaves a deferred foreign key violated"))
            }
            Ok(value) => Run::Done(value),
            Err(Ended::Failed(failure)) => Run::Failed(failure),
            Err(Ended::Asks(call, position)) => Run::Asks(call, position),
            Err(Ended::Sends) => {
                self.undo(group)?;
                group.closed = true;
                Run::RunsAlone
            }
            Err(Ended::Store(error)) => return Err(Abort::Store(error)),
            Err(Ended::Broken(_)) if !group.solo => return Err(Abort::Broken),
            Err(Ended::Broken(failure)) => {
                self.restart(group)?;
                self.enter(group)?;
                Run::Failed(failure)
            }
        };
        Ok((run, Left { log, next_outbox_id, sends, warm, spans }))
    }

    /// The instance for a handler's next run, where instances are reused. It comes back with the run that is kept.
    pub(super) fn warm(&mut self, handler: &str) -> Option<Warm> {
        self.members.get_mut(handler)?.warm.take()
    }

    /// What the run has changed stays, and what it leaves behind that is not in the store.
    pub(super) fn keep(&mut self, group: &mut Group, handler: &Arc<str>, left: &mut Left) -> Result<(), Abort> {
        if group.savepoints {
            self.connection().execute("RELEASE delivery", &[])?;
        }
        group.next_outbox_id = left.next_outbox_id.unwrap_or(group.next_outbox_id);
        for sending in left.sends.drain(..) {
            *group.sending.entry(handler.clone()).or_default() += sending.event.size();
            group.sends.push((handler.clone(), sending));
        }
        if let (Some(warm), Some(member)) = (left.warm.take(), self.members.get_mut(handler)) {
            member.warm = Some(warm);
        }
        Ok(())
    }

    /// Nothing of the run stays.
    pub(super) fn undo(&mut self, group: &Group) -> Result<(), Abort> {
        if group.savepoints {
            self.connection().execute("ROLLBACK TO delivery", &[])?;
            self.connection().execute("RELEASE delivery", &[])?;
        } else if self.connection().writes_begun() != group.writes_before {
            self.savepoints_for = SAVEPOINTS_FOR;
            return Err(Abort::Undo);
        }
        Ok(())
    }
}
