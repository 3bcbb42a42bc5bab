//! What the contract's imports do: SQL, publishing, sending, settings, log lines, the delivery's clock and randomness.
//!
//! Its invariant: an error that the guest can handle is a value it gets back; an error that ends the delivery is
//! noted in the state and traps, so that the guest cannot go on past it.

use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use rand_chacha::rand_core::Rng;

use super::bindings::tidemill::handler::{config, delayed, delivery, event, log, publisher, sender, sql, types};
use super::delivery::{Effect, Ended, SPANS, Sending, State, Statement};
use super::event::{Within, accept, duplicate};
use crate::executor::event_id;
use crate::kafka::sender::{BY_HTTP, Position};
use crate::ledger::outbox;
use crate::policy::{Failure, Outcome};
use crate::record::{Due, Event, Fault, Header, Unpublished};
use crate::store::connection::Bounds;
use crate::store::{Connection, Error, Kind, Value};
use crate::trace::span::{self, Publish};

/// The most random bytes that one call returns.
const RANDOM_MAX: u32 = 64 << 10;

impl State {
    /// Runs a guest's statement, and ends the delivery where the transaction or the store did not survive it.
    fn statement<T>(
        &mut self,
        run: impl FnOnce(&Connection, u32) -> Result<T, Error>,
    ) -> wasmtime::Result<Result<T, sql::Error>> {
        let most = self.context.environment.spec.limits.sql_statements;
        if self.statements >= most {
            self.over_effects = true;
            let message = format!("one delivery may run {most} statements (limits.sql-statements)");
            return Ok(Err(Error::new(Kind::Limit, message).into()));
        }
        self.statements += 1;
        let result = self.guarded(run)?;
        self.over_effects |= matches!(&result, Err(error) if error.kind == Kind::Limit);
        Ok(result.map_err(sql::Error::from))
    }

    /// The same for any statement inside a delivery, the host's own included: its deadline cuts those off too.
    fn guarded<T>(
        &mut self,
        run: impl FnOnce(&Connection, u32) -> Result<T, Error>,
    ) -> wasmtime::Result<Result<T, Error>> {
        let owner = self.context.environment.owner;
        let writes = self.context.next_outbox_id.is_some();
        let Some(connection) = &self.connection else { wasmtime::bail!("the delivery has ended") };
        let (writes_before, changes_before) = (connection.writes_begun(), connection.changes_made());
        let result = run(connection, owner);
        self.has_written |= connection.writes_begun() != writes_before
            && (result.is_err() || connection.changes_made() != changes_before);
        if let Err(error) = &result
            && error.kind == Kind::Store
        {
            return self.end(Ended::Store(error.clone()));
        }
        if writes && !connection.in_transaction() {
            return self.end(Ended::Broken(match result {
                Err(error) if error.interrupted() => self.over_time_in_sql(),
                Err(error) => Failure::new(Outcome::Trap, format!("a statement ended the transaction: {error}")),
                Ok(_) => Failure::new(Outcome::Trap, "a statement ended the transaction"),
            }));
        }
        match result {
            Err(error) if error.interrupted() => self.end(Ended::Failed(self.over_time_in_sql())),
            result => Ok(result),
        }
    }

    fn trace<T>(
        &self,
        sql: String,
        params: Vec<Value>,
        result: &wasmtime::Result<Result<T, sql::Error>>,
        effect: impl FnOnce(&T) -> Effect,
    ) {
        let Some(trace) = &self.context.trace else { return };
        let effect = match result {
            Ok(Ok(done)) => effect(done),
            Ok(Err(error)) => Effect::Refused(error.message.clone()),
            Err(_) => Effect::Ended,
        };
        trace.lock().unwrap_or_else(PoisonError::into_inner).push(Statement { sql, params, effect });
    }

    /// When something begins, where that is told.
    fn begins(&self) -> Option<Instant> {
        (self.context.place.recorded().is_some() && self.spans.len() < SPANS).then(Instant::now)
    }

