//! Spans as they are told, with the names of OpenTelemetry's semantic conventions.
//!
//! Made only where a trace is recorded. Of a statement its text is told and never what is bound; of a record its place and never its key or its value.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

use super::Context;
use crate::clock;
use crate::outbound::{Answer, Call};

/// The longest text of a statement or a path, in bytes.
const TEXT_MAX: usize = 4 << 10;

/// Begins a span; it ends when [`end`] says so.
pub fn begin(
    own: Context,
    parent: Option<Context>,
    kind: SpanKind,
    name: impl Into<Cow<'static, str>>,
    since: Instant,
    attributes: Vec<KeyValue>,
) -> SpanData {
    let start_time = clock::wall(since);
    SpanData {
        span_context: SpanContext::new(own.trace, own.span, TraceFlags::SAMPLED, true, TraceState::default()),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
        parent_span_is_remote: parent.is_some(),
        span_kind: kind,
        name: name.into(),
        start_time,
        end_time: start_time,
        attributes,
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: Status::Unset,
        instrumentation_scope: opentelemetry::InstrumentationScope::builder("tidemill")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

/// The span ends here; with what went wrong, and under which name, if anything did.
pub fn end(mut span: SpanData, at: Instant, error: Option<(&str, &str)>) -> SpanData {
    span.end_time = clock::wall(at).max(span.start_time);
    if let Some((kind, message)) = error {
        span.attributes.push(KeyValue::new("error.type", kind.to_owned()));
        span.status = Status::error(message.to_owned());
    }
    span
}

/// An attribute.
pub fn tag(key: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(key, value)
}

/// A statement of a guest's, the `n`-th thing that its delivery did; `rows` where it returned some.
pub fn statement(
    of: Context,
    n: u32,
    sql: &str,
    (since, until): (Instant, Instant),
    outcome: Result<Option<u64>, &str>,
) -> SpanData {
    let verb = sql.split_whitespace().next().unwrap_or("SQL").to_ascii_uppercase();
    let verb: String = verb.chars().filter(char::is_ascii_alphabetic).take(16).collect();
    let mut attributes = vec![
        tag("db.system.name", "sqlite"),
        tag("db.query.text", shorten(sql).to_owned()),
        tag("db.operation.name", verb.clone()),
    ];
    if let Ok(Some(rows)) = outcome {
        attributes.push(tag("db.response.returned_rows", i64::try_from(rows).unwrap_or(i64::MAX)));
    }
    let span = begin(of.child(&n.to_be_bytes()), Some(of), SpanKind::Client, verb, since, attributes);
    end(local(span), until, outcome.err().map(|message| ("sql", message)))
}

/// A call to a service outside, made at `since`.
pub fn call(own: Context, parent: Context, call: &Call, since: Instant, answer: &Answer) -> SpanData {
    let mut attributes = vec![
        tag("http.request.method", call.method().to_owned()),
        tag("server.address", call.host().to_owned()),
        tag("server.port", i64::from(call.port())),
        // A query may hold what is secret.
        tag("url.full", call.url().split(['?', '#']).next().unwrap_or_default().to_owned()),
    ];
    let status = answer.as_ref().map(|response| response.status);
    if let Ok(status) = status {
        attributes.push(tag("http.response.status_code", i64::from(status)));
    }
    let span = begin(own, Some(parent), SpanKind::Client, call.method().to_owned(), since, attributes);
    let error = match answer {
        Ok(response) if response.status < 400 => None,
        Ok(response) => Some((response.status.to_string(), String::new())),
        Err(error) => Some((format!("{:?}", error.kind).to_ascii_lowercase(), error.message.clone())),
    };
    end(local(span), Instant::now(), error.as_ref().map(|(kind, message)| (kind.as_str(), message.as_str())))
}

/// An event on its way to a topic.
pub struct Publish<'e> {
    /// The topic.
    pub topic: &'e str,
    /// The event's id.
    pub event_id: &'e str,
    /// By which handler.
    pub handler: &'e str,
}

impl Publish<'_> {
    /// Its span, which began so long ago; where it has arrived, or why it has not.
    pub fn told(self, own: Context, parent: Context, ago: Duration, end_of: Result<(i32, i64), &str>) -> SpanData {
        let mut attributes = vec![
            tag("messaging.system", "kafka"),
            tag("messaging.operation.name", "send"),
            tag("messaging.operation.type", "send"),
            tag("messaging.destination.name", self.topic.to_owned()),
            tag("messaging.message.id", self.event_id.to_owned()),
            tag("tidemill.handler", self.handler.to_owned()),
        ];
        if let Ok((partition, offset)) = end_of {
            attributes.push(tag("messaging.destination.partition.id", partition.to_string()));
            attributes.push(tag("messaging.kafka.offset", offset));
        }
        let (now, name) = (Instant::now(), format!("send {}", self.topic));
        let mut span = begin(own, Some(parent), SpanKind::Producer, name, now, attributes);
        span.start_time -= ago;
        end(local(span), now, end_of.err().map(|message| ("publish", message)))
    }
}

/// Its parent is of the same process.
pub fn local(span: SpanData) -> SpanData {
    SpanData { parent_span_is_remote: false, ..span }
}

/// When a time in milliseconds since the Unix epoch was, before now.
pub fn since(at: i64) -> Duration {
    Duration::from_millis(u64::try_from(clock::now().saturating_sub(at)).unwrap_or(0))
}

/// A text, cut where it would be too long for a span.
pub fn shorten(text: &str) -> &str {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
