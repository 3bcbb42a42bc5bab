//! Events that go past the outbox: sent inside a delivery that waits for Kafka, or after its commit by one that does not.
//!
//! Its invariant: an event is tried for as long as `[send]` says, and what became of it is told once. It keeps nothing on
//! disk, and knows nothing of deliveries and transactions.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};

use super::config::{Connection, Reporter};
use super::identity::Known;
use super::native::Kept;
use super::verdict::{Verdict, judge};
use crate::ledger::outbox::{Event, EventKind};
use crate::settings::Destinations;

/// How long a daemon that stops waits for what is under way.
const LAST: Duration = Duration::from_secs(2);

/// Why an event does not go past the outbox.
pub(crate) const BY_HTTP: &str =
    "by [[destination]] of the operator it goes by HTTP, and only from the outbox: enqueue it";

/// `[send]` of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `timeout`: how long an event is tried, and how long one delivery may have waited before it sends another. Default 5 s.
    pub timeout: Duration,
    /// `max-attempts`: how often a request that Kafka fails is made in all. Default 5.
    pub max_attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), max_attempts: 5 }
    }
}

/// Where Kafka has put an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The offset within it.
    pub offset: i64,
}

/// Why an event was not published, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{topic}: {reason}")]
pub struct SendError {
    /// Whether Kafka refuses the event itself; else it, or the topic, is away.
    pub refused: bool,
    topic: String,
    reason: String,
}

/// What became of an event.
pub type Outcome = Result<Position, SendError>;

type Then = Box<dyn FnOnce(Result<Position, Code>) + Send + Sync>;

/// The producers for sends: one for each handler, so that none has to do with what another sends, opened at its first.
#[derive(Clone)]
pub struct Sender {
    connection: Arc<Connection>,
    destinations: Arc<Destinations>,
    open: Arc<Mutex<HashMap<Key, Arc<Open>>>>,
    script: Option<Script>,
}

/// Stands for Kafka: what becomes of an event.
pub type Script = Arc<dyn Fn(&Event, Way) -> Result<Position, Code> + Send + Sync>;

/// How an event goes past the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a delivery that waits.
    Send,
    /// After the commit.
    SendAsync,
}

/// A handler's name, and how it sends.
type Key = (String, Settings);

struct Open {
    producer: Kept<ThreadedProducer<Context>>,
    /// What those deliveries know that wait for it, one at a time.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Kafka has let an event wait in vain: until then no delivery waits again.
    away_until: Option<Instant>,
    known: Known,
}

impl Sender {
    /// Opens nothing yet.
    pub fn new(connection: Connection, destinations: Destinations) -> Self {
        let destinations = Arc::new(destinations);
        Self { connection: Arc::new(connection), destinations, open: Arc::default(), script: None }
    }

    /// Asks nobody but the script: for a rig.
    pub fn scripted(script: Script) -> Self {
        Self { script: Some(script), ..Self::new(Connection::default(), Destinations::default()) }
    }

    /// Whether the operator has events for this topic go by HTTP, where nothing is sent past the outbox.
    pub fn goes_by_http(&self, topic: &str) -> bool {
        self.destinations.http(topic).is_some()
    }

    /// Sends an event of a handler and waits for what becomes of it, for `timeout` at most. Where the one before has waited
    /// in vain it is not tried, for as long again: a store that deliveries hold must serve others in between.
    ///
    /// # Errors
    /// That it is not known to be published. It may still arrive.
    pub fn send(&self, handler: &str, settings: Settings, event: &Event) -> Outcome {
        let failed = |code| explain(code, settings, &event.topic);
        if let Some(script) = &self.script {
            return script(event, Way::Send).map_err(failed);
        }
        let open = self.open(handler, settings).map_err(failed)?;
        let mut waiting = open.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.away_until.is_some_and(|until| Instant::now() < until) {
            return Err(failed(Code::MessageTimedOut));
        }
        let (tell, told) = sync_channel(1);
        open.hand_over(event, move |outcome| {
            let _ = tell.send(outcome);
        });
        let outcome = match told.recv_timeout(settings.timeout) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(Code::MessageTimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(Code::Fail),
        };
        let in_vain = outcome == Err(Code::MessageTimedOut);
        waiting.away_until = in_vain.then(|| Instant::now() + settings.timeout);
        waiting.known.note(&event.topic);
        let client = open.producer.client();
        if waiting.known.made_again(client, &self.connection, |topic| in_vain && topic == event.topic).is_some() {
            // The next event goes by a producer that does not know the old topic.
            self.all().retain(|_, other| !Arc::ptr_eq(other, &open));
        }
        outcome.map_err(failed)
    }