    /// Tells a statement that began then.
    fn tell_statement<T>(
        &mut self,
        since: Option<Instant>,
        sql: &str,
        result: &wasmtime::Result<Result<T, sql::Error>>,
        rows: impl FnOnce(&T) -> Option<u64>,
    ) {
        let Some((since, (own, _))) = since.zip(self.context.place.recorded()) else { return };
        let outcome = match result {
            Ok(Ok(done)) => Ok(rows(done)),
            Ok(Err(error)) => Err(error.message.as_str()),
            Err(_) => Err("it ended the delivery"),
        };
        let n = u32::try_from(self.spans.len()).unwrap_or(u32::MAX);
        self.spans.push(span::statement(own, n, sql, (since, Instant::now()), outcome));
    }

    fn over_time_in_sql(&self) -> Failure {
        let limit = self.context.environment.spec.limits.time;
        Failure::new(Outcome::TimeLimit, format!("time limit of {limit:?} (limits.time), in SQL"))
    }

    pub(super) fn end<T>(&mut self, ended: Ended) -> wasmtime::Result<T> {
        self.ended = Some(ended);
        wasmtime::bail!("the delivery was ended by the host")
    }
}

impl sql::Host for State {
    fn execute(&mut self, statement: String, params: Vec<sql::Value>) -> wasmtime::Result<Result<u64, sql::Error>> {
        let params: Vec<Value> = params.into_iter().map(Value::from).collect();
        let since = self.begins();
        let changed = self.statement(|connection, owner| connection.guest_execute(owner, &statement, &params));
        self.tell_statement(since, &statement, &changed, |_| None);
        self.trace(statement, params, &changed, |changed| Effect::Changed(*changed));
        changed
    }

    fn query(&mut self, statement: String, params: Vec<sql::Value>) -> wasmtime::Result<Result<sql::Rows, sql::Error>> {
        let params: Vec<Value> = params.into_iter().map(Value::from).collect();
        let limits = &self.context.environment.spec.limits;
        let bounds = Bounds { rows: limits.sql_rows, bytes: limits.sql_bytes };
        let since = self.begins();
        let rows = self.statement(|connection, owner| connection.guest_query(owner, &statement, &params, bounds));
        self.tell_statement(since, &statement, &rows, |rows| Some(rows.rows.len() as u64));
        self.trace(statement, params, &rows, |rows| Effect::Returned(rows.rows.len() as u64));
        Ok(rows?.map(|rows| sql::Rows {
            columns: rows.columns,
            rows: rows.rows.into_iter().map(|row| row.into_iter().map(sql::Value::from).collect()).collect(),
        }))
    }
}

/// An event's id, or why it was not taken.
type Enqueued = Result<String, publisher::Error>;

/// An event that the delivery may publish.
struct Accepted {
    /// Its row, if it goes into the outbox.
    row_id: i64,
    event: outbox::Event,
    /// Whether its id follows from the input.
    derived: bool,
}

impl State {
    /// Checks an event that is to be published.
    fn accept(&mut self, event: Event) -> Result<Accepted, publisher::Error> {
        let Some(row_id) = self.context.next_outbox_id else {
            let message = "a request that only reads cannot publish".into();
            return Err(publisher::Error { kind: publisher::ErrorKind::ReadOnly, message });
        };
        let derived = event.id.is_none();
        let within = Within {
            now: self.context.now,
            input_time: self.context.input_time,
            events: self.published as usize,
            bytes: self.published_bytes,
        };
        let accepted = accept(&self.context.environment.spec, event, within, || self.next_event_id());
        self.over_effects |= matches!(&accepted, Err(error) if error.fault == Fault::Size);
        let mut event = accepted?;
        self.context.place.mark(&mut event.headers);
        Ok(Accepted { row_id, event, derived })
    }

