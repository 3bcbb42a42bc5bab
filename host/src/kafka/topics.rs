//! Topics that the host needs: created when missing, left alone when there.
//!
//! Never changes a topic, never deletes one, and never creates one by asking for it. A client is opened for each
//! call and closed again: topics are looked after at start and at a deployment, and an idle client is not free.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;

use super::config::{Connection, Reporter};
use super::identity::TopicId;
use super::native::{self, Failure, Kept};
use crate::broker::Embedded;

const TIMEOUT: Duration = Duration::from_secs(10);
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// As many replicas as the brokers give by default (`default.replication.factor`, KIP-464).
pub const BROKER_DEFAULT_REPLICAS: i32 = -1;

/// Kafka's own limit.
const NAME_MAX: usize = 249;

/// Looks after topics, on the embedded broker or on a cluster.
#[derive(Clone, Debug)]
pub struct Admin {
    connection: Connection,
    embedded: Option<Arc<Embedded>>,
    timeout: Duration,
}

/// What [`Admin::ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It was missing, and was created as asked.
    Created,
    /// It was there, with so many partitions.
    Present {
        /// May be another number than asked for.
        partitions: i32,
    },
}

/// A topic as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// This life of the topic.
    pub id: TopicId,
    /// 1 or more.
    pub partitions: i32,
}

/// Why a topic could not be looked after. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Kafka would not take the name.
    #[error(
        "topic name {topic:?} is not valid: use 1 to {NAME_MAX} letters, digits, '.', '_' and '-', and not '.' or '..'"
    )]
    Name {
        /// The name.
        topic: String,
    },
    /// No such number of partitions.
    #[error("topic {topic} cannot have {partitions} partitions: set `partitions` to 1 or more")]
    Partitions {
        /// The topic.
        topic: String,
        /// As asked for.
        partitions: i32,
    },
    /// More replicas than brokers, or less than one.
    #[error(
        "topic {topic} cannot have {replicas} replicas: {reason}; \
         set `replicas` of the [[topic]] to at most the number of brokers, or create the topic by hand"
    )]
    Replicas {
        /// The topic.
        topic: String,
        /// As asked for.
        replicas: i32,
        /// The broker's words.
        reason: String,
    },
    /// The cluster's rights.
    #[error(
        "not authorised to {operation} topic {topic}: grant this client's user {operation} on it, \
         or create the topic by hand"
    )]
    NotAuthorized {
        /// The topic.
        topic: String,
        /// `describe` or `create`.
        operation: &'static str,
    },
    /// The cluster's own rules: a policy, or a limit.
    #[error("the cluster refuses to create topic {topic}: {reason}; ask for less, or create the topic by hand")]
    Policy {
        /// The topic.
        topic: String,
        /// The broker's words.
        reason: String,
    },
    /// No broker answered in time. It may work later.
    #[error("Kafka at {bootstrap} cannot be reached: {reason}; check `kafka.bootstrap` and that a broker runs there")]
    Unreachable {
        /// Where.
        bootstrap: String,
        /// librdkafka's words.
        reason: String,
    },
    /// The broker said no for another reason.
    #[error("cannot {operation} topic {topic}: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// `describe` or `create`.
        operation: &'static str,
        /// The broker's words.
        reason: String,
    },
    /// librdkafka would not open a client.
    #[error("cannot open a Kafka client: {reason}; check [kafka.librdkafka]")]
    Client {
        /// librdkafka's words.
        reason: String,
    },
}

impl TopicError {
    /// Trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl Admin {
    /// `embedded` for the connection of the embedded broker, which creates topics by its control socket only.
    pub fn new(connection: Connection, embedded: Option<Arc<Embedded>>) -> Self {
        Self { connection, embedded, timeout: TIMEOUT }
    }

    /// Another time than 10 s for each request.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Creates the topic when it is missing, and returns when it can be used. The embedded broker has one replica
    /// of everything, whatever is asked for.
    pub fn ensure(&self, name: &str, partitions: i32, replicas: i32) -> Result<Ensured, TopicError> {
        check_name(name)?;
        if partitions < 1 {
            return Err(TopicError::Partitions { topic: name.to_owned(), partitions });
        }
        if let Some(embedded) = &self.embedded {
            return self.ensure_embedded(embedded, name, partitions);
        }
        if replicas < 1 && replicas != BROKER_DEFAULT_REPLICAS {
            let reason = "there must be at least one".to_owned();
            return Err(TopicError::Replicas { topic: name.to_owned(), replicas, reason });
        }
        let client = open(&self.connection)?;
        if let Some(topic) = self.describe(&client, name)? {
            return Ok(Ensured::Present { partitions: topic.partitions });
        }
        let ensured = match native::create_topic(&client, name, partitions, replicas, self.timeout) {
            Ok(()) => Ensured::Created,
            // Someone else was quicker.
            Err(failure) if failure.code == RDKafkaErrorCode::TopicAlreadyExists => Ensured::Present { partitions },
            Err(failure) if failure.code == RDKafkaErrorCode::InvalidReplicationFactor => {
                return Err(TopicError::Replicas {
                    topic: name.to_owned(),
                    replicas,
                    reason: sentence(failure.reason),
                });
            }
            Err(failure) => return Err(self.refusal(name, "create", failure)),
        };
        let deadline = Instant::now() + VISIBLE_WITHIN;
        // The controller has it; the broker that answers us may lag behind.
        loop {
            match (self.describe(&client, name)?, ensured) {
                (Some(_), Ensured::Created) => return Ok(Ensured::Created),
                (Some(topic), Ensured::Present { .. }) => return Ok(Ensured::Present { partitions: topic.partitions }),
                (None, _) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                (None, _) => {
                    return Err(TopicError::Refused {
                        topic: name.to_owned(),
                        operation: "create",
                        reason: format!("it was created, and is still not to be seen after {VISIBLE_WITHIN:?}"),
                    });
                }
            }
        }
    }

