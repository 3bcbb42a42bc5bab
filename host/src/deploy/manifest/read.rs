//! Reading a manifest, or an operator's overrides of one: the same keys, checked in the same way.
//!
//! Every value is checked by itself and placed at its line; what several values mean together is decided when a
//! [`Spec`](super::Spec) is made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use toml::de::DeValue;

use super::{
    CircuitPart, ClassPart, CompensationPart, ConsumerPart, DeadLetterPart, Endpoint, Envelope, Instances, LimitsPart,
    Manifest, OutboundPart, ProbationPart, Retry, Route, SendPart, Start, names, pattern,
};
use crate::deploy::secrets::Source;
use crate::deploy::smoke;
use crate::kafka::template::{self, Template};
use crate::outbound::Origin;
use crate::policy::circuit::WINDOW_MAX;
use crate::policy::{Backoff, Order, Outcome, Treatment, WAIT_MAX};
use crate::schedule::{Cron, Missed, Schedule, Times};
use crate::settings::librdkafka::{self, Reach};
use crate::settings::reader::Section;
use crate::settings::value::Value;
use crate::settings::{Assignment, DeadLetterPartition, Isolation, Rates, units};
use crate::store::rights::{Access, Grants};

const SECOND: Duration = Duration::from_secs(1);
/// Attempts that a policy can have.
const ATTEMPTS: RangeInclusive<i64> = 1..=1_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);
/// Between two due times of a schedule.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(366 * 24 * 3_600);
/// The largest memory that a 32-bit component can have.
const MEMORY: usize = 4 << 30;

/// The manifest itself, whose name is required.
pub(crate) fn manifest(section: &Section<'_>) -> Manifest {
    let name = section.require("name", |v| names::plain(v.text()?));
    let secrets = asked(section, "secrets", |v| names::plain(v.text()?));
    Manifest { name, secrets: secrets.unwrap_or_default(), ..common(section, Reach::Reading) }
}

/// What the operator overrides in a manifest: everything but the name. Relative paths are in the folder `base`.
pub(crate) fn overrides(section: &Section<'_>, base: &Path) -> Manifest {
    let _refused: Option<()> =
        section.take("name", |_| Err("a handler's name cannot be overridden; remove this line".to_owned()));
    let (probation, events) = (probation(&section.section("probation")), endpoint(&section.section("events")));
    Manifest { probation, events, sources: sources(section, "secrets", base), ..common(section, Reach::Client) }
}

/// Where the operator keeps the secrets of this table.
pub(crate) fn sources(section: &Section<'_>, key: &str, base: &Path) -> BTreeMap<String, Source> {
    let mut sources = BTreeMap::new();
    for (entry, section) in section.named_sections(key) {
        let env = section.take("env", |v| Ok(Source::Env(v.text()?.to_owned())));
        let file = section.take("file", |v| Ok(Source::File(base.join(v.text()?))));
        match (env, file) {
            (Some(source), None) | (None, Some(source)) => {
                sources.insert(entry.name.to_owned(), source);
            }
            _ => {
                let right = "`{ env = \"VARIABLE\" }` or `{ file = \"/path\" }`";
                section.problem_at(entry.line, format!("secret `{}`: write {right}", entry.name));
            }
        }
    }
    sources
}

