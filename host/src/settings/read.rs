//! The shape of `tidemill.toml`: which keys there are, what they may hold, and their defaults.
//!
//! `docs/settings.md` describes the same keys; a test holds the two together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::destination::destinations;
use super::librdkafka::Reach;
use super::reader::Section;
use super::security::security;
use super::traces::traces;
use super::value::Value;
use super::{
    Acks, Admin, Bootstrap, Consumer, DeadLetter, Defaults, Forwarded, Http, HttpRate, Inbox, Jwt, JwtKey, Kafka,
    Limits, Log, Metrics, Network, Outbox, Settings, Store, Tls, Topic, Versions,
};
use crate::deploy::manifest::{Manifest, names, read};
use crate::fetch;
use crate::http::secret::SHORTEST;
use crate::kafka::template::Template;
use crate::policy::{Policy, circuit, probation};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads everything. Relative paths of the file, and the default ones, are in the folder `base`; those of variables
/// are in the current folder.
pub(super) fn settings(root: &Section<'_>, base: &Path) -> Settings {
    Settings {
        data: path(root, "data", base).unwrap_or_else(|| base.join("tidemill-data")),
        handlers: path(root, "handlers", base).unwrap_or_else(|| base.join("handlers")),
        kafka: kafka(&root.section("kafka"), base),
        topics: topics(root),
        destinations: destinations(root, base),
        http: http(&root.section("http"), base),
        admin: admin(&root.section("admin"), base),
        metrics: metrics(&root.section("metrics"), base),
        store: store(&root.section("store")),
        versions: Versions { keep: root.section("versions").take("keep", |v| v.whole(1..=10_000)).unwrap_or(10) },
        inbox: Inbox { keep: keep(&root.section("inbox"), "keep", 7 * DAY) },
        outbox: outbox(&root.section("outbox")),
        defaults: defaults(&root.section("defaults")),
        overrides: overrides(root, base),
        log: log(&root.section("log")),
        traces: traces(&root.section("traces"), base),
        stop_within: root.take("stop-within", |v| v.duration(SECOND..=DAY)).unwrap_or(25 * SECOND),
    }
}

pub(super) fn path(section: &Section<'_>, key: &str, base: &Path) -> Option<PathBuf> {
    section.take(key, |value| {
        let text = value.text()?;
        Ok(match value {
            Value::File(_) => base.join(text),
            Value::Variable(_) => PathBuf::from(text),
        })
    })
}

fn kafka(section: &Section<'_>, base: &Path) -> Kafka {
    let keep = section.take("keep-embedded", |v| v.boolean()).unwrap_or(false);
    let bootstrap = section.take("bootstrap", |v| match v.text()? {
        "embedded" => Ok(Bootstrap::Embedded { keep }),
        servers => self::servers(servers).map(Bootstrap::Servers),
    });
    let acks = section.take("acks", |v| match v.scalar()?.as_str() {
        "all" | "-1" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        _ => Err(format!(
            "{v} is not known here; valid is \"all\" or 1: without an answer the outbox could not know what arrived"
        )),
    });
    Kafka {
        acks: acks.unwrap_or_default(),
        bootstrap: bootstrap.unwrap_or(Bootstrap::Embedded { keep }),
        security: security(&section.section("security"), base),
        librdkafka: super::librdkafka::read(&section.section("librdkafka"), Reach::Client),
    }
}

/// Checks `host:port,host:port`.
fn servers(text: &str) -> Result<String, String> {
    let mut servers = Vec::new();
    for server in text.split(',').map(str::trim) {
        let wrong =
            || format!("\"{server}\" is not an address; write host:port, with commas between several, or \"embedded\"");
        let (host, port) = server.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                !host.is_empty() && host.bytes().all(letter)
            }
        };
        if !good || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(wrong());
        }
        servers.push(server);
    }
    Ok(servers.join(","))
}

fn topics(root: &Section<'_>) -> Vec<Topic> {
    let mut topics: Vec<Topic> = Vec::new();
    for section in root.sections("topic").unwrap_or_default() {
        let name = section.require("name", |v| Template::parse(v.text()?));
        let partitions = section.take("partitions", |v| v.whole(1..=100_000)).unwrap_or(3);
        let replicas = section.take("replicas", |v| v.whole(1..=32_767)).unwrap_or(1);
        let Some(name) = name else { continue };
        if topics.iter().any(|topic| topic.name == name) {
            section.problem("name", &format!("\"{name}\" is listed above already"));
            continue;
        }
        topics.push(Topic { name, partitions, replicas });
    }
    topics
}

