//! The rig itself: what a test says to it, and what it sees.
//!
//! A look (`&self`) changes nothing. Whatever is done returns once nothing is left to do at the rig's time.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tidemill_sdk::http::Response;
use tidemill_sdk::log::Level;
use tidemill_sdk::sql::Value;
use tidemill_sdk::test::{self, Call, Published};
use tidemill_sdk::{Record, Time, outbound};

use crate::line::Line;
use crate::process::Died;
use crate::wire::{self, number};
use crate::{Builder, DeadLetter, Ended, Fallback, Moment, Pending, Reply, look};

/// A handler's `.wasm`, a store of its own, and the Kafka, the clock and the services around it.
///
/// ```no_run
/// # use tidemill_test::{Ended, Rig};
/// # use tidemill_sdk::test::record;
/// let mut rig = Rig::new("notification");
/// let ended = rig.record(&record("order-events").with_value("{"));
/// assert!(matches!(ended, Ended::DeadLetter { .. }), "{ended:?}");
/// ```
#[derive(Debug)]
pub struct Rig {
    line: RefCell<Line>,
    /// Removed with the rig.
    temporary: Option<PathBuf>,
}

impl Rig {
    /// The handler of this name, or in this file, with the settings of its manifest and an empty store, at
    /// 2026-01-31T09:30:00.000Z. Ends the test if it cannot go live.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let by_name = Rig::new("notification");
    /// let by_path = Rig::new("target/wasm32-wasip2/release/notification.wasm");
    /// ```
    #[track_caller]
    pub fn new(handler: impl AsRef<Path>) -> Self {
        Self::builder(handler).start()
    }

    /// The handler of the package under test, built first as `tidemill build` does: once for all tests of the process. Ends the test if
    /// it does not build, or cannot go live.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::of_this_package();
    /// ```
    #[track_caller]
    pub fn of_this_package() -> Self {
        Self::builder(crate::process::built()).start()
    }

    /// The same, with other settings.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let mut rig = Rig::builder("notification").set("retry.max-attempts", "2").start();
    /// ```
    #[track_caller]
    pub fn builder(handler: impl AsRef<Path>) -> Builder {
        Builder::new(handler.as_ref())
    }

    pub(crate) fn start(binary: PathBuf, arguments: Vec<OsString>, temporary: Option<PathBuf>) -> Self {
        let line = Line::start(binary, arguments);
        Self { line: RefCell::new(line), temporary }
    }

    /// A record arrives on its topic; its offset is the next one unless it names another, its time the rig's unless it has one.
    /// Returns how it has ended once nothing is left to do.
    ///
    /// ```no_run
    /// # use tidemill_test::{Ended, Rig};
    /// # use tidemill_sdk::test::record;
    /// # let mut rig = Rig::new("notification");
    /// assert_eq!(rig.record(&record("order-events").with_key("7").with_json(&"...")), Ended::Done);
    /// ```
    #[track_caller]
    pub fn record(&mut self, record: &Record) -> Ended {
        let headers = record.headers.iter().map(|h| json!([h.name, wire::opt_text(h.value.as_deref())]));
        let mut command = json!({
            "do": "record", "topic": record.topic, "partition": record.partition, "timestamp": record.timestamp,
            "key": wire::opt_text(record.key.as_deref()), "value": wire::opt_text(record.value.as_deref()),
            "headers": headers.collect::<Json>(),
        });
        if record.offset > 0 {
            command["offset"] = record.offset.into();
        }
        let line = self.line.get_mut();
        match line.ask(&command) {
            Ok(ended) => Ended::read(&ended),
            // Kafka has it: it was handed over.
            Err(Died) => {
                let place = json!({ "do": "ended", "topic": record.topic, "partition": record.partition });
                Ended::read(&line.must(&place))
            }
        }
    }

