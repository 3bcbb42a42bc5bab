//! `handler.toml`: what a handler says about itself.
//!
//! The same shape is what the operator writes under `[handler.NAME]`; [`Spec`] is what results when the common
//! defaults, the manifest and the operator's overrides are laid over each other. Reading runs nothing.

pub(crate) mod names;
pub mod pattern;
pub(crate) mod read;
mod resolve;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::secrets::{Secrets, Source};
use crate::kafka::sender;
use crate::kafka::template::Template;
use crate::outbound::{self, Origin};
use crate::policy::{Backoff, Order, Outcome, Policy, Treatment, circuit, probation};
use crate::schedule::Schedule;
use crate::settings::reader::{self, Variables};
use crate::settings::{
    Assignment, Consumer, DeadLetter, DeadLetterPartition, Defaults, Isolation, Limits, Problems, Rates,
};
use crate::store::rights::Grants;

/// A manifest, or an operator's overrides: every part may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// `name`: required in a manifest, refused in an override.
    pub name: Option<String>,
    /// `group`: the consumer group. Default the name.
    pub group: Option<String>,
    /// `store`: the database. Default the name.
    pub store: Option<String>,
    /// `topics`
    pub topics: Option<Vec<String>>,
    /// `pattern`: a regular expression on topic names, from `^`; here already as librdkafka takes it (POSIX
    /// extended, where `\d` became `[0123456789]`).
    pub pattern: Option<String>,
    /// `start`
    pub start: Option<Start>,
    /// `event-id`
    pub event_id: Option<EventId>,
    /// `envelope`
    pub envelope: Option<Envelope>,
    /// `event-type`
    pub event_type: Option<Place>,
    /// `event-version`
    pub event_version: Option<Place>,
    /// `event-source`
    pub event_source: Option<String>,
    /// `instances`
    pub instances: Option<Instances>,
    /// `newer-schema`
    pub newer_schema: Option<bool>,
    /// `[retry]`
    pub retry: Retry,
    /// `[compensation]`
    pub compensation: CompensationPart,
    /// `[outbound]`
    pub outbound: OutboundPart,
    /// `[send]`
    pub send: SendPart,
    /// `http` under `[grant]`: origins that it may call.
    pub origins: Option<Vec<Origin>>,
    /// `secrets` of a manifest: the names that it asks for.
    pub secrets: Vec<String>,
    /// `[secrets]` of the operator's: where each is kept.
    pub sources: BTreeMap<String, Source>,
    /// `tables` under `[grant]`: of other handlers' tables, what a manifest asks for, or what the operator gives.
    pub tables: Grants,
    /// `[circuit]`
    pub circuit: CircuitPart,
    /// `[probation]`: the operator's alone, since a version does not decide how it is tried.
    pub probation: ProbationPart,
    /// `[dead-letter]`
    pub dead_letter: DeadLetterPart,
    /// `[rate]`
    pub rates: Rates,
    /// `[[route]]`
    pub routes: Option<Vec<Route>>,
    /// `[events]`: the operator's alone, since it lets others publish in the handler's name.
    pub events: Endpoint,
    /// `[[schedule]]`
    pub schedules: Option<Vec<Schedule>>,
    /// `[publish]`: destination = topic.
    pub publish: BTreeMap<String, Template>,
    /// `time-zone`: in which dates in the topics of `[publish]` are taken.
    pub time_zone: Option<TimeZone>,
    /// `[settings]`: values that the handler reads; written as strings, integers, floats or booleans.
    pub settings: BTreeMap<String, String>,
    /// `[limits]`
    pub limits: LimitsPart,
    /// `[consumer]`
    pub consumer: ConsumerPart,
}

impl Manifest {
    /// Reads a whole `handler.toml`; `origin` names it in problems.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, Problems> {
        reader::read(origin, text, &Variables::new(), read::manifest)
    }
}

