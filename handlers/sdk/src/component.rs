//! The component's side of the contract in `wit/`: the one place that knows the generated bindings.
//!
//! Imports are called by the modules of this crate under the names that [`test::delivery`] has natively; exports are
//! made by [`handler!`](crate::handler!), each by its own world, so that a component exports only what it handles.
#![allow(missing_docs, unreachable_pub, reason = "the words are those of wit/, where they are explained")]

mod imports {
    #![allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_docs, reason = "generated")]
    wit_bindgen::generate!({ world: "imports", path: "../../wit", generate_unused_types: true });
}

use imports::tidemill::handler as wit;

use std::time::Duration;

use crate::log::Level;
use crate::publisher::{Enqueued, Receipt};
use crate::record::Header;
use crate::sql::{Rows, Value};
use crate::{Failure, outbound, publisher, sql};

/// The bindings of an export's world, whose imports are those of [`imports`].
macro_rules! export_bindings {
    ($world:literal) => {
        mod bindings {
            #![allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_docs, reason = "generated")]
            wit_bindgen::generate!({
                world: $world,
                path: "../../wit",
                pub_export_macro: true,
                with: {
                    "tidemill:handler/types@0.1.0": super::super::imports::tidemill::handler::types,
                    "tidemill:handler/sql@0.1.0": super::super::imports::tidemill::handler::sql,
                    "tidemill:handler/publisher@0.1.0": super::super::imports::tidemill::handler::publisher,
                    "tidemill:handler/delayed@0.1.0": super::super::imports::tidemill::handler::delayed,
                    "tidemill:handler/sender@0.1.0": super::super::imports::tidemill::handler::sender,
                    "tidemill:handler/outbound@0.1.0": super::super::imports::tidemill::handler::outbound,
                    "tidemill:handler/config@0.1.0": super::super::imports::tidemill::handler::config,
                    "tidemill:handler/log@0.1.0": super::super::imports::tidemill::handler::log,
                    "tidemill:handler/delivery@0.1.0": super::super::imports::tidemill::handler::delivery,
                },
            });
        }
    };
}

pub mod records {
    //! The export of `records`.

    export_bindings!("records-handler");

    pub use bindings::export;
    pub use bindings::exports;
    pub use bindings::exports::tidemill::handler::records::{Guest, Record};

    /// What `handle` returns to the host.
    pub type Outcome = Result<(), super::wit::types::Failure>;

    /// Hands a record over and the failure back.
    pub fn run(handle: crate::Handle, record: Record) -> Outcome {
        let record = crate::Record {
            topic: record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(super::header).collect(),
        };
        handle(&record).map_err(super::failure)
    }
}

pub mod compensation {
    //! The export of `compensation`.

    export_bindings!("compensation-handler");

    pub use bindings::export;
    pub use bindings::exports;
    pub use bindings::exports::tidemill::handler::compensation::{Guest, Input};

    use super::records::Outcome;
    use crate::compensation as ours;

    /// Hands what was given up on over, and the failure back.
    pub fn run(compensate: crate::Compensate, input: Input, reason: &str) -> Outcome {
        let headers = |headers: Vec<super::wit::types::Header>| headers.into_iter().map(super::header).collect();
        let input = match input {
            Input::Record(record) => ours::Input::Record(crate::Record {
                topic: record.topic,
                partition: record.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: headers(record.headers),
            }),
            Input::Event(event) => ours::Input::Event(ours::LostEvent {
                id: event.id,
                event_type: event.event_type,
                topic: event.topic,
                key: event.key,
                value: event.value,
                headers: headers(event.headers),
                source: event.source,
            }),
            Input::Timer(timer) => {
                ours::Input::Timer(crate::timers::Timer::new(timer.name, crate::Time::from_millis(timer.due)))
            }
            Input::Request(_) => {
                let failure =
                    crate::Failure::reject("this version of the guest crate knows no such input; use a newer one");
                return Err(super::failure(failure));
            }
        };
        compensate(&input, reason).map_err(super::failure)
    }
}

pub mod sends {
    //! The export of `sends`.

    export_bindings!("sends-handler");

    pub use bindings::export;
    pub use bindings::exports;
    pub use bindings::exports::tidemill::handler::sends::{Event, Guest, Receipt};

    use super::records::Outcome;

