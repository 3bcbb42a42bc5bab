//! The relay: publishes what the stores have committed to their outboxes, in order.
//!
//! One thread and one idempotent producer serve all stores; what goes by HTTP is left to a thread of its own (`post`). Rows go out in the order of their ids, so that one key's
//! events appear in commit order; a row is reported as published only when the broker has acknowledged it and, where the
//! operator wants that, was read back. The relay writes to no store itself, and never gives up on an error that may pass.

mod outlet;
pub(crate) mod post;
mod readback;
mod source;
mod hold;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::outlet::Outlet;
use self::post::Poster;
use self::readback::ReadBack;
use self::source::Source;
use crate::executor;
use crate::kafka::config::Connection;
use crate::kafka::topics::Admin;
use crate::metrics::statistics::Statistics;
use crate::outbound::Outbound;
use crate::settings::{Destinations, Topic};
use crate::trace::Tracer;

/// How long an orderly stop waits for acknowledgements.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take until it has paused: it may be making a topic.
const PAUSE_WITHIN: Duration = Duration::from_secs(20);
/// The time between two producers.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// What the relay is told. The channel is not bounded, but its senders are: a store wakes it once until it has
/// looked, and there are no more reports than rows in flight.
enum Message {
    Add { name: Arc<str>, path: PathBuf, executor: executor::Handle, woken: Arc<AtomicBool> },
    Woken { name: Arc<str> },
    Report(outlet::Report),
    ReadBack { store: Arc<str>, row: i64, found: bool },
    Pause { store: Arc<str>, rows: Vec<i64>, reply: SyncSender<BTreeSet<i64>> },
    Resume { store: Arc<str> },
    Hurry { store: Arc<str>, topics: BTreeSet<String> },
    Stop,
}

/// How the rest of the host talks to the relay.
#[derive(Clone)]
pub struct Handle {
    sender: Sender<Message>,
    /// To the thread for HTTP destinations, where there are any.
    post: Option<Sender<post::Message>>,
    statistics: Arc<Statistics>,
}

/// The relay while it hands over nothing of a store; it goes on when this is dropped.
pub struct Paused {
    relay: Handle,
    store: Arc<str>,
    /// Of the rows that were asked for, those that are on their way or have arrived.
    pub on_their_way: BTreeSet<i64>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.relay.sender.send(Message::Resume { store: self.store.clone() });
        if let Some(post) = &self.relay.post {
            let _ = post.send(post::Message::Resume);
        }
    }
}

/// Wakes the relay for one store.
#[derive(Clone)]
pub struct Waker {
    sender: Sender<Message>,
    name: Arc<str>,
    woken: Arc<AtomicBool>,
    post: Option<(Sender<post::Message>, Arc<AtomicBool>)>,
}

impl Waker {
    /// Something was committed to the outbox.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Message::Woken { name: self.name.clone() });
        }
        if let Some((sender, woken)) = &self.post
            && !woken.swap(true, Ordering::AcqRel)
        {
            let _ = sender.send(post::Message::Woken { name: self.name.clone() });
        }
    }
}

impl Handle {
    /// A waker for a store that is going to be added.
    pub fn waker(&self, name: &str) -> Waker {
        let post = self.post.clone().map(|sender| (sender, Arc::default()));
        Waker { sender: self.sender.clone(), name: name.into(), woken: Arc::default(), post }
    }

    /// What librdkafka says of the producer.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// Begins to publish a store's outbox.
    pub fn add(&self, waker: &Waker, path: PathBuf, executor: executor::Handle) {
        let (name, woken) = (waker.name.clone(), waker.woken.clone());
        if let Some((sender, woken)) = &waker.post {
            let (name, path, executor, woken) = (name.clone(), path.clone(), executor.clone(), woken.clone());
            let _ = sender.send(post::Message::Add { name, path, executor, woken });
        }
        let _ = self.sender.send(Message::Add { name, path, executor, woken });
    }

