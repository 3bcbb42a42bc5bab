//! Parts of a topic, read once and in the order of their offsets, by a client that is in no group.
//!
//! Whoever reads says for each record whether that is enough of its partition. What came after the end of a part is never told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::config::{Connection, Reporter};
use super::consumer::record;
use super::native::Kept;
use crate::record::Record;

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(100);

/// A part of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The partition.
    pub partition: i32,
    /// The first offset to be read; afterwards the first that was not.
    pub next: i64,
    /// The first that is none of it.
    pub end: i64,
}

/// Whether a partition is read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the end of the part.
    On,
    /// That was enough of it.
    Enough,
}

/// A client that reads what it is told to, and only what was committed.
///
/// # Errors
/// librdkafka does not take the settings.
pub fn open(connection: &Connection, name: &str) -> Result<Kept<BaseConsumer<Reporter>>> {
    let mut config = connection.client(name);
    config
        // librdkafka assigns nothing without one; with partitions assigned by hand, nobody joins it.
        .set("group.id", format!("tidemill-{name}"))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true");
    let client = config.create_with_context(Reporter::new("scan")).context("open a Kafka consumer")?;
    Ok(connection.keep(client))
}

/// Reads parts of one topic. Returns how far it came in each until the time was over.
///
/// # Errors
/// librdkafka does not take the parts.
pub fn read(
    client: &BaseConsumer<Reporter>,
    topic: &str,
    parts: Vec<Part>,
    until: Instant,
    mut each: impl FnMut(Record) -> Flow,
) -> Result<Vec<Part>> {
    // One topic at a time: what says that a partition has ended does not say of which topic.
    let mut list = TopicPartitionList::new();
    for part in parts.iter().filter(|part| part.next < part.end) {
        list.add_partition_offset(topic, part.partition, Offset::Offset(part.next))?;
    }
    let mut open: BTreeMap<i32, Part> = parts.iter().map(|part| (part.partition, *part)).collect();
    let mut read: Vec<Part> = Vec::with_capacity(parts.len());
    open.retain(|_, part| {
        let begins = part.next < part.end;
        if !begins {
            read.push(*part);
        }
        begins
    });
    client.assign(&list)?;
    while !open.is_empty() && Instant::now() < until {
        match client.poll(POLL) {
            Some(Ok(message)) => {
                let Some(part) = open.get_mut(&message.partition()) else { continue };
                let (partition, offset) = (message.partition(), message.offset());
                // Of an assignment before this one.
                if message.topic() != topic || offset < part.next {
                    continue;
                }
                let flow = if offset < part.end { each(record(&message)) } else { Flow::On };
                part.next = (offset + 1).min(part.end);
                if flow == Flow::Enough || part.next >= part.end {
                    read.extend(open.remove(&partition));
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // Nothing but marks is left of it.
                read.extend(open.remove(&partition).map(|part| Part { next: part.end, ..part }));
            }
            Some(Err(error)) => tracing::debug!(%error, "reading is in trouble, and goes on"),
            None => {}
        }
    }
    client.unassign()?;
    read.extend(open.into_values());
    Ok(read)
}
