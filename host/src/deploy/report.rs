//! What is told about versions and handlers: by the admin API as JSON, by the command line as JSON or as text.
//!
//! The names of its fields are kept from version to version. Reading a file here runs and compiles nothing, and values
//! of settings, which may be secrets, are never told.

use std::collections::BTreeMap;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use super::artifact::Artifact;
use super::manifest::{Envelope, EventId, Instances, Place, Spec, Start};
use super::smoke::Smoke;
use crate::ledger::deployment::Deployment;
use crate::policy::Order;
use crate::settings::{DeadLetterPartition, Rates, units};

/// What a command did, or would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// The handler's name.
    pub handler: String,
    /// The number of the version that is live now; none after a removal or a dry run.
    pub version: Option<i64>,
    /// The artifact's version.
    pub artifact: String,
    /// Whether anything is different now.
    pub changed: bool,
    /// Its file in the handlers folder.
    pub file: String,
    /// The artifact of that file, if this version runs in its place.
    pub instead_of: Option<String>,
    /// Migrations that were still to be run.
    pub migrations: Vec<String>,
    /// How long they took on a copy of the store, in milliseconds; none where there was no copy.
    #[serde(default)]
    pub migrations_ms: Option<u64>,
    /// What became of the last records there, if they were run.
    #[serde(default)]
    pub smoke: Option<Smoke>,
    /// What went wrong after the version went live.
    pub warning: Option<String>,
}

/// Events that were published by command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Published {
    /// The handler in whose name.
    pub handler: String,
    /// In their order.
    pub events: Vec<Enqueued>,
}

/// An event that is in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enqueued {
    /// Its id.
    pub event_id: String,
    /// Where it goes.
    pub topic: String,
}

/// A handler, as a list has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// Its name.
    pub handler: String,
    /// `live`, `rolled-back` when another version than its file's is, `held` when it reads nothing since its first records
    /// have trapped, or `stopped`.
    pub state: String,
    /// The number of its last version.
    pub version: i64,
    /// That one's artifact.
    pub artifact: Option<String>,
    /// The artifact of the file in whose place it runs.
    pub instead_of: Option<String>,
    /// The component's hash.
    pub sha256: String,
    /// Since when.
    pub deployed_at: String,
    /// Who asked for it.
    pub who: Option<String>,
    /// Where it came from.
    pub source: String,
}

/// One version of a handler that went live, or was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Its number.
    pub version: i64,
    /// Its artifact.
    pub artifact: Option<String>,
    /// The component's hash.
    pub sha256: String,
    /// When.
    pub deployed_at: String,
    /// Who asked for it.
    pub who: Option<String>,
    /// Where it came from.
    pub source: String,
    /// `live`, `replaced`, `rolled-back`, `removed` or `failed`; a live one whose handler does not run is `stopped`.
    pub status: String,
    /// Why it was refused, or has failed its probation.
    pub error: Option<String>,
    /// The artifact of the file in whose place it was made live.
    pub instead_of: Option<String>,
    /// Whether it can be rolled back to.
    pub kept: bool,
}

impl Entry {
    /// A row of the ledger.
    pub fn of(row: Deployment, runs: bool, kept: bool) -> Self {
        let status = if row.status.name() == "live" && !runs { "stopped" } else { row.status.name() };
        Self {
            version: row.version,
            artifact: row.artifact,
            sha256: row.sha256,
            deployed_at: units::show_time(row.deployed_at),
            who: row.who,
            source: row.source,
            status: status.to_owned(),
            error: row.error,
            instead_of: row.instead_of,
            kept,
        }
    }
}

/// All about a handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Its name.
    pub handler: String,
    /// As in [`Listed`].
    pub state: String,
    /// Its file in the handlers folder, while it runs.
    pub file: Option<String>,
    /// The artifact of that file, if another one runs in its place.
    pub instead_of: Option<String>,
    /// What is in its last version, if that was kept.
    pub description: Option<Description>,
    /// Its last hundred versions, the newest first.
    pub versions: Vec<Entry>,
}

