//! Reading back what Kafka has acknowledged (`outbox.clear = "read-back"`): one consumer in a group of the host's own.
//!
//! It is told the place of each event that was acknowledged, reads the partition from there, and says whether the event
//! stands at its place. Partitions are assigned by hand, so nobody's rebalance holds it up. It decides nothing: what was
//! not found is the relay's to publish again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Message;
use crate::kafka::config::{Connection, Reporter};
use crate::kafka::{self, Kept};

/// How long a poll waits for a record, and so a new partition for its turn.
const POLL: Duration = Duration::from_millis(50);
/// How long to wait for a partition to be read from an earlier place.
const SEEK: Duration = Duration::from_secs(5);
/// Records of one partition that are remembered, since one can be read before its acknowledgement has come here.
const SEEN: usize = 10_000;

/// Where an event was acknowledged.
pub(super) struct Expected {
    pub(super) store: Arc<str>,
    pub(super) row: i64,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// As its header has it; a dead letter is known by its place alone.
    pub(super) event_id: Option<String>,
}

/// The reader, as the relay talks to it. It ends when this is dropped.
pub(super) struct ReadBack {
    sender: Sender<Expected>,
}

impl ReadBack {
    pub(super) fn start(connection: &Connection, group: &str, relay: Sender<Message>) -> Result<Self> {
        let mut config = connection.client("read-back");
        config
            .set("group.id", group)
            .set("enable.auto.commit", "true")
            .set("auto.offset.reset", "error")
            // What others have under way in transactions does not hold it up.
            .set("isolation.level", "read_uncommitted")
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.max.messages.kbytes", "8192");
        let context = Reporter::new("read-back");
        let client = config.create_with_context(context).context("open the consumer that reads events back")?;
        let client = connection.keep(client);
        let (sender, expected) = channel();
        let reader = Reader { client, expected, relay, partitions: HashMap::new() };
        crate::thread::spawn("read-back", move || reader.run())?;
        Ok(Self { sender })
    }

    /// The event is to be read back; an answer follows.
    pub(super) fn expect(&self, expected: Expected) {
        let _ = self.sender.send(expected);
    }
}

struct Reader {
    client: Kept<BaseConsumer<Reporter>>,
    expected: Receiver<Expected>,
    relay: Sender<Message>,
    partitions: HashMap<(Arc<str>, i32), Partition>,
}

/// A partition that is read.
struct Partition {
    next: i64,
    expected: BTreeMap<i64, Expected>,
    /// The event ids that were read last.
    seen: BTreeMap<i64, Option<String>>,
}

impl Reader {
    fn run(mut self) {
        loop {
            match self.client.poll(POLL) {
                Some(Ok(message)) => {
                    let key = (Arc::from(message.topic()), message.partition());
                    if let Some(partition) = self.partitions.get_mut(&key) {
                        partition.read(message.offset(), event_id(&message), &self.relay);
                    }
                }
                Some(Err(error)) => self.trouble(&error),
                None => {}
            }
            loop {
                match self.expected.try_recv() {
                    Ok(expected) => self.expect(expected),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    fn expect(&mut self, expected: Expected) {
        let key = (expected.topic.clone(), expected.partition);
        let offset = expected.offset;
        let sought = match self.partitions.get_mut(&key) {
            Some(partition) => match partition.seen.get(&offset) {
                Some(event_id) => {
                    expected.answer(&self.relay, event_id.as_deref());
                    return;
                }
                None if offset >= partition.next => Ok(()),
                None => self.client.seek(&key.0, key.1, Offset::Offset(offset), SEEK),
            },
            None => {
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(&key.0, key.1, Offset::Offset(offset))
                    .and_then(|()| self.client.incremental_assign(&list))
            }
        };
        if let Err(error) = sought {
            tracing::warn!(topic = %key.0, partition = key.1, offset, %error, "an event cannot be read back");
            expected.answer_missing(&self.relay);
            return;
        }
        let new = || Partition { next: offset, expected: BTreeMap::new(), seen: BTreeMap::new() };
        let partition = self.partitions.entry(key).or_insert_with(new);
        partition.next = partition.next.min(offset);
        partition.expected.insert(offset, expected);
    }

    fn trouble(&mut self, error: &KafkaError) {
        match error.rdkafka_error_code() {
            // The error does not say of which partition. An event that is published twice does less harm than one
            // that is waited for in vain.
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => {
                tracing::warn!(%error, "Kafka has lost events that it had acknowledged: those that were not read back are published again");
                if let Err(error) = self.client.unassign() {
                    tracing::warn!(%error, "give partitions up");
                }
                for expected in self.partitions.drain().flat_map(|(_, partition)| partition.expected.into_values()) {
                    expected.answer_missing(&self.relay);
                }
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                tracing::error!(%error, "events cannot be read back: grant READ on the topics that are published to and on the host's group, or set outbox.clear = \"acknowledged\"");
            }
            _ => tracing::debug!(%error, "reading back is in trouble, and goes on by itself"),
        }
    }
}

impl Partition {
    fn read(&mut self, offset: i64, event_id: Option<String>, relay: &Sender<Message>) {
        let behind = self.expected.split_off(&offset);
        for missing in std::mem::replace(&mut self.expected, behind).into_values() {
            missing.answer_missing(relay);
        }
        if let Some(expected) = self.expected.remove(&offset) {
            expected.answer(relay, event_id.as_deref());
        }
        self.next = offset + 1;
        self.seen.insert(offset, event_id);
        if self.seen.len() > SEEN {
            self.seen.pop_first();
        }
    }
}

impl Expected {
    fn answer(self, relay: &Sender<Message>, stands: Option<&str>) {
        let found = self.event_id.is_none() || self.event_id.as_deref() == stands;
        let _ = relay.send(Message::ReadBack { store: self.store, row: self.row, found });
    }

    fn answer_missing(self, relay: &Sender<Message>) {
        let _ = relay.send(Message::ReadBack { store: self.store, row: self.row, found: false });
    }
}

/// What the relay has written behind the handler's own headers.
fn event_id(message: &BorrowedMessage<'_>) -> Option<String> {
    let headers = message.headers().map_or(Vec::new(), kafka::headers);
    let header = headers.into_iter().rev().find(|header| header.name == "event-id")?;
    header.value.map(|value| String::from_utf8_lossy(&value).into_owned())
}