    /// Sends an event of a handler; `then` is told what became of it, on a thread that must not be kept waiting.
    pub fn start(
        &self,
        handler: &str,
        settings: Settings,
        event: &Event,
        then: impl FnOnce(Outcome) + Send + Sync + 'static,
    ) {
        let topic = event.topic.clone();
        if self.goes_by_http(&topic) {
            return then(Err(SendError { refused: true, topic, reason: BY_HTTP.to_owned() }));
        }
        let then = move |outcome: Result<_, _>| then(outcome.map_err(|code| explain(code, settings, &topic)));
        if let Some(script) = &self.script {
            return then(script(event, Way::SendAsync));
        }
        match self.open(handler, settings) {
            Ok(open) => open.hand_over(event, then),
            Err(code) => then(Err(code)),
        }
    }

    fn open(&self, handler: &str, settings: Settings) -> Result<Arc<Open>, Code> {
        let mut all = self.all();
        let key = (handler.to_owned(), settings);
        if let Some(open) = all.get(&key) {
            return Ok(open.clone());
        }
        let producer = produce(&self.connection, settings).map_err(|error| {
            tracing::error!(handler, %error, "open a producer for `send`");
            Code::Fail
        })?;
        let open = Arc::new(Open { producer, waiting: Mutex::default() });
        all.insert(key, open.clone());
        Ok(open)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little for what is under way, and gives up the rest.
    pub fn stop(&self) {
        for (_, open) in self.all().drain() {
            let producer = &open.producer;
            if producer.flush(LAST).is_err() {
                tracing::warn!(
                    events = producer.in_flight_count(),
                    "events of `send-async` may be lost: Kafka has not taken them"
                );
                producer.purge(PurgeConfig::default().queue().inflight());
            }
        }
    }
}

impl Open {
    fn hand_over(&self, event: &Event, then: impl FnOnce(Result<Position, Code>) + Send + Sync + 'static) {
        let then: Box<Then> = Box::new(Box::new(then));
        let mut record: BaseRecord<'_, [u8], [u8], Box<Then>> =
            BaseRecord::with_opaque_to(&event.topic, then).headers(event_headers(event));
        record.key = event.key.as_deref();
        record.payload = event.value.as_deref();
        if let Err((error, record)) = self.producer.send(record) {
            (record.delivery_opaque)(Err(error.rdkafka_error_code().unwrap_or(Code::Fail)));
        }
    }
}

fn produce(connection: &Connection, settings: Settings) -> Result<Kept<ThreadedProducer<Context>>, KafkaError> {
    let timeout = settings.timeout.as_millis().to_string();
    let mut config = connection.client("send");
    config
        // An idempotent producer may send no successor of what has timed out.
        .set("enable.idempotence", "false")
        .set("message.timeout.ms", &timeout)
        .set("retries", (settings.max_attempts - 1).to_string())
        .set("linger.ms", "0")
        .set("partitioner", "murmur2_random")
        .set("topic.metadata.propagation.max.ms", &timeout)
        // What Kafka says is then about one event.
        .set("batch.num.messages", "1")
        // Who sends is bounded by the executor.
        .set("queue.buffering.max.messages", "0");
    connection.acknowledge(&mut config);
    config.create_with_context(Context(Reporter::new("send"))).map(|producer| connection.keep(producer))
}

/// The event's own headers, and then the host's.
pub(crate) fn event_headers(event: &Event) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(event.headers.len() + 2);
    for header in &event.headers {
        headers = headers.insert(Header { key: &header.name, value: header.value.as_deref() });
    }
    if event.kind == EventKind::Event {
        headers = headers
            .insert(Header { key: "event-id", value: Some(event.event_id.as_str()) })
            .insert(Header { key: "event-type", value: Some(event.event_type.as_str()) });
    }
    headers
}

fn explain(code: Code, settings: Settings, topic: &str) -> SendError {
    let reason = match code {
        Code::MessageTimedOut => format!("Kafka has not taken it within {:?} (send.timeout)", settings.timeout),
        code => code.to_string(),
    };
    SendError { refused: judge(code) == Verdict::Record, topic: topic.to_owned(), reason }
}

struct Context(Reporter);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = Box<Then>;

    fn delivery(&self, result: &DeliveryResult<'_>, then: Box<Then>) {
        then(match result {
            Ok(message) => Ok(Position { partition: message.partition(), offset: message.offset() }),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Fail)),
        });
    }
}
