//! What every Kafka client of the host has in common: its settings, and where its log lines and errors go.
//!
//! The operator's `[kafka.librdkafka]` goes over the values of this file; what a consumer or producer must have for
//! its guarantees, it sets after that. Whether a key is one that the host owns is checked with the settings.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};

use super::login::Login;
use super::native::{Holder, Kept};
use crate::settings::{Acks, Properties};

/// The same trouble is said once in this time, for each client.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Where Kafka is, and how its clients are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// `host:port,host:port`
    pub bootstrap: String,
    /// `[kafka.librdkafka]`: librdkafka's own names.
    pub librdkafka: BTreeMap<String, String>,
    /// `[kafka.security]`.
    pub security: Properties,
    /// When brokers answer what is produced.
    pub acks: Acks,
    /// The embedded broker's incarnation, if it is one.
    pub incarnation: Option<String>,
    /// What gives clients the token that Kafka knows them by, if it does that.
    pub login: Option<Login>,
}

impl Connection {
    /// The settings that a client starts from. `purpose` names it in logs and on the broker: `tidemill-<purpose>`.
    pub fn client(&self, purpose: &str) -> ClientConfig {
        let mut client = base(purpose);
        for (key, value) in &self.librdkafka {
            client.set(key, value);
        }
        if self.is_embedded() {
            // It listens on 127.0.0.1 only, and knows nobody.
            client.set("broker.address.family", "v4");
        } else {
            for (key, value) in self.security.iter() {
                client.set(key, value);
            }
        }
        client.set("bootstrap.servers", &self.bootstrap);
        client
    }

    /// Keeps a client that was made with [`Connection::client`], and sees to its token.
    pub(crate) fn keep<T: Holder>(&self, client: T) -> Kept<T> {
        match &self.login {
            Some(login) if !self.is_embedded() => login.keep(client),
            _ => Kept::alone(client),
        }
    }

    /// Has a producer wait for acknowledgements as the operator wants it. One that waits for the leader alone cannot be idempotent.
    pub(crate) fn acknowledge(&self, producer: &mut ClientConfig) {
        match self.acks {
            Acks::All => producer.set("acks", "all"),
            Acks::Leader => producer
                .set("acks", "1")
                .set("enable.idempotence", "false")
                .set("enable.gapless.guarantee", "false")
                .set("max.in.flight", "1"),
        };
    }

    /// The broker that answers admin requests, where the controller does not: the mock cluster behind the embedded
    /// broker names a controller that it does not have.
    pub(super) fn admin_broker(&self) -> Option<i32> {
        self.incarnation.as_ref().map(|_| 1)
    }

    /// It is the embedded broker.
    pub fn is_embedded(&self) -> bool {
        self.incarnation.is_some()
    }
}

/// Says why librdkafka does not take the setting: an unknown name, or a value out of range. Starts nothing.
pub fn check_property(key: &str, value: &str) -> Result<(), String> {
    let mut client = ClientConfig::new();
    client.set(key, value);
    match client.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, reason, _, _)) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

/// The values of this file alone, for a client that is not connected to [`Connection::bootstrap`].
pub(crate) fn base(purpose: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", format!("tidemill-{purpose}"))
        .set("allow.auto.create.topics", "false")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        // How soon a topic that appears is seen by a pattern, and a topic made again by its id.
        .set("topic.metadata.refresh.interval.ms", "10000")
        // An idle connection that the broker closes is opened again without a word.
        .set("log.connection.close", "false")
        // KIP-714: nothing is sent to the broker about this process.
        .set("enable.metrics.push", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    client
}

/// Takes librdkafka's log lines and errors of one client to `tracing`.
///
/// A broker that is away is one WARN in [`SAY_AGAIN_AFTER`], not one for each attempt; what only a person can mend,
/// such as refused credentials, is an ERROR.
#[derive(Debug)]
pub struct Reporter {
    client: String,
    said: Mutex<Throttle>,
}

impl Reporter {
    /// For the client of that purpose.
    pub fn new(purpose: &str) -> Self {
        Self { client: purpose.to_owned(), said: Mutex::new(Throttle::default()) }
    }

    fn throttle(&self, what: &str) -> Option<u64> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).pass(what, Instant::now())
    }
}

impl ClientContext for Reporter {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.client.as_str();
        match log_level(level, facility) {
            tracing::Level::ERROR => tracing::error!(client, "librdkafka {facility}: {message}"),
            tracing::Level::WARN => match self.throttle(facility) {
                Some(0) => tracing::warn!(client, "librdkafka {facility}: {message}"),
                Some(kept) => tracing::warn!(client, kept_back = kept, "librdkafka {facility}: {message}"),
                None => tracing::debug!(client, "librdkafka {facility}: {message}"),
            },
            tracing::Level::TRACE => tracing::trace!(client, "librdkafka {facility}: {message}"),
            _ => tracing::debug!(client, "librdkafka {facility}: {message}"),
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let client = self.client.as_str();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // Who asks to be told of it is told by the poll.
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        let Some(kept_back) = self.throttle(&code.to_string()) else {
            tracing::debug!(client, kafka = %code, "{reason}");
            return;
        };
        match weight(code) {
            Weight::Away => tracing::warn!(client, kept_back, "Kafka cannot be reached, still trying: {reason}"),
            Weight::Person => tracing::error!(client, kept_back, kafka = %code, "Kafka refuses this client: {reason}"),
            Weight::Other => tracing::warn!(client, kept_back, kafka = %code, "{reason}"),
        }
    }
}

