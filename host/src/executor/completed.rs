//! Events that leave past the outbox after their group's commit, and the deliveries that tell their handler what became of them.
//!
//! An event is sent at most once, and its handler is told at most once: what a daemon that ends has not done is not done
//! later. Nothing is sent before the commit of the group that it belongs to.

use std::sync::Arc;

use super::Executor;
use super::group::{Abort, Group, Logged};
use super::handle::Message;
use super::outside::hand_over;
use crate::guest::{self, Context, Ended, Finished, Sending};
use crate::kafka::sender::Outcome;
use crate::policy::{self, Failure};
use crate::store::Kind;

/// What became of an event.
pub(super) struct Completed {
    sending: Sending,
    outcome: Outcome,
}

impl Executor {
    /// Sends an event whose group has committed.
    pub(super) fn send(&self, handler: Arc<str>, sending: Sending) {
        let Some(member) = self.members.get(&handler) else { return };
        let (own, outbound) = (self.own.clone(), self.outside.outbound.clone());
        let event = sending.event.clone();
        self.outside.sender.start(member.live.environment.spec.send, &event, move |outcome| {
            let completed = Box::new(Completed { sending, outcome });
            outbound.spawn(hand_over(own, Message::Completed { handler, completed }));
        });
    }

    /// It is known what became of an event.
    pub(super) fn receive_completed(&mut self, handler: &Arc<str>, completed: Completed) {
        if let Err(error) = &completed.outcome {
            let event_id = completed.sending.event.event_id.as_str();
            tracing::warn!(%handler, event_id, source = completed.sending.source, "an event of `send-async` is lost: {error}");
        }
        if let Some(member) = self.members.get_mut(handler)
            && member.live.component.hears_of_sends()
        {
            member.sends.push_back(Arc::new(completed));
        }
    }

    /// Tells a handler what became of the oldest event of which this group has not told it.
    pub(super) fn deliver_completed(&mut self, group: &mut Group, handler: &Arc<str>) -> Result<(), Abort> {
        let told = group.told.get(handler).copied().unwrap_or(0);
        let Some(completed) = self.members.get(handler).and_then(|member| member.sends.get(told)).cloned() else {
            return Ok(());
        };
        let told = match self.tell(group, handler, &completed) {
            // What the store does not take, though it is well, is the delivery's own fault.
            Err(Abort::Store(error)) if error.kind != Kind::Store => {
                if !group.solo {
                    return Err(Abort::Broken);
                }
                self.restart(group)?;
                Some(format!("what it wrote cannot be kept: {error}"))
            }
            told => told?,
        };
        *group.told.entry(handler.clone()).or_default() += 1;
        if let Some(trouble) = told {
            group.log.push(completed.logged(handler, Vec::new(), Some(trouble)));
        }
        Ok(())
    }

    /// Returns what the operator reads, if the delivery failed.
    fn tell(&mut self, group: &mut Group, handler: &Arc<str>, completed: &Completed) -> Result<Option<String>, Abort> {
        let Some(live) = self.members.get(handler).map(|member| member.live.clone()) else { return Ok(None) };
        self.connection().execute("SAVEPOINT delivery", &[])?;
        let now = crate::clock::now();
        let context = Context {
            environment: live.environment.clone(),
            seed: completed.sending.seed.clone(),
            now,
            input_time: now,
            attempt: 1,
            event_id: None,
            source: completed.sending.source.clone(),
            next_outbox_id: Some(group.next_outbox_id),
            answers: Arc::default(),
            deadline: None,
            sender: group.solo.then(|| self.outside.sender.clone()),
        };
        let Some(connection) = self.connection.take() else { return Ok(None) };
        let Completed { sending, outcome } = completed;
        let Finished { connection, result, log, next_outbox_id, sends } =
            guest::delivery::completed(&live.component, connection, context, sending, outcome);
        self.connection = Some(connection);
        let failed = match result {
            Ok(()) if self.connection().violates_deferred_keys() => {
                Some(Failure::new(policy::Outcome::Trap, "it leaves a deferred foreign key violated"))
            }
            Ok(()) => None,
            Err(Ended::Asks(..)) => Some(Failure::new(
                policy::Outcome::Trap,
                "`completed` cannot call services: enqueue an event, and call when it is read",
            )),
            Err(Ended::Failed(failure)) => Some(failure),
            Err(Ended::Store(error)) => return Err(Abort::Store(error)),
            Err(Ended::Sends) => return Err(Abort::Broken),
            Err(Ended::Broken(_)) if !group.solo => return Err(Abort::Broken),
            Err(Ended::Broken(failure)) => {
                self.restart(group)?;
                self.connection().execute("SAVEPOINT delivery", &[])?;
                Some(failure)
            }
        };
        match failed {
            None => group.keep(handler, next_outbox_id, sends),
            Some(_) => self.connection().execute("ROLLBACK TO delivery", &[]).map(drop)?,
        }
        self.connection().execute("RELEASE delivery", &[])?;
        let failed = failed.map(|failure| format!("{}: {}", failure.outcome.name(), failure.message));
        if !log.is_empty() {
            group.log.push(completed.logged(handler, log, None));
        }
        Ok(failed)
    }
}

impl Completed {
    fn logged(&self, handler: &str, lines: Vec<guest::LogLine>, trouble: Option<String>) -> Logged {
        let event = &self.sending.event;
        let span = tracing::info_span!("completed", handler, topic = event.topic, event_id = event.event_id);
        let trouble = trouble.map(|trouble| format!("{trouble}; it is not told again"));
        Logged { span, lines, trouble }
    }
}
