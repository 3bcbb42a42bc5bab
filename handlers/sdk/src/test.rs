//! A bench to try a handler on, natively, with no broker and no daemon.
//!
//! ```
//! use tidemill_sdk::test::{Bench, record};
//! use tidemill_sdk::{Failure, params};
//! # use tidemill_sdk::test::example::HANDLER; // what `handler!` leaves
//!
//! let mut bench = Bench::new(&HANDLER);
//! bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
//! bench.record(&record("payments").with_json(&serde_json::json!({ "eventId": "p-1", "orderId": 7, "amount": 25 })))?;
//! assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["PAID"]);
//! assert_eq!(bench.events()[0].event_type, "ORDER_PAID");
//! # Ok::<(), Failure>(())
//! ```
//!
//! The bench keeps the host's promises about one delivery: it runs in a transaction on SQLite with the handler's
//! migrations, and a failed one leaves no row and no event; its clock stands still; its ids and random bytes are the
//! same in every run; `GET` and `HEAD` cannot write; what a handler may not do in SQL is refused. It does not do what
//! lies around a delivery: no inbox, no retries, no dead letters, no limits. A record is given as it is on its topic, with the envelope of
//! the manifest; what is published is seen as the handler gave it, without.
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a bench is part of a test: what cannot go on ends it, with the reason"
)]

pub(crate) mod delivery;
mod input;
mod manifest;
mod published;
mod store;
#[doc(hidden)]
pub mod example;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde::de::DeserializeOwned;

use crate::compensation::Input;
use crate::http::{self, Response};
use crate::log::Level;
use crate::publisher::Receipt;
use crate::sends::Sent;
use crate::sql::Value;
use crate::timers::Timer;
use crate::{Failure, Handler, Record, Time, outbound, sql};
use delivery::{Delivery, NotSent};
pub use input::{Call, get, post, record, request};
use manifest::{Manifest, Match};
pub use published::{Published, Via};
use store::Store;

/// A handler, a store of its own, and what it has published and logged so far.
///
/// ```
/// use tidemill_sdk::test::{Bench, get, record};
/// use tidemill_sdk::{Failure, params};
/// # use tidemill_sdk::test::example::HANDLER;
///
/// let mut bench = Bench::new(&HANDLER);
/// bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
/// bench.record(&record("payments").with_json(&serde_json::json!({ "eventId": "p-1", "orderId": 7, "amount": 25 })))?;
/// assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["PAID"]);
/// assert_eq!(bench.call(get("/api/orders/7")).body_json::<serde_json::Value>()["status"], "PAID");
/// # Ok::<(), Failure>(())
/// ```
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
///
/// ```
/// use tidemill_sdk::outbound::{Error, ErrorKind, Request, Response};
/// use tidemill_sdk::test::Service;
///
/// let down: Service = |request| Err(Error { kind: ErrorKind::Timeout, message: format!("{}: no answer", request.url) });
/// assert!(down(&Request::get("https://payments.example.com/")).is_err());
/// ```
pub type Service = fn(&outbound::Request) -> Result<outbound::Response, outbound::Error>;

impl Bench {
    /// An empty store with the handler's migrations, the settings of its manifest, the clock at
    /// 2026-01-31T09:30:00.000Z and attempt 1. Ends the test if the manifest or a migration is not usable, if the
    /// manifest's routes are not those of `handler!`, or if a schedule has no function there.
    ///
    /// ```
    /// # use tidemill_sdk::{params, test::{Bench, example::HANDLER}};
    /// let bench = Bench::new(&HANDLER);
    /// assert_eq!(bench.query::<u32>("SELECT count(*) FROM orders", params![]), [0]);
    /// ```
    #[track_caller]
    pub fn new(handler: &'static Handler) -> Self {
        let manifest = Manifest::parse(handler.manifest).unwrap_or_else(|error| panic!("handler.toml: {error}"));
        let mut routes: Vec<String> = manifest.routes.iter().map(ToString::to_string).collect();
        let mut answered: Vec<&str> = handler.routes.iter().map(|(route, _)| *route).collect();
        routes.sort_unstable();
        answered.sort_unstable();
        assert_eq!(routes, answered, "the routes of handler.toml (left) are those of handler! (right)");
        for schedule in &manifest.schedules {
            let named = handler.timers.iter().any(|(name, _)| *name == schedule.name);
            assert!(named, "handler! names no function for the schedule \"{}\" of handler.toml", schedule.name);
        }
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
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, outbound::Response, test::{Bench, example::HANDLER, record}};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.service(|_| Ok(Response { status: 503, ..Response::default() }));
    /// let busy = bench.record(&record("charges").with_key("7"));
    /// assert!(matches!(busy, Err(Failure::Unavailable { .. })));
    /// ```
    pub fn service(&mut self, service: Service) -> &mut Self {
        self.service = Some(service);
        self
    }

