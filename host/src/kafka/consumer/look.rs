//! What Kafka says of partitions before they are read: whose they are, where they begin and end.
//!
//! It only asks. A partition whose leader is away gives no answer and holds up no other, so each is asked for by itself: librdkafka's question
//! for all at once, as in `kafka::ends`, answers for none before the last leader has, or its time is over.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;

use super::Plan;
use super::assignment::unplaced;
use super::rebalancer::{Rebalancer, list_of};
use crate::deploy::manifest::Start;
use crate::kafka::{identity, native};
use crate::lane::opening::Seen;
use crate::settings::Isolation;

/// How long one question to the cluster may take.
const ASK: Duration = Duration::from_secs(5);
/// How long the question for one partition's ends may take: its leader may be away.
const ASK_ENDS: Duration = Duration::from_secs(1);
/// Partitions without an answer after which a look ends.
const UNANSWERED_MAX: usize = 2;

/// Asks Kafka all that must be known before a partition is read; `None` for a partition that it does not answer for.
/// After a few of those the rest is left for the next time: the poll must not be away for long.
pub(super) fn look(
    client: &BaseConsumer<Rebalancer>,
    plan: &Plan,
    partitions: &[(String, i32)],
) -> Result<Vec<Option<Seen>>> {
    let mut topics: Vec<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
    topics.sort_unstable();
    topics.dedup();
    let ids = identity::topic_ids(client.client(), &plan.connection, &topics, ASK)?;
    let cluster = identity::cluster_id(client.client(), &plan.connection, ASK)?;
    let list = list_of(&unplaced(partitions))?;
    let committed = client.committed_offsets(list, ASK).context("ask for the group's committed offsets")?;
    let see = |(topic, partition): &(String, i32), ends: Ends| -> Option<Seen> {
        let committed = committed.find_partition(topic, *partition).and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        });
        Some(Seen {
            topic_id: ids.get(topic)?.as_str().to_owned(),
            cluster_id: cluster.as_str().to_owned(),
            low: ends.low,
            high: ends.high,
            timed: ends.timed,
            committed,
            embedded: plan.connection.is_embedded(),
        })
    };
    let ends = ends(client, plan, partitions)?;
    Ok(partitions.iter().zip(ends).map(|(partition, ends)| see(partition, ends?)).collect())
}

/// Where a partition begins and ends, and where `start`'s time is.
struct Ends {
    low: i64,
    high: i64,
    timed: Option<i64>,
}

/// The ends of the partitions that were asked for, which may be only the first ones.
fn ends(client: &BaseConsumer<Rebalancer>, plan: &Plan, partitions: &[(String, i32)]) -> Result<Vec<Option<Ends>>> {
    let mut marks = Vec::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        let mark = client
            .fetch_watermarks(topic, *partition, ASK_ENDS)
            .inspect_err(|error| tracing::debug!(topic, partition, %error, "ask for the ends of a partition"));
        marks.push(mark.ok());
        if marks.iter().filter(|mark| mark.is_none()).count() == UNANSWERED_MAX {
            break;
        }
    }
    let (embedded, start) = (plan.connection.is_embedded(), plan.spec.start);
    let places = partitions.iter().zip(&marks).filter(|(_, mark)| mark.is_some());
    let places: Vec<(&str, i32)> = places.map(|((topic, partition), _)| (topic.as_str(), *partition)).collect();
    let ask = |which: i64| -> Result<Offsets> {
        native::list_offsets(client.client(), &places, which, ASK).context("ask for the offsets of partitions")
    };
    // What a client that waits for transactions takes for the end is where the first open one began; the store, or
    // the group, may have come further.
    let whole = plan.spec.consumer.isolation == Isolation::ReadCommitted && !embedded;
    let highs = if whole { Some(ask(native::END)?) } else { None };
    let times = match start {
        Start::Time(at) if !embedded => Some(ask(at)?),
        _ => None,
    };
    let end = |place: &(String, i32), (low, high): (i64, i64)| -> Option<Ends> {
        let high = highs.as_ref().map_or(Some(high), |highs| highs.get(place).copied())?;
        let timed = match (start, &times) {
            (Start::Time(_), Some(times)) => Some(*times.get(place)?).filter(|offset| *offset >= 0),
            // The embedded broker looks up no times.
            (Start::Time(_), None) => Some(low),
            _ => None,
        };
        Some(Ends { low, high, timed })
    };
    Ok(partitions.iter().zip(marks).map(|(place, mark)| end(place, mark?)).collect())
}

type Offsets = HashMap<(String, i32), i64>;