    /// How a record has ended that came before: the one at this offset.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tidemill_test::{Ended, Rig};
    /// # let mut rig = Rig::new("notification");
    /// rig.advance(Duration::from_secs(1));
    /// assert_eq!(rig.ended("order-events", 0, 0), Ended::Done);
    /// ```
    #[track_caller]
    pub fn ended(&self, topic: &str, partition: i32, offset: i64) -> Ended {
        let place = json!({ "do": "ended", "topic": topic, "partition": partition, "offset": offset });
        Ended::read(&self.line.borrow_mut().must(&place))
    }

    /// Sends a request through the daemon's own HTTP server, and returns its answer. Ends the test if the process is killed meanwhile.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// # use tidemill_sdk::test::post;
    /// # let mut rig = Rig::new("order");
    /// let answer = rig.call(post("/api/orders").user("7").json(&serde_json::json!({ "items": [] })));
    /// assert_eq!(answer.status, 400);
    /// ```
    #[track_caller]
    pub fn call(&mut self, call: Call) -> Response {
        self.try_call(call).expect("the process was killed before it answered: use `try_call`")
    }

    /// The same; `None` if the process was killed before it answered.
    ///
    /// ```no_run
    /// # use tidemill_test::{Moment, Rig};
    /// # use tidemill_sdk::test::post;
    /// # let mut rig = Rig::new("order");
    /// let order = || post("/api/orders").user("7").header("idempotency-key", "k").body("{}");
    /// rig.kill_at(Moment::Committed);
    /// assert_eq!(rig.try_call(order()), None);
    /// assert_eq!(rig.call(order()).status, 201);
    /// ```
    #[track_caller]
    pub fn try_call(&mut self, call: Call) -> Option<Response> {
        let request = call.into_request();
        let path = request.query.map_or_else(|| request.path.clone(), |query| format!("{}?{query}", request.path));
        let headers = request.headers.iter().map(|(name, value)| json!([name, wire::text(value)]));
        let command = json!({
            "do": "request", "method": request.method, "path": path, "user": request.user,
            "headers": headers.collect::<Json>(), "body": wire::text(&request.body),
        });
        let answer = self.line.get_mut().ask(&command).ok()?;
        Some(Response {
            status: u16::try_from(number(&answer, "status")).unwrap_or_default(),
            headers: wire::pairs(&answer["headers"]),
            body: wire::bytes(&answer["body"]).unwrap_or_default(),
        })
    }

    /// Lets time pass, as if somebody had waited: retries, timers, delayed events and an open circuit come due one after the other, each at its own time.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.advance(Duration::from_secs(600));
    /// ```
    #[track_caller]
    pub fn advance(&mut self, time: Duration) {
        let line = self.line.get_mut();
        let until = line.now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        // A process that is killed on the way goes on from where it was.
        while line.now < until {
            let by = format!("{}ms", until - line.now);
            let _ = line.ask(&json!({ "do": "advance", "by": by }));
        }
    }

    /// The rig's time.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.now().to_string(), "2026-01-31T09:30:00.000Z");
    /// ```
    pub fn now(&self) -> Time {
        Time::from_millis(self.line.borrow().now)
    }

    /// Closes the store in order, and opens it again.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.restart();
    /// ```
    #[track_caller]
    pub fn restart(&mut self) {
        self.line.get_mut().tell(&json!({ "do": "restart" }));
    }

    /// Kills the process as a power cut would, between two things that it does, and starts it again on its store.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.kill();
    /// ```
    #[track_caller]
    pub fn kill(&mut self) {
        let line = self.line.get_mut();
        line.process.kill();
        line.revive();
    }

    /// Has the process killed when it next comes to this moment, in the middle of what the test asks for then. It is started again by itself,
    /// and goes on with its store and with what Kafka has.
    ///
    /// ```no_run
    /// # use tidemill_test::{Ended, Moment, Rig};
    /// # use tidemill_sdk::test::record;
    /// # let mut rig = Rig::new("notification");
    /// rig.kill_at(Moment::Committing);
    /// assert_eq!(rig.record(&record("order-events").with_json(&"...")), Ended::Done);
    /// assert_eq!(rig.kills(), 1);
    /// ```
    #[track_caller]
    pub fn kill_at(&mut self, moment: Moment) {
        let line = self.line.get_mut();
        line.must(&json!({ "do": "kill-at", "moment": moment.name() }));
        line.armed = Some(moment);
    }