    /// Kafka takes nothing from now on, for this reason: a delivery that sends ends there as unavailable, and nothing of it is
    /// kept; what is sent asynchronously is lost, of which [`Bench::completed`] tells the handler.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.refuse_sends("no broker answers");
    /// assert_eq!(bench.record(&record("reminders").with_key("ann")), Err(Failure::unavailable("no broker answers")));
    /// assert!(bench.events().is_empty());
    /// ```
    pub fn refuse_sends(&mut self, reason: impl Into<String>) -> &mut Self {
        self.refusal = Some(reason.into());
        self
    }

    /// Sets a setting, as the operator would.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// bench.set("currency", "KRW");
    /// bench.record(&record("payments").with_json(&serde_json::json!({ "orderId": 7, "amount": 25 })))?;
    /// assert_eq!(bench.lines()[0].1, "order 7 is paid in KRW");
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.manifest.settings.insert(name.into(), value.into());
        self
    }

    /// Gives a secret, as the operator would. Ends the test if the manifest does not ask for it, since it would not be there then.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.secret("payment-key", "a key for tests");
    /// ```
    #[track_caller]
    pub fn secret(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        let name = name.into();
        assert!(self.manifest.secrets.contains(&name), "handler.toml does not ask for it: secrets = [\"{name}\"]");
        self.secrets.insert(name, value.into());
        self
    }

    /// Sets the clock of the deliveries that follow.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, Time, params, test::{Bench, example::HANDLER, record}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// bench.at(Time::from_millis(0));
    /// bench.record(&record("payments").with_json(&serde_json::json!({ "orderId": 7, "amount": 25 })))?;
    /// assert_eq!(bench.query::<Time>("SELECT paid_at FROM payments", params![]), [Time::from_millis(0)]);
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn at(&mut self, now: Time) -> &mut Self {
        self.now = now;
        self
    }

    /// Sets which attempt the deliveries that follow are.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.attempt(3);
    /// bench.record(&record("reminders").with_key("ann"))?; // as if it had failed twice
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn attempt(&mut self, attempt: u32) -> &mut Self {
        self.attempt = attempt;
        self
    }

    /// Delivers a record. What the handler wrote and published stays only if it returns `Ok`.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, params, test::{Bench, example::HANDLER, record}};
    /// let mut bench = Bench::new(&HANDLER);
    /// let unknown = record("payments").with_json(&serde_json::json!({ "orderId": 404, "amount": 25 }));
    /// assert!(bench.record(&unknown).is_err());
    /// assert_eq!(bench.query::<u32>("SELECT count(*) FROM payments", params![]), [0]);
    /// ```
    #[track_caller]
    pub fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let handle = self.handler.records.expect("handler! names a function for `records`");
        let input = Known { event_id: self.manifest.event_id(record), event: self.manifest.event(record) };
        let record = self.manifest.open(record)?;
        ended(self.deliver(false, input, || handle(&record), Result::is_ok))
    }

    /// Lets the handler make good what was given up on, for this reason. What it wrote and published stays only if it
    /// returns `Ok`.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, compensation::Input, params, test::{Bench, example::HANDLER, record}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// bench.compensate(&Input::Record(record("charges").with_key("7")), "the card has expired")?;
    /// assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["CANCELLED"]);
    /// # Ok::<(), Failure>(())
    /// ```
    #[track_caller]
    pub fn compensate(&mut self, input: &Input, reason: &str) -> Result<(), Failure> {
        let compensate = self.handler.compensate.expect("handler! names a function for `compensate`");
        ended(self.deliver(false, Known::default(), || compensate(input, reason), Result::is_ok))
    }

    /// Fires the timer of this schedule, due at the bench's time. What the handler wrote and published stays only if it returns `Ok`.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, params, test::{Bench, example::HANDLER}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// bench.fire("expire-orders")?;
    /// assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["EXPIRED"]);
    /// # Ok::<(), Failure>(())
    /// ```
    #[track_caller]
    pub fn fire(&mut self, schedule: &str) -> Result<(), Failure> {
        let (timers, timer) = (self.handler.timers, Timer::new(schedule, self.now));
        ended(self.deliver(false, Known::default(), || timer.fire(timers), Result::is_ok))
    }

    /// Tells the handler what became of an event that it sent. What it wrote and published stays only if it returns `Ok`.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, params, sends::Sent, test::{Bench, example::HANDLER}};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.completed(&Sent { id: "e-1".into(), ..Sent::default() }, Err("too large".into()))?;
    /// assert_eq!(bench.query::<String>("SELECT id FROM unsent", params![]), ["e-1"]);
    /// # Ok::<(), Failure>(())
    /// ```
    #[track_caller]
    pub fn completed(&mut self, sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
        let completed = self.handler.completed.expect("handler! names a function for `sends`");
        ended(self.deliver(false, Known::default(), || completed(sent, outcome), Result::is_ok))
    }

    /// Sends a request. Like the host it answers 404, 405 and 401 by itself, and what the handler wrote and published
    /// stays only if the status is below 400.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, get, post};
    /// let mut bench = Bench::new(&HANDLER);
    /// let created = bench.call(post("/api/orders").user("ann").json(&serde_json::json!({ "total": "25.00" })));
    /// assert_eq!(created.status, 201);
    /// assert_eq!(bench.call(get(created.header_str("location").unwrap_or_default())).status, 200);
    /// ```
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
        match self.deliver(reads, Known::default(), || http::answer(routes, &request), |response| response.status < 400)
        {
            Err(NotSent(_)) => http::Problem::new(503, "Service Unavailable").into(),
            Ok((response, Some(_))) if response.status < 400 => http::Problem::new(500, "Internal Server Error").into(),
            Ok((response, _)) => response,
        }
    }

    /// What the deliveries have published, in order.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.record(&record("reminders").with_key("ann"))?;
    /// bench.record(&record("reminders").with_key("bob"))?;
    /// let keys: Vec<&str> = bench.events().iter().map(|event| event.key_str()).collect();
    /// assert_eq!(keys, ["ann", "bob"]);
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn events(&self) -> &[Published] {
        &self.events
    }

    /// What the deliveries have logged, in order, the failed ones included.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, log::Level, test::{Bench, example::HANDLER, record}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// bench.record(&record("payments").with_json(&serde_json::json!({ "orderId": 7, "amount": 25 })))?;
    /// assert_eq!(bench.lines(), [(Level::Info, "order 7 is paid in EUR".to_owned())]);
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn lines(&self) -> &[(Level, String)] {
        &self.lines
    }

    /// The rows of a query on the store, outside of any delivery. Ends the test if it fails.
    ///
    /// ```
    /// # use tidemill_sdk::{params, test::{Bench, example::HANDLER}};
    /// # let bench = Bench::new(&HANDLER);
    /// bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// let rows: Vec<(i64, String)> = bench.query("SELECT id, user_id FROM orders WHERE id = ?1", params![7]);
    /// assert_eq!(rows, [(7, "ann".to_owned())]);
    /// ```
    #[track_caller]
    pub fn query<T: DeserializeOwned>(&self, statement: &str, params: Vec<Value>) -> Vec<T> {
        let rows = self.store.query(statement, params).and_then(sql::read_rows);
        rows.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Runs statements on the store, outside of any delivery, to put rows there. Ends the test if it fails.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, get};
    /// let mut bench = Bench::new(&HANDLER);
    /// bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'PAID'), (8, 'bob', '5.00', 'CREATED')");
    /// assert_eq!(bench.call(get("/api/orders/8")).status, 200);
    /// ```
    #[track_caller]
    pub fn prepare(&self, statements: &str) {
        self.store.batch(statements);
    }

    /// Runs one delivery. Returns what the handler returned and, if its transaction could not be kept, why; or that it
    /// was ended by a send.
    fn deliver<T>(
        &mut self,
        reads: bool,
        known: Known,
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
                event_id: known.event_id,
                event: known.event,
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

/// What is known of a record before its handler runs.
#[derive(Default)]
struct Known {
    event_id: Option<String>,
    /// Type and version.
    event: (Option<String>, Option<String>),
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
