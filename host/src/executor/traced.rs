//! What is told of deliveries whose trace is recorded.
//!
//! Its invariant: spans lie in the group with all else that it would change, and leave after COMMIT: a run that was thrown away is
//! not told, and an attempt that was undone is told as one that failed.

use std::time::{Duration, Instant};

use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;

use super::group::Group;
use super::record::Delivery;
use super::{Executor, Live};
use crate::policy::Failure;
use crate::record::{Request, Response, Timestamp};
use crate::settings::units;
use crate::trace::span::{self, tag};
use crate::trace::{Context, Place, Tracer};

/// Names the span of a commit among those of its delivery.
const COMMIT: &[u8] = b"commit";

/// A delivery that ran.
pub(super) struct Traced {
    own: Context,
    span: SpanData,
    /// What went wrong, and under which name.
    error: Option<(String, String)>,
    /// What it did.
    below: Vec<SpanData>,
}

impl Traced {
    /// Tells it as over.
    pub(super) fn tell(self, tracer: &Tracer, at: Instant) {
        self.below.into_iter().for_each(|span| tracer.tell(span));
        let error = self.error.as_ref().map(|(kind, message)| (kind.as_str(), message.as_str()));
        tracer.tell(span::end(self.span, at, error));
    }
}

/// What log lines say of a trace.
pub(super) fn told_of(
    place: &Place,
) -> (
    Option<tracing::field::DisplayValue<opentelemetry::TraceId>>,
    Option<tracing::field::DisplayValue<opentelemetry::SpanId>>,
) {
    let current = place.current();
    (current.map(|c| tracing::field::display(c.trace)), current.map(|c| tracing::field::display(c.span)))
}

impl Executor {
    /// The group has committed: what its deliveries did is told, each with the commit that made it true.
    pub(super) fn tell_of(
        &self,
        traced: Vec<Traced>,
        deliveries: usize,
        committed_at: Option<Instant>,
        took: Duration,
    ) {
        let Some(at) = committed_at else { return };
        let began = at.checked_sub(took).unwrap_or(at);
        for traced in traced {
            let attributes = vec![
                tag("db.system.name", "sqlite"),
                tag("db.operation.name", "COMMIT"),
                tag("tidemill.store", self.name.clone()),
                tag("tidemill.group.deliveries", i64::try_from(deliveries).unwrap_or(i64::MAX)),
            ];
            let (own, of) = (traced.own.child(COMMIT), Some(traced.own));
            let commit = span::begin(own, of, SpanKind::Client, "COMMIT", began, attributes);
            self.outside.tracer.tell(span::end(span::local(commit), at, None));
            traced.tell(&self.outside.tracer, at);
        }
    }
}

impl Delivery {
    /// It has ended so. `trouble` is what the operator reads of it.
    pub(super) fn traced(&self, group: &mut Group, outcome: &'static str, below: Vec<SpanData>, trouble: Option<&str>) {
        let Some(((own, parent), since)) = self.place.recorded().zip(self.since) else { return };
        let spec = &self.live.environment.spec;
        let record = &self.record;
        let mut attributes = common(&spec.name, &self.live, outcome);
        attributes.push(tag("tidemill.attempt", i64::from(self.attempt)));
        let (kind, name) = if self.is_timer() {
            attributes.push(tag("tidemill.timer.due", units::show_time(record.offset)));
            (SpanKind::Internal, format!("timer {}", record.topic))
        } else {
            attributes.extend([
                tag("messaging.system", "kafka"),
                tag("messaging.operation.name", "process"),
                tag("messaging.operation.type", "process"),
                tag("messaging.destination.name", record.topic.to_string()),
                tag("messaging.consumer.group.name", spec.group.clone()),
            ]);
            // An event that Kafka has refused has no place there.
            if record.partition >= 0 {
                attributes.push(tag("messaging.destination.partition.id", record.partition.to_string()));
                attributes.push(tag("messaging.kafka.offset", record.offset));
            }
            if let Some(id) = &self.event_id {
                attributes.push(tag("messaging.message.id", id.clone()));
            }
            if let Timestamp::CreateTime(at) | Timestamp::LogAppendTime(at) = record.timestamp {
                attributes.push(tag("tidemill.record.time", units::show_time(at)));
            }
            (SpanKind::Consumer, format!("process {}", record.topic))
        };
        let (kind, name) = match self.input.reason() {
            None => (kind, name),
            Some(_) => (SpanKind::Internal, format!("compensate {}", self.source)),
        };
        attributes.push(tag("tidemill.run.seconds", since.elapsed().as_secs_f64()));
        let span = span::begin(own, parent, kind, name, since, attributes);
        let error = trouble.map(|trouble| (outcome.to_owned(), trouble.to_owned()));
        group.traced.push(Traced { own, span, error, below });
    }
}

/// A request that a handler was given at `since`, and its answer.
pub(super) fn request(
    place: &Place,
    live: &Live,
    request: &Request,
    since: Instant,
    answer: &Result<Response, Failure>,
    below: Vec<SpanData>,
) -> Option<Traced> {
    let (own, parent) = place.recorded()?;
    let outcome = answer.as_ref().map_or_else(|failure| failure.outcome.name(), |_| "done");
    let mut attributes = common(&live.environment.spec.name, live, outcome);
    attributes.extend([
        tag("http.request.method", request.method.clone()),
        tag("http.route", request.route.clone()),
        tag("url.path", request.path.clone()),
        tag("url.scheme", "http"),
    ]);
    if let Ok(response) = answer {
        attributes.push(tag("http.response.status_code", i64::from(response.status)));
    }
    let name = format!("{} {}", request.method, request.route);
    let span = span::begin(own, parent, SpanKind::Server, name, since, attributes);
    let error = match answer {
        Err(failure) => Some((outcome.to_owned(), failure.message.clone())),
        Ok(response) if response.status >= 500 => Some((response.status.to_string(), String::new())),
        Ok(_) => None,
    };
    Some(Traced { own, span, error, below })
}

/// An event of which its handler is told what became of it.
pub(super) struct Report<'e> {
    pub(super) topic: &'e str,
    pub(super) event_id: &'e str,
}

impl Report<'_> {
    pub(super) fn traced(
        self,
        place: &Place,
        live: &Live,
        since: Option<Instant>,
        outcome: &str,
        trouble: Option<&str>,
        below: Vec<SpanData>,
    ) -> Option<Traced> {
        let ((own, parent), since) = place.recorded().zip(since)?;
        let mut attributes = common(&live.environment.spec.name, live, outcome);
        attributes.extend([
            tag("messaging.destination.name", self.topic.to_owned()),
            tag("messaging.message.id", self.event_id.to_owned()),
        ]);
        let name = format!("completed {}", self.topic);
        let span = span::begin(own, parent, SpanKind::Internal, name, since, attributes);
        let error = trouble.map(|trouble| (outcome.to_owned(), trouble.to_owned()));
        Some(Traced { own, span, error, below })
    }
}

fn common(handler: &str, live: &Live, outcome: &str) -> Vec<opentelemetry::KeyValue> {
    vec![
        tag("tidemill.handler", handler.to_owned()),
        tag("tidemill.version", live.version),
        tag("tidemill.outcome", outcome.to_owned()),
    ]
}
