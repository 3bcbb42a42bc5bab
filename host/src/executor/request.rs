//! A delivery of one HTTP request that writes, inside the open group.
//!
//! The answer is sent only after the group's commit. A status of 400 or more drops the effects and is not kept,
//! so that the client may try again; a request whose deadline has passed is never run.

use std::sync::Arc;
use std::time::Instant;

use super::Executor;
use super::group::{Abort, Answered, Group, Logged};
use super::outside::asked_too_often;
use super::publish::Publication;
use super::run::Run;
use super::traced::{self, told_of};
use crate::guest::{self, Context, LogLine};
use crate::id::{InputId, Seed};
use crate::lane::Aside;
use crate::ledger::request;
use crate::metrics::meters;
use crate::policy::{Failure, Outcome};
use crate::record::{Answer, Event, Refusal, Request, Response};
use crate::store::{Error, Kind};
use crate::trace::{Incoming, Origin, Place, Tracer};

impl Executor {
    /// Delivers a handler's oldest request that this group has not answered yet.
    pub(super) fn deliver_request(&mut self, group: &mut Group, handler: &Arc<str>) -> Result<(), Abort> {
        let answered = group.answers.get(handler).map_or(0, Vec::len);
        let waiting = self.members.get(handler).and_then(|m| m.requests.get(answered));
        let Some((request, publication, since, aside)) =
            waiting.map(|w| (w.request.clone(), w.publication.clone(), w.since, w.aside.clone()))
        else {
            return Ok(());
        };
        let answer = match self.answer(group, handler, (&request, since), publication.as_deref(), aside) {
            // What the store does not take, though it is well, is the request's own fault.
            Err(Abort::Store(error)) if error.kind != Kind::Store => {
                if !group.solo {
                    return Err(Abort::Broken);
                }
                tracing::warn!(%handler, path = %request.path, %error, "an answer cannot be kept with its Idempotency-Key");
                self.restart(group)?;
                if let Some(member) = self.members.get(handler) {
                    group.counts(&member.meter, meters::Input::Request).ending = Some(Err(Outcome::EffectsLimit));
                }
                Some(Answered::Now(Err(Refusal::Failed)))
            }
            answer => answer?,
        };
        let Some(answer) = answer else { return Ok(()) };
        if matches!(answer, Answered::Later(..)) {
            *group.asked.entry(handler.clone()).or_default() += 1;
        }
        group.answers.entry(handler.clone()).or_default().push(answer);
        Ok(())
    }

    /// `None` if it has to be run again, alone.
    fn answer(
        &mut self,
        group: &mut Group,
        handler: &Arc<str>,
        (request, since): (&Arc<Request>, Instant),
        publication: Option<&Publication>,
        aside: Option<Aside>,
    ) -> Result<Option<Answered>, Abort> {
        let now = |answer| Ok(Some(Answered::Now(answer)));
        if Instant::now() >= request.deadline {
            return now(Err(Refusal::Expired));
        }
        let events = publication.map_or(&[][..], |publication| &publication.events);
        if let Some(key) = &request.idempotency_key
            && let Some((fingerprint, response)) = request::find(self.connection(), handler, request, key)?
        {
            let same = fingerprint == request::fingerprint(request, events);
            return now(if same { Ok(response) } else { Err(Refusal::KeyReused) });
        }
        let Some(live) = self.members.get(handler).map(|m| m.live.clone()) else { return now(Err(Refusal::Gone)) };
        self.enter(group)?;
        if let Some(publication) = publication {
            return now(self.publish(group, handler, &live.environment.spec, request, publication)?);
        }
        let Some(connection) = self.connection.take() else { return now(Err(Refusal::Gone)) };
        let aside = aside.unwrap_or_else(|| Aside { started: crate::clock::now(), ..Aside::default() });
        let spec = &live.environment.spec;
        let tracer = &self.outside.tracer;
        let mut context = context(&self.identity.secret, live.environment.clone(), request, aside.started, tracer);
        let place = context.place.clone();
        context.answers = aside.answers.clone();
        context.next_outbox_id = Some(group.next_outbox_id);
        context.sender = group.solo.then(|| self.outside.sender.clone());
        context.warm = self.warm(handler);
        let finished = guest::delivery::handle_request(&live.component, connection, context, request);
        let (run, mut left) = self.come_back(group, finished)?;
        let answer = match run {
            Run::Done(response) => Ok(response),
            Run::Failed(failure) => Err(failure),
            Run::Asks(call, position) => match aside.ask(spec, position) {
                Some(aside) => {
                    self.undo(group)?;
                    return Ok(Some(Answered::Later(aside, call)));
                }
                None => Err(asked_too_often(spec)),
            },
            Run::RunsAlone => return Ok(None),
        };
        let ending = answer.as_ref().map(drop).map_err(|failure| failure.outcome);
        group.counts(&live.meter, meters::Input::Request).ending = Some(ending);
        match &answer {
            Ok(response) if response.status < 400 => {
                self.keep_answer(handler, request, events, response)?;
                self.keep(group, handler, &mut left)?;
            }
            _ => self.undo(group)?,
        }
        let spans = std::mem::take(&mut left.spans);
        group.traced.extend(traced::request(&place, &live, request, since, &answer, spans));
        let (answer, logged) = conclude((handler, live.version), request, answer, left.log, &place);
        group.log.extend(logged);
        now(answer)
    }