    /// How often the process was killed.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.kills(), 0);
    /// ```
    pub fn kills(&self) -> u32 {
        self.line.borrow().kills
    }

    /// Another version of the handler goes live on the same store.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("v1/order.wasm");
    /// rig.deploy("v2/order.wasm");
    /// ```
    #[track_caller]
    pub fn deploy(&mut self, file: impl AsRef<Path>) {
        let line = self.line.get_mut();
        if let Some(first) = line.arguments.first_mut() {
            *first = file.as_ref().into();
        }
        if let Ok(greeting) = line.ask(&json!({ "do": "deploy", "file": file.as_ref() })) {
            line.greeting = greeting;
        }
    }

    /// The service answers the next call of this method and URL so, once. A call that is not expected ends the test.
    ///
    /// ```no_run
    /// # use tidemill_sdk::http::Response;
    /// # use tidemill_test::Reply;
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.expect("POST", "https://payments.example.com/charges", Reply::Timeout);
    /// rig.expect("POST", "https://payments.example.com/charges", Response::ok(&serde_json::json!({ "number": "r-1" })));
    /// ```
    #[track_caller]
    pub fn expect(&mut self, method: &str, url: &str, reply: impl Into<Reply>) {
        let line = self.line.get_mut();
        let then = reply.into().write();
        let mut answer = json!({ "number": line.next, "method": method, "url": url, "then": then });
        line.expected.push((line.next, answer.clone()));
        line.next += 1;
        answer["do"] = "answer".into();
        line.must(&answer);
    }

    /// The calls that were made, each try of its own.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.calls()[0].url, "https://payments.example.com/charges");
    /// ```
    pub fn calls(&self) -> Vec<outbound::Request> {
        self.line.borrow().calls.clone()
    }

    /// Kafka takes nothing from now on: events wait in the outbox, and what is sent past it fails.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.kafka_is_away();
    /// rig.kafka_is_back();
    /// ```
    #[track_caller]
    pub fn kafka_is_away(&mut self) {
        self.line.get_mut().tell(&json!({ "do": "kafka", "away": true }));
    }

    /// Kafka takes events again.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.kafka_is_back();
    /// ```
    #[track_caller]
    pub fn kafka_is_back(&mut self) {
        self.line.get_mut().tell(&json!({ "do": "kafka", "away": false }));
    }

    /// Kafka refuses, for this reason and for good, what is published to a topic from now on.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.refuse("order-events.DLT", "the message is too large");
    /// ```
    #[track_caller]
    pub fn refuse(&mut self, topic: &str, reason: &str) {
        self.line.get_mut().tell(&json!({ "do": "refuse", "topic": topic, "reason": reason }));
    }

    /// What the deliveries have published, in order; what still waits in the outbox comes last. Without dead letters.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.events()[0].event_type, "ORDER_CREATED");
    /// ```
    #[track_caller]
    pub fn events(&self) -> Vec<Published> {
        self.all("event", |_| true)
    }

    /// Those events that Kafka has.
    ///
    /// ```no_run
    /// # let mut rig = tidemill_test::Rig::new("order");
    /// rig.kafka_is_away();
    /// assert!(rig.published().is_empty());
    /// ```
    #[track_caller]
    pub fn published(&self) -> Vec<Published> {
        self.all("event", |event| event["published"] == true)
    }

    fn all(&self, kind: &str, wanted: impl Fn(&Json) -> bool) -> Vec<Published> {
        let events = self.look("events");
        let line = self.line.borrow();
        let of_kind = events.iter().filter(|event| event["kind"] == kind && wanted(event));
        of_kind.map(|event| look::published(event, &line.greeting["publish"])).collect()
    }