    fn tell_send(&mut self, since: Instant, event: &outbox::Event, outcome: &crate::kafka::sender::Outcome) {
        if let Some((own, _)) = self.context.place.recorded() {
            let handler = &*self.context.environment.spec.name;
            let publish = Publish { topic: &event.topic, event_id: &event.event_id, handler };
            let error = outcome.as_ref().err().map(ToString::to_string);
            let end = match (outcome, &error) {
                (Ok(position), _) => Ok((position.partition, position.offset)),
                (Err(_), error) => Err(error.as_deref().unwrap_or_default()),
            };
            self.spans.push(publish.told(own.child(event.event_id.as_bytes()), own, since.elapsed(), end));
        }
    }

    fn count(&mut self, event: &outbox::Event) {
        self.published += 1;
        self.published_bytes += event.size();
    }

    fn next_event_id(&self) -> String {
        self.context.seed.event_id(self.published, self.context.input_time).to_string()
    }

    /// Puts an event into the outbox.
    fn put(&mut self, event: publisher::Event, due: Option<Due>) -> wasmtime::Result<Enqueued> {
        let Accepted { row_id, event, derived } = match self.accept(Event { due, ..event.into() }) {
            Ok(accepted) => accepted,
            Err(error) => return Ok(Err(error)),
        };
        let environment = self.context.environment.clone();
        let (name, source, now) = (&environment.spec.name, self.context.source.clone(), self.context.now);
        match self.guarded(|connection, _| outbox::insert(connection, row_id, &event, name, &source, now))? {
            Ok(true) => self.context.next_outbox_id = Some(row_id + 1),
            // The same input has enqueued the same event before, and was read again since.
            Ok(false) if derived => {}
            Ok(false) => return Ok(Err(duplicate(&event).into())),
            Err(error) => return self.end(Ended::Store(error)),
        }
        self.count(&event);
        Ok(Ok(event.event_id))
    }
}

impl publisher::Host for State {
    fn next_id(&mut self) -> wasmtime::Result<String> {
        Ok(self.next_event_id())
    }

    fn enqueue(&mut self, event: publisher::Event) -> wasmtime::Result<Enqueued> {
        self.put(event, None)
    }
}

impl sender::Host for State {
    fn send(&mut self, event: publisher::Event) -> wasmtime::Result<Result<sender::Receipt, publisher::Error>> {
        let event = match self.accept(event.into()) {
            Ok(accepted) => accepted.event,
            Err(error) => return Ok(Err(error)),
        };
        let Some(sender) = self.context.sender.clone() else { return self.end(Ended::Sends) };
        if sender.goes_by_http(&event.topic) {
            let message = format!("`send` to {}: {}", event.topic, BY_HTTP);
            return Ok(Err(publisher::Error { kind: publisher::ErrorKind::Destination, message }));
        }
        let settings = self.context.environment.spec.send;
        let began = Instant::now();
        if self.waited >= settings.timeout || self.context.deadline.is_some_and(|deadline| began >= deadline) {
            let message = format!("its sends have taken {:?}, of {:?} (send.timeout)", self.waited, settings.timeout);
            return self.end(Ended::Failed(Failure::new(Outcome::TimeLimit, message)));
        }
        let outcome = sender.send(&self.context.environment.spec.name, settings, &event);
        self.has_waited(began.elapsed());
        self.tell_send(began, &event, &outcome);
        self.count(&event);
        self.sent = true;
        match outcome {
            Ok(Position { partition, offset }) => Ok(Ok(sender::Receipt { id: event.event_id, partition, offset })),
            Err(error) => {
                let outcome = if error.refused { Outcome::Retry } else { Outcome::Unavailable };
                self.end(Ended::Failed(Failure::new(outcome, format!("send to {error}"))))
            }
        }
    }

    fn send_async(&mut self, event: publisher::Event) -> wasmtime::Result<Enqueued> {
        let destination = event.destination.clone();
        let event = match self.accept(event.into()) {
            Ok(accepted) => accepted.event,
            Err(error) => return Ok(Err(error)),
        };
        let seed = self.context.seed.completing(self.published);
        self.count(&event);
        let id = event.event_id.clone();
        self.sends.push(Sending { destination, event, seed, source: self.context.source.clone() });
        Ok(Ok(id))
    }
}

