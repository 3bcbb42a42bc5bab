//! Deliveries that wait for the outside: set aside in the group, asked for after its commit, run again with the answer.
//!
//! Its invariant: a call is made only once the group that set its delivery aside has committed, and the store keeps the
//! record's place in the order meanwhile. No thread waits, and no transaction is open.

use std::sync::Arc;
use std::time::Instant;

use super::group::{Abort, Group};
use super::handle::Message;
use super::record::Delivery;
use super::{Executor, Waiting};
use crate::deploy::manifest::Spec;
use crate::fault::{self, Moment};
use crate::lane::turn::Turn;
use crate::lane::{Aside, Ask, Token};
use crate::outbound::{Answer, Call};
use crate::policy::{Failure, Outcome};
use crate::trace::span;

/// How often a delivery may ask, for each call that it may make: a store that changes each time makes it ask anew.
const ASKED_AGAIN: usize = 4;
/// Bytes of a handler's `send-async` that may be on their way when a delivery begins.
const SENDING_MAX: usize = 8 << 20;

impl Aside {
    /// The delivery asks at this position: what was answered after it is of no use. `None` if it has asked too often.
    pub(super) fn ask(mut self, spec: &Spec, position: usize) -> Option<Self> {
        Arc::make_mut(&mut self.answers).truncate(position);
        self.asked += 1;
        (self.asked <= spec.outbound.max_calls * ASKED_AGAIN).then_some(self)
    }
}

/// Why a delivery that asks is not heard any more.
pub(super) fn asked_too_often(spec: &Spec) -> Failure {
    let most = spec.outbound.max_calls * ASKED_AGAIN;
    Failure::new(Outcome::EffectsLimit, format!("it asked {most} times for calls, and each time for another one"))
}

impl Executor {
    /// Whether a handler has as many deliveries, or bytes that it sends, under way as it may.
    pub(super) fn is_full(&self, group: &Group, handler: &str) -> bool {
        self.members.get(handler).is_some_and(|member| {
            let asked = group.asked.get(handler).copied().unwrap_or(0);
            let sending = member.sending + group.sending.get(handler).copied().unwrap_or(0);
            member.outside + member.outside_requests.len() + asked >= member.live.environment.spec.consumer.concurrency
                || sending >= SENDING_MAX
        })
    }

    /// The record waits for a call. Returns what the operator reads if that is its failure.
    pub(super) fn set_aside(
        &mut self,
        group: &mut Group,
        delivery: &Delivery,
        call: Box<Call>,
        position: usize,
    ) -> Result<Option<String>, Abort> {
        let spec = &delivery.live.environment.spec;
        let before = delivery.input.aside().cloned();
        let aside = before.unwrap_or(Aside { started: delivery.started, since: delivery.since, ..Aside::default() });
        let Some(aside) = aside.ask(spec, position) else {
            return self.fail(group, delivery, &asked_too_often(spec)).map(Some);
        };
        let wait = |turn: &mut Turn<'_>| turn.set_aside(&delivery.input, aside, call);
        self.turn(group, delivery.token, &delivery.live, delivery.now, wait)?;
        *group.asked.entry(delivery.handler.clone()).or_default() += 1;
        self.take_run_back(delivery)?;
        Ok(None)
    }

    /// Makes the call of a record, whose group has committed.
    pub(super) fn ask(&self, token: Token, handler: &Arc<str>, ask: Ask) {
        fault::reach(Moment::SetAside);
        let Ask { id, call, .. } = ask;
        let fingerprint = call.fingerprint;
        self.call(handler, *call, move |answer| Message::Answered { token, id, fingerprint, answer });
    }

    /// Makes the call of a request, whose group has committed.
    pub(super) fn ask_for_request(&mut self, handler: &Arc<str>, waiting: Waiting, call: Box<Call>) {
        self.next_request += 1;
        let (number, fingerprint, name) = (self.next_request, call.fingerprint, handler.clone());
        if let Some(member) = self.members.get_mut(handler) {
            member.outside_requests.insert(number, waiting);
        }
        self.call(handler, *call, move |answer| Message::RequestAnswered {
            handler: name,
            number,
            fingerprint,
            answer,
        });
    }

    fn call(&self, handler: &str, call: Call, message: impl FnOnce(Answer) -> Message + Send + 'static) {
        let Some(member) = self.members.get(handler) else { return };
        let settings = member.live.environment.spec.outbound.clone();
        let own = self.own.clone();
        let dice = f64::from(call.fingerprint.first().copied().unwrap_or(0)) / 255.0;
        let told = call.span.map(|span| (self.outside.tracer.clone(), span, call.clone(), Instant::now()));
        self.outside.outbound.call(call, settings, dice, move |answer| {
            if let Some((tracer, (own, parent), call, since)) = told {
                tracer.tell(span::call(own, parent, &call, since, &answer));
            }
            // An executor that has ended needs none.
            let _ = own.send(message(answer));
        });
    }
}
