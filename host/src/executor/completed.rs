//! Events that leave past the outbox after their group's commit, and the deliveries that tell their handler what became of them.
//!
//! Nothing is sent before the commit of the group that it belongs to, and then once; its handler is told once at most. What
//! a daemon that ends has not done is not done later.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry_sdk::trace::SpanData;

use super::Executor;
use super::group::{Abort, Group, Logged};
use super::handle::Message;
use super::run::Run;
use super::traced::{self, told_of};
use crate::guest::{self, Context, Sending};
use crate::kafka::sender;
use crate::metrics::meters;
use crate::policy::{Failure, Outcome};
use crate::store::Kind;
use crate::trace::span::Publish;
use crate::trace::{Context as Span, Incoming, Origin, Place};

/// What became of an event.
pub(super) struct Completed {
    sending: Sending,
    outcome: sender::Outcome,
    /// When that was known, in milliseconds since the Unix epoch.
    at: i64,
}

impl Executor {
    /// Sends an event whose group has committed.
    pub(super) fn send(&mut self, handler: Arc<str>, sending: Sending) {
        let own = self.own.clone();
        let Some(member) = self.members.get_mut(&handler) else { return };
        member.sending += sending.event.size();
        let is_told = member.live.component.hears_of_sends();
        let (name, settings, event) = (handler.clone(), member.live.environment.spec.send, sending.event.clone());
        let tracer = self.outside.tracer.clone();
        let since = tracer.record_of(&event.headers).map(|context| (context, Instant::now()));
        self.outside.sender.start(&name, settings, &event, move |outcome| {
            if let Some((parent, since)) = since {
                tracer.tell(sent(&handler, &sending, parent, since, &outcome));
            }
            if let (Err(error), false) = (&outcome, is_told) {
                let event_id = sending.event.event_id.as_str();
                tracing::warn!(%handler, event_id, source = sending.source, "an event of `send-async` is lost: {error}");
            }
            let completed = Box::new(Completed { sending, outcome, at: crate::clock::now() });
            let _ = own.send(Message::Completed { handler, completed });
        });
    }

    /// It is known what became of an event.
    pub(super) fn receive_completed(&mut self, handler: &Arc<str>, completed: Completed) {
        let Some(member) = self.members.get_mut(handler) else { return };
        member.sending = member.sending.saturating_sub(completed.sending.event.size());
        if member.live.component.hears_of_sends() {
            member.sends.push_back(Arc::new(completed));
        }
    }

    /// Tells a handler what became of the oldest event of which this group has not told it.
    pub(super) fn deliver_completed(&mut self, group: &mut Group, handler: &Arc<str>) -> Result<(), Abort> {
        let position = group.told.get(handler).copied().unwrap_or(0);
        let Some(completed) = self.members.get(handler).and_then(|member| member.sends.get(position)).cloned() else {
            return Ok(());
        };
        match self.tell(group, handler, &completed) {
            // What the store does not take, though it is well, is the delivery's own fault.
            Err(Abort::Store(error)) if error.kind != Kind::Store => {
                if !group.solo {
                    return Err(Abort::Broken);
                }
                self.restart(group)?;
                if let Some(member) = self.members.get(handler) {
                    group.counts(&member.meter, meters::Input::Report).ending = Some(Err(Outcome::EffectsLimit));
                }
                let trouble = format!("what it wrote cannot be kept: {error}");
                let version = self.members.get(handler).map_or(0, |member| member.live.version);
                let place = completed.place(self);
                group.log.push(completed.logged(handler, version, Vec::new(), Some(trouble), &place));
            }
            told => told?,
        }
        if !group.closed {
            *group.told.entry(handler.clone()).or_default() += 1;
        }
        Ok(())
    }

    fn tell(&mut self, group: &mut Group, handler: &Arc<str>, completed: &Completed) -> Result<(), Abort> {
        let Some(live) = self.members.get(handler).map(|member| member.live.clone()) else { return Ok(()) };
        self.enter(group)?;
        let Completed { sending, outcome, at } = completed;
        let place = completed.place(self);
        let since = place.recorded().map(|_| Instant::now());
        let context = Context {
            environment: live.environment.clone(),
            seed: sending.seed.clone(),
            now: crate::clock::now(),
            input_time: *at,
            attempt: 1,
            event_id: None,
            record: None,
            source: sending.source.clone(),
            next_outbox_id: Some(group.next_outbox_id),
            answers: Arc::default(),
            deadline: None,
            sender: group.solo.then(|| self.outside.sender.clone()),
            warm: self.warm(handler),
            trace: None,
            place: place.clone(),
        };
        let Some(connection) = self.connection.take() else { return Ok(()) };
        let finished = guest::delivery::completed(&live.component, connection, context, sending, outcome);
        let (run, mut left) = self.come_back(group, finished)?;
        let failure = match run {
            Run::Done(()) => None,
            Run::Failed(failure) => Some(failure),
            Run::Asks(..) => Some(Failure::new(
                Outcome::Trap,
                "`completed` cannot call services: enqueue an event, and call when it is read",
            )),
            Run::RunsAlone => return Ok(()),
        };
        let ending = failure.as_ref().map_or(Ok(()), |failure| Err(failure.outcome));
        group.counts(&live.meter, meters::Input::Report).ending = Some(ending);
        match &failure {
            None => self.keep(group, handler, &mut left)?,
            Some(_) => self.undo(group)?,
        }
        let outcome = failure.as_ref().map_or("done", |failure| failure.outcome.name());
        let trouble = failure.as_ref().map(|failure| format!("{}: {}", failure.outcome.name(), failure.message));
        let spans = std::mem::take(&mut left.spans);
        let report = traced::Report { topic: &sending.event.topic, event_id: &sending.event.event_id };
        group.traced.extend(report.traced(&place, &live, since, outcome, trouble.as_deref(), spans));
        if trouble.is_some() || !left.log.is_empty() {
            group.log.push(completed.logged(handler, live.version, left.log, trouble, &place));
        }
        Ok(())
    }
}

impl Completed {
    /// Where the delivery stands that tells of it: in the trace of the one that sent it.
    fn place(&self, executor: &Executor) -> Place {
        let Sending { event, seed, .. } = &self.sending;
        executor.outside.tracer.place(Incoming::of_record(&event.headers), Origin::of(seed))
    }

    fn logged(
        &self,
        handler: &str,
        version: i64,
        lines: Vec<guest::LogLine>,
        trouble: Option<String>,
        place: &Place,
    ) -> Logged {
        let event = &self.sending.event;
        let (trace_id, span_id) = told_of(place);
        let span = tracing::error_span!(
            "completed",
            handler,
            version,
            topic = event.topic,
            event_id = event.event_id,
            trace_id,
            span_id
        );
        let trouble = trouble.map(|trouble| format!("{trouble}; it is not told again"));
        Logged { span, lines, trouble }
    }
}

/// The span of an event on its way past the outbox.
fn sent(handler: &str, sending: &Sending, parent: Span, since: Instant, outcome: &sender::Outcome) -> SpanData {
    let event = &sending.event;
    let publish = Publish { topic: &event.topic, event_id: &event.event_id, handler };
    let own = parent.child(event.event_id.as_bytes());
    match outcome {
        Ok(position) => publish.told(own, parent, since.elapsed(), Ok((position.partition, position.offset))),
        Err(error) => publish.told(own, parent, since.elapsed(), Err(&error.to_string())),
    }
}