    /// Lets it hand over nothing of a store until the answer is dropped, and says which of some rows it has handed over already. One
    /// caller at a time.
    pub fn pause(&self, store: &Arc<str>, rows: &[i64]) -> Result<Paused> {
        let mut paused = Paused { relay: self.clone(), store: store.clone(), on_their_way: BTreeSet::new() };
        let (reply, answer) = sync_channel(2);
        let (copy, store, rows) = (reply.clone(), store.clone(), rows.to_vec());
        let mut asked = 1;
        if let Some(post) = &self.post {
            asked += 1;
            let _ = post.send(post::Message::Pause { store: store.clone(), rows: rows.clone(), reply: copy });
        }
        let _ = self.sender.send(Message::Pause { store, rows, reply });
        for _ in 0..asked {
            let answer = answer.recv_timeout(PAUSE_WITHIN);
            paused.on_their_way.extend(answer.context("the relay is busy, or has stopped: try it again")?);
        }
        Ok(paused)
    }

    /// Lets events of these topics be tried now, where they were refused and wait for their time.
    pub fn hurry(&self, store: &Arc<str>, topics: BTreeSet<String>) {
        if let Some(post) = &self.post {
            let _ = post.send(post::Message::Hurry { topics: topics.clone() });
        }
        let _ = self.sender.send(Message::Hurry { store: store.clone(), topics });
    }

    /// Ends the relay once what is in flight is acknowledged, or after a few seconds.
    pub fn stop(&self) {
        let _ = self.sender.send(Message::Stop);
        if let Some(post) = &self.post {
            let _ = post.send(post::Message::Stop);
        }
    }
}

/// What the relay needs to know.
pub struct Plan {
    /// The cluster.
    pub connection: Connection,
    /// Creates dead letter topics.
    pub admin: Admin,
    /// `[[topic]]`: partitions and replicas of topics that are created.
    pub topics: Vec<Topic>,
    /// `[[destination]]`, with the values of secret headers.
    pub destinations: Destinations,
    /// Makes the requests of HTTP destinations.
    pub outbound: Outbound,
    /// How often it looks for rows when nothing woke it.
    pub sweep: Duration,
    /// The group in which it reads back what it published, before a row counts as published.
    pub read_back: Option<String>,
    /// Is told what was published.
    pub tracer: Tracer,
}

/// Starts the relay: a thread for Kafka, and one for HTTP where a destination is there.
pub fn start(plan: Plan) -> Result<(Handle, Vec<JoinHandle<()>>)> {
    let (sender, receiver) = channel();
    let read_back = match &plan.read_back {
        Some(group) => Some(ReadBack::start(&plan.connection, group, sender.clone())?),
        None => None,
    };
    let (sweep, destinations) = (plan.sweep, Arc::new(plan.destinations));
    let statistics = Arc::<Statistics>::default();
    let outlet = Outlet::open(
        plan.connection,
        plan.admin,
        plan.topics,
        destinations.clone(),
        sender.clone(),
        statistics.clone(),
    )?;
    let tracer = plan.tracer.clone();
    let relay = Relay { outlet, read_back, sources: HashMap::new(), sweep, tracer, renew_at: None };
    let mut threads = vec![crate::thread::spawn("relay", move || relay.run(&receiver))?];
    let mut post = None;
    if destinations.0.iter().any(|destination| destination.http.is_some()) {
        let (sender, receiver) = channel();
        let poster = Poster::new(destinations, plan.outbound, plan.tracer, sweep, sender.clone());
        threads.push(crate::thread::spawn("relay-http", move || poster.run(&receiver))?);
        post = Some(sender);
    }
    Ok((Handle { sender, post, statistics }, threads))
}

/// Ids, which grow, as ranges, from the first to the last of each.
fn ranges(ids: impl Iterator<Item = i64>) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == id => *to = id,
            _ => ranges.push((id, id)),
        }
    }
    ranges
}

struct Relay {
    outlet: Outlet,
    read_back: Option<ReadBack>,
    sources: HashMap<Arc<str>, Source>,
    sweep: Duration,
    tracer: Tracer,
    /// Not before this is a failed producer replaced.
    renew_at: Option<Instant>,
}