impl ConsumerContext for Reporter {}

impl ProducerContext<NoCustomPartitioner> for Reporter {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Away,
    Person,
    Other,
}

fn weight(code: RDKafkaErrorCode) -> Weight {
    match code {
        RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::Resolve
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::NetworkException => Weight::Away,
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::SSL
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::Fatal => Weight::Person,
        _ => Weight::Other,
    }
}

fn log_level(level: RDKafkaLogLevel, facility: &str) -> tracing::Level {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => tracing::Level::ERROR,
        // Said by `error` too, with a code to judge it by.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if matches!(facility, "FAIL" | "ERROR") => {
            tracing::Level::DEBUG
        }
        // A consumer's property in a producer, and the other way round: `[kafka.librdkafka]` is for all clients.
        RDKafkaLogLevel::Warning if facility == "CONFWARN" => tracing::Level::DEBUG,
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::Level::WARN,
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::Level::DEBUG,
        RDKafkaLogLevel::Debug => tracing::Level::TRACE,
    }
}

/// When each thing was last said, and how often it was kept back since. As many entries as there are kinds of trouble.
#[derive(Debug, Default)]
struct Throttle(BTreeMap<String, (Instant, u64)>);

impl Throttle {
    /// `None`: keep it back. `Some(n)`: say it; it was kept back n times since it was last said.
    fn pass(&mut self, what: &str, now: Instant) -> Option<u64> {
        if let Some((said, kept)) = self.0.get_mut(what) {
            if now.saturating_duration_since(*said) < SAY_AGAIN_AFTER {
                *kept += 1;
                return None;
            }
            let kept = std::mem::take(kept);
            *said = now;
            return Some(kept);
        }
        self.0.insert(what.to_owned(), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;

    fn connection(incarnation: Option<&str>, librdkafka: &[(&str, &str)]) -> Connection {
        Connection {
            bootstrap: "127.0.0.1:9092".to_owned(),
            librdkafka: librdkafka.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            incarnation: incarnation.map(str::to_owned),
            ..Connection::default()
        }
    }

    #[test]
    fn librdkafka_takes_every_value_that_we_set() {
        for incarnation in [None, Some("1")] {
            connection(incarnation, &[]).client("test").create_native_config().expect("valid settings");
        }
    }

    #[test]
    fn the_operators_map_goes_over_ours_but_not_over_the_address() {
        let client = connection(None, &[("client.id", "mine"), ("bootstrap.servers", "other:1")]).client("test");
        assert_eq!(client.get("client.id"), Some("mine"));
        assert_eq!(client.get("bootstrap.servers"), Some("127.0.0.1:9092"));
        assert_eq!(client.get("allow.auto.create.topics"), Some("false"));
    }

    #[test]
    fn a_property_is_checked_without_a_client() {
        assert_eq!(check_property("linger.ms", "5"), Ok(()));
        let unknown = check_property("linger.mss", "5").unwrap_err();
        assert!(unknown.contains("linger.mss"), "{unknown}");
        let range = check_property("reconnect.backoff.ms", "-4").unwrap_err();
        assert!(range.contains("reconnect.backoff.ms"), "{range}");
    }

    #[test]
    fn the_same_trouble_is_said_once_in_a_while() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.pass("down", start), Some(0));
        assert_eq!(throttle.pass("down", start + SAY_AGAIN_AFTER / 2), None);
        assert_eq!(throttle.pass("other", start), Some(0));
        assert_eq!(throttle.pass("down", start + SAY_AGAIN_AFTER), Some(1));
        assert_eq!(throttle.pass("down", start + SAY_AGAIN_AFTER), None);
    }

    #[test]
    fn what_a_person_must_mend_weighs_more_than_a_broker_that_is_away() {
        assert_eq!(weight(RDKafkaErrorCode::AllBrokersDown), Weight::Away);
        assert_eq!(weight(RDKafkaErrorCode::Authentication), Weight::Person);
        assert_eq!(log_level(RDKafkaLogLevel::Error, "FAIL"), tracing::Level::DEBUG);
        assert_eq!(log_level(RDKafkaLogLevel::Error, "MAXPOLL"), tracing::Level::WARN);
        assert_eq!(log_level(RDKafkaLogLevel::Warning, "CONFWARN"), tracing::Level::DEBUG);
    }
}
