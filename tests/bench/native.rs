//! The same work as the host and `tests/guests/bench` do, as a native Rust program with no sandbox: what is compared with.
//!
//! An honest upper bound: records are parsed on the reading thread, groups of up to 500 commit together with
//! `synchronous = FULL` and no savepoints, statements are prepared once, ids of the inbox are appended and known in memory, and
//! the relay publishes from memory. Its tables, settings of SQLite and of the producer are the host's. It can only do this
//! one thing, starts from nothing, retries nothing, and a record that fails ends it.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Records in one transaction at most, as the host's `store.group-max`.
const GROUP: usize = 500;
/// Records that may wait for the writer.
const QUEUE: usize = 16;
/// Rows that may wait for the broker's acknowledgement, as in the host's relay.
const WINDOW: usize = 5_000;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384;
CREATE TABLE tm_offset (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL);
CREATE TABLE tm_inbox (
    id INTEGER PRIMARY KEY, handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL);
CREATE TABLE tm_outbox (
    id INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE, event_type TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER,
    partition_key, payload, headers TEXT NOT NULL, kind TEXT NOT NULL, handler TEXT NOT NULL, source TEXT NOT NULL,
    created_at INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'waiting',
    attempts INTEGER NOT NULL DEFAULT 0, last_error TEXT, published_at INTEGER);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, user_id TEXT NOT NULL, amount TEXT NOT NULL) STRICT;";

const INBOX: &str = "INSERT INTO tm_inbox (handler, event_id, done_at) VALUES ('bench', ?1, ?2)";
const ENTRY: &str = "INSERT INTO entries (order_id, user_id, amount) VALUES (?1, ?2, ?3)";
const OUTBOX: &str = "INSERT INTO tm_outbox (id, event_id, event_type, topic, partition, partition_key, payload,
    headers, kind, handler, source, created_at) VALUES (?1, ?2, 'BOOKED', ?3, NULL, ?4, ?5, '[]', 'event', 'bench', ?6, ?7)";
const OFFSET: &str = "INSERT INTO tm_offset (partition, next_offset) VALUES (?1, ?2)
    ON CONFLICT (partition) DO UPDATE SET next_offset = excluded.next_offset";
const CLEAR: &str = "DELETE FROM tm_outbox WHERE id BETWEEN ?1 AND ?2";

/// What to work on, and where.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Kafka's address.
    pub(crate) bootstrap: String,
    /// The topic to read, whole.
    pub(crate) input: String,
    /// The topic to publish to.
    pub(crate) output: String,
    /// The consumer group.
    pub(crate) group: String,
    /// The database to make.
    pub(crate) database: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    event_id: String,
    order_id: i64,
    user_id: String,
    total_amount: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Booked<'a> {
    event_id: &'a str,
    order_id: i64,
    user_id: &'a str,
    amount: &'a str,
}

/// A record, read and parsed.
struct Parsed {
    partition: i32,
    offset: i64,
    timestamp: i64,
    order: Order,
}

/// A row on its way to the broker.
struct Row {
    id: i64,
    event_id: String,
    key: String,
    payload: Vec<u8>,
}

/// Works until its standard input is closed, and what was acknowledged is removed.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    let (records, waiting) = sync_channel(QUEUE);
    let (positions, committed) = channel();
    let (rows, outgoing) = sync_channel(QUEUE);
    let (acknowledged, done) = channel();
    let consumer = open_consumer(plan)?;
    let producer = open_producer(plan, acknowledged)?;
    let database = Connection::open(&plan.database).context("open the database")?;
    database.execute_batch(SCHEMA).context("make the tables")?;
    let (input, output) = (plan.input.clone(), plan.output.clone());
    spawn("read", move || read(&consumer, &input, &records, &committed))?;
    let closed = Arc::new(AtomicBool::new(false));
    let stopping = closed.clone();
    let store = spawn("store", move || write(&database, &output, &waiting, &positions, &rows, &done, &stopping))?;
    let output = plan.output.clone();
    spawn("relay", move || relay(&producer, &output, &outgoing))?;
    crate::report::say("ready:");
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    closed.store(true, Ordering::Relaxed);
    ensure!(store.join().is_ok(), "the store's thread panicked");
    Ok(())
}

/// A thread whose failure ends the program: the benchmark then sees that it is gone.
fn spawn(name: &str, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<JoinHandle<()>> {
    let run = move || {
        if let Err(error) = work() {
            crate::report::complain(&format!("native: {error:#}"));
            std::process::exit(1);
        }
    };
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(run)?)
}

fn open_consumer(plan: &Plan) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &plan.bootstrap)
        .set("group.id", &plan.group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .context("open the consumer")?;
    consumer.subscribe(&[&plan.input]).context("subscribe")?;
    Ok(consumer)
}

fn read(
    consumer: &BaseConsumer,
    topic: &str,
    records: &SyncSender<Vec<Parsed>>,
    committed: &Receiver<HashMap<i32, i64>>,
) -> Result<()> {
    let mut told = Instant::now();
    loop {
        let mut batch = Vec::with_capacity(GROUP);
        let mut next = consumer.poll(Duration::from_millis(100));
        while let Some(message) = next {
            let message = message.context("read")?;
            batch.push(Parsed {
                partition: message.partition(),
                offset: message.offset(),
                timestamp: message.timestamp().to_millis().unwrap_or(0),
                order: serde_json::from_slice(message.payload().unwrap_or_default()).context("parse a record")?,
            });
            next = if batch.len() < GROUP { consumer.poll(Duration::ZERO) } else { None };
        }
        if !batch.is_empty() && records.send(batch).is_err() {
            return Ok(());
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            let mut list = TopicPartitionList::new();
            for (partition, next) in committed.try_iter().flatten() {
                list.set_partition_offset(topic, partition, Offset::Offset(next))
                    .or_else(|_| list.add_partition_offset(topic, partition, Offset::Offset(next)))?;
            }
            if list.count() > 0 {
                consumer.commit(&list, CommitMode::Async).context("commit offsets")?;
            }
        }
    }
}