    /// Records that were given up on, in order.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.dead_letters().len(), 1);
    /// ```
    #[track_caller]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let events = self.look("events");
        events.iter().filter(|event| event["kind"] == "dead-letter").map(DeadLetter::read).collect()
    }

    /// Records and timers that wait in the store.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.pending()[0].attempts, 2);
    /// ```
    #[track_caller]
    pub fn pending(&self) -> Vec<Pending> {
        self.look("pending").iter().map(Pending::read).collect()
    }

    /// What nobody has taken.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert!(rig.fallback().is_empty());
    /// ```
    #[track_caller]
    pub fn fallback(&self) -> Vec<Fallback> {
        self.look("fallback").iter().map(Fallback::read).collect()
    }

    fn look(&self, what: &str) -> Vec<Json> {
        match self.line.borrow_mut().must(&json!({ "do": what })) {
            Json::Array(list) => list,
            other => panic!("`tidemill rig` has answered {other} where a list was expected"),
        }
    }

    /// What the deliveries have logged, in order, the failed ones included.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert!(rig.lines().iter().any(|(_, line)| line.contains("is paid")));
    /// ```
    pub fn lines(&self) -> Vec<(Level, String)> {
        self.said(false)
    }

    /// What the host has logged, for example why a record failed.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert!(rig.host_lines().iter().any(|(_, line)| line.contains("dead letter")));
    /// ```
    pub fn host_lines(&self) -> Vec<(Level, String)> {
        self.said(true)
    }

    fn said(&self, by_host: bool) -> Vec<(Level, String)> {
        let line = self.line.borrow();
        line.lines.iter().filter(|line| line.0 == by_host).map(|(_, level, text)| (*level, text.clone())).collect()
    }

    /// The rows of a query on the store, outside of any delivery; the host's own tables may be read too. Ends the test if it fails.
    ///
    /// ```no_run
    /// # use tidemill_sdk::params;
    /// # let rig = tidemill_test::Rig::new("order");
    /// let rows = rig.query::<(i64, String)>("SELECT id, status FROM orders WHERE user_id = ?1", params!["7"]);
    /// assert_eq!(rows, [(1, "PENDING".to_owned())]);
    /// ```
    #[track_caller]
    pub fn query<T: DeserializeOwned>(&self, statement: &str, params: Vec<Value>) -> Vec<T> {
        let params: Json = params.into_iter().map(wire::param).collect();
        let answer = self.line.borrow_mut().must(&json!({ "do": "query", "sql": statement, "params": params }));
        let columns = answer["columns"].as_array().into_iter().flatten();
        let columns = columns.map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
        let row = |row: &Json| row.as_array().into_iter().flatten().map(wire::cell).collect();
        let rows = answer["rows"].as_array().into_iter().flatten().map(row).collect();
        test::read_rows(columns, rows).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// The only row of a query on the store. Ends the test if there is not just one.
    ///
    /// ```no_run
    /// # use tidemill_sdk::params;
    /// # let rig = tidemill_test::Rig::new("order");
    /// assert_eq!(rig.query_one::<i64>("SELECT count(*) FROM orders", params![]), 1);
    /// ```
    #[track_caller]
    pub fn query_one<T: DeserializeOwned>(&self, statement: &str, params: Vec<Value>) -> T {
        let mut rows = self.query(statement, params);
        assert_eq!(rows.len(), 1, "{statement}: so many rows");
        rows.remove(0)
    }

    /// Runs statements on the store, outside of any delivery: to put rows there, or a trigger that makes a handler fail for a while.
    /// Ends the test if it fails.
    ///
    /// ```no_run
    /// # let rig = tidemill_test::Rig::new("order");
    /// rig.prepare("INSERT INTO orders (user_id, total_amount, status, created_at) VALUES ('7', '1.00', 'PAID', '')");
    /// ```
    #[track_caller]
    pub fn prepare(&self, statements: &str) {
        self.line.borrow_mut().must(&json!({ "do": "prepare", "sql": statements }));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.line.get_mut().lines.iter();
            let said = said
                .map(|(host, level, text)| format!("  {level:?} {}: {text}\n", if *host { "host" } else { "handler" }));
            eprintln!("--- what the rig has logged ---\n{}---", said.collect::<String>());
        }
        if let Some(folder) = &self.temporary {
            self.line.get_mut().process.kill();
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
