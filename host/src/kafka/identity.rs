//! Who a topic and a cluster are, beyond their names: topic ids (KIP-516) and cluster ids.
//!
//! The store keeps both with each offset, so that a topic made again under an old name, or an embedded broker that
//! forgot its records, is noticed before an old offset is applied to it. Two ids are only ever compared as text.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};

use super::config::Connection;
use super::native;

/// How often ids are looked at while topics are used, and how long an answer may take.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Names one life of a topic: another one after the topic was deleted and made again.
///
/// From a broker older than topic ids (Kafka 2.8) it is `name:` and the topic's name, which never changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(String);

/// Names a cluster. The embedded broker's is `embedded:` and its incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(String);

impl TopicId {
    /// As the store has it.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As the store keeps it: the 22 characters of Kafka's own tools.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn from_broker(name: &str, id: Option<String>) -> Self {
        Self(id.unwrap_or_else(|| format!("name:{name}")))
    }
}

impl ClusterId {
    /// As the store has it.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As the store keeps it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It was an embedded broker's: of another incarnation, it forgot everything.
    pub fn is_embedded(&self) -> bool {
        self.0.starts_with(EMBEDDED)
    }
}

const EMBEDDED: &str = "embedded:";

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an identity is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("no broker answered: {0}")]
    Unreachable(String),
    /// The broker said no for one topic.
    #[error("topic {topic} cannot be described: {reason}")]
    Topic {
        /// Which.
        topic: String,
        /// librdkafka's words.
        reason: String,
    },
}

/// The ids of those topics that exist; a topic that is not there is not in the map, and is not created.
///
/// Asks the cluster and waits at most `timeout`; never call it from a rebalance callback.
pub fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    connection: &Connection,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, TopicId>, Error> {
    let described = native::describe_topics(client, connection.admin_broker(), topics, timeout)
        .map_err(|error| Error::Unreachable(error.to_string()))?;
    let mut ids = HashMap::with_capacity(described.len());
    for topic in described {
        match topic.outcome {
            Ok(found) => {
                let id = TopicId::from_broker(&topic.name, found.id);
                ids.insert(topic.name, id);
            }
            Err(native::UNKNOWN_TOPIC) => {}
            Err(code) => return Err(Error::Topic { topic: topic.name, reason: code.to_string() }),
        }
    }
    Ok(ids)
}

/// The topics that a producer sends to, each with its id: to see that one was made again under its name.
///
/// With leader epochs behind those that it knows of the old topic, librdkafka would look for the new one's leader for ever.
#[derive(Debug, Default)]
pub struct Known {
    ids: HashMap<String, Option<TopicId>>,
    ask_at: Option<Instant>,
}

impl Known {
    /// Something was sent to this topic.
    pub fn note(&mut self, topic: &str) {
        if !self.ids.contains_key(topic) {
            self.ids.insert(topic.to_owned(), None);
        }
    }

    /// Asks for ids that are not known yet, and again for those of topics where nothing arrives. Returns one that is another now.
    /// It asks seldom, and waits a second at most.
    pub fn made_again<C: ClientContext>(
        &mut self,
        client: &Client<C>,
        connection: &Connection,
        stuck: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let wanted = |(topic, id): &(&String, &Option<TopicId>)| id.is_none() || stuck(topic);
        let topics: Vec<String> = self.ids.iter().filter(wanted).map(|(topic, _)| topic.clone()).collect();
        let early = self.ask_at.is_some_and(|at| Instant::now() < at);
        if topics.is_empty() || early || connection.is_embedded() {
            return None;
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let found = topic_ids(client, connection, &names, LOOK_WITHIN);
        let again = found.is_err() || names.iter().any(|topic| stuck(topic));
        self.ask_at = again.then(|| Instant::now() + LOOK_EVERY);
        let mut another = None;
        for (topic, id) in found.unwrap_or_default() {
            let before = self.ids.insert(topic.clone(), Some(id.clone())).flatten();
            if before.is_some_and(|before| before != id) {
                another = Some(topic);
            }
        }
        another
    }
}

/// The cluster's id. For the embedded broker this is known without asking.
pub fn cluster_id<C: ClientContext>(
    client: &Client<C>,
    connection: &Connection,
    timeout: Duration,
) -> Result<ClusterId, Error> {
    if let Some(incarnation) = &connection.incarnation {
        return Ok(ClusterId(format!("{EMBEDDED}{incarnation}")));
    }
    client
        .fetch_cluster_id(timeout)
        .map(ClusterId)
        .ok_or_else(|| Error::Unreachable(format!("{} gave no cluster id within {timeout:?}", connection.bootstrap)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use rdkafka::client::DefaultClientContext;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::RDKafkaType;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn client(connection: &Connection) -> Client {
        let config = connection.client("test");
        let native = config.create_native_config().unwrap();
        Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext).unwrap()
    }

    fn connection(bootstrap: String, incarnation: Option<&str>) -> Connection {
        Connection { bootstrap, incarnation: incarnation.map(str::to_owned), ..Connection::default() }
    }

    #[test]
    fn each_topic_has_an_id_of_its_own_that_stays() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 1, 1).unwrap();
        cluster.create_topic("b", 3, 1).unwrap();
        let connection = connection(cluster.bootstrap_servers(), Some("1"));
        let client = client(&connection);
        let first = topic_ids(&client, &connection, &["a", "b", "missing"], TIMEOUT).unwrap();
        assert_eq!(first.len(), 2, "{first:?}");
        assert_ne!(first["a"], first["b"]);
        assert_eq!(first["a"].as_str().len(), 22);
        // Asking did not create it, and a name may stand twice.
        assert_eq!(topic_ids(&client, &connection, &["b", "missing", "a", "b"], TIMEOUT).unwrap(), first);
        assert_eq!(topic_ids(&client, &connection, &[], TIMEOUT).unwrap().len(), 0);
    }

    #[test]
    fn a_cluster_made_anew_has_other_ids() {
        let id = || {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic("a", 1, 1).unwrap();
            let connection = connection(cluster.bootstrap_servers(), Some("1"));
            topic_ids(&client(&connection), &connection, &["a"], TIMEOUT).unwrap()["a"].clone()
        };
        assert_ne!(id(), id());
    }

    #[test]
    fn the_embedded_cluster_is_its_incarnation() {
        let cluster = MockCluster::new(1).unwrap();
        let embedded = connection(cluster.bootstrap_servers(), Some("42"));
        let id = cluster_id(&client(&embedded), &embedded, TIMEOUT).unwrap();
        assert_eq!((id.as_str(), id.is_embedded()), ("embedded:42", true));
        let other = connection(cluster.bootstrap_servers(), None);
        let id = cluster_id(&client(&other), &other, TIMEOUT).unwrap();
        assert!(id.as_str().starts_with("mockCluster") && !id.is_embedded(), "{id}");
    }

    #[test]
    fn nobody_there_is_an_error_in_time() {
        let nowhere = connection("127.0.0.1:1".to_owned(), None);
        let short = Duration::from_millis(300);
        let error = topic_ids(&client(&nowhere), &nowhere, &["a"], short).unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
        assert!(cluster_id(&client(&nowhere), &nowhere, short).is_err());
    }

    #[test]
    fn a_broker_without_topic_ids_gives_the_name() {
        assert_eq!(TopicId::from_broker("orders", None).as_str(), "name:orders");
    }
}
