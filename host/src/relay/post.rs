//! The other relay: takes events to HTTP destinations, one request for each event.
//!
//! One thread serves all stores and all destinations, beside that for Kafka, so that neither waits for the other. It keeps the same
//! rules: a row goes only once it is committed, one key's in commit order; it is reported as published only when the destination has
//! answered so, and it never gives up on what may pass. It writes to no store.

mod courier;
mod request;
mod shelf;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use self::courier::{Change, Courier, Lane};
use self::request::Verdict;
pub(crate) use self::request::is_reserved;
use self::shelf::Shelf;
use super::STOP_WITHIN;
use crate::executor;
use crate::outbound::{Answer, Outbound};
use crate::settings::{Destinations, Post};
use crate::trace::Tracer;

/// What it is told. Its senders are bounded like those of the relay for Kafka.
pub(super) enum Message {
    Add { name: Arc<str>, path: PathBuf, executor: executor::Handle, woken: Arc<AtomicBool> },
    Woken { name: Arc<str> },
    Answered(Answered),
    Pause { store: Arc<str>, rows: Vec<i64>, reply: SyncSender<BTreeSet<i64>> },
    Resume,
    Hurry { topics: BTreeSet<String> },
    Stop,
}

/// What became of a request.
pub(super) struct Answered {
    /// The destination's position among the settings.
    destination: usize,
    lane: Lane,
    row: i64,
    /// From when on it could be sent, milliseconds since the Unix epoch.
    ready_at: i64,
    answer: Answer,
}

/// One destination.
struct Round {
    position: usize,
    topic: String,
    post: Post,
    courier: Courier,
}

pub(super) struct Poster {
    outbound: Outbound,
    tracer: Tracer,
    rounds: Vec<Round>,
    shelves: HashMap<Arc<str>, Shelf>,
    destinations: Arc<Destinations>,
    own: Sender<Message>,
    sweep: Duration,
    /// The operator takes rows out.
    paused: bool,
}

impl Poster {
    pub(super) fn new(
        destinations: Arc<Destinations>,
        outbound: Outbound,
        tracer: Tracer,
        sweep: Duration,
        own: Sender<Message>,
    ) -> Self {
        let rounds = destinations.0.iter().enumerate().filter_map(|(position, destination)| {
            let post = destination.http.clone()?;
            let courier = Courier::new(post.backoff, post.concurrency);
            Some(Round { position, topic: destination.topic.to_string(), post, courier })
        });
        Self {
            outbound,
            tracer,
            rounds: rounds.collect(),
            shelves: HashMap::new(),
            destinations,
            own,
            sweep,
            paused: false,
        }
    }

    pub(super) fn run(mut self, receiver: &Receiver<Message>) {
        let mut swept = Instant::now();
        loop {
            let mut wait = self.sweep.saturating_sub(swept.elapsed());
            if let Some(at) = self.next_time() {
                let left = at.saturating_sub(crate::clock::now());
                wait = wait.min(Duration::from_millis(u64::try_from(left).unwrap_or(0)));
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
                self.shelves.values_mut().for_each(Shelf::look_again);
            }
            self.turn();
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Add { name, path, executor, woken } => {
                self.shelves.insert(name, Shelf::new(path, executor, woken));
            }
            Message::Woken { name } => {
                if let Some(shelf) = self.shelves.get_mut(&name) {
                    shelf.woken();
                }
            }
            Message::Answered(answered) => self.settle(answered),
            Message::Pause { store, rows, reply } => {
                self.paused = true;
                let has =
                    self.shelves.get(&store).map(|shelf| rows.into_iter().filter(|row| shelf.has(*row)).collect());
                let _ = reply.send(has.unwrap_or_default());
            }
            Message::Resume => self.paused = false,
            Message::Hurry { topics } => {
                let positions: BTreeSet<usize> =
                    topics.iter().filter_map(|topic| self.destinations.http(topic)).collect();
                for round in self.rounds.iter_mut().filter(|round| positions.contains(&round.position)) {
                    round.courier.hurry();
                }
            }
            Message::Stop => {}
        }
    }