    /// How many partitions a topic has; `None` when there is no such topic, which this does not change.
    pub fn partitions(&self, name: &str) -> Result<Option<i32>, TopicError> {
        Ok(self.topic(name)?.map(|topic| topic.partitions))
    }

    /// The topic as it is; `None` when there is no such topic, which this does not change.
    pub fn topic(&self, name: &str) -> Result<Option<Topic>, TopicError> {
        check_name(name)?;
        let client = open(&self.connection)?;
        self.describe(&client, name)
    }

    fn ensure_embedded(&self, embedded: &Embedded, name: &str, partitions: i32) -> Result<Ensured, TopicError> {
        match embedded.create_topic(name, partitions) {
            Ok(true) => Ok(Ensured::Created),
            Ok(false) => Ok(Ensured::Present { partitions: self.partitions(name)?.unwrap_or(partitions) }),
            Err(error) => {
                Err(TopicError::Refused { topic: name.to_owned(), operation: "create", reason: format!("{error:#}") })
            }
        }
    }

    fn describe(&self, client: &Client<Reporter>, name: &str) -> Result<Option<Topic>, TopicError> {
        let described = native::describe_topics(client, self.connection.admin_broker(), &[name], self.timeout)
            .map_err(|failure| self.refusal(name, "describe", failure))?;
        match described.into_iter().next().map(|topic| topic.outcome) {
            Some(Ok(found)) => {
                Ok(Some(Topic { id: TopicId::from_broker(name, found.id), partitions: found.partitions }))
            }
            None | Some(Err(native::UNKNOWN_TOPIC)) => Ok(None),
            Some(Err(code)) => Err(self.refusal(name, "describe", Failure { code, reason: code.to_string() })),
        }
    }

    fn refusal(&self, name: &str, operation: &'static str, failure: Failure) -> TopicError {
        let (topic, reason) = (name.to_owned(), sentence(failure.reason));
        match failure.code {
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                TopicError::NotAuthorized { topic, operation }
            }
            RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::NotController => {
                TopicError::Unreachable { bootstrap: self.connection.bootstrap.clone(), reason }
            }
            RDKafkaErrorCode::InvalidTopic => TopicError::Name { topic },
            RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidPartitions
            | RDKafkaErrorCode::InvalidConfig => TopicError::Policy { topic, reason },
            _ => TopicError::Refused { topic, operation, reason },
        }
    }
}

/// A client that can be asked, and neither reads nor writes.
pub(crate) fn open(connection: &Connection) -> Result<Kept<Client<Reporter>>, TopicError> {
    let open = || -> Result<Client<Reporter>, KafkaError> {
        let config = connection.client("admin");
        let native = config.create_native_config()?;
        Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, Reporter::new("admin"))
    };
    open().map(|client| connection.keep(client)).map_err(|error| TopicError::Client { reason: error.to_string() })
}

/// The settings of topics that are there, each by its name; those that this client may not ask for are left out.
///
/// # Errors
/// No broker answers; or this client may ask for none.
pub(crate) fn configs(
    client: &Client<Reporter>,
    topics: &[&str],
    timeout: Duration,
) -> anyhow::Result<HashMap<String, HashMap<String, String>>> {
    Ok(native::describe_configs(client, topics, timeout)?)
}

/// The broker's words without their full stop, for use inside a sentence.
fn sentence(reason: String) -> String {
    reason.trim_end_matches('.').to_owned()
}

fn check_name(name: &str) -> Result<(), TopicError> {
    let good = (1..=NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good { Ok(()) } else { Err(TopicError::Name { topic: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn admin(bootstrap: String) -> Admin {
        let connection = Connection { bootstrap, incarnation: Some("1".to_owned()), ..Connection::default() };
        Admin::new(connection, None).with_timeout(Duration::from_secs(5))
    }

    #[test]
    fn a_topic_that_is_there_is_left_alone() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 7, 1).unwrap();
        let admin = admin(cluster.bootstrap_servers());
        assert_eq!(admin.ensure("orders", 3, 1), Ok(Ensured::Present { partitions: 7 }));
        assert_eq!(admin.partitions("orders"), Ok(Some(7)));
    }

    #[test]
    fn asking_for_a_topic_does_not_create_it() {
        let cluster = MockCluster::new(1).unwrap();
        let admin = admin(cluster.bootstrap_servers());
        assert_eq!(admin.partitions("nowhere"), Ok(None));
        assert_eq!(admin.partitions("nowhere"), Ok(None));
    }

    #[test]
    fn nobody_there_says_where_and_what_to_check() {
        let error =
            admin("127.0.0.1:1".to_owned()).with_timeout(Duration::from_millis(300)).ensure("a", 1, 1).unwrap_err();
        assert!(error.is_transient());
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("kafka.bootstrap"), "{text}");
    }

    #[test]
    fn names_and_numbers_are_checked_before_anyone_is_asked() {
        let admin = admin("127.0.0.1:1".to_owned());
        for name in ["", ".", "..", "a b", "주문", &"x".repeat(250)] {
            assert_eq!(admin.ensure(name, 1, 1), Err(TopicError::Name { topic: name.to_owned() }));
        }
        assert!(matches!(admin.ensure("a", 0, 1), Err(TopicError::Partitions { partitions: 0, .. })));
        assert!(matches!(admin.ensure("a", 1, 0), Err(TopicError::Replicas { replicas: 0, .. })));
    }
}
