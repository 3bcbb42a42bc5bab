//! What a handler's client is told: the operator's and the manifest's properties, and over them those that the host's
//! guarantees rest on.

use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::deploy::manifest::Spec;
use crate::kafka::config::Connection;
use crate::metrics::statistics;
use crate::settings::{Assignment, Isolation};

/// Between which the heartbeats' interval is a quarter of the session.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(3);
/// How long the poll thread may be away before librdkafka leaves the group: its own default.
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// The settings of a handler's client.
pub(super) fn properties(connection: &Connection, spec: &Spec, host_id: &str, prefetch_kbytes: u32) -> ClientConfig {
    let reading = &spec.consumer;
    let mut config = connection.client(&spec.name);
    for (key, value) in &reading.librdkafka {
        config.set(key, value);
    }
    let embedded = connection.is_embedded();
    // The embedded broker takes twice the session to let a killed member's partitions go.
    let session =
        reading.session_timeout.unwrap_or(if embedded { Duration::from_secs(2) } else { Duration::from_secs(45) });
    // The time-out that nobody has set may be shorter than the interval that somebody has.
    let heartbeat = reading
        .heartbeat_interval
        .map_or((session / 4).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX), |interval| interval.min(session / 2));
    if reading.static_membership && !embedded {
        // A restarted host gets its partitions back at once; the embedded broker knows members by their id only.
        config.set("group.instance.id", format!("tidemill-{host_id}-{}", spec.name));
    }
    if config.get("max.poll.interval.ms").is_none() {
        // librdkafka takes none that is shorter than the session.
        config.set("max.poll.interval.ms", session.max(POLL_INTERVAL).as_millis().to_string());
    }
    if config.get(statistics::PROPERTY).is_none() {
        config.set(statistics::PROPERTY, statistics::INTERVAL);
    }
    let refresh = "topic.metadata.refresh.interval.ms";
    if spec.pattern.is_some()
        && ![&connection.librdkafka, &reading.librdkafka].iter().any(|set| set.contains_key(refresh))
    {
        config.set(refresh, reading.discovery_interval.as_millis().to_string());
    }
    let strategy = match reading.assignment {
        Assignment::Cooperative => "cooperative-sticky",
        Assignment::Eager => "range",
    };
    let isolation = match reading.isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    };
    config
        .set("group.id", &spec.group)
        .set("session.timeout.ms", session.as_millis().to_string())
        .set("heartbeat.interval.ms", heartbeat.as_millis().to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false")
        .set("partition.assignment.strategy", strategy)
        .set("isolation.level", isolation)
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", prefetch_kbytes.to_string());
    config
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::deploy::manifest::Manifest;
    use crate::settings::Settings;

    const MANIFEST: &str = "name = \"mail\"\ntopics = [\"a\"]\n";

    /// The properties of a handler under these settings.
    fn set(manifest: &str, settings: &str, embedded: bool) -> ClientConfig {
        let settings = Settings::parse(settings, "tidemill.toml").unwrap();
        let manifest = Manifest::parse(&format!("{MANIFEST}{manifest}"), "handler.toml").unwrap();
        let spec = Spec::resolve(&manifest, &settings.defaults, settings.overrides.get("mail")).unwrap();
        let connection = Connection {
            bootstrap: "127.0.0.1:9092".to_owned(),
            librdkafka: settings.kafka.librdkafka,
            incarnation: embedded.then(|| "1".to_owned()),
            ..Connection::default()
        };
        let config = properties(&connection, &spec, "host", 1_000);
        config.create_native_config().unwrap();
        config
    }

    fn check(config: &ClientConfig, expected: &[(&str, Option<&str>)]) {
        for (key, value) in expected {
            assert_eq!(config.get(key), *value, "{key}");
        }
    }

    #[test]
    fn s0_12_each_setting_reaches_the_client() {
        let expected = [
            ("session.timeout.ms", Some("45000")),
            ("heartbeat.interval.ms", Some("3000")),
            ("max.poll.interval.ms", Some("300000")),
            ("partition.assignment.strategy", Some("cooperative-sticky")),
            ("group.instance.id", Some("tidemill-host-mail")),
            ("isolation.level", Some("read_committed")),
        ];
        check(&set("", "", false), &expected);
        let manifest = r#"
            [consumer]
            session-timeout = "10m"
            heartbeat-interval = "7s"
            assignment = "eager"
            static-membership = false
            isolation = "read-uncommitted"
        "#;
        let expected = [
            ("session.timeout.ms", Some("600000")),
            ("heartbeat.interval.ms", Some("7000")),
            ("max.poll.interval.ms", Some("600000")),
            ("partition.assignment.strategy", Some("range")),
            ("group.instance.id", None),
            ("isolation.level", Some("read_uncommitted")),
        ];
        check(&set(manifest, "", false), &expected);
        let expected =
            [("session.timeout.ms", Some("2000")), ("heartbeat.interval.ms", Some("500")), ("group.instance.id", None)];
        check(&set("", "", true), &expected);
        let expected = [("session.timeout.ms", Some("2000")), ("heartbeat.interval.ms", Some("1000"))];
        check(&set("consumer.heartbeat-interval = \"3s\"", "", true), &expected);
    }

    #[test]
    fn a_handlers_properties_go_over_those_of_all_clients_and_under_the_hosts() {
        let settings = r#"
            [kafka.librdkafka]
            fetch.min.bytes = 1
            fetch.wait.max.ms = 100
            max.poll.interval.ms = 400000
            [handler.mail.consumer.librdkafka]
            fetch.min.bytes = 2
            "client.rack" = "b"
        "#;
        let expected = [
            ("fetch.min.bytes", Some("2")),
            ("fetch.wait.max.ms", Some("100")),
            ("max.poll.interval.ms", Some("400000")),
            ("client.rack", Some("b")),
            ("group.id", Some("mail")),
            ("auto.offset.reset", Some("error")),
            ("enable.auto.commit", Some("false")),
        ];
        check(&set("", settings, false), &expected);
    }
}
