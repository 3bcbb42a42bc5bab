//! A handler's consumer: one client and one poll thread, which hands records to lanes.
//!
//! A partition is read only from the offset that the store gave for it, and only once its topic's id, its ends and
//! the group's committed metadata were looked at; until then it is not assigned. Kafka's committed offset follows
//! what the store has committed. It never waits for the executor inside a callback.

mod assignment;
mod look;
mod properties;
mod rebalancer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};

use self::assignment::{Assignment, Event, Marks};
use self::properties::properties;
use self::rebalancer::Rebalancer;
use super::config::Connection;
use super::native::{self, Kept};
use crate::deploy::manifest::Spec;
use crate::executor::Handle;
use crate::executor::positions::Positions;
use crate::kafka::identity;
use crate::record::{Record, Timestamp};

/// Records taken from librdkafka before they are handed over.
const BATCH: usize = 500;
/// Bytes of one lane in memory at which its partition waits, or is paused.
const HIGH_BYTES: usize = 16 << 20;
/// How long the poll waits for a record.
const POLL: Duration = Duration::from_millis(100);
/// How long a full lane may stand still before its partition is paused.
const DRAIN: Duration = Duration::from_secs(1);
/// When Kafka is told the last offsets again, since it does not say whether it took them.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// How long an orderly stop waits for Kafka to take the last offsets and the member's leave; the store has the offsets
/// in any case.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a client that has failed for good is left before a new one is opened.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// How long the same trouble is not said again.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What a consumer needs to know.
pub struct Plan {
    /// The cluster.
    pub connection: Connection,
    /// The handler.
    pub spec: Spec,
    /// Its store.
    pub executor: Handle,
    /// What its executor has committed.
    pub positions: Arc<Positions>,
    /// Names the data folder; with the handler's name it is the `group.instance.id` (KIP-345).
    pub host_id: String,
    /// Kilobytes that librdkafka may prefetch for this handler.
    pub prefetch_kbytes: u32,
}

/// A running consumer.
pub struct Consumer {
    signals: Arc<Signals>,
    thread: JoinHandle<()>,
}

/// What its thread is asked to do.
#[derive(Default)]
struct Signals {
    stop: AtomicBool,
    /// To ask the store anew where to start.
    reopen: AtomicBool,
}

impl Signals {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Consumer {
    /// Starts reading. A broker that is away is waited for.
    pub fn start(plan: Plan) -> Result<Self> {
        let signals = Arc::new(Signals::default());
        let client = open(&plan)?;
        let heard = signals.clone();
        let name = format!("read-{}", plan.spec.name);
        let thread = crate::thread::spawn(name, move || read(plan, client, &heard))?;
        Ok(Self { signals, thread })
    }

    /// Asks it to stop, without waiting.
    pub fn stop_soon(&self) {
        self.signals.stop.store(true, Ordering::Relaxed);
    }

    /// Asks it to give all partitions up and to take them up again from where the store says, without waiting.
    pub fn reopen(&self) {
        self.signals.reopen.store(true, Ordering::Relaxed);
    }

