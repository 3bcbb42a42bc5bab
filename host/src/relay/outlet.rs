//! The producer, and the topics it may have to create: for dead letters, and for each new day.
//!
//! Idempotent unless `kafka.acks` is 1, and a message never expires while it waits (`message.timeout.ms=0`), since an idempotent
//! producer sends the successors of one that did. After a fatal error a new producer takes its place, and what the
//! old one reports late is not believed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};

use super::Message;
use crate::deploy::EMBEDDED_PARTITIONS;
use crate::kafka::Kept;
use crate::kafka::config::{Connection, Reporter};
use crate::kafka::identity::Known;
use crate::kafka::sender::event_headers;
use crate::kafka::topics::{Admin, BROKER_DEFAULT_REPLICAS, Ensured, TopicError};
use crate::kafka::verdict::{Verdict, judge};
use crate::ledger::outbox::{EventKind, Waiting};
use crate::metrics::statistics::{self, Statistics};
use crate::settings::{Destinations, Topic};

/// Names a row on its way through the producer.
pub(super) struct Ticket {
    generation: u64,
    store: Arc<str>,
    id: i64,
}

/// What became of a row.
pub(super) struct Report {
    generation: u64,
    pub(super) store: Arc<str>,
    pub(super) id: i64,
    /// Acknowledged in this partition at this offset (negative where that is not known), or why not.
    pub(super) result: Result<(i32, i64), RDKafkaErrorCode>,
}

/// Whether a row was taken.
pub(super) enum Sent {
    /// A report follows.
    Taken,
    /// The producer has no room; try again after a report.
    Full,
    /// It was refused at once.
    Refused(RDKafkaErrorCode),
    /// Its topic cannot be made yet.
    NoTopic(TopicError),
}

struct Context {
    reporter: Reporter,
    sender: Sender<Message>,
    statistics: Arc<Statistics>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reporter.log(level, facility, message);
    }

    fn stats_raw(&self, report: &[u8]) {
        self.statistics.note(report);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let Ticket { generation, store, id } = *ticket;
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        let _ = self.sender.send(Message::Report(Report { generation, store, id, result }));
    }
}

pub(super) struct Outlet {
    connection: Connection,
    admin: Admin,
    topics: Vec<Topic>,
    destinations: Arc<Destinations>,
    sender: Sender<Message>,
    statistics: Arc<Statistics>,
    producer: Kept<ThreadedProducer<Context>>,
    /// Sends each record in a batch of its own; opened when it is needed first.
    single: Option<Kept<ThreadedProducer<Context>>>,
    generation: u64,
    broken: bool,
    /// The topics that this producer has sent to.
    known: Known,
    /// Partitions of the topics of dead letters and days that are known to be there.
    made: HashMap<String, i32>,
}

impl Outlet {
    pub(super) fn open(
        connection: Connection,
        admin: Admin,
        topics: Vec<Topic>,
        destinations: Arc<Destinations>,
        sender: Sender<Message>,
        statistics: Arc<Statistics>,
    ) -> Result<Self> {
        let producer = produce(&connection, &sender, &statistics, false)?;
        Ok(Self {
            connection,
            admin,
            topics,
            destinations,
            sender,
            statistics,
            producer,
            single: None,
            generation: 0,
            broken: false,
            known: Known::default(),
            made: HashMap::new(),
        })
    }

