//! `tidemill.toml`: what the operator sets, with `TIDEMILL_*` variables on top.
//!
//! Reading it reports every problem at once, each with its line and the closest valid key, and starts nothing.
//! A value that this module hands out is complete: defaults are filled in and units are parsed.

mod destination;
pub(crate) mod librdkafka;
mod load;
pub(crate) mod network;
mod oauth;
mod problems;
mod read;
mod security;
pub(crate) mod reader;
mod traces;
#[cfg(test)]
mod tests;
pub mod units;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use destination::{Destination, Destinations, Post};
pub use load::FILE;
pub use network::Network;
pub use oauth::{Given, OAuth, TokenSource};
pub use problems::{Problem, Problems};
pub use security::{Properties, Security};
pub use traces::{Sampling, Traces};

use reqwest::Url;
use units::Rate;

use crate::kafka::template::Template;
use crate::policy::{Policy, circuit, probation};

/// Everything that the operator can set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `data`: the folder of stores, compiled code, keys and the lock. Default `tidemill-data`.
    pub data: PathBuf,
    /// `handlers`: the folder that is watched for `.wasm` files. Default `handlers`.
    pub handlers: PathBuf,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[[topic]]`: topics to create when missing.
    pub topics: Vec<Topic>,
    /// `[[destination]]`: by which way events for a topic leave.
    pub destinations: Destinations,
    /// `[http]`
    pub http: Http,
    /// `[admin]`
    pub admin: Admin,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[store]`
    pub store: Store,
    /// `[versions]`
    pub versions: Versions,
    /// `[inbox]`
    pub inbox: Inbox,
    /// `[outbox]`
    pub outbox: Outbox,
    /// `[defaults]`: for every handler that says nothing else (S0.2).
    pub defaults: Defaults,
    /// `[handler.NAME]`: what the operator overrides in one handler's manifest.
    pub overrides: BTreeMap<String, crate::deploy::manifest::Manifest>,
    /// `[log]`
    pub log: Log,
    /// `[traces]`
    pub traces: Traces,
    /// `stop-within`: how long a daemon that was told to stop may take for what is under way. Default 25 s.
    pub stop_within: Duration,
}

/// `[kafka]`
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `bootstrap`: `embedded` (default) or a list `host:port,host:port`.
    pub bootstrap: Bootstrap,
    /// `acks`
    pub acks: Acks,
    /// `[kafka.security]`
    pub security: Security,
    /// `[kafka.librdkafka]`: passed through to every client, except the keys that the host owns.
    pub librdkafka: BTreeMap<String, String>,
}

/// When a broker answers that it has an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// `"all"` (default): once all in-sync replicas have it.
    #[default]
    All,
    /// `1`: once the partition's leader has it, with which it can be lost.
    Leader,
}

/// Where Kafka is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// The broker that the daemon starts beside itself.
    Embedded {
        /// `keep-embedded`: leave it running when the daemon stops in order. Default false.
        keep: bool,
    },
    /// A cluster: `bootstrap.servers`.
    Servers(String),
}

/// `[[topic]]`: a topic to create when it is missing (and left alone when it is there).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// `name`: of one topic, or of one for each day; those are created when there is an event for them.
    pub name: Template,
    /// `partitions`. Default 3.
    pub partitions: i32,
    /// `replicas`. Default 1.
    pub replicas: i32,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct Http {
    /// `listen`. Default `127.0.0.1:8080`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `body-limit`, bytes. Default 1 MiB.
    pub body_limit: usize,
    /// `deadline`: how long a request may take in all. Default 30 s.
    pub deadline: Duration,
    /// `max-waiting`: requests under way at once; more are answered 503. Default 1024.
    pub max_waiting: usize,
    /// `idempotency-keep`: how long at least the answer to a request with an `Idempotency-Key` is kept; `None` is for
    /// ever. Default 24 h.
    pub idempotency_keep: Option<Duration>,
    /// `trusted-proxies`: whose word counts for where a request comes from.
    pub trusted_proxies: Vec<Network>,
    /// `forwarded`: the header in which they say it.
    pub forwarded: Forwarded,
    /// `[http.tls]`, if it is spoken.
    pub tls: Option<Tls>,
    /// `[http.jwt]`
    pub jwt: Jwt,
    /// `[http.rate]`
    pub rate: HttpRate,
}

