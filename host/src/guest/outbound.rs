//! The contract's `outbound`: an answer that is at hand is returned; for one that is not the delivery ends, to be run again with it.
//!
//! Its invariant: a delivery that has changed anything makes no call, so one that asks can be thrown away.

use std::sync::Arc;
use std::time::Duration;

use super::bindings::tidemill::handler::outbound as wit;
use super::delivery::{Ended, State};
use crate::outbound::{Answer, Call, CallError, CallErrorKind, Request};

/// The answers that a delivery has got so far, each with its call's fingerprint, in the order of its calls.
pub type Answers = Arc<Vec<([u8; 32], Answer)>>;

impl wit::Host for State {
    fn call(&mut self, request: wit::Request) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
        let refuse = |kind, message: String| Ok(Err(wit::Error { kind, message }));
        let environment = self.context.environment.clone();
        let settings = &environment.spec.outbound;
        let request = Request {
            method: request.method,
            url: request.url,
            headers: request.headers.into_iter().map(|field| (field.name, field.value)).collect(),
            body: request.body,
            timeout: request.timeout_ms.map(Duration::from_millis),
        };
        let position = self.called;
        let seed = &self.context.seed;
        let call = match Call::new(settings, request, |fingerprint| seed.call_id(position, fingerprint).to_string()) {
            Ok(call) => call,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some((fingerprint, answer)) = self.context.answers.get(position)
            && *fingerprint == call.fingerprint
        {
            self.called += 1;
            return Ok(answer.clone().map(wit::Response::from).map_err(wit::Error::from));
        }
        if self.context.next_outbox_id.is_none() {
            return refuse(wit::ErrorKind::ReadOnly, "a request that only reads cannot call".into());
        }
        if self.has_written || self.sent {
            let message = "the delivery has written or sent already: call first, then write, or enqueue an event and call when it is read";
            return refuse(wit::ErrorKind::Late, message.into());
        }
        if position >= settings.max_calls {
            self.over_effects = true;
            let message = format!("one delivery may make {} calls (outbound.max-calls)", settings.max_calls);
            return refuse(wit::ErrorKind::Limit, message);
        }
        self.end(Ended::Asks(Box::new(call.carry(&self.context.place)), position))
    }
}

impl From<crate::record::Response> for wit::Response {
    fn from(response: crate::record::Response) -> Self {
        let field = |(name, value): (String, bytes::Bytes)| wit::Field { name, value: value.to_vec() };
        Self {
            status: response.status,
            headers: response.headers.into_iter().map(field).collect(),
            body: response.body.to_vec(),
        }
    }
}

impl From<CallError> for wit::Error {
    fn from(error: CallError) -> Self {
        let kind = match error.kind {
            CallErrorKind::Request => wit::ErrorKind::Request,
            CallErrorKind::Denied => wit::ErrorKind::Denied,
            CallErrorKind::Limit => wit::ErrorKind::Limit,
            CallErrorKind::Timeout => wit::ErrorKind::Timeout,
            CallErrorKind::Unreachable => wit::ErrorKind::Unreachable,
        };
        Self { kind, message: error.message }
    }
}