impl Relay {
    fn run(mut self, receiver: &Receiver<Message>) {
        let mut swept = Instant::now();
        loop {
            let mut wait = self.sweep.saturating_sub(swept.elapsed());
            // After its time, never before it: the clock counts whole milliseconds, and the wait ends late if at all.
            let due = self.sources.values().filter_map(Source::next_due).min().filter(|_| !self.outlet.is_broken());
            if let Some(due) = due {
                let left = due.saturating_sub(crate::clock::now());
                wait = wait.min(Duration::from_millis(u64::try_from(left).unwrap_or(0)));
            }
            let release = self.sources.values().filter_map(Source::next_release).min();
            for soon in release.into_iter().chain(self.renew_at.filter(|_| self.outlet.is_broken())) {
                wait = wait.min(soon.saturating_duration_since(Instant::now()).max(Duration::from_millis(10)));
            }
            let mut next = match receiver.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(message) = next {
                if matches!(message, Message::Stop) {
                    self.stop(receiver);
                    return;
                }
                self.receive(message);
                next = receiver.try_recv().ok();
            }
            if swept.elapsed() >= self.sweep {
                swept = Instant::now();
                self.sources.values_mut().for_each(Source::look_again);
                let stuck = self.sources.values().flat_map(Source::stuck).collect();
                self.outlet.identify(&stuck);
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        if self.outlet.is_broken() {
            if self.renew_at.is_some_and(|at| Instant::now() < at) {
                return;
            }
            // A cause that stays would otherwise open producers as fast as the broker refuses them.
            self.renew_at = Some(Instant::now() + RENEW_EVERY);
            match self.outlet.renew() {
                Ok(()) => self.sources.values_mut().for_each(Source::rewind),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the producer cannot be opened again; it is tried again"
                    );
                    return;
                }
            }
        }
        for source in self.sources.values_mut() {
            source.report();
            source.pump(&mut self.outlet);
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Add { name, path, executor, woken } => {
                self.sources.insert(name, Source::new(path, executor, woken, self.tracer.clone()));
            }
            Message::Woken { name } => {
                if let Some(source) = self.sources.get_mut(&name) {
                    source.woken();
                }
            }
            Message::Report(report) => {
                if let Some(report) = self.outlet.check(report)
                    && let Some(source) = self.sources.get_mut(&report.store)
                {
                    source.settle(report, &mut self.outlet, self.read_back.as_ref());
                }
            }
            Message::ReadBack { store, row, found } => {
                if let Some(source) = self.sources.get_mut(&store) {
                    source.read_back(row, found);
                }
            }
            Message::Pause { store, rows, reply } => {
                let has = self.sources.get_mut(&store).map(|source| source.pause(&rows));
                let _ = reply.send(has.unwrap_or_default());
            }
            Message::Resume { store } => {
                if let Some(source) = self.sources.get_mut(&store) {
                    source.resume();
                }
            }
            Message::Hurry { store, topics } => {
                if let Some(source) = self.sources.get_mut(&store) {
                    source.hurry(&topics);
                }
            }
            Message::Stop => {}
        }
    }

    fn stop(mut self, receiver: &Receiver<Message>) {
        let until = Instant::now() + STOP_WITHIN;
        // What the last commits have put there goes out as well, if the broker is there.
        self.sources.values_mut().for_each(Source::look_again);
        loop {
            self.turn();
            let open = self.sources.values().map(Source::open).sum::<usize>();
            let left = until.saturating_duration_since(Instant::now());
            if open == 0 || left.is_zero() {
                if open > 0 {
                    tracing::warn!(
                        events = open,
                        "the broker has not acknowledged all events; they are published at the next start"
                    );
                }
                break;
            }
            if let Ok(message) = receiver.recv_timeout(left.min(Duration::from_millis(100))) {
                self.receive(message);
            }
        }
        self.sources.values_mut().for_each(Source::report);
    }
}