/// In which header a proxy says for whom it asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For` (default).
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Standard,
}

/// How often one client may call; `None` is as often as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// `per-address`
    pub per_address: Option<Rate>,
    /// `per-user`: of a token's subject.
    pub per_user: Option<Rate>,
}

/// `[http.rate]`: over all routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRate {
    /// `per-address`, `per-user`
    pub all: Rates,
    /// `failed-logins`: requests of one address whose token is not good.
    pub failed_logins: Option<Rate>,
    /// `clients`: addresses and users that are told apart at once. Default 50,000.
    pub clients: usize,
}

/// `[http.tls]`, `[admin.tls]` and `[metrics.tls]`: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The section's name, for messages.
    pub section: String,
    /// `certificate-file`: the server's certificate, and those between it and the authority's.
    pub certificate: PathBuf,
    /// `key-file`: its private key.
    pub key: PathBuf,
    /// `client-ca-file`: the authorities of which one must have signed a client's certificate. Default none, and clients show none.
    pub client_ca: Option<PathBuf>,
}

/// `[http.jwt]`: which bearer tokens are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Where the key comes from.
    pub key: JwtKey,
    /// `issuer`: required `iss`, if set.
    pub issuer: Option<String>,
    /// `audience`: required `aud`, if set.
    pub audience: Option<String>,
    /// `leeway`: by how much the clocks of issuer and host may differ. Default 30 s.
    pub leeway: Duration,
}

/// The key that tokens are checked with.
#[derive(Clone, PartialEq, Eq)]
pub enum JwtKey {
    /// None set: an HS256 secret is made in the data folder (`jwt.secret`) at the first start.
    Generated,
    /// `secret`: HS256.
    Secret(String),
    /// `secret-file`: HS256; the file's content without trailing newline.
    SecretFile(PathBuf),
    /// `public-key-file` with `algorithm = "RS256"`: PEM.
    Rs256(PathBuf),
    /// `public-key-file` with `algorithm = "ES256"`: PEM.
    Es256(PathBuf),
    /// `jwks-file`: a key set (RFC 7517), which is read again when it changes.
    JwksFile(PathBuf),
    /// A key set that its issuer publishes.
    JwksUrl {
        /// `jwks-url`
        url: Url,
        /// `jwks-ca-file`: PEM. Default the system's authorities.
        ca: Option<PathBuf>,
        /// `jwks-refresh`: how often it is fetched. Default 5 min.
        refresh: Duration,
    },
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Generated => f.write_str("Generated"),
            Self::Secret(_) => f.write_str("Secret"),
            Self::SecretFile(file) => f.debug_tuple("SecretFile").field(file).finish(),
            Self::Rs256(file) => f.debug_tuple("Rs256").field(file).finish(),
            Self::Es256(file) => f.debug_tuple("Es256").field(file).finish(),
            Self::JwksFile(file) => f.debug_tuple("JwksFile").field(file).finish(),
            Self::JwksUrl { url, .. } => f.debug_tuple("JwksUrl").field(&url.as_str()).finish(),
        }
    }
}

/// `[admin]`: the API by which the daemon is told what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `listen`: `None` is `"off"`. Default `127.0.0.1:0`, a free port.
    pub listen: Option<SocketAddr>,
    /// `token-file`: whose content callers must know. Default one that is made in the data folder (`admin.token`).
    pub token_file: Option<PathBuf>,
    /// `named-tokens-file`: further tokens, each with a name and a role. Default `admin.tokens` in the data folder.
    pub named_tokens_file: Option<PathBuf>,
    /// `[admin.tls]`, if it is spoken.
    pub tls: Option<Tls>,
}