    /// Hands over what became of an event, and the failure back.
    pub fn run(completed: crate::Completed, event: Event, outcome: Result<Receipt, String>) -> Outcome {
        let event = crate::sends::Sent {
            destination: event.destination,
            id: event.id.unwrap_or_default(),
            event_type: event.event_type,
            key: event.key,
            value: event.value,
            headers: event.headers.into_iter().map(super::header).collect(),
        };
        completed(&event, outcome.map(super::receipt)).map_err(super::failure)
    }
}

pub mod timers {
    //! The export of `timers`.

    export_bindings!("timers-handler");

    pub use bindings::export;
    pub use bindings::exports;
    pub use bindings::exports::tidemill::handler::timers::{Guest, Timer};

    use super::records::Outcome;

    /// Hands a timer to the function of its schedule, and the failure back.
    pub fn run(timers: &[(&str, crate::Fire)], timer: Timer) -> Outcome {
        let timer = crate::timers::Timer::new(timer.name, crate::Time::from_millis(timer.due));
        timer.fire(timers).map_err(super::failure)
    }
}

pub mod http {
    //! The export of `http`.

    export_bindings!("http-handler");

    use bindings::exports::tidemill::handler::http::Field;

    pub use bindings::export;
    pub use bindings::exports;
    pub use bindings::exports::tidemill::handler::http::{Guest, Request, Response};

    /// Hands a request over and the answer back.
    pub fn run(routes: &[(&str, crate::Answer)], request: Request) -> Response {
        let request = crate::http::Request {
            method: request.method,
            path: request.path,
            route: request.route,
            params: request.params.into_iter().map(|param| (param.name, param.value)).collect(),
            query: request.query,
            headers: request.headers.into_iter().map(|field| (field.name, field.value)).collect(),
            body: request.body,
            user: request.user,
        };
        let crate::http::Response { status, headers, body } = crate::http::answer(routes, &request);
        Response { status, headers: headers.into_iter().map(|(name, value)| Field { name, value }).collect(), body }
    }
}

pub(crate) fn execute(statement: &str, params: Vec<Value>) -> Result<u64, sql::Error> {
    wit::sql::execute(statement, &to_wit(params)).map_err(sql_error)
}

pub(crate) fn query(statement: &str, params: Vec<Value>) -> Result<Rows, sql::Error> {
    let wit::sql::Rows { columns, rows } = wit::sql::query(statement, &to_wit(params)).map_err(sql_error)?;
    Ok(Rows { columns, rows: rows.into_iter().map(|row| row.into_iter().map(from_wit).collect()).collect() })
}

pub(crate) fn next_id() -> String {
    wit::publisher::next_id()
}

pub(crate) fn enqueue(event: Enqueued) -> Result<String, publisher::Error> {
    wit::publisher::enqueue(&to_event(event)).map_err(publisher_error)
}

pub(crate) fn enqueue_at(event: Enqueued, due: i64) -> Result<String, publisher::Error> {
    wit::delayed::enqueue_at(&to_event(event), due).map_err(publisher_error)
}

pub(crate) fn enqueue_after(event: Enqueued, delay_ms: u64) -> Result<String, publisher::Error> {
    wit::delayed::enqueue_after(&to_event(event), delay_ms).map_err(publisher_error)
}

pub(crate) fn send(event: Enqueued) -> Result<Receipt, publisher::Error> {
    wit::sender::send(&to_event(event)).map(receipt).map_err(publisher_error)
}

pub(crate) fn send_async(event: Enqueued) -> Result<String, publisher::Error> {
    wit::sender::send_async(&to_event(event)).map_err(publisher_error)
}

fn receipt(receipt: wit::sender::Receipt) -> Receipt {
    Receipt { id: receipt.id, partition: receipt.partition, offset: receipt.offset }
}

fn to_event(event: Enqueued) -> wit::publisher::Event {
    wit::publisher::Event {
        destination: event.destination,
        id: event.id,
        event_type: event.event_type,
        key: event.key,
        value: event.value,
        headers: event.headers.into_iter().map(|Header { name, value }| wit::types::Header { name, value }).collect(),
    }
}

fn publisher_error(error: wit::publisher::Error) -> publisher::Error {
    publisher::Error {
        kind: match error.kind {
            wit::publisher::ErrorKind::Destination => publisher::ErrorKind::Destination,
            wit::publisher::ErrorKind::Limit => publisher::ErrorKind::Limit,
            wit::publisher::ErrorKind::Id => publisher::ErrorKind::Id,
            wit::publisher::ErrorKind::ReadOnly => publisher::ErrorKind::ReadOnly,
        },
        message: error.message,
    }
}

