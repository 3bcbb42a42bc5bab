//! The last records of topics, read once by a client that is in no group and leaves no trace.
//!
//! It ends when it has them or when its time is over; an answer is whole or an error.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::config::{Connection, Reporter};
use super::scan::{self, Flow, Part};
use crate::deploy::manifest::Spec;
use crate::record::Record;
use crate::settings::Isolation;

/// How long one question to the cluster may take.
const ASK: Duration = Duration::from_secs(5);
/// How long reading may take.
const READ: Duration = Duration::from_secs(20);

/// Where a partition begins and ends.
struct Span {
    topic: String,
    partition: i32,
    low: i64,
    high: i64,
}

/// The last records of these topics, `count` in all and of each partition about as many, each partition's in order. Topics
/// that are not there have none.
///
/// # Errors
/// Kafka cannot be reached, or does not give them in time.
pub fn last(connection: &Connection, spec: &Spec, topics: &[String], count: usize) -> Result<Vec<Record>> {
    let mut config = connection.client(&format!("{}-smoke", spec.name));
    config
        // Named, since librdkafka assigns nothing without one; nobody joins it, and no offset is committed.
        .set("group.id", &spec.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set(
            "isolation.level",
            match spec.consumer.isolation {
                Isolation::ReadCommitted => "read_committed",
                Isolation::ReadUncommitted => "read_uncommitted",
            },
        );
    let context = Reporter::new("smoke");
    let client: BaseConsumer<Reporter> = config.create_with_context(context).context("open a consumer")?;
    let client = connection.keep(client);
    let mut spans = Vec::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), ASK).with_context(|| format!("ask for topic {topic}"))?;
        let partitions = metadata.topics().iter().filter(|found| found.name() == topic).flat_map(|t| t.partitions());
        for partition in partitions.map(|partition| partition.id()) {
            let ends = client.fetch_watermarks(topic, partition, ASK);
            let (low, high) = ends.with_context(|| format!("ask for the ends of {topic}/{partition}"))?;
            spans.push(Span { topic: topic.clone(), partition, low, high });
        }
    }
    let begin = spread(&spans, count);
    let until = Instant::now() + READ;
    let mut records = Vec::new();
    // One after the other: what says that a partition has ended does not say of which topic.
    for topic in topics {
        let wanted: Vec<(&Span, i64)> = spans
            .iter()
            .zip(&begin)
            .filter(|(span, begin)| span.topic == *topic && **begin < span.high)
            .map(|(s, b)| (s, *b))
            .collect();
        records.extend(read(&client, &wanted, until).with_context(|| format!("read the last records of {topic}"))?);
    }
    Ok(records)
}

/// Where to begin in each partition, so that it is so many records in all if none is missing in between.
fn spread(spans: &[Span], count: usize) -> Vec<i64> {
    let mut begin: Vec<i64> = spans.iter().map(|span| span.high).collect();
    let mut left = count;
    loop {
        let before = left;
        for (begin, span) in begin.iter_mut().zip(spans) {
            if left > 0 && *begin > span.low {
                *begin -= 1;
                left -= 1;
            }
        }
        if left == 0 || left == before {
            return begin;
        }
    }
}

fn read(client: &BaseConsumer<Reporter>, wanted: &[(&Span, i64)], until: Instant) -> Result<Vec<Record>> {
    let Some((Span { topic, .. }, _)) = wanted.first() else { return Ok(Vec::new()) };
    let parts: Vec<Part> =
        wanted.iter().map(|(span, begin)| Part { partition: span.partition, next: *begin, end: span.high }).collect();
    let mut found: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    let read = scan::read(client, topic, parts, until, |record| {
        found.entry(record.partition).or_default().push(record);
        Flow::On
    })?;
    if read.iter().any(|part| part.next < part.end) {
        return Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut).into());
    }
    Ok(found.into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_the_last_records_are_spread_over_the_partitions() {
        let span = |partition, low, high| Span { topic: "t".into(), partition, low, high };
        let spans = [span(0, 0, 100), span(1, 5, 6), span(2, 7, 7), span(3, 0, 3)];
        assert_eq!(spread(&spans, 0), [100, 6, 7, 3]);
        assert_eq!(spread(&spans, 2), [99, 5, 7, 3]);
        assert_eq!(spread(&spans, 9), [95, 5, 7, 0]);
        assert_eq!(spread(&spans, 1_000), [0, 5, 7, 0]);
    }
}
