//! Between the host's words and the contract's.
//!
//! Nothing is lost on the way in; on the way out only what people read is cut to a size that can be stored.

use bytes::Bytes;

use super::bindings::exports::tidemill::handler as exports;
use super::bindings::exports::tidemill::handler::compensation;
use super::bindings::tidemill::handler::{publisher, sender, types};
use super::delivery::Sending;
use crate::kafka::sender::{Outcome, Position};
use crate::ledger::pending::{Refused, TIMERS};
use crate::policy::{self, Failure};
use crate::record::{Record, Request};

/// Characters of a failure's message that are kept.
const MESSAGE_MAX: usize = 2_000;

pub(super) fn record(record: &Record) -> exports::records::Record {
    exports::records::Record {
        topic: record.topic.to_string(),
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp.millis(),
        key: record.key.as_deref().map(<[u8]>::to_vec),
        value: record.value.as_deref().map(<[u8]>::to_vec),
        headers: headers(record),
    }
}

/// A timer, which the host has as a record.
pub(super) fn timer(record: &Record) -> exports::timers::Timer {
    exports::timers::Timer { name: record.topic.to_string(), due: record.offset, payload: None }
}

pub(super) fn compensation(record: &Record, event: Option<&Refused>) -> compensation::Input {
    let bytes = |part: &Option<Bytes>| part.as_deref().map(<[u8]>::to_vec);
    match event {
        Some(event) => compensation::Input::Event(compensation::Event {
            id: event.event_id.clone(),
            event_type: event.event_type.clone(),
            topic: record.topic.to_string(),
            key: bytes(&record.key),
            value: bytes(&record.value),
            headers: headers(record),
            source: event.source.clone(),
        }),
        None if record.partition == TIMERS => compensation::Input::Timer(compensation::Timer {
            name: record.topic.to_string(),
            due: record.offset,
            payload: None,
        }),
        None => compensation::Input::Record(compensation::Record {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp.millis(),
            key: bytes(&record.key),
            value: bytes(&record.value),
            headers: headers(record),
        }),
    }
}

fn headers(record: &Record) -> Vec<types::Header> {
    record.headers.iter().map(header).collect()
}

fn header(h: &crate::record::Header) -> types::Header {
    types::Header { name: h.name.clone(), value: h.value.as_deref().map(<[u8]>::to_vec) }
}

/// An event that was sent, and what became of it.
pub(super) fn sent(sending: &Sending, outcome: &Outcome) -> (publisher::Event, Result<sender::Receipt, String>) {
    let bytes = |part: &Option<Bytes>| part.as_deref().map(<[u8]>::to_vec);
    let event = &sending.event;
    let outcome = match outcome {
        Ok(Position { partition, offset }) => {
            Ok(sender::Receipt { id: event.event_id.clone(), partition: *partition, offset: *offset })
        }
        Err(error) => Err(error.to_string()),
    };
    let event = publisher::Event {
        destination: sending.destination.clone(),
        id: Some(event.event_id.clone()),
        event_type: event.event_type.clone(),
        key: bytes(&event.key),
        value: bytes(&event.value),
        headers: event.headers.iter().map(header).collect(),
    };
    (event, outcome)
}

pub(super) fn request(request: &Request) -> exports::http::Request {
    exports::http::Request {
        method: request.method.clone(),
        path: request.path.clone(),
        route: request.route.clone(),
        params: request
            .params
            .iter()
            .map(|(name, value)| exports::http::PathParam { name: name.clone(), value: value.clone() })
            .collect(),
        query: request.query.clone(),
        headers: request
            .headers
            .iter()
            .map(|(name, value)| exports::http::Field { name: name.clone(), value: value.to_vec() })
            .collect(),
        body: request.body.to_vec(),
        user: request.user.clone(),
    }
}

/// A guest's words go into dead letters and ledger rows, which must stay small enough to be written.
pub(super) fn shorten(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX) {
        message.truncate(end);
        message.push_str(" ... (cut)");
    }
    message
}

pub(super) fn failure(failure: types::Failure) -> Failure {
    let (outcome, message, after_ms) = match failure {
        types::Failure::Retry(trouble) => (policy::Outcome::Retry, trouble.message, trouble.after_ms),
        types::Failure::Unavailable(trouble) => (policy::Outcome::Unavailable, trouble.message, trouble.after_ms),
        types::Failure::Reject(message) => (policy::Outcome::of_reject(&message), message, None),
    };
    Failure { outcome, message: shorten(message), after: after_ms.map(std::time::Duration::from_millis) }
}
