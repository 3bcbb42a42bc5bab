//! A look at records by their place.
//!
//! It is in no consumer group, commits no offset and holds nobody up; what it is told to read is all that it reads.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::config::{Connection, Reporter};
use super::consumer::record;
use crate::record::Record;

/// How long Kafka may take to answer, or to bring the next record.
const WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// Up to `count` records of a partition, from the offset on; fewer where it ends. Records of a transaction that was
/// aborted are not among them.
///
/// # Errors
/// Kafka does not answer; there is no such topic or partition; or it does not have the offset, or not any more.
pub fn read(connection: &Connection, topic: &str, partition: i32, offset: i64, count: usize) -> Result<Vec<Record>> {
    let mut config = connection.client("records");
    config
        // librdkafka assigns nothing without one; with partitions assigned by hand, nobody joins it.
        .set("group.id", "tidemill-records")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error");
    let client: BaseConsumer<Reporter> =
        config.create_with_context(Reporter::new("records")).context("open a Kafka consumer")?;
    let client = connection.keep(client);
    let (low, high) = client
        .fetch_watermarks(topic, partition, WITHIN)
        .map_err(|error| explain(&error, connection, topic, partition))?;
    if !(low..high).contains(&offset) {
        bail!("{topic}/{partition} has no record at offset {offset}: it has {low} to {high}, the last not included");
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    client.assign(&list)?;
    let mut records = Vec::new();
    let mut until = Instant::now() + WITHIN;
    while records.len() < count {
        match client.poll(POLL) {
            Some(Ok(message)) => {
                // What is behind it was compacted away, aborted, or no record but a mark.
                if records.is_empty() && message.offset() != offset && count == 1 {
                    bail!(
                        "{topic}/{partition} has no record at offset {offset} any more: the next one is at {}",
                        message.offset()
                    );
                }
                records.push(record(&message));
                until = Instant::now() + WITHIN;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) => match error.rdkafka_error_code() {
                // librdkafka goes on by itself.
                Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) if Instant::now() < until => {
                }
                _ => return Err(explain(&error, connection, topic, partition)),
            },
            None if Instant::now() > until => {
                bail!("{} has not brought {topic}/{partition}@{offset} within {WITHIN:?}", connection.bootstrap)
            }
            None => {}
        }
    }
    Ok(records)
}

fn explain(error: &KafkaError, connection: &Connection, topic: &str, partition: i32) -> anyhow::Error {
    let bootstrap = &connection.bootstrap;
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
            anyhow!("there is no {topic}/{partition} at {bootstrap}: check the topic's name and the partition")
        }
        Some(Code::OperationTimedOut | Code::AllBrokersDown | Code::BrokerTransportFailure) => {
            anyhow!("{bootstrap} has not answered within {WITHIN:?}: is a broker there?")
        }
        _ => anyhow!("read {topic}/{partition} at {bootstrap}: {error}"),
    }
}