/// `[metrics]`: where the daemon tells how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// `listen`: `None` is `"off"`. Default `127.0.0.1:0`, a free port.
    pub listen: Option<SocketAddr>,
    /// `token-file`: whose content scrapers must know. Default none, and everybody may scrape who reaches the address.
    pub token_file: Option<PathBuf>,
    /// `stuck-after`: how long a store's thread may be at one thing before the daemon counts as hung. Default 5 min.
    pub stuck_after: Duration,
    /// `[metrics.tls]`, if it is spoken.
    pub tls: Option<Tls>,
}

/// `[versions]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// `keep`: how many versions of each handler are kept for a rollback. Default 10.
    pub keep: usize,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// `group-max`: deliveries in one commit group at most. Default 500.
    pub group_max: usize,
    /// `group-time`: guest time after which a commit group closes. Default 20 ms.
    pub group_time: Duration,
    /// `synchronous`: SQLite's setting; `full` (default) survives a power cut, `normal` a crash of the process only.
    pub synchronous_full: bool,
}

/// `[inbox]`
#[derive(Clone, Debug)]
pub struct Inbox {
    /// `keep`: how long at least an event's id is known, in time that the store is in use; `None` is for ever. Default
    /// 7 days.
    pub keep: Option<Duration>,
}

/// `[outbox]`
#[derive(Clone, Debug)]
pub struct Outbox {
    /// `keep`: how long a published row stays in the store. Default 0: removed with the next commit.
    pub keep: Duration,
    /// `sweep`: how often the relay looks for rows when nothing woke it. Default 1 s.
    pub sweep: Duration,
    /// `max-rows`: rows that may wait in one store's outbox; at that mark its handlers wait. Default 1,000,000.
    pub max_rows: u64,
    /// `clear`: `acknowledged` (default), or `read-back`: only once the event was read back from Kafka as well.
    pub read_back: bool,
}

/// `[defaults]`
#[derive(Clone, Debug)]
pub struct Defaults {
    /// `[defaults.retry]`
    pub retry: Policy,
    /// `[defaults.circuit]`
    pub circuit: circuit::Settings,
    /// `[defaults.probation]`
    pub probation: probation::Settings,
    /// `[defaults.dead-letter]`
    pub dead_letter: DeadLetter,
    /// `[defaults.limits]`
    pub limits: Limits,
    /// `[defaults.consumer]`
    pub consumer: Consumer,
}

/// `[dead-letter]`: where a record goes that was given up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// `topic`: `{topic}` stands for the source topic. Default `{topic}.DLT`.
    pub topic: String,
    /// `partition`: `"same"` (default) as the source, or a fixed number.
    pub partition: DeadLetterPartition,
    /// `partitions` of a dead letter topic that is made on demand. Default as many as the source has.
    pub partitions: Option<i32>,
    /// `replicas` of such a topic. Default the brokers' own.
    pub replicas: Option<i32>,
    /// `answers`: whether the history of attempts holds what services had answered. Default not: others read dead letters too.
    pub answers: bool,
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self {
            topic: "{topic}.DLT".into(),
            partition: DeadLetterPartition::Same,
            partitions: None,
            replicas: None,
            answers: false,
        }
    }
}

/// Which partition of the dead letter topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterPartition {
    /// The source record's.
    Same,
    /// Always this one.
    Fixed(i32),
}