fn common(section: &Section<'_>, reach: Reach) -> Manifest {
    let grant = section.section("grant");
    Manifest {
        name: None,
        secrets: Vec::new(),
        sources: BTreeMap::new(),
        group: section.take("group", |v| names::group(v.text()?)),
        store: section.take("store", |v| names::plain(v.text()?)),
        topics: asked(section, "topics", |v| names::topic(v.text()?)),
        pattern: section.take("pattern", |v| pattern::translate(v.text()?)),
        start: section.take("start", start),
        event_id: section.take("event-id", |v| names::event_id(v.text()?)),
        envelope: section.take("envelope", |v| v.choice(&Envelope::NAMES)),
        event_type: section.take("event-type", |v| names::place(v.text()?)),
        event_version: section.take("event-version", |v| names::place(v.text()?)),
        event_source: section.take("event-source", |v| names::source(v.text()?)),
        instances: section
            .take("instances", |v| v.choice(&[("fresh", Instances::Fresh), ("reused", Instances::Reused)])),
        newer_schema: section.take("newer-schema", |v| v.boolean()),
        retry: retry(&section.section("retry")),
        compensation: compensation(&section.section("compensation")),
        outbound: outbound(&section.section("outbound")),
        send: send(&section.section("send")),
        origins: grant.list("http", |v| Origin::parse(v.text()?)),
        tables: tables(&grant.section("tables")),
        circuit: circuit(&section.section("circuit")),
        probation: ProbationPart::default(),
        dead_letter: dead_letter(&section.section("dead-letter")),
        rates: rates(&section.section("rate")),
        routes: routes(section),
        events: Endpoint::default(),
        schedules: schedules(section),
        publish: publish(&section.section("publish")),
        time_zone: section.take("time-zone", |v| template::zone(v.text()?)),
        settings: settings(&section.section("settings")),
        limits: limits(&section.section("limits")),
        consumer: consumer(&section.section("consumer"), reach),
    }
}

/// `[events]`
fn endpoint(section: &Section<'_>) -> Endpoint {
    let destinations = asked(section, "destinations", |v| v.text().map(str::to_owned));
    let open = section.take("auth", |v| v.choice(&[("jwt", false), ("none", true)]));
    if open.is_some() && destinations.as_ref().is_none_or(Vec::is_empty) {
        section.problem(
            "auth",
            "opens nothing without `destinations`, the names under `[publish]` that others may publish to",
        );
    }
    Endpoint { destinations: destinations.unwrap_or_default(), open: open.unwrap_or(false) }
}

/// A list in which nothing stands twice.
fn asked(section: &Section<'_>, key: &str, parse: impl Fn(Value<'_>) -> Result<String, String>) -> Option<Vec<String>> {
    let names = section.list(key, parse)?;
    let mut seen = BTreeSet::new();
    for name in names.iter().filter(|name| !seen.insert(name.as_str())) {
        section.problem(key, &format!("\"{name}\" stands here twice"));
    }
    Some(names)
}

/// `[retry]`
pub(crate) fn retry(section: &Section<'_>) -> Retry {
    let order = |v: Value<'_>| v.choice(&[("partition", Order::Partition), ("key", Order::Key), ("none", Order::None)]);
    let on = section.section("on");
    Retry {
        max_attempts: section.take("max-attempts", |v| v.whole(ATTEMPTS)),
        backoff: backoff(&section.section("backoff")),
        order: section.take("order", order),
        max_pending: section.take("max-pending", |v| v.whole(1..=1_000_000_000)),
        max_pending_bytes: section.take("max-pending-bytes", |v| v.size(1..=1 << 40)),
        classes: Outcome::ALL.into_iter().map(|outcome| (outcome, class(&on.section(outcome.name())))).collect(),
    }
}

fn class(section: &Section<'_>) -> ClassPart {
    let treatments =
        [("retry", Treatment::Retry), ("reject", Treatment::Reject), ("unavailable", Treatment::Unavailable)];
    ClassPart {
        treatment: section.take("as", |v| v.choice(&treatments)),
        max_attempts: section.take("max-attempts", |v| v.whole(ATTEMPTS)),
    }
}

