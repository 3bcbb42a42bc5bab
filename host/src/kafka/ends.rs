//! Where partitions begin and end, and where a time is in them, for whoever wants to know and reads nothing.
//!
//! It only asks, of all partitions at once. What a transaction has written counts, also while it is open, as for Kafka's own tools.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::client::{Client, ClientContext};

use super::config::Connection;
use super::identity::{self, TopicId};
use super::native;
use super::topics;

/// How long Kafka may take for an answer.
const WITHIN: Duration = Duration::from_secs(5);
/// A topic of every cluster's own, to ask for where there is nothing else.
const ANY_TOPIC: &str = "__consumer_offsets";

/// A partition, as Kafka has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This life of its topic.
    pub topic_id: TopicId,
    /// The first offset that is there.
    pub low: i64,
    /// The offset that the next record will get.
    pub high: i64,
    /// The first offset of the time that was asked for or later; `high` where no record is that late.
    pub at: i64,
}

/// Looks at partitions, by topic and number, and for a time in milliseconds since the Unix epoch; those that are not there, or whose
/// leader does not answer, are not in the map.
///
/// # Errors
/// No broker answers.
pub fn look(
    connection: &Connection,
    partitions: &[(&str, i32)],
    time: Option<i64>,
) -> Result<HashMap<(String, i32), Ends>> {
    if partitions.is_empty() {
        return Ok(HashMap::new());
    }
    let client = topics::open(connection)?;
    look_with(&client, connection, partitions, time)
}

/// Looks at all partitions of topics; those of topics that are not there are not in the map.
///
/// # Errors
/// No broker answers, or one does not let us look, or a partition has no leader that answers.
pub fn of(connection: &Connection, topics: &[&str]) -> Result<HashMap<(String, i32), Ends>> {
    let client = topics::open(connection)?;
    let described = native::describe_topics(&client, connection.admin_broker(), topics, WITHIN)
        .map_err(|failure| anyhow!("{}", failure.reason))
        .with_context(|| format!("ask Kafka at {} for topics", connection.bootstrap))?;
    let mut partitions = Vec::new();
    for topic in &described {
        match &topic.outcome {
            Ok(found) => partitions.extend((0..found.partitions).map(|partition| (topic.name.as_str(), partition))),
            Err(native::UNKNOWN_TOPIC) => {}
            Err(code) => bail!("ask Kafka at {} for topic {}: {code}", connection.bootstrap, topic.name),
        }
    }
    let ends = look_with(&client, connection, &partitions, None)?;
    let there = |place: &&(&str, i32)| ends.contains_key(&(place.0.to_owned(), place.1));
    if let Some((topic, partition)) = partitions.iter().find(|place| !there(place)) {
        bail!("Kafka at {} does not answer for {topic}/{partition}: is its leader there?", connection.bootstrap);
    }
    Ok(ends)
}

/// Looks as [`look`] does, by a client that is there.
///
/// # Errors
/// No broker answers.
pub fn look_with<C: ClientContext>(
    client: &Client<C>,
    connection: &Connection,
    partitions: &[(&str, i32)],
    time: Option<i64>,
) -> Result<HashMap<(String, i32), Ends>> {
    let away = || format!("ask Kafka at {} for the ends of partitions", connection.bootstrap);
    let ids = ids(client, connection, partitions).with_context(away)?;
    let there = of_topics(partitions, &ids);
    let ask = |which| native::list_offsets(client, &there, which, WITHIN).with_context(away);
    let (lows, highs) = (ask(native::BEGIN)?, ask(native::END)?);
    let times = time.map(ask).transpose()?;
    let ends = |place: &(&str, i32)| {
        let key = (place.0.to_owned(), place.1);
        let (low, high) = (*lows.get(&key)?, *highs.get(&key)?);
        let at = match &times {
            Some(times) => Some(*times.get(&key)?).filter(|at| *at >= 0).unwrap_or(high),
            None => high,
        };
        let topic_id = ids.get(&key.0)?.clone();
        Some((key, Ends { topic_id, low, high, at }))
    };
    Ok(there.iter().filter_map(ends).collect())
}

/// Where partitions end, by a client that is there: the offset that the next record of each will get. The same are left out.
///
/// # Errors
/// No broker answers.
pub fn highs<C: ClientContext>(
    client: &Client<C>,
    connection: &Connection,
    partitions: &[(&str, i32)],
) -> Result<HashMap<(String, i32), i64>> {
    let away = || format!("ask Kafka at {} for the ends of partitions", connection.bootstrap);
    if partitions.is_empty() {
        // Only whether it answers.
        ids(client, connection, &[(ANY_TOPIC, 0)]).with_context(away)?;
        return Ok(HashMap::new());
    }
    let ids = ids(client, connection, partitions).with_context(away)?;
    native::list_offsets(client, &of_topics(partitions, &ids), native::END, WITHIN).with_context(away)
}

/// The latest time that a record of each partition has, in milliseconds since the Unix epoch (KIP-734); one without records is left out.
/// All of the partitions have to be there.
///
/// # Errors
/// No broker answers, or one does not know the question.
pub fn newest<C: ClientContext>(client: &Client<C>, partitions: &[(&str, i32)]) -> Result<HashMap<(String, i32), i64>> {
    let found = native::list_times(client, partitions, WITHIN).context("ask Kafka for the newest records")?;
    Ok(found.into_iter().filter(|(_, time)| *time >= 0).collect())
}

/// The ids of those topics that are there.
fn ids<C: ClientContext>(
    client: &Client<C>,
    connection: &Connection,
    partitions: &[(&str, i32)],
) -> Result<HashMap<String, TopicId>, identity::Error> {
    let mut names: Vec<&str> = partitions.iter().map(|(topic, _)| *topic).collect();
    names.sort_unstable();
    names.dedup();
    identity::topic_ids(client, connection, &names, WITHIN)
}

/// The partitions of these topics. One that is not there would be asked for as long as there is time.
fn of_topics<'a>(partitions: &[(&'a str, i32)], ids: &HashMap<String, TopicId>) -> Vec<(&'a str, i32)> {
    partitions.iter().filter(|(topic, _)| ids.contains_key(*topic)).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn what_is_not_there_is_left_out_and_nobody_there_says_where() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 2, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        let connection = Connection { bootstrap, incarnation: Some("1".to_owned()), ..Connection::default() };
        let ends = look(&connection, &[("orders", 0), ("orders", 1), ("nowhere", 0)], None).unwrap();
        let mut found: Vec<_> =
            ends.iter().map(|((topic, partition), ends)| (&**topic, *partition, ends.low, ends.high)).collect();
        found.sort_unstable();
        assert_eq!(found, [("orders", 0, 0, 0), ("orders", 1, 0, 0)]);
        let nobody = Connection { bootstrap: "127.0.0.1:1".into(), ..connection };
        let error = look(&nobody, &[("orders", 0)], None).unwrap_err();
        assert!(format!("{error:#}").contains("127.0.0.1:1"), "{error:#}");
    }
}
