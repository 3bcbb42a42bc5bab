//! What the contract's imports do: SQL, publishing, sending, settings, log lines, the delivery's clock and randomness.
//!
//! Its invariant: an error that the guest can handle is a value it gets back; an error that ends the delivery is
//! noted in the state and traps, so that the guest cannot go on past it.

use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use rand_chacha::rand_core::Rng;

use super::bindings::tidemill::handler::{config, delayed, delivery, event, log, publisher, sender, sql, types};
use super::delivery::{Effect, Ended, Sending, State, Statement};
use super::envelope;
use crate::executor::event_id;
use crate::kafka::sender::{BY_HTTP, Position};
use crate::ledger::outbox::{self, EventKind};
use crate::policy::{Failure, Outcome};
use crate::record::Header;
use crate::store::connection::Bounds;
use crate::store::{Connection, Error, Kind, Value};

/// The most random bytes that one call returns.
const RANDOM_MAX: u32 = 64 << 10;
/// The longest event id and event type, in bytes.
const EVENT_NAME_MAX: usize = 1024;
/// How long after the delivery an event may be due, in milliseconds: what is further away is rather a mistake.
const DELAY_MAX_MS: i64 = 365 * DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

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
        let changed = self.statement(|connection, owner| connection.guest_execute(owner, &statement, &params));
        self.trace(statement, params, &changed, |changed| Effect::Changed(*changed));
        changed
    }

    fn query(&mut self, statement: String, params: Vec<sql::Value>) -> wasmtime::Result<Result<sql::Rows, sql::Error>> {
        let params: Vec<Value> = params.into_iter().map(Value::from).collect();
        let limits = &self.context.environment.spec.limits;
        let bounds = Bounds { rows: limits.sql_rows, bytes: limits.sql_bytes };
        let rows = self.statement(|connection, owner| connection.guest_query(owner, &statement, &params, bounds));
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
    /// Checks an event that is to be published at once or not before it is due.
    fn accept(&mut self, event: publisher::Event, not_before: Option<i64>) -> Result<Accepted, publisher::Error> {
        let refuse = |kind, message: String| Err(publisher::Error { kind, message });
        let Some(row_id) = self.context.next_outbox_id else {
            return refuse(publisher::ErrorKind::ReadOnly, "a request that only reads cannot publish".into());
        };
        let spec = &self.context.environment.spec;
        let Some(topic) = spec.publish.get(&event.destination) else {
            let message = format!("[publish] of handler {} names no destination `{}`", spec.name, event.destination);
            return refuse(publisher::ErrorKind::Destination, message);
        };
        // The input's own time, so that the event has the same topic whenever it is run again; 0 if it has none.
        let at = if self.context.input_time == 0 { self.context.now } else { self.context.input_time };
        let derived = event.id.is_none();
        let event_id = match event.id {
            Some(id) if id.trim().is_empty() || id.len() > EVENT_NAME_MAX => {
                let message = format!("an event id has 1 to {EVENT_NAME_MAX} bytes");
                return refuse(publisher::ErrorKind::Id, message);
            }
            Some(id) => id,
            None => self.next_event_id(),
        };
        let mut event = outbox::Event {
            event_id,
            event_type: event.event_type,
            topic: topic.topic(at, &spec.time_zone),
            partition: None,
            key: event.key.map(Bytes::from),
            value: event.value.map(Bytes::from),
            headers: event.headers.into_iter().map(Header::from).collect(),
            kind: EventKind::Event,
            not_before,
        };
        if let Err(message) = envelope::close(spec, &mut event, self.context.now) {
            return refuse(publisher::ErrorKind::Destination, message);
        }
        if self.published as usize >= spec.limits.events
            || self.published_bytes + event.size() > spec.limits.event_bytes
            || event.event_type.len() > EVENT_NAME_MAX
        {
            let message = format!(
                "one delivery may publish {} events (limits.events) of {} bytes in all (limits.event-bytes), with types of up to {EVENT_NAME_MAX} bytes",
                spec.limits.events, spec.limits.event_bytes
            );
            self.over_effects = true;
            return refuse(publisher::ErrorKind::Limit, message);
        }
        Ok(Accepted { row_id, event, derived })
    }

    fn count(&mut self, event: &outbox::Event) {
        self.published += 1;
        self.published_bytes += event.size();
    }

    fn next_event_id(&self) -> String {
        self.context.seed.event_id(self.published, self.context.input_time).to_string()
    }

    /// Puts an event into the outbox.
    fn put(&mut self, event: publisher::Event, not_before: Option<i64>) -> wasmtime::Result<Enqueued> {
        let Accepted { row_id, event, derived } = match self.accept(event, not_before) {
            Ok(accepted) => accepted,
            Err(error) => return Ok(Err(error)),
        };
        let environment = self.context.environment.clone();
        let (name, source, now) = (&environment.spec.name, self.context.source.clone(), self.context.now);
        match self.guarded(|connection, _| outbox::insert(connection, row_id, &event, name, &source, now))? {
            Ok(true) => self.context.next_outbox_id = Some(row_id + 1),
            // The same input has enqueued the same event before, and was read again since.
            Ok(false) if derived => {}
            Ok(false) => {
                let message = format!("the outbox has an event with the id {} already", event.event_id);
                return Ok(Err(publisher::Error { kind: publisher::ErrorKind::Id, message }));
            }
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
        let event = match self.accept(event, None) {
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
        let event = match self.accept(event, None) {
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
        let now = self.context.now;
        if due.saturating_sub(now) > DELAY_MAX_MS {
            let message = format!(
                "an event may be due {} days after the delivery at most, and this one is due at {due} (milliseconds since 1970), which is {} days away",
                DELAY_MAX_MS / DAY_MS,
                due.saturating_sub(now) / DAY_MS
            );
            return Ok(Err(publisher::Error { kind: publisher::ErrorKind::Limit, message }));
        }
        self.put(event, (due > now).then_some(due))
    }

    fn enqueue_after(&mut self, event: publisher::Event, delay_ms: u64) -> wasmtime::Result<Enqueued> {
        self.enqueue_at(event, self.context.now.saturating_add_unsigned(delay_ms))
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

impl From<types::Header> for Header {
    fn from(header: types::Header) -> Self {
        Self { name: header.name, value: header.value.map(Bytes::from) }
    }
}