/// `backoff`
pub(crate) fn backoff(section: &Section<'_>) -> Option<Backoff> {
    let kind = section.take("kind", |v| v.choice(&[("fixed", false), ("exponential", true)]));
    let interval = match kind {
        Some(_) => section.require("interval", wait),
        None => section.take("interval", wait),
    };
    let factor = section.take("factor", |v| v.number(1.0..=100.0));
    let max = section.take("max", wait);
    let jitter = section.take("jitter", |v| v.number(0.0..=1.0)).unwrap_or(0.0);
    let exponential = kind == Some(true);
    for (key, set) in [("factor", factor.is_some()), ("max", max.is_some())] {
        if set && !exponential {
            section.problem(key, "goes with `kind = \"exponential\"` only");
        }
    }
    let fixed = Backoff { jitter, ..Backoff::fixed(interval?) };
    if !exponential {
        return Some(fixed);
    }
    let max = max.unwrap_or((60 * SECOND).max(fixed.interval));
    if max < fixed.interval {
        section.problem("max", "is shorter than `interval`");
    }
    Some(Backoff { factor: factor.unwrap_or(2.0), max, ..fixed })
}

fn wait(v: Value<'_>) -> Result<Duration, String> {
    v.duration(Duration::ZERO..=WAIT_MAX)
}

fn compensation(section: &Section<'_>) -> CompensationPart {
    CompensationPart {
        max_attempts: section.take("max-attempts", |v| v.whole(ATTEMPTS)),
        backoff: backoff(&section.section("backoff")),
    }
}

fn outbound(section: &Section<'_>) -> OutboundPart {
    OutboundPart {
        timeout: section.take("timeout", |v| v.duration(MILLISECOND..=3_600 * SECOND)),
        max_attempts: section.take("max-attempts", |v| v.whole(1..=1_000)),
        backoff: backoff(&section.section("backoff")),
        retry_status: section.list("retry-status", |v| v.whole(400..=599)),
        body_limit: section.take("body-limit", |v| v.size(0..=256 << 20)),
        max_calls: section.take("max-calls", |v| v.whole(0..=1_000)),
    }
}

fn send(section: &Section<'_>) -> SendPart {
    SendPart {
        // A delivery that waits holds its store.
        timeout: section.take("timeout", |v| v.duration(10 * MILLISECOND..=60 * SECOND)),
        max_attempts: section.take("max-attempts", |v| v.whole(ATTEMPTS)),
    }
}

/// `[circuit]`
pub(crate) fn circuit(section: &Section<'_>) -> CircuitPart {
    CircuitPart {
        wait: section.take("wait", |v| v.duration(MILLISECOND..=WAIT_MAX)),
        max_wait: section.take("max-wait", |v| v.duration(MILLISECOND..=WAIT_MAX)),
        probes: section.take("probes", |v| v.whole(1..=1_000)),
        failure_rate: section.take("failure-rate", |v| v.number(0.01..=1.0)),
        window: section.take("window", |v| v.whole(1..=i64::from(WINDOW_MAX))),
    }
}

/// `[probation]`
pub(crate) fn probation(section: &Section<'_>) -> ProbationPart {
    ProbationPart {
        records: section.take("records", |v| v.whole(0..=100_000)),
        trap_rate: section.take("trap-rate", |v| v.number(0.0..=1.0)),
        smoke_records: section.take("smoke-records", |v| v.whole(0..=smoke::MAX as i64)),
        copy_limit: section.take("copy-limit", |v| v.size(0..=1 << 50)),
    }
}

/// `[dead-letter]`
pub(crate) fn dead_letter(section: &Section<'_>) -> DeadLetterPart {
    DeadLetterPart {
        topic: section.take("topic", |v| names::dead_letter_topic(v.text()?)),
        partition: section.take("partition", |v| match v.scalar()?.as_str() {
            "same" => Ok(DeadLetterPartition::Same),
            number if number.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                let partition = number.parse().ok().filter(|partition: &i32| *partition >= 0);
                partition.map(DeadLetterPartition::Fixed).ok_or_else(|| format!("{v} is not a partition's number"))
            }
            _ => Err(format!("{v} is not known here; write \"same\" or a partition's number")),
        }),
        partitions: section.take("partitions", |v| v.whole(1..=100_000)),
        replicas: section.take("replicas", |v| v.whole(1..=32_767)),
        answers: section.take("answers", |v| v.boolean()),
    }
}