    /// Keeps the answer for when the request comes again.
    pub(super) fn keep_answer(
        &self,
        handler: &str,
        request: &Request,
        events: &[Event],
        response: &Response,
    ) -> Result<(), Error> {
        let Some(key) = &request.idempotency_key else { return Ok(()) };
        let fingerprint = request::fingerprint(request, events);
        request::insert(self.connection(), handler, request, key, fingerprint, response, crate::clock::now())
    }
}

/// By what a request is known.
pub(super) fn input(request: &Request) -> InputId {
    InputId::Request {
        route: format!("{} {}", request.method, request.route),
        user: request.user.clone().unwrap_or_default(),
        key: request.idempotency_key.clone().unwrap_or_else(|| request.id.to_string()),
    }
}

/// What a delivery of a request is given.
pub(super) fn context(
    secret: &str,
    environment: Arc<guest::Environment>,
    request: &Request,
    now: i64,
    tracer: &Tracer,
) -> Context {
    let input = input(request);
    let seed = Seed::derive(secret.as_bytes(), &environment.spec.name, &input);
    let incoming = Incoming::of_request(&request.headers);
    Context {
        place: tracer.place(incoming, Origin::of(&seed)),
        seed,
        source: input.describe(""),
        environment,
        now,
        input_time: now,
        attempt: 1,
        event_id: request.idempotency_key.clone(),
        record: None,
        next_outbox_id: None,
        answers: Arc::default(),
        deadline: Some(request.deadline),
        sender: None,
        warm: None,
        trace: None,
    }
}

/// The answer as the client gets it, and what the operator reads.
pub(super) fn conclude(
    (handler, version): (&str, i64),
    request: &Request,
    answer: Result<Response, Failure>,
    lines: Vec<LogLine>,
    place: &Place,
) -> (Answer, Option<Logged>) {
    let trouble = answer.as_ref().err().map(|failure| format!("{}: {}", failure.outcome.name(), failure.message));
    let logged = (trouble.is_some() || !lines.is_empty()).then(|| {
        let (trace_id, span_id) = told_of(place);
        let span = tracing::error_span!("request", handler, version, method = %request.method, path = %request.path,
            trace_id, span_id);
        Logged { span, lines, trouble }
    });
    let answer = answer.map_err(|failure| match failure.outcome {
        _ if Instant::now() >= request.deadline => Refusal::Expired,
        // No answer of a handler's is one; a send is.
        Outcome::Unavailable => Refusal::NotSent,
        _ => Refusal::Failed,
    });
    (answer, logged)
}
