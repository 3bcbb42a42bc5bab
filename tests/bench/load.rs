//! The records that every contender gets, and the look at what they made of them.
//!
//! Record `n` is the same in every run. Its key is a user, and a user's records have rising numbers, so that loss,
//! repetition and a broken order of one key all show on the topic that was published to.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;

/// Users, and so keys.
const USERS: u64 = 1_000;
/// How long the broker may take for anything that is asked of it here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Record `n`, from 1: key and value, about 200 bytes. Its event id is random, or rises with time.
pub(crate) fn order(n: u64, ordered_ids: bool) -> (String, String) {
    let user = user(n);
    let value = format!(
        r#"{{"eventId":"{}","eventType":"ORDER_CREATED","timestamp":"2026-01-31T10:10:00.123Z","orderId":{n},"userId":"{user}","totalAmount":"{}.00","channel":"web"}}"#,
        if ordered_ids { ordered_id(n) } else { random_id(n) },
        1_000 + n % 90_000
    );
    (user, value)
}

/// The user, and key, of record `n`.
pub(crate) fn user(n: u64) -> String {
    format!("user-{:04}", n % USERS)
}

/// An id like those that most producers make: a UUID of random bits. The same for the same `n`.
pub(crate) fn random_id(n: u64) -> String {
    let (high, low) = (mix(n * 2), mix(n * 2 + 1));
    let text = format!("{high:016x}{low:016x}");
    let part = |from, to| text.get(from..to).unwrap_or_default();
    format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// An id like a UUID of version 7: it begins with a time, that of a thousand records a second.
fn ordered_id(n: u64) -> String {
    let text = format!("{:012x}{:016x}", 0x19_8000_0000 + n / 1_000, mix(n));
    let part = |from, to| text.get(from..to).unwrap_or_default();
    format!("{}-{}-7{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(16, 28))
}

/// SplitMix64.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A producer that says when it could not keep its word: by failing the flush.
pub(crate) fn producer(bootstrap: &str, linger: &str) -> Result<ThreadedProducer<DefaultProducerContext>> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", linger)
        .create()
        .context("open a producer")
}

/// Hands a record over, as soon as the producer has room.
pub(crate) fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    key: &str,
    value: &str,
) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    while let Err((error, back)) = producer.send(record) {
        ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "produce to {topic}: {error}");
        std::thread::sleep(Duration::from_millis(1));
        record = back;
    }
    Ok(())
}

/// Waits until the broker has all of them.
pub(crate) fn flush(producer: &ThreadedProducer<DefaultProducerContext>) -> Result<()> {
    producer.flush(PATIENCE).context("wait for the broker to take all records")
}

/// Puts records of these numbers on a topic that has those before them, with spaces after those that have fewer bytes than that. Returns how many bytes
/// their values have.
pub(crate) fn preload(
    bootstrap: &str,
    topic: &str,
    numbers: RangeInclusive<u64>,
    ordered_ids: bool,
    least: usize,
) -> Result<usize> {
    let count = *numbers.end();
    let producer = producer(bootstrap, "5")?;
    let mut bytes = 0;
    for n in numbers {
        let (key, mut value) = order(n, ordered_ids);
        value.push_str(&" ".repeat(least.saturating_sub(value.len())));
        bytes += value.len();
        send(&producer, topic, &key, &value)?;
    }
    flush(&producer)?;
    let there = Ends::of(bootstrap, topic)?.count()?;
    ensure!(there == count, "{there} records are on {topic}, not {count}");
    Ok(bytes)
}

/// How many records a topic has, asked again and again.
pub(crate) struct Ends {
    client: BaseConsumer,
    topic: String,
    partitions: Vec<i32>,
}

impl Ends {
    /// Of this topic.
    pub(crate) fn of(bootstrap: &str, topic: &str) -> Result<Self> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench-reader")
            .set("enable.auto.commit", "false")
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "100")
            .create()
            .context("open a consumer")?;
        let until = Instant::now() + PATIENCE;
        loop {
            let metadata = client.fetch_metadata(Some(topic), PATIENCE).context("ask for the topic")?;
            let found = metadata.topics().first().map(|t| t.partitions().iter().map(|p| p.id()).collect());
            let partitions: Vec<i32> = found.unwrap_or_default();
            if !partitions.is_empty() {
                return Ok(Self { client, topic: topic.to_owned(), partitions });
            }
            ensure!(Instant::now() < until, "topic {topic} does not appear");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Records that are on it.
    pub(crate) fn count(&self) -> Result<u64> {
        let mut count = 0;
        for &partition in &self.partitions {
            let (low, high) = self.client.fetch_watermarks(&self.topic, partition, PATIENCE)?;
            count += u64::try_from(high - low)?;
        }
        Ok(count)
    }

    /// Records that were ever on it, also those that its retention has removed.
    pub(crate) fn last(&self) -> Result<u64> {
        let high = |&partition| Ok(self.client.fetch_watermarks(&self.topic, partition, PATIENCE)?.1);
        let ends = self.partitions.iter().map(high).collect::<Result<Vec<i64>>>()?;
        Ok(u64::try_from(ends.iter().sum::<i64>())?)
    }

    /// A consumer of all partitions, from one end.
    pub(crate) fn read_from(self, offset: Offset) -> Result<BaseConsumer> {
        let mut list = TopicPartitionList::new();
        for &partition in &self.partitions {
            // "The end" is decided now and not when the first fetch comes.
            let from = match offset {
                Offset::End => Offset::Offset(self.client.fetch_watermarks(&self.topic, partition, PATIENCE)?.1),
                other => other,
            };
            list.add_partition_offset(&self.topic, partition, from)?;
        }
        self.client.assign(&list)?;
        Ok(self.client)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Booked {
    event_id: String,
    order_id: u64,
}

/// Reads a topic to its end: each of `count` orders must be there once, and those of one user in their order.
pub(crate) fn check_events(bootstrap: &str, topic: &str, count: u64) -> Result<()> {
    let ends = Ends::of(bootstrap, topic)?;
    let there = ends.count()?;
    ensure!(there == count, "{topic}: {there} events, and {count} records");
    let consumer = ends.read_from(Offset::Beginning)?;
    let mut last: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut ids = HashSet::new();
    for _ in 0..count {
        let Some(message) = consumer.poll(PATIENCE) else { bail!("{topic}: {} of {count} events came", ids.len()) };
        let message = message.context("read the events")?;
        let event: Booked = serde_json::from_slice(message.payload().unwrap_or_default()).context("parse an event")?;
        let before = last.insert(message.key().unwrap_or_default().to_vec(), event.order_id).unwrap_or(0);
        ensure!(before < event.order_id, "{topic}: order {} came after {before} of the same key", event.order_id);
        ensure!(ids.insert(event.event_id), "{topic}: two events have the id of order {}'s", event.order_id);
    }
    Ok(())
}

/// Looks into a contender's store: each of `count` orders must have its row and its inbox row, once, and no outbox row.
pub(crate) fn check_store(path: &std::path::Path, count: u64) -> Result<()> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(path, flags).context("open the store")?;
    let ask = |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
    let found = (
        ask("SELECT count(*) FROM entries")?,
        ask("SELECT count(DISTINCT order_id) FROM entries")?,
        ask("SELECT count(*) FROM tm_inbox")?,
        ask("SELECT count(*) FROM tm_outbox")?,
    );
    ensure!(
        found == (count, count, count, 0),
        "the store has {} rows of {} orders, {} ids in the inbox and {} rows in the outbox, for {count} records",
        found.0,
        found.1,
        found.2,
        found.3
    );
    Ok(())
}