/// `[limits]`
pub(crate) fn limits(section: &Section<'_>) -> LimitsPart {
    const GIB: usize = 1 << 30;
    LimitsPart {
        time: section.take("time", |v| v.duration(MILLISECOND..=3_600 * SECOND)),
        cpu: section.take("cpu", |v| v.number(0.01..=1.0)),
        failing_cpu: section.take("failing-cpu", |v| v.number(0.01..=1.0)),
        memory: section.take("memory", |v| v.size(64 << 10..=MEMORY)),
        // No more than the engine has room for.
        table_elements: section.take("table-elements", |v| v.whole(0..=16 * 65_536)),
        tables: section.take("tables", |v| v.whole(0..=16)),
        core_instances: section.take("core-instances", |v| v.whole(1..=64)),
        sql_statements: section.take("sql-statements", |v| v.whole(0..=100_000_000)),
        sql_rows: section.take("sql-rows", |v| v.whole(1..=100_000_000)),
        sql_bytes: section.take("sql-bytes", |v| v.size(1..=GIB)),
        events: section.take("events", |v| v.whole(0..=1_000_000)),
        event_bytes: section.take("event-bytes", |v| v.size(0..=GIB)),
        log_bytes: section.take("log-bytes", |v| v.size(0..=GIB)),
        response_bytes: section.take("response-bytes", |v| v.size(0..=GIB)),
    }
}

/// `[consumer]`. What is refused in `[consumer.librdkafka]` depends on whose words these are.
pub(crate) fn consumer(section: &Section<'_>, reach: Reach) -> ConsumerPart {
    ConsumerPart {
        // A broker refuses more than its group.max.session.timeout.ms, 30 minutes unless it is told otherwise.
        session_timeout: section.take("session-timeout", |v| v.duration(SECOND..=1_800 * SECOND)),
        heartbeat_interval: section.take("heartbeat-interval", |v| v.duration(100 * MILLISECOND..=600 * SECOND)),
        assignment: section.take("assignment", |v| {
            v.choice(&[("cooperative", Assignment::Cooperative), ("eager", Assignment::Eager)])
        }),
        static_membership: section.take("static-membership", |v| v.boolean()),
        isolation: section.take("isolation", |v| {
            v.choice(&[("read-committed", Isolation::ReadCommitted), ("read-uncommitted", Isolation::ReadUncommitted)])
        }),
        discovery_interval: section.take("discovery-interval", |v| v.duration(100 * MILLISECOND..=3_600 * SECOND)),
        high_mark: section.take("high-mark", |v| v.whole(1..=10_000_000)),
        commit_interval: section.take("commit-interval", |v| v.duration(Duration::ZERO..=3_600 * SECOND)),
        concurrency: section.take("concurrency", |v| v.whole(1..=1_000_000)),
        librdkafka: librdkafka::read(&section.section("librdkafka"), reach),
    }
}

/// `"earliest"`, `"latest"`, or a time.
fn start(value: Value<'_>) -> Result<Start, String> {
    // TOML has times of its own, without quotes.
    let text = match value {
        Value::File(DeValue::Datetime(at)) => at.to_string(),
        value => value.text()?.to_owned(),
    };
    match text.as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        text => units::time(text).map(Start::Time).ok_or_else(|| {
            format!("{value} is not known here; write \"earliest\", \"latest\" or a time like \"2026-01-31T12:00:00Z\"")
        }),
    }
}