/// `[retry]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retry {
    /// `max-attempts`, from 1.
    pub max_attempts: Option<u32>,
    /// `backoff = { kind = "fixed", interval = "1s" }`, or `"exponential"` with `factor` and `max`; both with `jitter`.
    pub backoff: Option<Backoff>,
    /// `order`
    pub order: Option<Order>,
    /// `max-pending`
    pub max_pending: Option<u64>,
    /// `max-pending-bytes`
    pub max_pending_bytes: Option<usize>,
    /// `[retry.on]`
    pub classes: Vec<(Outcome, ClassPart)>,
}

/// `[retry.on]` for one outcome, each part optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassPart {
    /// `as`
    pub treatment: Option<Treatment>,
    /// `max-attempts`
    pub max_attempts: Option<u32>,
}

/// `[compensation]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompensationPart {
    /// `max-attempts`
    pub max_attempts: Option<u32>,
    /// `backoff`
    pub backoff: Option<Backoff>,
}

/// `[outbound]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutboundPart {
    /// `timeout`
    pub timeout: Option<Duration>,
    /// `max-attempts`
    pub max_attempts: Option<u32>,
    /// `backoff`
    pub backoff: Option<Backoff>,
    /// `retry-status`
    pub retry_status: Option<Vec<u16>>,
    /// `body-limit`
    pub body_limit: Option<usize>,
    /// `max-calls`
    pub max_calls: Option<usize>,
}

/// `[send]`, each part optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendPart {
    /// `timeout`
    pub timeout: Option<Duration>,
    /// `max-attempts`
    pub max_attempts: Option<u32>,
}

/// `[circuit]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CircuitPart {
    /// `wait`
    pub wait: Option<Duration>,
    /// `max-wait`
    pub max_wait: Option<Duration>,
    /// `probes`
    pub probes: Option<usize>,
    /// `failure-rate`
    pub failure_rate: Option<f64>,
    /// `window`
    pub window: Option<u32>,
}

/// `[probation]`, each part optional.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbationPart {
    /// `records`
    pub records: Option<u32>,
    /// `trap-rate`
    pub trap_rate: Option<f64>,
    /// `copy-limit`
    pub copy_limit: Option<usize>,
    /// `smoke-records`
    pub smoke_records: Option<usize>,
}

/// `[dead-letter]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterPart {
    /// `topic`
    pub topic: Option<String>,
    /// `partition`
    pub partition: Option<DeadLetterPartition>,
    /// `partitions`
    pub partitions: Option<i32>,
    /// `replicas`
    pub replicas: Option<i32>,
    /// `answers`
    pub answers: Option<bool>,
}

/// `[limits]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitsPart {
    /// `time`
    pub time: Option<Duration>,
    /// `cpu`
    pub cpu: Option<f64>,
    /// `failing-cpu`
    pub failing_cpu: Option<f64>,
    /// `memory`
    pub memory: Option<usize>,
    /// `table-elements`
    pub table_elements: Option<usize>,
    /// `tables`
    pub tables: Option<usize>,
    /// `core-instances`
    pub core_instances: Option<usize>,
    /// `sql-statements`
    pub sql_statements: Option<usize>,
    /// `sql-rows`
    pub sql_rows: Option<usize>,
    /// `sql-bytes`
    pub sql_bytes: Option<usize>,
    /// `events`
    pub events: Option<usize>,
    /// `event-bytes`
    pub event_bytes: Option<usize>,
    /// `log-bytes`
    pub log_bytes: Option<usize>,
    /// `response-bytes`
    pub response_bytes: Option<usize>,
}

/// `[consumer]`, each part optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerPart {
    /// `session-timeout`
    pub session_timeout: Option<Duration>,
    /// `heartbeat-interval`
    pub heartbeat_interval: Option<Duration>,
    /// `assignment`
    pub assignment: Option<Assignment>,
    /// `static-membership`
    pub static_membership: Option<bool>,
    /// `isolation`
    pub isolation: Option<Isolation>,
    /// `discovery-interval`
    pub discovery_interval: Option<Duration>,
    /// `high-mark`
    pub high_mark: Option<usize>,
    /// `commit-interval`
    pub commit_interval: Option<Duration>,
    /// `concurrency`: deliveries under way at once, those that wait for the outside included.
    pub concurrency: Option<usize>,
    /// `[consumer.librdkafka]`: librdkafka's own names.
    pub librdkafka: BTreeMap<String, String>,
}

