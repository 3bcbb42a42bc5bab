//! A bench to try a handler on, natively, with no broker and no daemon.
//!
//! ```text
//! let mut bench = Bench::new(&HANDLER);
//! bench.record(&record("order-events").key("1").json(&json!({ "eventType": "ORDER_PAID" })))?;
//! assert_eq!(bench.query::<i64>("SELECT count(*) FROM notifications", params![]), [1]);
//! ```
//!
//! The bench keeps the host's promises about one delivery: it runs in a transaction on SQLite with the handler's
//! migrations, and a failed one leaves no row and no event; its clock stands still; its ids and random bytes are the
//! same in every run; `GET` and `HEAD` cannot write; what a handler may not do in SQL is refused. It does not do what
//! lies around a delivery: no inbox, no retries, no dead letters, no limits.
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a bench is part of a test: what cannot go on ends it, with the reason"
)]

pub(crate) mod delivery;
mod input;
mod manifest;
mod store;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde::de::DeserializeOwned;

use crate::compensation::Input;
use crate::http::{self, Response};
use crate::log::Level;
use crate::publisher::Receipt;
use crate::record::Header;
use crate::sends::Sent;
use crate::sql::Value;
use crate::{Failure, Handler, Record, Time, outbound, sql};
use delivery::{Delivery, NotSent};
pub use input::{Call, get, post, record, request};
use manifest::{Manifest, Match};
use store::Store;

/// An event that a delivery has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The name in `[publish]`.
    pub destination: String,
    /// The topic that the manifest maps it to.
    pub topic: String,
    /// By which consumers recognise a duplicate.
    pub id: String,
    /// For example `ORDER_CREATED`.
    pub event_type: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The handler's own headers.
    pub headers: Vec<Header>,
    /// When it is due, if that is ahead of the delivery's clock. The bench waits for nothing.
    pub due: Option<Time>,
    /// How it leaves.
    pub via: Via,
}

/// How an event leaves its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By `enqueue`.
    Outbox,
    /// By `send`.
    Send,
    /// By `send_async`.
    SendAsync,
}

impl Published {
    /// The key, as text. Ends the test if it is null or not UTF-8.
    #[track_caller]
    pub fn key_str(&self) -> &str {
        let key = self.key.as_deref().expect("the event has a key");
        std::str::from_utf8(key).expect("the event's key is UTF-8")
    }

    /// The value, read as JSON. Ends the test if it is something else.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        let value = self.value.as_deref().expect("the event has a value");
        serde_json::from_slice(value).expect("the event's value is the JSON that is expected")
    }
}