fn routes(section: &Section<'_>) -> Option<Vec<Route>> {
    let sections = section.sections("route")?;
    let mut placed = Vec::new();
    for section in &sections {
        let method = section.require("method", |v| names::method(v.text()?));
        let path = section.require("path", |v| names::path(v.text()?));
        let jwt = section.take("auth", |v| v.choice(&[("jwt", true), ("none", false)])).unwrap_or(false);
        let example = section.take("example", |v| v.text().map(str::to_owned));
        let body_limit = section.take("body-limit", |v| v.size(0..=1 << 30));
        let rates = rates(section);
        if rates.per_user.is_some() && !jwt {
            section.problem("per-user", "goes with `auth = \"jwt\"` only: without a token nobody has a name");
        }
        if let (Some(method), Some(path)) = (method, path) {
            placed.push((section, Route { method, path, jwt, example, rates, body_limit }));
        }
    }
    let (places, routes): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
    for (position, with) in names::conflicts(&routes) {
        if let Some((section, route)) = places.get(position).zip(routes.get(position)) {
            section.problem("path", &format!("{} {} cannot be told from {with} above", route.method, route.path));
        }
    }
    Some(routes)
}

/// How often one client may call.
pub(crate) fn rates(section: &Section<'_>) -> Rates {
    Rates { per_address: section.take("per-address", |v| v.rate()), per_user: section.take("per-user", |v| v.rate()) }
}

fn schedules(section: &Section<'_>) -> Option<Vec<Schedule>> {
    let mut schedules: Vec<Schedule> = Vec::new();
    for section in &section.sections("schedule")? {
        let name = section.require("name", |v| names::plain(v.text()?));
        let missed = section.take("missed", |v| v.choice(&[("latest", Missed::Latest), ("each", Missed::Each)]));
        if let (Some(name), Some(times)) = (name, times(section)) {
            if schedules.iter().any(|schedule| schedule.name == name) {
                section.problem("name", &format!("\"{name}\" stands here twice"));
            }
            schedules.push(Schedule { name, times, missed: missed.unwrap_or_default() });
        }
    }
    Some(schedules)
}

fn times(section: &Section<'_>) -> Option<Times> {
    let zone = section.take("time-zone", |v| template::zone(v.text()?));
    let cron = section.take("cron", |v| Ok(v.text()?.to_owned()));
    let interval = section.take("interval", |v| Ok(v.duration(INTERVALS)));
    let (key, times) = match (cron, interval) {
        (Some(text), None) => ("cron", Cron::parse(&text, zone.unwrap_or(TimeZone::UTC)).map(Times::Cron)),
        (None, Some(_)) if zone.is_some() => ("time-zone", Err("goes with `cron` only".to_owned())),
        (None, Some(interval)) => ("interval", interval.map(Times::Interval)),
        _ => ("cron", Err("write either this, like \"*/5 * * * *\", or `interval`, like \"30s\"".to_owned())),
    };
    times.map_err(|wrong| section.problem(key, &wrong)).ok()
}

fn publish(section: &Section<'_>) -> BTreeMap<String, Template> {
    let mut publish = BTreeMap::new();
    for entry in section.entries() {
        match Value::File(entry.value).text().and_then(Template::parse) {
            Ok(topic) => {
                publish.insert(entry.name.to_owned(), topic);
            }
            Err(wrong) => section.problem(entry.name, &wrong),
        }
    }
    publish
}

/// `[grant.tables]`
fn tables(section: &Section<'_>) -> Grants {
    let mut grants = Grants::default();
    for entry in section.entries() {
        let value = Value::File(entry.value);
        let access = match entry.value {
            DeValue::Table(_) => {
                Err("expected \"read\" or \"write\"; a column's name is written in quotes, \"table.column\"".to_owned())
            }
            _ => value.choice(&[("read", Access::Read), ("write", Access::Write)]),
        };
        if let Err(wrong) = access.and_then(|access| grants.add(entry.name, access)) {
            section.problem(entry.name, &wrong);
        }
    }
    grants
}

fn settings(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for entry in section.entries() {
        match Value::File(entry.value).scalar() {
            Ok(text) => {
                settings.insert(entry.name.to_owned(), text);
            }
            Err(wrong) => section.problem(entry.name, &wrong),
        }
    }
    settings
}