    /// Tells the stores what is known, takes up new rows, and sends those whose turn it is.
    fn turn(&mut self) {
        let now = crate::clock::now();
        for shelf in self.shelves.values_mut() {
            shelf.report();
            for round in &mut self.rounds {
                shelf.take_up(round.position, &mut round.courier, &self.destinations, now);
            }
        }
        if self.paused {
            return;
        }
        for round in &mut self.rounds {
            while let Some((lane, row)) = round.courier.next(now) {
                let Some(shelf) = self.shelves.get_mut(&lane.store) else {
                    round.courier.gone(&lane);
                    continue;
                };
                let waiting = match shelf.row(row) {
                    Ok(Some(waiting)) => waiting,
                    // Somebody has taken it out of the outbox by hand.
                    Ok(None) => {
                        round.courier.gone(&lane);
                        continue;
                    }
                    // It says so when it is looked through, too.
                    Err(error) => {
                        let verdict = Verdict::Later { error: error.to_string(), after: None, busy: false };
                        round.courier.settle(&lane, &verdict, now, 0.0);
                        continue;
                    }
                };
                match request::call(&round.post, &waiting) {
                    Ok(call) => {
                        let traced = self.tracer.record_of(&waiting.event.headers);
                        let traced = traced.map(|of| (self.tracer.clone(), of, call.clone(), Instant::now()));
                        let (own, destination, ready_at) = (self.own.clone(), round.position, waiting.ready_at());
                        shelf.sent(row);
                        self.outbound.once(call, request::BODY, move |answer| {
                            if let Some((tracer, of, call, since)) = traced {
                                tracer.tell(request::span(of, &call, &waiting, since, &answer));
                            }
                            let answered = Answered { destination, lane, row, ready_at, answer };
                            let _ = own.send(Message::Answered(answered));
                        });
                    }
                    Err(error) => {
                        shelf.refused(row, &round.topic, error);
                        round.courier.gone(&lane);
                    }
                }
            }
        }
    }

    fn settle(&mut self, answered: Answered) {
        let Answered { destination, lane, row, ready_at, answer } = answered;
        let Some(round) = self.rounds.iter_mut().find(|round| round.position == destination) else { return };
        let now = crate::clock::now();
        let verdict = request::judge(&round.post, &answer, now);
        let dice = f64::from(u8::try_from(row & 0xff).unwrap_or(0)) / 255.0;
        let change = round.courier.settle(&lane, &verdict, now, dice);
        let (topic, url, error) = (&round.topic, &round.post.url, error(&verdict));
        match change {
            Change::Opened => tracing::warn!(
                topic,
                %url,
                error,
                "a destination does not take events: they wait in their stores and it is tried again; events for others go on"
            ),
            Change::Closed => tracing::info!(topic, %url, "the destination takes events again"),
            Change::Alone => tracing::warn!(
                topic,
                %url,
                store = %lane.store,
                row,
                error,
                "a destination takes other events, and not this one: it is tried again, and those of its key wait behind it"
            ),
            Change::Nothing => {}
        }
        if let Some(shelf) = self.shelves.get_mut(&lane.store) {
            shelf.answered(row);
            match verdict {
                Verdict::Taken => shelf.published(row, ready_at),
                Verdict::Later { error, .. } => shelf.failed(row, error),
                Verdict::Refused(error) => shelf.refused(row, topic, error),
            }
        }
    }

    /// When there is something to do, in milliseconds since the Unix epoch, if only time stands before it.
    fn next_time(&self) -> Option<i64> {
        let due = self.rounds.iter().flat_map(|round| {
            let shelves = self.shelves.iter().filter(|(store, _)| round.courier.has_room(store));
            shelves.filter_map(|(_, shelf)| shelf.next_due(round.position))
        });
        let next = due.chain(self.rounds.iter().filter_map(|round| round.courier.next_time())).min();
        next.filter(|_| !self.paused)
    }

    fn stop(mut self, receiver: &Receiver<Message>) {
        let until = Instant::now() + STOP_WITHIN;
        // What the last commits have put there goes out as well, if its destination takes it.
        self.shelves.values_mut().for_each(Shelf::look_again);
        loop {
            self.turn();
            let open = self.rounds.iter().map(|round| round.courier.flying()).sum::<usize>();
            let left = until.saturating_duration_since(Instant::now());
            if open == 0 || left.is_zero() {
                if open > 0 {
                    tracing::warn!(
                        events = open,
                        "destinations have not answered for all events; they are sent again at the next start"
                    );
                }
                break;
            }
            if let Ok(message) = receiver.recv_timeout(left.min(Duration::from_millis(100))) {
                self.receive(message);
            }
        }
        self.shelves.values_mut().for_each(Shelf::report);
    }
}

fn error(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Taken => "",
        Verdict::Later { error, .. } | Verdict::Refused(error) => error,
    }
}