/// What serves a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instances {
    /// An instance of its own (default): nothing of a delivery is left for the next.
    #[default]
    Fresh,
    /// One that has served others before, and keeps its memory. It is thrown away whenever a delivery is undone.
    Reused,
}

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record (default).
    Earliest,
    /// Records that arrive from now on.
    Latest,
    /// The first record of this time or later, in milliseconds since the Unix epoch; without one, those that arrive
    /// from now on.
    Time(i64),
}

/// Where something that a record says of its event is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `"/eventId"`: a JSON pointer (RFC 6901) into the value.
    Pointer(String),
    /// `"ce_id"`, or `"header:key"`: the name of a header.
    Header(String),
    /// The attribute of a CloudEvent, in either mode of the Kafka binding.
    CloudEvent(&'static str),
}

/// `envelope`: what stands around the payloads of the events that a handler reads and publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Envelope {
    /// `"none"` (default): the value is the payload.
    #[default]
    None,
    /// `"payload"`: `{"eventId", "eventType", "payload"}`.
    Payload,
    /// `"flat"`: the payload's own fields, behind `eventId`, `eventType` and `timestamp`.
    Flat,
    /// `"cloudevents"`: CloudEvents 1.0, both modes of the Kafka binding, published in the binary one.
    CloudEvents,
    /// `"cloudevents-structured"`: the same, published in the structured mode.
    CloudEventsStructured,
    /// `"debezium"`: as Debezium's outbox event router publishes: the payload, with the id in the header `id`.
    Debezium,
}

impl Envelope {
    /// All, by their names.
    pub const NAMES: [(&str, Self); 6] = [
        ("none", Self::None),
        ("payload", Self::Payload),
        ("flat", Self::Flat),
        ("cloudevents", Self::CloudEvents),
        ("cloudevents-structured", Self::CloudEventsStructured),
        ("debezium", Self::Debezium),
    ];

    /// Where an event's id stands, unless the manifest says so.
    pub fn id(self) -> EventId {
        match self {
            Self::None => EventId::Offset,
            Self::Payload | Self::Flat => EventId::At(Place::Pointer("/eventId".into())),
            Self::CloudEvents | Self::CloudEventsStructured => EventId::At(Place::CloudEvent("id")),
            Self::Debezium => EventId::At(Place::Header("id".into())),
        }
    }

    /// The same of its type.
    pub fn event_type(self) -> Place {
        match self {
            Self::None => Place::Header("event-type".into()),
            Self::Payload | Self::Flat => Place::Pointer("/eventType".into()),
            Self::CloudEvents | Self::CloudEventsStructured => Place::CloudEvent("type"),
            Self::Debezium => Place::Header("eventType".into()),
        }
    }

    /// The same of its schema's version.
    pub fn event_version(self) -> Place {
        match self {
            Self::None | Self::Debezium => Place::Header("event-version".into()),
            Self::Payload | Self::Flat => Place::Pointer("/eventVersion".into()),
            Self::CloudEvents | Self::CloudEventsStructured => Place::CloudEvent("dataversion"),
        }
    }
}

/// Where a record's event id is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventId {
    /// The event says it.
    At(Place),
    /// `"key"`: the record's key.
    Key,
    /// `"offset"`: topic id, partition and offset (default).
    Offset,
}

/// `[[route]]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// `method`, upper case.
    pub method: String,
    /// `path`, such as `/api/orders/{id}`.
    pub path: String,
    /// `auth = "jwt"`: a bearer token is needed; absent (or `"none"`), anybody may call.
    pub jwt: bool,
    /// `example`: a body to try the route with, printed when the daemon starts.
    pub example: Option<String>,
    /// `per-address`, `per-user`: how often one client may call it.
    pub rates: Rates,
    /// `body-limit`, bytes, where it is less than `http.body-limit`.
    pub body_limit: Option<usize>,
}

