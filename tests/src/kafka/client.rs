//! A raw Kafka client, independent of the host's: what is on a topic is what it says.
//!
//! Works on Apache Kafka and on the embedded broker. It belongs to no group and commits nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// A record to be produced.
#[derive(Clone, Debug, Default)]
pub struct Out {
    pub(super) partition: Option<i32>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl Out {
    /// A record with this value.
    pub fn new(value: impl AsRef<[u8]>) -> Self {
        Self { value: Some(value.as_ref().to_vec()), ..Self::default() }
    }

    /// A record whose value is null.
    pub fn tombstone() -> Self {
        Self::default()
    }

    /// With this key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// To this partition, instead of the key's.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), Some(value.as_ref().to_vec())));
        self
    }

    /// With one more header whose value is null.
    pub fn null_header(mut self, name: &str) -> Self {
        self.headers.push((name.to_owned(), None));
        self
    }

    /// As written at this time, in milliseconds since the Unix epoch.
    pub fn timestamp(mut self, millis: i64) -> Self {
        self.timestamp = Some(millis);
        self
    }
}

/// A record as it stands on a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rec {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The timestamp, in milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// The key; none is null.
    pub key: Option<Vec<u8>>,
    /// The value; none is null.
    pub value: Option<Vec<u8>>,
    /// The headers, in order; a value of none is null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Rec {
    /// The key as text; empty for null.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }

    /// The value as text; empty for null.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default())
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// The value of the only header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let first = found.next()?;
        assert!(found.next().is_none(), "header {name} is there twice");
        first.1.as_deref()
    }

    /// The same as text.
    pub fn header_text(&self, name: &str) -> Option<String> {
        self.header(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// A client of a broker or a cluster.
#[derive(Clone, Debug)]
pub struct Client {
    bootstrap: String,
}

/// Partition and offset of each record, or why it was refused.
type Outcomes = Vec<Result<(i32, i64), String>>;

#[derive(Clone, Default)]
struct Acknowledged(Arc<Mutex<Outcomes>>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.to_string()),
        };
        self.0.lock().unwrap().push(result);
    }
}