fn write(
    database: &Connection,
    output: &str,
    records: &Receiver<Vec<Parsed>>,
    positions: &Sender<HashMap<i32, i64>>,
    relay: &SyncSender<Vec<Row>>,
    acknowledged: &Receiver<i64>,
    stopping: &AtomicBool,
) -> Result<()> {
    let mut inbox = database.prepare(INBOX)?;
    let mut entry = database.prepare(ENTRY)?;
    let mut outbox = database.prepare(OUTBOX)?;
    let mut offset = database.prepare(OFFSET)?;
    let mut clear = database.prepare(CLEAR)?;
    let mut begin = database.prepare("BEGIN IMMEDIATE")?;
    let mut commit = database.prepare("COMMIT")?;
    let (mut next_id, mut cleared) = (1, 0);
    let mut acknowledged_rows: Vec<i64> = Vec::new();
    let mut known = HashSet::new();
    loop {
        // As the host does: acknowledged rows ride along with the next group, or are removed soon.
        let group = match records.recv_timeout(Duration::from_millis(50)) {
            Ok(mut group) => {
                while group.len() < GROUP {
                    let Ok(more) = records.try_recv() else { break };
                    group.extend(more);
                }
                group
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Vec::new(),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        };
        acknowledged_rows.extend(acknowledged.try_iter());
        if group.is_empty() && acknowledged_rows.is_empty() {
            if stopping.load(Ordering::Relaxed) && cleared + 1 == next_id {
                return Ok(());
            }
            continue;
        }
        let (mut rows, mut next) = (Vec::with_capacity(group.len()), HashMap::new());
        begin.execute([])?;
        let now = crate::report::now_millis();
        for record in group {
            let Parsed { partition, offset, timestamp, order } = record;
            next.insert(partition, offset + 1);
            if !known.insert(order.event_id.parse::<Uuid>().context("an event id is a UUID")?) {
                continue;
            }
            inbox.execute(params![order.event_id, now])?;
            entry.execute(params![order.order_id, order.user_id, order.total_amount])?;
            let event_id = event_id(timestamp, partition, offset);
            let payload = serde_json::to_vec(&Booked {
                event_id: &event_id,
                order_id: order.order_id,
                user_id: &order.user_id,
                amount: &order.total_amount,
            })?;
            let source = format!("{partition}@{offset}");
            let text = std::str::from_utf8(&payload)?;
            outbox.execute(params![next_id, event_id, output, order.user_id, text, source, now])?;
            rows.push(Row { id: next_id, event_id, key: order.user_id, payload });
            next_id += 1;
        }
        for (partition, next) in &next {
            offset.execute(params![partition, next])?;
        }
        acknowledged_rows.sort_unstable();
        for range in acknowledged_rows.chunk_by(|a, b| a + 1 == *b) {
            clear.execute(params![range.first(), range.last()])?;
        }
        cleared += acknowledged_rows.len() as i64;
        acknowledged_rows.clear();
        commit.execute([])?;
        let _ = positions.send(next);
        if relay.send(rows).is_err() {
            return Ok(());
        }
    }
}

/// Like the host's: time-ordered, the same whenever the record is read again.
fn event_id(timestamp: i64, partition: i32, offset: i64) -> String {
    let high = (timestamp as u64) << 16 | 0x8000;
    let low = 0x8000_0000_0000_0000 | (partition as u64 & 0xfff) << 48 | (offset as u64 & 0xffff_ffff_ffff);
    let text = format!("{high:016x}{low:016x}");
    let part = |from, to| text.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

struct Acknowledge(Sender<i64>);

impl ClientContext for Acknowledge {
    fn error(&self, error: KafkaError, reason: &str) {
        crate::report::complain(&format!("native: {error}: {reason}"));
    }
}

impl ProducerContext<NoCustomPartitioner> for Acknowledge {
    type DeliveryOpaque = Box<i64>;

    fn delivery(&self, result: &DeliveryResult<'_>, id: Box<i64>) {
        match result {
            Ok(_) => drop(self.0.send(*id)),
            Err((error, _)) => crate::report::complain(&format!("native: row {id} was not taken: {error}")),
        }
    }
}

fn open_producer(plan: &Plan, acknowledged: Sender<i64>) -> Result<ThreadedProducer<Acknowledge>> {
    ClientConfig::new()
        .set("bootstrap.servers", &plan.bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .create_with_context(Acknowledge(acknowledged))
        .context("open the producer")
}

fn relay(producer: &ThreadedProducer<Acknowledge>, topic: &str, outgoing: &Receiver<Vec<Row>>) -> Result<()> {
    for row in outgoing.iter().flatten() {
        while producer.in_flight_count() as usize >= WINDOW {
            std::thread::sleep(Duration::from_millis(1));
        }
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "event-id", value: Some(row.event_id.as_str()) })
            .insert(Header { key: "event-type", value: Some("BOOKED") });
        let mut record =
            BaseRecord::with_opaque_to(topic, Box::new(row.id)).headers(headers).key(&row.key).payload(&row.payload);
        while let Err((error, back)) = producer.send(record) {
            ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "send: {error}");
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
    }
    Ok(())
}