/// What is in a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// The handler's name.
    pub handler: String,
    /// Hash of the component, the manifest and the migrations.
    pub artifact: String,
    /// Hash of the component.
    pub sha256: String,
    /// The component's size in bytes.
    pub bytes: usize,
    /// What the host can call.
    pub exports: Vec<String>,
    /// What it asks of the host.
    pub imports: Vec<String>,
    /// What it asks of WASI, of which only a clock and random numbers are granted.
    pub wasi: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// The store.
    pub store: String,
    /// Topics that it reads.
    pub topics: Vec<String>,
    /// Topics that it reads, as librdkafka takes the pattern.
    pub pattern: Option<String>,
    /// Where a new group starts.
    pub start: String,
    /// Where event ids are.
    pub event_id: String,
    /// What stands around payloads.
    pub envelope: String,
    /// Where event types are.
    pub event_type: String,
    /// Where the versions of their schemas are.
    pub event_version: String,
    /// The `source` of the CloudEvents that it publishes.
    pub event_source: String,
    /// `fresh` or `reused`.
    pub instances: String,
    /// Whether it can live with tables that later migrations have changed.
    pub newer_schema: bool,
    /// Destinations and their topics.
    pub publish: BTreeMap<String, String>,
    /// In which dates in those topics are taken.
    #[serde(default)]
    pub time_zone: String,
    /// Method, path, `jwt` where a token is needed, and how large bodies are and how often one client may call where the manifest says so.
    pub routes: Vec<String>,
    /// How often one client may call it, whatever the route.
    #[serde(default)]
    pub rate: String,
    /// Destinations to which others publish by HTTP.
    #[serde(default)]
    pub events: Vec<String>,
    /// Its schedules.
    #[serde(default)]
    pub schedules: Vec<String>,
    /// Origins that it may call.
    pub http: Vec<String>,
    /// The names of its settings.
    pub settings: Vec<String>,
    /// What its manifest asks for, and what the operator gives of that.
    #[serde(default)]
    pub asks: Vec<Ask>,
    /// For each delivery.
    pub limits: BTreeMap<String, String>,
    /// What follows a failure.
    pub retry: BTreeMap<String, String>,
    /// Where a record goes that was given up on.
    pub dead_letter: BTreeMap<String, String>,
    /// In the order in which they run.
    pub migrations: Vec<Migration>,
}

/// Something that a manifest asks for, and only the operator gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ask {
    /// `tables { orders = "read" }`, `secret api-key`, or `http https://payments.example.com`.
    pub what: String,
    /// Whether it is given.
    pub given: bool,
    /// Where a secret is kept; the lines that would give what is not given.
    pub how: Option<String>,
}

/// What a handler asks for, and what its configuration gives of that.
pub fn asks(artifact: &Artifact, spec: &Spec) -> Vec<Ask> {
    let manifest = &artifact.manifest;
    let lines = |table: &str, line: String| format!("add to tidemill.toml: [handler.{}.{table}] {line}", spec.name);
    let tables = manifest.tables.each().map(|table| {
        let given = spec.tables.missing(&table).is_empty();
        let how = (!given).then(|| lines("grant", format!("tables = {table}")));
        Ask { what: format!("tables {table}"), given, how }
    });
    let secrets = manifest.secrets.iter().map(|name| {
        let secret = spec.secrets.get(name);
        let how = secret.map(|secret| format!("from {}", secret.source()));
        let how = how.unwrap_or_else(|| lines("secrets", format!("{name} = {{ env = \"VARIABLE\" }}")));
        Ask { what: format!("secret {name}"), given: secret.is_some(), how: Some(how) }
    });
    let origins = manifest.origins.iter().flatten().map(|origin| {
        let given = spec.outbound.origins.contains(origin);
        let how = (!given).then(|| format!("[handler.{}.grant] http leaves it out", spec.name));
        Ask { what: format!("http {}", origin.as_str()), given, how }
    });
    tables.chain(secrets).chain(origins).collect()
}

/// A migration of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Migration {
    /// Its file's name.
    pub name: String,
    /// Its hash.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: usize,
}