pub(crate) fn call(request: outbound::Request) -> Result<outbound::Response, outbound::Error> {
    let field = |(name, value)| wit::outbound::Field { name, value };
    let request = wit::outbound::Request {
        method: request.method,
        url: request.url,
        headers: request.headers.into_iter().map(field).collect(),
        body: request.body,
        timeout_ms: request.timeout.map(millis),
    };
    let answer = wit::outbound::call(&request);
    let response = answer.map_err(|error| outbound::Error {
        kind: match error.kind {
            wit::outbound::ErrorKind::Request => outbound::ErrorKind::Request,
            wit::outbound::ErrorKind::Denied => outbound::ErrorKind::Denied,
            wit::outbound::ErrorKind::Late => outbound::ErrorKind::Late,
            wit::outbound::ErrorKind::ReadOnly => outbound::ErrorKind::ReadOnly,
            wit::outbound::ErrorKind::Limit => outbound::ErrorKind::Limit,
            wit::outbound::ErrorKind::Timeout => outbound::ErrorKind::Timeout,
            wit::outbound::ErrorKind::Unreachable => outbound::ErrorKind::Unreachable,
        },
        message: error.message,
    })?;
    Ok(outbound::Response {
        status: response.status,
        headers: response.headers.into_iter().map(|field| (field.name, field.value)).collect(),
        body: response.body,
    })
}

pub(crate) fn setting(name: &str) -> Option<String> {
    wit::config::get(name)
}

pub(crate) fn settings() -> Vec<(String, String)> {
    wit::config::all()
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Error => wit::log::Level::Error,
        Level::Warn => wit::log::Level::Warn,
        Level::Info => wit::log::Level::Info,
        Level::Debug => wit::log::Level::Debug,
        Level::Trace => wit::log::Level::Trace,
    };
    wit::log::write(level, message);
}

pub(crate) fn now() -> i64 {
    wit::delivery::now()
}

pub(crate) fn random(len: u32) -> Vec<u8> {
    wit::delivery::random(len)
}

pub(crate) fn attempt() -> u32 {
    wit::delivery::attempt()
}

pub(crate) fn event_id() -> Option<String> {
    wit::delivery::event_id()
}

pub(crate) fn event_type() -> Option<String> {
    wit::event::event_type()
}

pub(crate) fn event_version() -> Option<String> {
    wit::event::event_version()
}

fn header(header: wit::types::Header) -> Header {
    Header { name: header.name, value: header.value }
}

fn failure(failure: Failure) -> wit::types::Failure {
    let trouble = |message, after: Option<Duration>| wit::types::Trouble { message, after_ms: after.map(millis) };
    match failure {
        Failure::Retry { message, after } => wit::types::Failure::Retry(trouble(message, after)),
        Failure::Reject(why) => wit::types::Failure::Reject(why),
        Failure::Unavailable { message, after } => wit::types::Failure::Unavailable(trouble(message, after)),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn to_wit(params: Vec<Value>) -> Vec<wit::sql::Value> {
    params
        .into_iter()
        .map(|value| match value {
            Value::Null => wit::sql::Value::Null,
            Value::Integer(value) => wit::sql::Value::Integer(value),
            Value::Real(value) => wit::sql::Value::Real(value),
            Value::Text(value) => wit::sql::Value::Text(value),
            Value::Blob(value) => wit::sql::Value::Blob(value),
        })
        .collect()
}

fn from_wit(value: wit::sql::Value) -> Value {
    match value {
        wit::sql::Value::Null => Value::Null,
        wit::sql::Value::Integer(value) => Value::Integer(value),
        wit::sql::Value::Real(value) => Value::Real(value),
        wit::sql::Value::Text(value) => Value::Text(value),
        wit::sql::Value::Blob(value) => Value::Blob(value),
    }
}

fn sql_error(error: wit::sql::Error) -> sql::Error {
    let kind = match error.kind {
        wit::sql::ErrorKind::Statement => sql::ErrorKind::Statement,
        wit::sql::ErrorKind::Constraint => sql::ErrorKind::Constraint,
        wit::sql::ErrorKind::Denied => sql::ErrorKind::Denied,
        wit::sql::ErrorKind::ReadOnly => sql::ErrorKind::ReadOnly,
        wit::sql::ErrorKind::Limit => sql::ErrorKind::Limit,
        wit::sql::ErrorKind::Other => sql::ErrorKind::Other,
    };
    sql::Error { kind, code: error.code, message: error.message }
}