impl Route {
    /// `GET` and `HEAD` read; everything else writes.
    pub fn reads(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

/// `[events]`: where code outside publishes in a handler's name, by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `destinations`: those of `[publish]` that are open to it. Default none.
    pub destinations: Vec<String>,
    /// `auth = "none"`: anybody may publish; absent (or `"jwt"`), who has a bearer token.
    pub open: bool,
}

impl Endpoint {
    /// The parameter of its path.
    pub const DESTINATION: &str = "destination";

    /// Its route, if the operator has switched it on.
    pub fn route(&self, handler: &str) -> Option<Route> {
        let path = format!("/events/{handler}/{{{}}}", Self::DESTINATION);
        let route = Route { method: "POST".to_owned(), path, jwt: !self.open, ..Route::default() };
        (!self.destinations.is_empty()).then_some(route)
    }
}

/// A handler's configuration, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Unique among the handlers of a daemon.
    pub name: String,
    /// The consumer group; no other handler has it.
    pub group: String,
    /// The store's name.
    pub store: String,
    /// Topics by name.
    pub topics: Vec<String>,
    /// Topics by pattern, as librdkafka takes it.
    pub pattern: Option<String>,
    /// Where it starts.
    pub start: Start,
    /// Where event ids are.
    pub event_id: EventId,
    /// What stands around payloads.
    pub envelope: Envelope,
    /// Where event types are.
    pub event_type: Place,
    /// Where the versions of their schemas are.
    pub event_version: Place,
    /// The `source` of the CloudEvents that it publishes.
    pub event_source: String,
    /// What serves its deliveries.
    pub instances: Instances,
    /// Whether it can live with tables that later migrations have changed, and so be rolled back to.
    pub newer_schema: bool,
    /// What follows a failure.
    pub retry: Policy,
    /// What follows a failure to compensate.
    pub compensation: Policy,
    /// How it calls services outside.
    pub outbound: outbound::Settings,
    /// How it sends past the outbox.
    pub send: sender::Settings,
    /// When its lanes stand still, since what it needs is down.
    pub circuit: circuit::Settings,
    /// How a version of it is tried that has taken another's place.
    pub probation: probation::Settings,
    /// Where a record goes at last.
    pub dead_letter: DeadLetter,
    /// How often one client may call it over HTTP, whatever the route.
    pub rates: Rates,
    /// HTTP routes.
    pub routes: Vec<Route>,
    /// Where others publish in its name.
    pub events: Endpoint,
    /// When its timers are due.
    pub schedules: Vec<Schedule>,
    /// Destination = topic.
    pub publish: BTreeMap<String, Template>,
    /// In which dates in those topics are taken.
    pub time_zone: TimeZone,
    /// What it may do with other handlers' tables in its store.
    pub tables: Grants,
    /// For `config.get`.
    pub settings: BTreeMap<String, String>,
    /// For the same, by other names.
    pub secrets: Secrets,
    /// For each delivery.
    pub limits: Limits,
    /// How it reads.
    pub consumer: Consumer,
}

impl Spec {
    /// Everything that it is asked over HTTP, what the host answers for it included.
    pub fn served(&self) -> Vec<Route> {
        self.routes.iter().cloned().chain(self.events.route(&self.name)).collect()
    }

    /// Whether it reads topics.
    pub fn reads(&self) -> bool {
        !self.topics.is_empty() || self.pattern.is_some()
    }

    /// The configuration that results from a manifest, the common defaults and the operator's override of it.
    ///
    /// # Errors
    /// What the values together get wrong.
    pub fn resolve(manifest: &Manifest, defaults: &Defaults, over: Option<&Manifest>) -> Result<Self, Problems> {
        let (spec, missing) = Self::lay_out(manifest, defaults, over)?;
        missing.or(spec)
    }

    /// The same, whatever is given of what it asks for: that is told beside it.
    ///
    /// # Errors
    /// What the values together get wrong, and what it asks for that is not given.
    pub fn lay_out(
        manifest: &Manifest,
        defaults: &Defaults,
        over: Option<&Manifest>,
    ) -> Result<(Self, Problems), Problems> {
        resolve::spec(manifest, defaults, over)
    }
}