    /// Whether somebody else takes the events for this topic.
    pub(super) fn goes_by_http(&self, topic: &str) -> bool {
        self.destinations.http(topic).is_some()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The producer has failed for good.
    pub(super) fn give_up(&mut self, code: RDKafkaErrorCode) {
        if !self.broken {
            let advice = match code {
                RDKafkaErrorCode::ClusterAuthorizationFailed => ": grant IDEMPOTENT_WRITE on the cluster",
                _ => "",
            };
            tracing::warn!(%code, "the producer has failed and is opened again; events that may not have arrived are sent again, with their ids{advice}");
        }
        self.broken = true;
    }

    /// Opens a new producer in place of the failed one.
    pub(super) fn renew(&mut self) -> Result<()> {
        let producer = produce(&self.connection, &self.sender, &self.statistics, false)?;
        self.generation += 1;
        self.purge();
        self.producer = producer;
        self.single = None;
        self.broken = false;
        self.known = Known::default();
        Ok(())
    }

    /// Opens a new producer if a topic that rows do not reach was made again.
    pub(super) fn identify(&mut self, stuck: &HashSet<Arc<str>>) {
        let made_again = self.known.made_again(self.producer.client(), &self.connection, |topic| stuck.contains(topic));
        if let Some(topic) = made_again {
            tracing::warn!(
                topic,
                "the topic was made again: the producer is opened again, and what has not arrived is sent again"
            );
            self.broken = true;
        }
    }

    /// `None` for a report of a producer that is gone.
    pub(super) fn check(&self, report: Report) -> Option<Report> {
        (report.generation == self.generation).then_some(report)
    }

    /// Hands a row over. One that goes `alone` is in a batch of its own, so that what Kafka says is about it.
    pub(super) fn send(&mut self, store: &Arc<str>, row: &Waiting, alone: bool) -> Sent {
        let partition = match row.event.kind {
            EventKind::Event | EventKind::Record | EventKind::Timer | EventKind::Compensation => {
                match self.ensure_dated(&row.event.topic) {
                    Ok(()) => row.event.partition,
                    Err(error) => return Sent::NoTopic(error),
                }
            }
            EventKind::DeadLetter { partitions, replicas } => {
                match self.dead_letter_partition(row, partitions, replicas) {
                    Ok(partition) => partition,
                    Err(error) => return Sent::NoTopic(error),
                }
            }
        };
        let event = &row.event;
        let ticket = Box::new(Ticket { generation: self.generation, store: store.clone(), id: row.id });
        let mut record: BaseRecord<'_, [u8], [u8], Box<Ticket>> =
            BaseRecord::with_opaque_to(&event.topic, ticket).headers(event_headers(event));
        record.key = event.key.as_deref();
        record.payload = event.value.as_deref();
        record.partition = partition;
        let producer = match self.producer(alone) {
            Ok(producer) => producer,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "open a producer for single records; it is tried again");
                self.broken = true;
                return Sent::Full;
            }
        };
        match producer.send(record) {
            Ok(()) => {
                self.known.note(&event.topic);
                Sent::Taken
            }
            Err((error, _)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => Sent::Full,
                code => {
                    let code = code.unwrap_or(RDKafkaErrorCode::Fail);
                    if judge(code) == Verdict::Producer {
                        self.give_up(code);
                        return Sent::Full;
                    }
                    Sent::Refused(code)
                }
            },
        }
    }

    fn producer(&mut self, alone: bool) -> Result<&ThreadedProducer<Context>> {
        if !alone {
            return Ok(&self.producer);
        }
        let single = match self.single.take() {
            Some(single) => single,
            // It seldom has anything to send, and its report would stand in the place of the other's.
            None => produce(&self.connection, &self.sender, &Arc::default(), true)?,
        };
        Ok(self.single.insert(single))
    }

    fn purge(&self) {
        for producer in [Some(&self.producer), self.single.as_ref()].into_iter().flatten() {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
    }

    /// Makes the dead letter topic if it is missing. Where it has fewer partitions than its source, the key decides
    /// instead of the source's partition.
    fn dead_letter_partition(
        &mut self,
        row: &Waiting,
        partitions: Option<i32>,
        replicas: Option<i32>,
    ) -> Result<Option<i32>, TopicError> {
        let topic = row.event.topic.as_str();
        let partitions = match self.made.get(topic) {
            Some(partitions) => *partitions,
            None => {
                let partitions = self.ensure(row, partitions, replicas)?;
                self.made.insert(topic.to_owned(), partitions);
                partitions
            }
        };
        Ok(row.event.partition.filter(|partition| *partition < partitions))
    }

    /// Makes the topic if it is one of those that a `[[topic]]` with a date stands for, and missing. The embedded broker gets
    /// those that no `[[topic]]` names as well.
    fn ensure_dated(&mut self, topic: &str) -> Result<(), TopicError> {
        let dated = self.topics.iter().find(|t| t.name.matches(topic)).filter(|t| t.name.is_dated());
        let (partitions, replicas) = match dated {
            Some(dated) => (dated.partitions, dated.replicas),
            None if self.connection.is_embedded() => (EMBEDDED_PARTITIONS, 1),
            None => return Ok(()),
        };
        if self.made.contains_key(topic) {
            return Ok(());
        }
        match self.admin.ensure(topic, partitions, replicas) {
            Ok(Ensured::Created) => tracing::info!(topic, partitions, "topic created"),
            Err(error) if dated.is_some() => return Err(error),
            // If it is missing after all, the producer says so.
            _ => {}
        }
        self.made.insert(topic.to_owned(), partitions);
        Ok(())
    }

    /// The topic is not as it was: the next event for it looks again. `false` if none has looked yet.
    pub(super) fn forget(&mut self, topic: &str) -> bool {
        self.made.remove(topic).is_some()
    }

    /// As `[[topic]]` says of it, else as `[dead-letter]` of the handler does, else as its source is.
    fn ensure(&self, row: &Waiting, partitions: Option<i32>, asked: Option<i32>) -> Result<i32, TopicError> {
        let configured = |name: &str| self.topics.iter().find(|t| t.name.matches(name));
        let original = row.event.headers.iter().find(|h| h.name == "kafka_dlt-original-topic");
        let original = original.and_then(|h| h.value.as_deref()).map(String::from_utf8_lossy).unwrap_or_default();
        let partitions = match configured(&row.event.topic).map(|topic| topic.partitions).or(partitions) {
            Some(partitions) => partitions,
            None => self.admin.partitions(&original)?.unwrap_or(1).max(row.event.partition.unwrap_or(0) + 1),
        };
        let replicas = configured(&row.event.topic).map(|topic| topic.replicas);
        let replicas = replicas.or(asked).or_else(|| configured(&original).map(|topic| topic.replicas));
        let replicas = replicas.unwrap_or(BROKER_DEFAULT_REPLICAS);
        match self.admin.ensure(&row.event.topic, partitions, replicas)? {
            Ensured::Created => {
                tracing::info!(topic = row.event.topic, partitions, "dead letter topic created");
                Ok(partitions)
            }
            Ensured::Present { partitions } => Ok(partitions),
        }
    }
}