fn http(section: &Section<'_>, base: &Path) -> Http {
    let listen = section.take("listen", |v| {
        let text = v.text()?;
        text.parse().map_err(|_| {
            format!("\"{text}\" is not an address; write an IP address and a port, like \"127.0.0.1:8080\"")
        })
    });
    Http {
        listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
        body_limit: section.take("body-limit", |v| v.size(0..=1 << 30)).unwrap_or(1 << 20),
        deadline: section.take("deadline", |v| v.duration(MILLISECOND..=DAY)).unwrap_or(30 * SECOND),
        max_waiting: section.take("max-waiting", |v| v.whole(1..=1_000_000)).unwrap_or(1024),
        idempotency_keep: keep(section, "idempotency-keep", DAY),
        trusted_proxies: section.list("trusted-proxies", |v| Network::parse(v.text()?)).unwrap_or_default(),
        forwarded: section
            .take("forwarded", |v| {
                v.choice(&[("x-forwarded-for", Forwarded::XForwardedFor), ("forwarded", Forwarded::Standard)])
            })
            .unwrap_or_default(),
        tls: tls(&section.section("tls"), base),
        jwt: jwt(&section.section("jwt"), base),
        rate: rate(&section.section("rate")),
    }
}

fn rate(section: &Section<'_>) -> HttpRate {
    HttpRate {
        all: read::rates(section),
        failed_logins: section.take("failed-logins", |v| v.rate()),
        clients: section.take("clients", |v| v.whole(8..=10_000_000)).unwrap_or(50_000),
    }
}

fn tls(section: &Section<'_>, base: &Path) -> Option<Tls> {
    let files = [path(section, "certificate-file", base), path(section, "key-file", base)];
    let client_ca = path(section, "client-ca-file", base);
    let missing = match &files {
        [Some(_), None] => Some("key-file"),
        [None, Some(_)] => Some("certificate-file"),
        [None, None] if client_ca.is_some() => Some("certificate-file"),
        _ => None,
    };
    if let Some(missing) = missing {
        section.problem(missing, "is missing: a certificate and its key go together");
    }
    let [certificate, key] = files;
    Some(Tls { section: section.name().to_owned(), certificate: certificate?, key: key?, client_ca })
}

fn admin(section: &Section<'_>, base: &Path) -> Admin {
    Admin {
        listen: listener(section),
        token_file: path(section, "token-file", base),
        named_tokens_file: path(section, "named-tokens-file", base),
        tls: tls(&section.section("tls"), base),
    }
}

fn metrics(section: &Section<'_>, base: &Path) -> Metrics {
    Metrics {
        listen: listener(section),
        token_file: path(section, "token-file", base),
        stuck_after: section.take("stuck-after", |v| v.duration(SECOND..=DAY)).unwrap_or(300 * SECOND),
        tls: tls(&section.section("tls"), base),
    }
}

/// `listen` of what need not be there, and has a free port by default.
fn listener(section: &Section<'_>) -> Option<SocketAddr> {
    let listen = section.take("listen", |v| match v.text()? {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!("\"{text}\" is not an address; write an IP address and a port, like \"127.0.0.1:7070\", or \"off\"")
        }),
    });
    listen.unwrap_or(Some(SocketAddr::from(([127, 0, 0, 1], 0))))
}

fn jwt(section: &Section<'_>, base: &Path) -> Jwt {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Algorithm {
        Hs256,
        Rs256,
        Es256,
    }
    use Algorithm::{Es256, Hs256, Rs256};

    let secret = section.take("secret", |v| {
        let text = v.secret()?;
        if text.len() < SHORTEST {
            return Err(format!("has {} bytes; HS256 needs at least {SHORTEST} (RFC 7518)", text.len()));
        }
        Ok(text.to_owned())
    });
    let secret_file = path(section, "secret-file", base);
    let public_key = path(section, "public-key-file", base);
    let algorithm = section.take("algorithm", |v| v.choice(&[("HS256", Hs256), ("RS256", Rs256), ("ES256", Es256)]));
    let published = published(section, base);
    let sources = [
        ("secret", secret.is_some()),
        ("secret-file", secret_file.is_some()),
        ("public-key-file", public_key.is_some()),
        ("jwks-file", matches!(published, Some(JwtKey::JwksFile(_)))),
        ("jwks-url", matches!(published, Some(JwtKey::JwksUrl { .. }))),
    ];
    let given: Vec<&str> = sources.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    if let [_, .., last] = given[..] {
        let wrong = "only one of `secret`, `secret-file`, `public-key-file`, `jwks-file` and `jwks-url` can be set";
        section.problem(last, wrong);
    }
    if published.is_some() && algorithm.is_some() {
        section.problem("algorithm", "goes with one key only: in a key set each key has its own");
    }
    let key = match (public_key, algorithm.filter(|_| published.is_none())) {
        (Some(file), Some(Rs256)) => JwtKey::Rs256(file),
        (Some(file), Some(Es256)) => JwtKey::Es256(file),
        (Some(_), Some(Hs256)) => {
            section.problem(
                "algorithm",
                "\"HS256\" has no public key; write \"RS256\" or \"ES256\", or set `secret-file`",
            );
            JwtKey::Generated
        }
        (Some(_), None) => {
            section.problem("public-key-file", "needs `algorithm` beside it: \"RS256\" or \"ES256\"");
            JwtKey::Generated
        }
        (None, Some(Rs256 | Es256)) => {
            section.problem("algorithm", "needs `public-key-file` beside it");
            JwtKey::Generated
        }
        (None, Some(Hs256) | None) => match (secret, secret_file) {
            (Some(secret), _) => JwtKey::Secret(secret),
            (None, Some(file)) => JwtKey::SecretFile(file),
            (None, None) => published.unwrap_or(JwtKey::Generated),
        },
    };
    Jwt {
        key,
        issuer: section.take("issuer", |v| v.text().map(str::to_owned)),
        audience: section.take("audience", |v| v.text().map(str::to_owned)),
        leeway: section.take("leeway", |v| v.duration(Duration::ZERO..=600 * SECOND)).unwrap_or(30 * SECOND),
    }
}