impl Description {
    /// Reads a component, without compiling it, and lays the settings out.
    ///
    /// # Errors
    /// The component is damaged.
    pub fn of(artifact: &Artifact, spec: &Spec) -> Result<Self> {
        let (exports, all) = interfaces(&artifact.bytes)?;
        let (wasi, imports) = all.into_iter().partition(|name| name.starts_with("wasi:"));
        let text = |value: &dyn ToString| value.to_string();
        let limits = &spec.limits;
        let partition = match spec.dead_letter.partition {
            DeadLetterPartition::Same => "same".to_owned(),
            DeadLetterPartition::Fixed(partition) => partition.to_string(),
        };
        Ok(Self {
            handler: spec.name.clone(),
            artifact: artifact.version.clone(),
            sha256: artifact.sha256.clone(),
            bytes: artifact.bytes.len(),
            exports,
            imports,
            wasi,
            group: spec.group.clone(),
            store: spec.store.clone(),
            topics: spec.topics.clone(),
            pattern: spec.pattern.clone(),
            start: match spec.start {
                Start::Earliest => "earliest".into(),
                Start::Latest => "latest".into(),
                Start::Time(at) => units::show_time(at),
            },
            envelope: Envelope::NAMES
                .into_iter()
                .find_map(|(name, envelope)| (envelope == spec.envelope).then(|| name.to_owned()))
                .unwrap_or_default(),
            event_type: place(&spec.event_type),
            event_version: place(&spec.event_version),
            event_source: spec.event_source.clone(),
            event_id: match &spec.event_id {
                EventId::At(at) => place(at),
                EventId::Key => "key".into(),
                EventId::Offset => "offset".into(),
            },
            instances: match spec.instances {
                Instances::Fresh => "fresh".into(),
                Instances::Reused => "reused".into(),
            },
            newer_schema: spec.newer_schema,
            publish: spec.publish.iter().map(|(name, topic)| (name.clone(), topic.to_string())).collect(),
            time_zone: crate::kafka::template::zone_name(&spec.time_zone).to_owned(),
            routes: spec
                .served()
                .iter()
                .map(|route| {
                    let jwt = if route.jwt { " jwt" } else { "" };
                    let body = route.body_limit.map(|bytes| format!(" body-limit {}", units::show_size(bytes)));
                    let (rates, body) = (rates(&route.rates), body.unwrap_or_default());
                    format!("{} {}{jwt}{body}{rates}", route.method, route.path)
                })
                .collect(),
            rate: rates(&spec.rates).trim_start().to_owned(),
            events: spec.events.destinations.clone(),
            schedules: spec.schedules.iter().map(ToString::to_string).collect(),
            http: spec.outbound.origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
            settings: spec.settings.keys().cloned().collect(),
            asks: asks(artifact, spec),
            limits: named([
                ("time", units::show_duration(limits.time)),
                ("cpu", text(&limits.cpu)),
                ("failing-cpu", text(&limits.failing_cpu)),
                ("memory", units::show_size(limits.memory)),
                ("table-elements", text(&limits.table_elements)),
                ("tables", text(&limits.tables)),
                ("core-instances", text(&limits.core_instances)),
                ("sql-statements", text(&limits.sql_statements)),
                ("sql-rows", text(&limits.sql_rows)),
                ("sql-bytes", units::show_size(limits.sql_bytes)),
                ("events", text(&limits.events)),
                ("event-bytes", units::show_size(limits.event_bytes)),
                ("log-bytes", units::show_size(limits.log_bytes)),
                ("response-bytes", units::show_size(limits.response_bytes)),
            ]),
            retry: named([
                ("max-attempts", text(&spec.retry.max_attempts)),
                ("interval", units::show_duration(spec.retry.backoff.interval)),
                ("factor", text(&spec.retry.backoff.factor)),
                ("max", units::show_duration(spec.retry.backoff.max)),
                (
                    "order",
                    match spec.retry.order {
                        Order::Partition => "partition".into(),
                        Order::Key => "key".into(),
                        Order::None => "none".into(),
                    },
                ),
            ]),
            dead_letter: named([("topic", spec.dead_letter.topic.clone()), ("partition", partition)]),
            migrations: artifact
                .migrations
                .iter()
                .map(|migration| Migration {
                    name: migration.name.clone(),
                    sha256: crate::id::sha256_hex(migration.sql.as_bytes()),
                    bytes: migration.sql.len(),
                })
                .collect(),
        })
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::Pointer(pointer) => pointer.clone(),
        Place::Header(name) => format!("header:{name}"),
        Place::CloudEvent(attribute) => format!("cloudevent:{attribute}"),
    }
}

/// How often one client may call: ` per-address 10/s per-user 5/s`.
fn rates(rates: &Rates) -> String {
    [("per-address", rates.per_address), ("per-user", rates.per_user)]
        .into_iter()
        .filter_map(|(key, rate)| Some(format!(" {key} {}", units::show_rate(rate?))))
        .collect()
}

fn named<const N: usize>(values: [(&str, String); N]) -> BTreeMap<String, String> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The names that a component exports and imports, sorted.
fn interfaces(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>)> {
    let (mut exports, mut imports) = (Vec::new(), Vec::new());
    // What a component holds inside has exports and imports of its own.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    exports.sort();
    imports.sort();
    Ok((exports, imports))
}