    /// Stops reading, tells Kafka the last offsets, and waits for that. A coordinator that is away is not waited for:
    /// the client ends by itself later.
    pub fn stop(self) {
        self.stop_soon();
        let until = Instant::now() + CLOSE_WITHIN;
        while !self.thread.is_finished() {
            if Instant::now() >= until {
                let thread = self.thread.thread().name().unwrap_or_default();
                tracing::warn!(thread, "Kafka does not take the consumer's leave, which is not waited for any longer");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop_soon();
    }
}

/// Reads until it is stopped, with a new client after one that has failed for good.
fn read(plan: Plan, client: Kept<BaseConsumer<Rebalancer>>, signals: &Signals) {
    let mut poll = Poll::new(plan, client);
    loop {
        let plan = match poll.run(signals) {
            Ended::Stopped => return,
            Ended::Fatal(plan) => *plan,
        };
        let until = Instant::now() + OPEN_AGAIN;
        let client = loop {
            if signals.stopped() {
                return;
            }
            if Instant::now() >= until {
                match open(&plan) {
                    Ok(client) => break client,
                    Err(error) => tracing::error!(error = format!("{error:#}"), "open a consumer again"),
                }
            }
            std::thread::sleep(POLL);
        };
        poll = Poll::new(plan, client);
    }
}

/// Why a client's reading has ended.
enum Ended {
    Stopped,
    Fatal(Box<Plan>),
}

fn open(plan: &Plan) -> Result<Kept<BaseConsumer<Rebalancer>>> {
    let (spec, sharing) = (&plan.spec, plan.spec.consumer.assignment);
    let config = properties(&plan.connection, spec, &plan.host_id, plan.prefetch_kbytes);
    let statistics = plan.executor.meter().add_handler(&spec.name.as_str().into()).reading.clone();
    let context = Rebalancer::new(&spec.name, plan.positions.clone(), plan.executor.identity(), sharing, statistics);
    let client: BaseConsumer<Rebalancer> = config
        .create_with_context(context)
        .with_context(|| format!("open a Kafka consumer for handler {}", spec.name))?;
    let client = plan.connection.keep(client);
    let pattern = spec.pattern.as_deref();
    let topics: Vec<&str> = spec.topics.iter().map(String::as_str).chain(pattern).collect();
    client.subscribe(&topics).with_context(|| format!("subscribe handler {} to {}", spec.name, topics.join(", ")))?;
    Ok(client)
}

/// The poll thread's state.
struct Poll {
    plan: Plan,
    client: Kept<BaseConsumer<Rebalancer>>,
    assignment: Assignment,
    committed: Instant,
    identified: Instant,
    tell_again_at: Option<Instant>,
    said: HashMap<String, Instant>,
    /// The client has failed for good.
    fatal: bool,
}

impl Poll {
    fn new(plan: Plan, client: Kept<BaseConsumer<Rebalancer>>) -> Self {
        Self {
            plan,
            client,
            assignment: Assignment::default(),
            committed: Instant::now(),
            identified: Instant::now(),
            tell_again_at: None,
            said: HashMap::new(),
            fatal: false,
        }
    }

    fn run(mut self, signals: &Signals) -> Ended {
        while !signals.stopped() && !self.fatal {
            if signals.reopen.swap(false, Ordering::Relaxed) && !self.reopen() {
                signals.reopen.store(true, Ordering::Relaxed);
            }
            if let Err(error) = self.turn() {
                // Only a stopped executor ends up here; the host is stopping, or has said why not.
                tracing::debug!(handler = %self.plan.spec.name, error = format!("{error:#}"), "reading ends");
                break;
            }
        }
        let fatal = self.fatal;
        let plan = self.close();
        if fatal { Ended::Fatal(Box::new(plan)) } else { Ended::Stopped }
    }

    fn turn(&mut self) -> Result<()> {
        let marks = Marks { records: self.plan.spec.consumer.high_mark, bytes: HIGH_BYTES };
        let batch = if self.assignment.is_full(marks) { 1 } else { BATCH };
        let wait = if self.assignment.is_settled() { POLL } else { Duration::from_millis(10) };
        let mut next = self.client.poll(wait);
        let mut taken = 0;
        while let Some(polled) = next {
            match polled {
                Ok(message) => self.assignment.receive(message.topic(), message.partition(), || record(&message)),
                Err(error) => {
                    self.trouble(&error);
                    break;
                }
            }
            taken += 1;
            next = if taken < batch { self.client.poll(Duration::ZERO) } else { None };
        }
        self.assignment.hand_over(&self.plan.executor)?;
        for event in self.client.context().events() {
            self.apply(event)?;
        }
        let opened = self.assignment.open(&self.client, &self.plan);
        self.assignment.press(&self.client, marks, DRAIN);
        if opened || self.committed.elapsed() >= self.plan.spec.consumer.commit_interval {
            self.committed = Instant::now();
            self.tell();
        }
        if self.identified.elapsed() >= identity::LOOK_EVERY && !self.plan.connection.is_embedded() {
            self.identify();
            self.identified = Instant::now();
        }
        Ok(())
    }

    /// A topic that was made again under its name has other offsets. librdkafka would go on at the old ones, or, with leader epochs
    /// behind those that it knows, stand still.
    fn identify(&mut self) {
        let topics = self.assignment.topics();
        if topics.is_empty() {
            return;
        }
        // Without an answer it is asked again.
        let found = identity::topic_ids(self.client.client(), &self.plan.connection, &topics, identity::LOOK_WITHIN);
        let found = found.unwrap_or_default();
        if let Some(topic) = self.assignment.made_again(&found) {
            tracing::warn!(handler = %self.plan.spec.name, topic, "the topic is another one than that which is read: partitions are looked at anew");
            self.reopen();
        }
    }

    /// Gives all partitions up, and expects them anew. Returns whether that was possible.
    fn reopen(&mut self) -> bool {
        let Some(tokens) = self.assignment.reopen(&self.client) else { return false };
        let _ = self.plan.executor.close(tokens);
        true
    }

    fn tell(&mut self) {
        let context = self.client.context();
        if context.tell(&self.client) {
            self.tell_again_at = Some(Instant::now() + TELL_AGAIN);
        } else if self.tell_again_at.is_some_and(|at| Instant::now() >= at) {
            self.tell_again_at = None;
            context.tell_again(&self.client, |topic, partition| self.assignment.holds(topic, partition));
        }
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Assigned(partitions) => {
                self.assignment.expect(partitions);
                Ok(())
            }
            Event::Revoked(partitions) => {
                tracing::info!(handler = %self.plan.spec.name, partitions = partitions.len(), "partitions revoked");
                self.plan.executor.close(self.assignment.forget(&partitions))
            }
        }
    }

    fn trouble(&mut self, error: &KafkaError) {
        let handler = self.plan.spec.name.clone();
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            tracing::warn!(handler, "Kafka no longer has the next offset of a partition; its ends are looked at anew");
            self.reopen();
            return;
        }
        if code == Some(RDKafkaErrorCode::Fatal) {
            let reason = self.client.client().fatal_error().map_or(error.to_string(), |(_, reason)| reason);
            tracing::error!(
                handler,
                "the consumer was shut out: {reason}. If another daemon runs on a copy of this data folder, stop it; reading is tried again in a few seconds"
            );
            self.fatal = true;
            return;
        }
        let text = error.to_string();
        if self.said.get(&text).is_some_and(|said| said.elapsed() < SAY_AGAIN_AFTER) {
            return;
        }
        self.said.insert(text, Instant::now());
        match code {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => tracing::warn!(
                handler,
                %error,
                "a topic of this handler does not exist yet: create it, or name it under [[topic]] in tidemill.toml; it is read as soon as it is there"
            ),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                tracing::error!(handler, %error, "Kafka does not let this handler read: grant READ on its topics and group");
            }
            _ => tracing::warn!(handler, %error, "reading is in trouble, and goes on by itself"),
        }
    }

    fn close(mut self) -> Plan {
        let tokens = self.assignment.forget_all();
        // What the executor commits before it has closed the lanes is told to Kafka too; closing the client waits for that.
        if self.plan.executor.close_and_wait(tokens).is_ok() {
            self.client.context().tell(&self.client);
        }
        drop(self.client);
        self.plan
    }
}

/// A record as Kafka gives it.
pub(super) fn record(message: &BorrowedMessage<'_>) -> Record {
    use rdkafka::Timestamp as Kafka;
    Record {
        topic: message.topic().into(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: match message.timestamp() {
            Kafka::NotAvailable => Timestamp::None,
            Kafka::CreateTime(at) => Timestamp::CreateTime(at),
            Kafka::LogAppendTime(at) => Timestamp::LogAppendTime(at),
        },
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: message.headers().map_or(Vec::new(), native::headers),
    }
}
