//! Records of a topic one after the other, for who looks at them.
//!
//! It is in no consumer group, commits no offset and holds nobody up; what it is told to read is all that it reads. Records of a
//! transaction that was aborted are not among them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::config::{Connection, Reporter};
use super::consumer::record;
use super::native::Kept;
use crate::record::Record;

/// How long Kafka may take to answer, or to bring the next record.
const WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// A client that reads.
pub struct Reader {
    client: Kept<BaseConsumer<Reporter>>,
    bootstrap: String,
    /// It looks up no times.
    embedded: bool,
}

/// A partition, as it is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its number.
    pub partition: i32,
    /// The first offset that is there.
    pub low: i64,
    /// The offset that the next record will get.
    pub high: i64,
}

/// A consumer that is given its partitions by hand, and goes to `reset` where an offset is not there.
pub(super) fn client(connection: &Connection, reset: &str) -> Result<Kept<BaseConsumer<Reporter>>> {
    let mut config = connection.client("records");
    config
        // librdkafka assigns nothing without one; with partitions assigned by hand, nobody joins it.
        .set("group.id", "tidemill-records")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", reset);
    let client = config.create_with_context(Reporter::new("records")).context("open a Kafka consumer")?;
    Ok(connection.keep(client))
}

impl Reader {
    /// A client of a cluster, which is not asked for anything yet.
    ///
    /// # Errors
    /// librdkafka does not take the settings.
    pub fn open(connection: &Connection) -> Result<Self> {
        let client = client(connection, "earliest")?;
        Ok(Self { client, bootstrap: connection.bootstrap.clone(), embedded: connection.is_embedded() })
    }

    /// The partitions of a topic; none where there is no such topic.
    ///
    /// # Errors
    /// No broker answers.
    pub fn spans(&self, topic: &str) -> Result<Vec<Span>> {
        let ask = |error: KafkaError| self.explain(&error, topic);
        let metadata = self.client.fetch_metadata(Some(topic), WITHIN).map_err(ask)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let mut spans = Vec::new();
        for partition in found.map_or(&[][..], |found| found.partitions()).iter().map(|partition| partition.id()) {
            let (low, high) = self.client.fetch_watermarks(topic, partition, WITHIN).map_err(ask)?;
            spans.push(Span { partition, low, high });
        }
        Ok(spans)
    }

    /// The first offset of a time or later in each partition, in milliseconds since the Unix epoch; its end where no record is that
    /// late. The embedded broker, which looks up no times, has its first record.
    ///
    /// # Errors
    /// No broker answers.
    pub fn at(&self, topic: &str, spans: &[Span], time: i64) -> Result<BTreeMap<i32, i64>> {
        if self.embedded {
            return Ok(spans.iter().map(|span| (span.partition, span.low)).collect());
        }
        let mut list = TopicPartitionList::new();
        for span in spans {
            list.add_partition_offset(topic, span.partition, Offset::Offset(time))?;
        }
        let found = self.client.offsets_for_times(list, WITHIN).map_err(|error| self.explain(&error, topic))?;
        let place = |span: &Span| {
            let offset = found.find_partition(topic, span.partition).and_then(|found| match found.offset() {
                Offset::Offset(offset) if offset >= 0 => Some(offset),
                _ => None,
            });
            (span.partition, offset.unwrap_or(span.high))
        };
        Ok(spans.iter().map(place).collect())
    }

    /// Reads partitions from an offset each, and shows what comes until `look` returns `false`; to the offset where each ends at its
    /// first look, or for ever if it is to `follow`. Partitions take turns, and each comes in its order.
    ///
    /// # Errors
    /// No broker brings them, or an error of `look`.
    pub fn read(
        &self,
        topic: &str,
        from: &BTreeMap<i32, i64>,
        follow: bool,
        mut look: impl FnMut(Record) -> Result<bool>,
    ) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        for span in self.spans(topic)? {
            let Some(begin) = from.get(&span.partition).copied().filter(|begin| follow || *begin < span.high) else {
                continue;
            };
            list.add_partition_offset(topic, span.partition, Offset::Offset(begin.max(span.low)))?;
            open.insert(span.partition, span.high);
        }
        if open.is_empty() {
            return Ok(());
        }
        self.client.assign(&list)?;
        let mut until = Instant::now() + WITHIN;
        while follow || !open.is_empty() {
            match self.client.poll(POLL) {
                Some(Ok(message)) => {
                    until = Instant::now() + WITHIN;
                    let record = record(&message);
                    let end = open.get(&record.partition).copied();
                    if end.is_some_and(|end| record.offset + 1 >= end) && !follow {
                        open.remove(&record.partition);
                    }
                    // What came after the look is the next one's.
                    let wanted = follow || end.is_some_and(|end| record.offset < end);
                    if wanted && !look(record)? {
                        break;
                    }
                }
                // What is left before the end that was told are marks of transactions, or has gone meanwhile.
                Some(Err(KafkaError::PartitionEOF(partition))) if !follow => {
                    open.remove(&partition);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // librdkafka goes on by itself.
                    Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve)
                        if follow || Instant::now() < until => {}
                    _ => return Err(self.explain(&error, topic)),
                },
                None if Instant::now() > until && !follow => {
                    bail!("{} has not brought the next record of {topic} within {WITHIN:?}", self.bootstrap)
                }
                None => {}
            }
        }
        self.client.unassign()?;
        Ok(())
    }

    fn explain(&self, error: &KafkaError, topic: &str) -> anyhow::Error {
        match error.rdkafka_error_code() {
            Some(Code::OperationTimedOut | Code::AllBrokersDown | Code::BrokerTransportFailure) => {
                anyhow!("{} has not answered within {WITHIN:?}: is a broker there?", self.bootstrap)
            }
            _ => anyhow!("read {topic} at {}: {error}", self.bootstrap),
        }
    }
}