fn produce(
    connection: &Connection,
    sender: &Sender<Message>,
    statistics: &Arc<Statistics>,
    single: bool,
) -> Result<Kept<ThreadedProducer<Context>>> {
    let mut config = connection.client("relay");
    config
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "0")
        // A topic that is made again takes the second of two requests though it has refused the first, whatever their sequence.
        .set("max.in.flight.requests.per.connection", "1")
        // Else what is queued behind a batch that Kafka refuses goes out before anybody hears of it.
        .set("enable.gapless.guarantee", "true")
        // Kafka's own clients choose a key's partition so; others that share the topic agree with us.
        .set("partitioner", "murmur2_random")
        .set("topic.metadata.propagation.max.ms", "5000")
        // The rest waits in the stores.
        .set("queue.buffering.max.kbytes", "65536");
    if !connection.librdkafka.contains_key("linger.ms") {
        config.set("linger.ms", "0");
    }
    if config.get(statistics::PROPERTY).is_none() {
        config.set(statistics::PROPERTY, statistics::INTERVAL);
    }
    connection.acknowledge(&mut config);
    if single {
        config.set("batch.num.messages", "1");
    }
    let (sender, statistics) = (sender.clone(), statistics.clone());
    let context = Context { reporter: Reporter::new("relay"), sender, statistics };
    let producer: ThreadedProducer<Context> = config.create_with_context(context).context("open the Kafka producer")?;
    Ok(connection.keep(producer))
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Without this, closing would wait for what no broker may ever take; the rows are still in their stores.
        self.purge();
        let _ = self.producer.flush(Duration::from_millis(100));
    }
}