impl delayed::Host for State {
    fn enqueue_at(&mut self, event: publisher::Event, due: i64) -> wasmtime::Result<Enqueued> {
        self.put(event, Some(Due::At(due)))
    }

    fn enqueue_after(&mut self, event: publisher::Event, delay_ms: u64) -> wasmtime::Result<Enqueued> {
        self.put(event, Some(Due::After(delay_ms)))
    }
}

impl config::Host for State {
    fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        let spec = &self.context.environment.spec;
        let secret = || spec.secrets.get(&name).map(|secret| secret.expose().to_owned());
        Ok(spec.settings.get(&name).cloned().or_else(secret))
    }

    fn all(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.context.environment.spec.settings.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.push_log(level, message);
        Ok(())
    }
}

impl delivery::Host for State {
    fn now(&mut self) -> wasmtime::Result<i64> {
        Ok(self.context.now)
    }

    fn random(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        if len > RANDOM_MAX {
            wasmtime::bail!("delivery.random: at most {RANDOM_MAX} bytes at a time, {len} were asked for");
        }
        let mut bytes = vec![0; len as usize];
        self.rng.fill_bytes(&mut bytes);
        Ok(bytes)
    }

    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.context.attempt)
    }

    fn event_id(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.context.event_id.clone())
    }
}

impl event::Host for State {
    fn event_type(&mut self) -> wasmtime::Result<Option<String>> {
        let place = &self.context.environment.spec.event_type;
        Ok(self.context.record.as_deref().and_then(|record| event_id::at(place, record)))
    }

    fn event_version(&mut self) -> wasmtime::Result<Option<String>> {
        let place = &self.context.environment.spec.event_version;
        Ok(self.context.record.as_deref().and_then(|record| event_id::at(place, record)))
    }
}

impl types::Host for State {}

impl From<sql::Value> for Value {
    fn from(value: sql::Value) -> Self {
        match value {
            sql::Value::Null => Self::Null,
            sql::Value::Integer(value) => Self::Integer(value),
            sql::Value::Real(value) => Self::Real(value),
            sql::Value::Text(text) => Self::Text(text),
            sql::Value::Blob(blob) => Self::Blob(blob),
        }
    }
}

impl From<Value> for sql::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(value) => Self::Integer(value),
            Value::Real(value) => Self::Real(value),
            Value::Text(text) => Self::Text(text),
            Value::Blob(blob) => Self::Blob(blob),
        }
    }
}

impl From<Error> for sql::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            Kind::Statement => sql::ErrorKind::Statement,
            Kind::Constraint => sql::ErrorKind::Constraint,
            Kind::Denied => sql::ErrorKind::Denied,
            Kind::ReadOnly => sql::ErrorKind::ReadOnly,
            Kind::Limit => sql::ErrorKind::Limit,
            Kind::Store | Kind::Other => sql::ErrorKind::Other,
        };
        Self { kind, code: error.code, message: error.message }
    }
}

impl From<publisher::Event> for Event {
    fn from(event: publisher::Event) -> Self {
        Self {
            destination: event.destination,
            id: event.id,
            event_type: event.event_type,
            key: event.key.map(Bytes::from),
            value: event.value.map(Bytes::from),
            headers: event.headers.into_iter().map(Header::from).collect(),
            due: None,
        }
    }
}

impl From<Unpublished> for publisher::Error {
    fn from(error: Unpublished) -> Self {
        let kind = match error.fault {
            Fault::Destination | Fault::Envelope => publisher::ErrorKind::Destination,
            Fault::Id | Fault::Duplicate => publisher::ErrorKind::Id,
            Fault::Size | Fault::Due => publisher::ErrorKind::Limit,
        };
        Self { kind, message: error.message }
    }
}

impl From<types::Header> for Header {
    fn from(header: types::Header) -> Self {
        Self { name: header.name, value: header.value.map(Bytes::from) }
    }
}