/// `[limits]` of each delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `time`. Default 250 ms.
    pub time: Duration,
    /// `cpu`: the part of one processor, above 0 and 1 at most, that a handler's deliveries may take. Default 1.
    pub cpu: f64,
    /// `failing-cpu`: the part that those of them may take that fail. Default 0.2.
    pub failing_cpu: f64,
    /// `memory`, bytes of linear memory, and of what one call passes to the host. Default 64 MiB.
    pub memory: usize,
    /// `table-elements`: elements of all of its tables together. Default 65,536.
    pub table_elements: usize,
    /// `tables`: tables that it may have. Default 16.
    pub tables: usize,
    /// `core-instances`: core instances that it may be made of. Default 64.
    pub core_instances: usize,
    /// `sql-statements`: statements that one delivery may run. Default 10,000.
    pub sql_statements: usize,
    /// `sql-rows`: rows that one query may return. Default 10,000.
    pub sql_rows: usize,
    /// `sql-bytes`: bytes that one query may return. Default 16 MiB.
    pub sql_bytes: usize,
    /// `events`: events that one delivery may enqueue or send. Default 1,000.
    pub events: usize,
    /// `event-bytes`: bytes of all events of one delivery. Default 4 MiB.
    pub event_bytes: usize,
    /// `log-bytes`: bytes of log lines of one delivery; more is cut. Default 64 KiB.
    pub log_bytes: usize,
    /// `response-bytes`: bytes of a response's headers and body. Default 8 MiB.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(250),
            cpu: 1.0,
            failing_cpu: 0.2,
            memory: 64 << 20,
            table_elements: 65_536,
            tables: 16,
            core_instances: 64,
            sql_statements: 10_000,
            sql_rows: 10_000,
            sql_bytes: 16 << 20,
            events: 1_000,
            event_bytes: 4 << 20,
            log_bytes: 64 << 10,
            response_bytes: 8 << 20,
        }
    }
}

/// `[consumer]`: how a handler's client reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// `session-timeout`: how long the group waits for a silent member. Default 45 s (2 s on the embedded broker).
    pub session_timeout: Option<Duration>,
    /// `heartbeat-interval`. Default a quarter of the session time-out, 3 s at most.
    pub heartbeat_interval: Option<Duration>,
    /// `assignment`. Default cooperative.
    pub assignment: Assignment,
    /// `static-membership`: whether a restarted daemon is the same member of the group. Default true; the embedded
    /// broker knows no such members.
    pub static_membership: bool,
    /// `isolation`. Default read-committed.
    pub isolation: Isolation,
    /// `discovery-interval`: how often a handler with a `pattern` looks for topics that have appeared. Default 5 s.
    pub discovery_interval: Duration,
    /// `high-mark`: records of one lane in memory from which on its partition waits; it is paused at twice as many, or where they stand
    /// still. Default 2,000.
    pub high_mark: usize,
    /// `commit-interval`: how often Kafka is told offsets that the store has committed. Default 1 s.
    pub commit_interval: Duration,
    /// `concurrency`: deliveries of a handler under way at once, those that wait for the outside included. Default 64.
    pub concurrency: usize,
    /// `[consumer.librdkafka]`: over those of `[kafka.librdkafka]`.
    pub librdkafka: BTreeMap<String, String>,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            session_timeout: None,
            heartbeat_interval: None,
            assignment: Assignment::Cooperative,
            static_membership: true,
            isolation: Isolation::ReadCommitted,
            discovery_interval: Duration::from_secs(5),
            high_mark: 2_000,
            commit_interval: Duration::from_secs(1),
            concurrency: 64,
            librdkafka: BTreeMap::new(),
        }
    }
}

/// How a group shares partitions out anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// `cooperative-sticky`: a member gives up only what another one gets.
    Cooperative,
    /// `range`: all members give up everything first.
    Eager,
}

/// Which records of transactional producers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of transactions that were committed, once they are.
    ReadCommitted,
    /// All, those of aborted transactions too.
    ReadUncommitted,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `level`: a `tracing` filter such as `info` or `tidemill=debug`. Default `info`.
    pub level: String,
    /// `format`: `text` (default) or `json`.
    pub json: bool,
}