impl Response {
    /// The body, read as JSON. Ends the test if it is something else.
    #[track_caller]
    pub fn body_json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("the body is the JSON that is expected")
    }

    /// The first header of this name (in lower case).
    pub fn header_str(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// A handler, a store of its own, and what it has published and logged so far.
#[derive(Debug)]
pub struct Bench {
    handler: &'static Handler,
    manifest: Manifest,
    store: Store,
    now: Time,
    attempt: u32,
    deliveries: u32,
    events: Vec<Published>,
    lines: Vec<(Level, String)>,
    service: Option<Service>,
    refusal: Option<String>,
    secrets: BTreeMap<String, String>,
}

/// What stands for the services outside.
pub type Service = fn(&outbound::Request) -> Result<outbound::Response, outbound::Error>;

impl Bench {
    /// An empty store with the handler's migrations, the settings of its manifest, the clock at
    /// 2026-01-31T09:30:00.000Z and attempt 1. Ends the test if the manifest or a migration is not usable, or if the
    /// manifest's routes are not those of `handler!`.
    #[track_caller]
    pub fn new(handler: &'static Handler) -> Self {
        let manifest = Manifest::parse(handler.manifest).unwrap_or_else(|error| panic!("handler.toml: {error}"));
        let mut routes: Vec<String> = manifest.routes.iter().map(ToString::to_string).collect();
        let mut answered: Vec<&str> = handler.routes.iter().map(|(route, _)| *route).collect();
        routes.sort_unstable();
        answered.sort_unstable();
        assert_eq!(routes, answered, "the routes of handler.toml (left) are those of handler! (right)");
        Self {
            handler,
            manifest,
            store: Store::new(handler.migrations),
            now: Time::from_millis(1_769_851_800_000),
            attempt: 1,
            deliveries: 0,
            events: Vec::new(),
            lines: Vec::new(),
            service: None,
            refusal: None,
            secrets: BTreeMap::new(),
        }
    }

    /// Sets what answers the handler's calls to services outside. A call without one ends the test.
    pub fn service(&mut self, service: Service) -> &mut Self {
        self.service = Some(service);
        self
    }

    /// Kafka takes nothing from now on, for this reason: a delivery that sends ends there as unavailable, and nothing of it is
    /// kept; what is sent asynchronously is lost, of which [`Bench::completed`] tells the handler.
    pub fn refuse_sends(&mut self, reason: impl Into<String>) -> &mut Self {
        self.refusal = Some(reason.into());
        self
    }

    /// Sets a setting, as the operator would.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.manifest.settings.insert(name.into(), value.into());
        self
    }

    /// Gives a secret, as the operator would. Ends the test if the manifest does not ask for it, since it would not be there then.
    ///
    /// ```no_run
    /// # fn example(handler: &'static tidemill_sdk::Handler) {
    /// let mut bench = tidemill_sdk::test::Bench::new(handler);
    /// bench.secret("payment-key", "a key for tests");
    /// # }
    /// ```
    #[track_caller]
    pub fn secret(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        let name = name.into();
        assert!(self.manifest.secrets.contains(&name), "handler.toml does not ask for it: secrets = [\"{name}\"]");
        self.secrets.insert(name, value.into());
        self
    }

    /// Sets the clock of the deliveries that follow.
    pub fn at(&mut self, now: Time) -> &mut Self {
        self.now = now;
        self
    }

    /// Sets which attempt the deliveries that follow are.
    pub fn attempt(&mut self, attempt: u32) -> &mut Self {
        self.attempt = attempt;
        self
    }

    /// Delivers a record. What the handler wrote and published stays only if it returns `Ok`.
    #[track_caller]
    pub fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let handle = self.handler.records.expect("handler! names a function for `records`");
        let event_id = self.manifest.event_id(record);
        ended(self.deliver(false, event_id, || handle(record), Result::is_ok))
    }

    /// Lets the handler make good what was given up on, for this reason. What it wrote and published stays only if it
    /// returns `Ok`.
    #[track_caller]
    pub fn compensate(&mut self, input: &Input, reason: &str) -> Result<(), Failure> {
        let compensate = self.handler.compensate.expect("handler! names a function for `compensate`");
        ended(self.deliver(false, None, || compensate(input, reason), Result::is_ok))
    }

    /// Tells the handler what became of an event that it sent. What it wrote and published stays only if it returns `Ok`.
    #[track_caller]
    pub fn completed(&mut self, sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
        let completed = self.handler.completed.expect("handler! names a function for `sends`");
        ended(self.deliver(false, None, || completed(sent, outcome), Result::is_ok))
    }

    /// Sends a request. Like the host it answers 404, 405 and 401 by itself, and what the handler wrote and published
    /// stays only if the status is below 400.
    #[track_caller]
    pub fn call(&mut self, call: Call) -> Response {
        let (jwt, request) = match self.manifest.find(call.into_request()) {
            Match::Route { jwt, request } => (jwt, request),
            Match::OtherMethod => return http::Problem::new(405, "Method Not Allowed").into(),
            Match::None => return http::Problem::not_found("no route has this path").into(),
        };
        if jwt && request.user.is_none() {
            return http::Problem::unauthorized("this needs a bearer token").into();
        }
        let reads = matches!(request.method.as_str(), "GET" | "HEAD");
        let routes = self.handler.routes;
        match self.deliver(reads, None, || http::answer(routes, &request), |response| response.status < 400) {
            Err(NotSent(_)) => http::Problem::new(503, "Service Unavailable").into(),
            Ok((response, Some(_))) if response.status < 400 => http::Problem::new(500, "Internal Server Error").into(),
            Ok((response, _)) => response,
        }
    }

    /// What the deliveries have published, in order.
    pub fn events(&self) -> &[Published] {
        &self.events
    }

    /// What the deliveries have logged, in order, the failed ones included.
    pub fn lines(&self) -> &[(Level, String)] {
        &self.lines
    }

    /// The rows of a query on the store, outside of any delivery. Ends the test if it fails.
    #[track_caller]
    pub fn query<T: DeserializeOwned>(&self, statement: &str, params: Vec<Value>) -> Vec<T> {
        let rows = self.store.query(statement, params).and_then(sql::read_rows);
        rows.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Runs statements on the store, outside of any delivery, to put rows there. Ends the test if it fails.
    #[track_caller]
    pub fn prepare(&self, statements: &str) {
        self.store.batch(statements);
    }

    /// Runs one delivery. Returns what the handler returned and, if its transaction could not be kept, why; or that it
    /// was ended by a send.
    fn deliver<T>(
        &mut self,
        reads: bool,
        event_id: Option<String>,
        run: impl FnOnce() -> T,
        succeeded: impl FnOnce(&T) -> bool,
    ) -> Result<(T, Option<String>), NotSent> {
        self.deliveries += 1;
        self.store.begin(reads);
        let (outcome, delivery) = delivery::run(
            Delivery {
                store: self.store.clone(),
                settings: self.manifest.settings.clone(),
                secrets: self.secrets.clone(),
                destinations: self.manifest.publish.clone(),
                changes_before: self.store.changes(),
                grant: self.manifest.grant.clone(),
                service: self.service,
                refusal: self.refusal.clone(),
                reads,
                now: self.now,
                attempt: self.attempt,
                number: self.deliveries,
                drawn: 0,
                event_id,
                events: Vec::new(),
                lines: Vec::new(),
            },
            || catch_unwind(AssertUnwindSafe(run)),
        );
        self.lines.extend(delivery.lines);
        let ended = self.store.end(outcome.as_ref().is_ok_and(succeeded));
        let kept = ended == Ok(true);
        // What was sent cannot be taken back.
        let events: Vec<_> = delivery.events.into_iter().filter(|event| kept || event.via == Via::Send).collect();
        let in_outbox = |event: &&Published| event.via == Via::Outbox;
        let taken = self
            .events
            .iter()
            .filter(in_outbox)
            .find(|old| events.iter().filter(in_outbox).any(|new| new.id == old.id));
        assert_eq!(taken, None, "no event has an id that the outbox has already");
        self.events.extend(events);
        match outcome {
            Ok(outcome) => Ok((outcome, ended.err())),
            Err(panic) => Err(*panic.downcast::<NotSent>().unwrap_or_else(|panic| resume_unwind(panic))),
        }
    }
}

/// Rows of a store that is not the bench's.
#[doc(hidden)]
pub fn read_rows<T: DeserializeOwned>(columns: Vec<String>, rows: Vec<Vec<Value>>) -> Result<Vec<T>, sql::Error> {
    sql::read_rows(sql::Rows { columns, rows })
}

fn ended(ended: Result<(Result<(), Failure>, Option<String>), NotSent>) -> Result<(), Failure> {
    match ended {
        Err(NotSent(reason)) => Err(Failure::unavailable(reason)),
        Ok((Ok(()), Some(broken))) => Err(Failure::retry(broken)),
        Ok((outcome, _)) => outcome,
    }
}

#[cfg(test)]
mod tests;
