//! What stands for the services outside of a rig: the calls that a test expects, and their answers.
//!
//! Its invariant: an answer is given once, to the first try that it fits, and a call that no answer fits is reported. No call
//! leaves the process.

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::wire::{self, Expected, Then};
use crate::outbound::{Answer, Call, CallError, CallErrorKind};
use crate::record::Response;

/// The answers that are left, and what was called since somebody asked.
#[derive(Default)]
pub(crate) struct Services {
    left: Vec<Scripted>,
    /// Numbers of answers that were given.
    pub(crate) used: Vec<u64>,
    /// Every try.
    pub(crate) calls: Vec<Json>,
    /// Those that no answer fits.
    pub(crate) unexpected: Vec<Json>,
}

struct Scripted {
    number: u64,
    method: String,
    url: String,
    body: Option<Bytes>,
    answer: Answer,
}

impl Services {
    /// Expects a call.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(crate) fn expect(&mut self, expected: Expected) -> Result<()> {
        let Expected { number, method, url, body, then } = expected;
        let failed = |kind, message: &str| Err(CallError { kind, message: format!("{method} {url}: {message}") });
        let answer = match then {
            Then::Answer { status, headers, body } => {
                let header = |(name, value): (String, wire::Text)| Ok((name.to_lowercase(), value.bytes()?));
                let headers = headers.into_iter().map(header).collect::<Result<_>>()?;
                Ok(Response { status, headers, body: wire::bytes(body)?.unwrap_or_default() })
            }
            Then::Timeout => failed(CallErrorKind::Timeout, "no answer in time"),
            Then::Unreachable => failed(CallErrorKind::Unreachable, "connection refused"),
        };
        self.left.push(Scripted { number, method, url, body: wire::bytes(body)?, answer });
        Ok(())
    }

    /// What becomes of a try of a call.
    pub(crate) fn call(&mut self, call: &Call) -> Answer {
        let headers = call.headers().map(|(name, value)| json!([name, wire::text(Some(value))]));
        let shown = json!({
            "method": call.method(), "url": call.url(), "headers": headers.collect::<Json>(),
            "body": wire::text(Some(call.body())),
        });
        self.calls.push(shown.clone());
        let fits = |scripted: &Scripted| {
            scripted.method == call.method()
                && scripted.url == call.url()
                && scripted.body.as_ref().is_none_or(|body| body == call.body())
        };
        match self.left.iter().position(fits) {
            Some(at) => {
                let scripted = self.left.remove(at);
                self.used.push(scripted.number);
                scripted.answer
            }
            None => {
                self.unexpected.push(shown);
                let message = format!("no answer is given to {} {}", call.method(), call.url());
                // Of a kind that is not tried again.
                Err(CallError { kind: CallErrorKind::Denied, message })
            }
        }
    }
}
