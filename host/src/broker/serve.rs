//! The embedded broker itself, in the child process: librdkafka's mock cluster and its control socket.
//!
//! One thread owns the cluster and the list of created topics, and answers one request at a time; the others only
//! carry lines. It ends by request, by [`Stopper`], or when nobody has been connected for the length of the lease,
//! and takes its file and its socket along.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::bindings;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use super::control::{self, Reply, Request};
use super::state::State;
use crate::kafka::config::{self, Reporter};

/// How long the first member of a group waits for others. The mock cluster's own value is Kafka's 3 s, which a
/// daemon that is alone in each of its groups would wait for nothing.
const INITIAL_REBALANCE_DELAY_MS: i32 = 50;
/// What librdkafka itself holds for the number of partitions in a request.
const PARTITIONS_MAX: i32 = 100_000;
const CONNECTIONS_MAX: usize = 32;
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Where to put things, and how long to stay alone.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state file; see [`State`].
    pub state: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// How long to go on with nobody connected; `None` for ever.
    pub lease: Option<Duration>,
}

/// Why a broker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A daemon asked for it.
    Asked,
    /// [`Stopper::stop`], which a signal calls.
    Signalled,
    /// Nobody was connected for the length of the lease.
    Alone,
}

enum Event {
    Connected,
    Disconnected,
    Asked(Request, SyncSender<Reply>),
    End(Ended),
}

/// Ends a broker from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Makes [`Broker::run`] return.
    pub fn stop(&self) {
        // A broker that no longer listens has ended already.
        let _ = self.0.send(Event::End(Ended::Signalled));
    }
}

/// A broker that listens.
pub struct Broker {
    cluster: BaseProducer<Reporter>,
    topics: BTreeMap<String, i32>,
    options: Options,
    state: State,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Broker {
    /// Begins to listen, on both sides, and then writes the state file.
    pub fn open(options: Options) -> anyhow::Result<Self> {
        let cluster = cluster()?;
        let bootstrap = cluster.client().mock_cluster().context("get the mock cluster's handle")?.bootstrap_servers();
        let state = State {
            incarnation: uuid::Uuid::new_v4().to_string(),
            bootstrap,
            pid: std::process::id(),
            control: options.control.clone(),
        };
        let listener = UnixListener::bind(&options.control)
            .with_context(|| format!("listen on control socket {}", options.control.display()))?;
        let (sender, events) = mpsc::channel();
        let carrier = sender.clone();
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &carrier))
            .context("start the control thread")?;
        state.write(&options.state)?;
        Ok(Self { cluster, topics: BTreeMap::new(), options, state, events, sender })
    }

    /// Where this broker is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A handle that ends this broker.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Serves until the end.
    pub fn run(mut self) -> Ended {
        let mut connected = 0_usize;
        let mut alone_since = Instant::now();
        let ended = loop {
            // Serves the log lines of librdkafka, which pile up otherwise.
            self.cluster.poll(Duration::ZERO);
            let lease = self.options.lease.filter(|_| connected == 0);
            let left = lease.map(|lease| lease.saturating_sub(alone_since.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                break Ended::Alone;
            }
            match self.events.recv_timeout(left.map_or(POLL_EVERY, |left| left.min(POLL_EVERY))) {
                Ok(Event::Connected) => connected += 1,
                Ok(Event::Disconnected) => {
                    connected = connected.saturating_sub(1);
                    alone_since = Instant::now();
                }
                Ok(Event::Asked(request, reply)) => {
                    // Nobody waits for the answer when the connection has ended meanwhile.
                    let _ = reply.send(self.answer(request));
                }
                Ok(Event::End(ended)) => break ended,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Ended::Signalled,
            }
        };
        self.state.forget(&self.options.state);
        ended
    }

    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Ping => Reply::Pong { incarnation: self.state.incarnation.clone() },
            Request::Create { topic, partitions } => match self.create(&topic, partitions) {
                Ok(new) => Reply::Created { new },
                Err(error) => Reply::Refused { reason: format!("{error:#}") },
            },
            Request::Topics => Reply::Topics { topics: self.topics.clone() },
            Request::Lease { seconds } => {
                self.options.lease = (seconds > 0).then(|| Duration::from_secs(seconds));
                Reply::Done
            }
            // The connection's thread ends the broker once this answer is written.
            Request::Stop => Reply::Done,
        }
    }

    fn create(&mut self, topic: &str, partitions: i32) -> anyhow::Result<bool> {
        if self.topics.contains_key(topic) {
            return Ok(false);
        }
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            bail!("topic {topic} cannot have {partitions} partitions: take 1 to {PARTITIONS_MAX}");
        }
        let cluster = self.cluster.client().mock_cluster().context("get the mock cluster's handle")?;
        match cluster.create_topic(topic, partitions, 1) {
            Ok(()) => {
                self.topics.insert(topic.to_owned(), partitions);
                Ok(true)
            }
            // Some other client named it first in a metadata request that allows creation.
            Err(KafkaError::MockCluster(RDKafkaErrorCode::TopicAlreadyExists)) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("create topic {topic}")),
        }
    }
}

/// A mock cluster of one broker, owned by a client that does nothing else.
fn cluster() -> anyhow::Result<BaseProducer<Reporter>> {
    let mut client = config::base("broker");
    client.set("test.mock.num.brokers", "1");
    let cluster: BaseProducer<Reporter> =
        client.create_with_context(Reporter::new("broker")).context("start the mock cluster")?;
    // SAFETY: the client is alive, and the handle is used only after a check for null; librdkafka locks around the
    // change itself.
    unsafe {
        let handle = bindings::rd_kafka_handle_mock_cluster(cluster.client().native_ptr());
        if handle.is_null() {
            bail!("librdkafka gave no handle to its mock cluster");
        }
        bindings::rd_kafka_mock_group_initial_rebalance_delay_ms(handle, INITIAL_REBALANCE_DELAY_MS);
    }
    Ok(cluster)
}

fn accept(listener: &UnixListener, events: &Sender<Event>) {
    let (freed, places) = mpsc::sync_channel(CONNECTIONS_MAX);
    for _ in 0..CONNECTIONS_MAX {
        let _ = freed.send(());
    }
    // A place is taken before accepting: who comes when there is none waits in the listener's queue.
    while places.recv().is_ok() {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("accept on the control socket: {error}");
                let _ = freed.send(());
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let (events, freed) = (events.clone(), freed.clone());
        let carried = thread::Builder::new().name("connection".to_owned()).spawn(move || {
            if events.send(Event::Connected).is_ok() {
                carry(stream, &events);
                let _ = events.send(Event::Disconnected);
            }
            let _ = freed.send(());
        });
        if let Err(error) = carried {
            tracing::warn!("serve a control connection: {error}");
        }
    }
}

fn carry(stream: UnixStream, events: &Sender<Event>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (reply, last) = match control::receive::<Request>(&mut stream) {
            Ok(None) => return,
            Ok(Some(request)) => {
                let last = request == Request::Stop;
                let (reply, answer) = mpsc::sync_channel(1);
                if events.send(Event::Asked(request, reply)).is_err() {
                    return;
                }
                match answer.recv() {
                    Ok(reply) => (reply, last),
                    Err(_) => return,
                }
            }
            Err(error) => {
                // Out of step, or gone: say why and hang up.
                let _ = control::send(stream.get_mut(), &Reply::Refused { reason: format!("{error:#}") });
                return;
            }
        };
        let written = control::send(stream.get_mut(), &reply);
        if last {
            let _ = events.send(Event::End(Ended::Asked));
        }
        if last || written.is_err() {
            return;
        }
    }
}