impl Client {
    /// A client of `host:port,...`.
    pub fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned() }
    }

    /// Produces one record. Returns its partition and offset.
    pub fn produce(&self, topic: &str, record: &Out) -> (i32, i64) {
        self.produce_all(topic, std::iter::once(record.clone())).remove(0)
    }

    /// Produces records, in order for each partition, and waits until all are acknowledged. Returns partitions and
    /// offsets in the order of the acknowledgements.
    pub fn produce_all(&self, topic: &str, records: impl IntoIterator<Item = Out>) -> Vec<(i32, i64)> {
        let acknowledged = Acknowledged::default();
        let producer: BaseProducer<Acknowledged> = self
            .config()
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "2000000")
            .create_with_context(acknowledged.clone())
            .unwrap();
        let mut sent = 0;
        for out in records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &out.headers {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
            record.key = out.key.as_deref();
            record.payload = out.value.as_deref();
            record.partition = out.partition;
            record.timestamp = out.timestamp;
            producer.send(record).unwrap_or_else(|(error, _)| panic!("produce to {topic}: {error}"));
            sent += 1;
            if sent % 1_000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(WITHIN).unwrap_or_else(|error| panic!("produce to {topic}: {error}"));
        let results = std::mem::take(&mut *acknowledged.0.lock().unwrap());
        assert_eq!(results.len(), sent);
        results.into_iter().map(|result| result.unwrap_or_else(|e| panic!("produce to {topic}: {e}"))).collect()
    }

    /// All records of a topic, from the earliest to the latest at this moment: partition by partition, in order. None
    /// if there is no such topic.
    pub fn consume_all(&self, topic: &str) -> Vec<Rec> {
        let consumer = self.consumer();
        let mut assignment = TopicPartitionList::new();
        let mut ends = BTreeMap::new();
        for partition in 0..Self::partitions_by(&consumer, topic) {
            // A topic that was just made has no leader yet.
            let (low, high) =
                crate::wait::eventually_some(WITHIN, &format!("{topic}/{partition} has a leader"), || {
                    consumer.fetch_watermarks(topic, partition, WITHIN).ok()
                });
            if high > low {
                assignment.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
                ends.insert(partition, high);
            }
        }
        let mut found = Vec::new();
        if ends.is_empty() {
            return found;
        }
        consumer.assign(&assignment).unwrap();
        let deadline = Instant::now() + WITHIN;
        while !ends.is_empty() {
            assert!(Instant::now() < deadline, "consume {topic}: {} records, then no more until {ends:?}", found.len());
            let Some(message) = consumer.poll(POLL) else { continue };
            match message {
                Ok(message) => {
                    let Some(end) = ends.get(&message.partition()).copied() else { continue };
                    if message.offset() < end {
                        found.push(rec(&message));
                    }
                    if message.offset() + 1 >= end {
                        ends.remove(&message.partition());
                    }
                }
                Err(rdkafka::error::KafkaError::PartitionEOF(partition)) => {
                    ends.remove(&partition);
                }
                Err(error) => panic!("consume {topic}: {error}"),
            }
        }
        found.sort_by_key(|record| (record.partition, record.offset));
        found
    }

    /// How many partitions a topic has; 0 if there is no such topic.
    pub fn partitions(&self, topic: &str) -> i32 {
        Self::partitions_by(&self.consumer(), topic)
    }

    /// The broker that leads each partition of a topic.
    pub fn leaders(&self, topic: &str) -> Vec<i32> {
        let all = self.consumer().fetch_metadata(Some(topic), WITHIN).unwrap();
        let mut partitions: Vec<_> = all.topics()[0].partitions().iter().map(|p| (p.id(), p.leader())).collect();
        partitions.sort_unstable();
        partitions.into_iter().map(|(_, leader)| leader).collect()
    }

    /// Commits an offset for a group that has no member, with no metadata: as any other consumer does.
    pub fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        consumer.commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
    }

    /// The offset and the metadata that a group has committed for a partition.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let list = consumer.committed_offsets(list, WITHIN).unwrap();
        let element = list.find_partition(topic, partition)?;
        element.offset().to_raw().filter(|offset| *offset >= 0).map(|offset| (offset, element.metadata().to_owned()))
    }

    /// Joins a group as a foreign member, waits until it was given partitions of the topic, holds them for a while and
    /// leaves. Commits nothing. Returns how many partitions it held.
    pub fn visit_group(&self, group: &str, topic: &str, stay: Duration) -> i32 {
        let foreign: BaseConsumer = self
            .config()
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            .create()
            .unwrap();
        foreign.subscribe(&[topic]).unwrap();
        let (began, mut since, mut held) = (Instant::now(), None, 0);
        while since.is_none_or(|since: Instant| since.elapsed() < stay) {
            assert!(began.elapsed() < WITHIN, "the foreign member is given partitions");
            let _ = foreign.poll(Duration::from_millis(20));
            held = foreign.assignment().unwrap().count() as i32;
            if held > 0 {
                since.get_or_insert_with(Instant::now);
            }
        }
        held
    }

    /// Creates a topic with one replica, on a cluster.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]);
    }

    /// The same, with settings of the topic.
    pub fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let admin = self.admin();
        let results = block_on(admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(WITHIN))));
        for result in results.unwrap() {
            result.unwrap_or_else(|(name, error)| panic!("create topic {name}: {error}"));
        }
        crate::wait::eventually(WITHIN, "the new topic is seen", || self.partitions(name) == partitions);
    }

    /// Deletes a topic, on a cluster.
    pub fn delete_topic(&self, name: &str) {
        let admin = self.admin();
        let results = block_on(admin.delete_topics(&[name], &AdminOptions::new().operation_timeout(Some(WITHIN))));
        for result in results.unwrap() {
            result.unwrap_or_else(|(name, error)| panic!("delete topic {name}: {error}"));
        }
        crate::wait::eventually(WITHIN, "the topic is gone", || self.partitions(name) == 0);
    }

    fn partitions_by(consumer: &BaseConsumer, topic: &str) -> i32 {
        // Asking for a topic by name could create it; asking for all does not.
        let all = consumer.fetch_metadata(None, WITHIN).unwrap_or_else(|error| panic!("list the topics: {error}"));
        let found = all.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        found.map_or(0, |topic| topic.partitions().len() as i32)
    }

    fn consumer(&self) -> BaseConsumer {
        self.config()
            .set("group.id", "tidemill-tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .create()
            .unwrap()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }
}

fn rec(message: &rdkafka::message::BorrowedMessage<'_>) -> Rec {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Rec {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: match message.timestamp() {
            Timestamp::NotAvailable => None,
            Timestamp::CreateTime(at) | Timestamp::LogAppendTime(at) => Some(at),
        },
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