/// A key set of an issuer's.
fn published(section: &Section<'_>, base: &Path) -> Option<JwtKey> {
    let file = path(section, "jwks-file", base);
    let url = section.take("jwks-url", |v| fetch::url(v.text()?));
    let ca = path(section, "jwks-ca-file", base);
    let refresh = section.take("jwks-refresh", |v| v.duration(SECOND..=DAY));
    if !section.has("jwks-url") && url.is_none() {
        for (key, set) in [("jwks-ca-file", ca.is_some()), ("jwks-refresh", refresh.is_some())] {
            if set {
                section.problem(key, "goes with `jwks-url` only");
            }
        }
    }
    if file.is_some() && url.is_some() {
        section.problem("jwks-url", "and `jwks-file` are two places: write one of them");
    }
    let published = url.map(|url| JwtKey::JwksUrl { url, ca, refresh: refresh.unwrap_or(300 * SECOND) });
    published.or(file.map(JwtKey::JwksFile))
}

fn store(section: &Section<'_>) -> Store {
    Store {
        group_max: section.take("group-max", |v| v.whole(1..=100_000)).unwrap_or(500),
        group_time: section
            .take("group-time", |v| v.duration(Duration::ZERO..=10 * SECOND))
            .unwrap_or(20 * MILLISECOND),
        synchronous_full: section
            .take("synchronous", |v| v.choice(&[("full", true), ("normal", false)]))
            .unwrap_or(true),
    }
}

/// How long something is kept, or for ever.
fn keep(section: &Section<'_>, key: &str, default: Duration) -> Option<Duration> {
    let read = section.take(key, |v| match v.text() {
        Ok("forever") => Ok(None),
        _ => v.duration(SECOND..=3_650 * DAY).map(Some).map_err(|wrong| format!("{wrong}, or \"forever\"")),
    });
    read.unwrap_or(Some(default))
}

fn outbox(section: &Section<'_>) -> Outbox {
    Outbox {
        keep: section.take("keep", |v| v.duration(Duration::ZERO..=3_650 * DAY)).unwrap_or(Duration::ZERO),
        sweep: section.take("sweep", |v| v.duration(MILLISECOND..=DAY)).unwrap_or(SECOND),
        read_back: section
            .take("clear", |v| v.choice(&[("acknowledged", false), ("read-back", true)]))
            .unwrap_or(false),
        max_rows: section.take("max-rows", |v| v.whole(1..=1_000_000_000)).unwrap_or(1_000_000),
    }
}

fn defaults(section: &Section<'_>) -> Defaults {
    Defaults {
        retry: read::retry(&section.section("retry")).over(Policy::default()),
        circuit: read::circuit(&section.section("circuit")).over(circuit::Settings::default()),
        probation: read::probation(&section.section("probation")).over(probation::Settings::default()),
        dead_letter: read::dead_letter(&section.section("dead-letter")).over(DeadLetter::default()),
        limits: read::limits(&section.section("limits")).over(Limits::default()),
        consumer: read::consumer(&section.section("consumer"), Reach::Client).over(Consumer::default()),
    }
}

fn overrides(root: &Section<'_>, base: &Path) -> BTreeMap<String, Manifest> {
    let mut overrides = BTreeMap::new();
    let mut groups = BTreeSet::new();
    for (entry, section) in root.named_sections("handler") {
        let over = read::overrides(&section, base);
        if let Err(wrong) = names::plain(entry.name) {
            section.problem_at(entry.line, format!("`handler.{}`: {wrong}", entry.name));
        }
        if let Some(group) = over.group.clone()
            && !groups.insert(group.clone())
        {
            section.problem("group", &format!("\"{group}\" is another handler's group already; each has its own"));
        }
        overrides.insert(entry.name.to_owned(), over);
    }
    overrides
}

fn log(section: &Section<'_>) -> Log {
    let level = section.take("level", |v| {
        let text = v.text()?;
        crate::telemetry::parse(text).map(|_| text.to_owned())
    });
    Log {
        level: level.unwrap_or_else(|| "info".into()),
        json: section.take("format", |v| v.choice(&[("text", false), ("json", true)])).unwrap_or(false),
    }
}
