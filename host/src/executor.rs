//! The executor: the one writer of a store, which runs deliveries in commit groups.
//!
//! A group is whatever waits when the last one has committed: each delivery is kept or undone by itself, then next
//! offsets by compare-and-set, then one COMMIT. Nothing leaves this thread before that commit - no answer, no
//! position, no log line, no word to the relay - and no memory of it moves. It reads nothing from Kafka, and publishes only
//! what a handler sends past the outbox.

mod pick;
mod group;
mod backlog;
mod handle;
mod run;
mod record;
mod failed;
mod circuits;
mod probation;
mod outside;
mod request;
mod publish;
mod completed;
mod traced;
mod switch;
mod reset;
mod letters;
mod pause;
mod stored;
pub mod event_id;
mod upkeep;
pub mod positions;
pub mod readers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use self::backlog::Backlog;
use self::completed::Completed;
use self::handle::Message;
pub use self::handle::{Handle, Joined, Live, OnProbation, Open, Opened, Slot, Version, condemned};
pub use self::letters::{Disposed, Errand};
use self::positions::Positions;
use self::probation::Trial;
pub use self::publish::Publication;
pub use self::reset::Moved;
pub use self::stored::{Chore, Verb};
pub use self::upkeep::Keep;
use self::upkeep::Upkeep;
use crate::fault::{self, Moment};
use crate::guest::Warm;
use crate::kafka::sender::Sender;
use crate::lane::{Aside, Lane, Token};
use crate::ledger::inbox::Inbox;
use crate::ledger::{self, Identity};
use crate::metrics::meters;
use crate::outbound::Outbound;
use crate::policy::{Circuit, Spent};
use crate::record::{Answer, Refusal, Request};
use crate::settings;
use crate::store::rights::Tables;
use crate::store::{Connection, Error};
use crate::trace::Tracer;

/// How long the executor waits before it tries a store again that failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How long acknowledged outbox rows may wait for a group to ride along with.
const CLEAR_WITHIN: Duration = Duration::from_millis(50);

/// Called after a commit that put events into the outbox.
pub type Wake = Box<dyn Fn() + Send>;

/// What reaches the outside without the outbox.
#[derive(Clone)]
pub struct Outside {
    /// HTTP.
    pub outbound: Outbound,
    /// Kafka.
    pub sender: Sender,
    /// Spans of what was done.
    pub tracer: Tracer,
}

/// Opens the store and starts its thread.
pub fn spawn(
    name: &str,
    path: &Path,
    settings: &settings::Store,
    outbox: &settings::Outbox,
    keep: Keep,
    wake: Wake,
    outside: Outside,
) -> Result<(Handle, JoinHandle<()>)> {
    let connection = Connection::open_writer(path, settings.synchronous_full)
        .with_context(|| format!("open store {}", path.display()))?;
    let identity = ledger::schema::prepare(&connection).with_context(|| format!("open store {}", path.display()))?;
    if let Some(behind) = ledger::clock::latest(&connection)?.and_then(crate::clock::go_on_from) {
        tracing::warn!(
            store = name,
            ?behind,
            "the clock is behind what was written to the store and waits there: time goes on from that, until it is done and the daemon is started again"
        );
    }
    let upkeep = Upkeep::open(&connection, keep, crate::clock::now(), Instant::now())?;
    let virtual_tables = connection.has_virtual_tables()?;
    let tables = Arc::new(Tables::default());
    tables.set(ledger::owners::load(&connection)?);
    let inbox = Inbox::open(&connection, &identity.secret)?;
    let next_outbox_id = ledger::outbox::first_id(&connection)?;
    let unclean = ledger::crash::begin_run(&connection)?;
    let pause_ends = ledger::pause::next_end(&connection)?;
    let backlog = Backlog::new(ledger::outbox::count(&connection)?, outbox.max_rows);
    // Senders bound themselves: lanes by their marks, HTTP by `http.max-waiting`, the relay by its window, the outside by
    // what groups have asked for.
    let (sender, receiver) = mpsc::channel();
    let name: Arc<str> = name.into();
    let meter = Arc::new(meters::Store::new(connection.checkpoints().clone()));
    let mut executor = Executor {
        name: name.clone(),
        settings: settings.clone(),
        keep: outbox.keep,
        upkeep,
        inbox,
        wake,
        identity: identity.clone(),
        connection: Some(Box::new(connection)),
        members: BTreeMap::new(),
        turn: VecDeque::new(),
        used: Duration::ZERO,
        held_back: None,
        lanes: HashMap::new(),
        due: BinaryHeap::new(),
        unclean,
        counted: HashMap::new(),
        next_token: 0,
        next_owner: 0,
        next_outbox_id,
        savepoints_for: 0,
        virtual_tables,
        tables,
        backlog,
        relayed: Relayed::default(),
        outside,
        own: sender.clone(),
        next_request: 0,
        unwell: None,
        stopping: false,
        pause_ends,
        resting: Vec::new(),
        meter: meter.clone(),
    };
    // It may be full already.
    executor.count(0, 0);
    let thread = crate::thread::spawn(format!("store-{name}"), move || executor.run(receiver))?;
    Ok((Handle::new(sender, identity, name, meter), thread))
}

/// A handler of this store.
struct Member {
    slot: Slot,
    live: Arc<Live>,
    positions: Arc<Positions>,
    requests: VecDeque<Waiting>,
    /// Lanes that may have something to run.
    ready: VecDeque<Token>,
    /// Whether the next turn begins with a request.
    requests_first: bool,
    /// Deliveries that still run alone, since one of this handler's broke its group.
    solo: u32,
    circuit: Circuit,
    /// Its version's probation, if it is on one.
    trial: Option<Trial>,
    /// When one of its records was done last, milliseconds since the Unix epoch; 0 if none was.
    passed_at: i64,
    /// Records that wait for a call to the outside.
    outside: usize,
    /// Requests that do, each by a number of its own.
    outside_requests: HashMap<u64, Waiting>,
    /// Bytes of events that it has sent, and of which nothing is known.
    sending: usize,
    /// What it is to be told of events that it has sent.
    sends: VecDeque<Arc<Completed>>,
    /// Whether the next turn begins with one of them.
    sends_first: bool,
    /// The instance of the last run, where instances are reused.
    warm: Option<Warm>,
    /// What its deliveries have taken of a processor.
    spent: Spent,
    /// What they have come to.
    meter: Arc<meters::Handler>,
}

impl Member {
    fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.requests.is_empty() || !self.sends.is_empty()
    }
}

/// A handler's share of the store's time.
struct Share {
    handler: Arc<str>,
    /// How long its deliveries have run, and at least what the one had that ran last when this one came back from having
    /// nothing to do: who was away has nothing saved up.
    used: Duration,
}

/// A request that waits for its turn.
struct Waiting {
    request: Arc<Request>,
    /// What the host publishes for it, in place of the handler's run.
    publication: Option<Arc<Publication>>,
    reply: oneshot::Sender<Answer>,
    /// When it came.
    since: Instant,
    /// What its calls to the outside were answered, once it has made one.
    aside: Option<Aside>,
}

/// What the relay has reported and the store does not know yet.
#[derive(Default)]
struct Relayed {
    published: Vec<(i64, i64)>,
    failed: Vec<(i64, String)>,
    refused: Vec<(i64, String)>,
    since: Option<Instant>,
}

impl Relayed {
    fn is_empty(&self) -> bool {
        self.published.is_empty() && self.failed.is_empty() && self.refused.is_empty()
    }
}

struct Executor {
    name: Arc<str>,
    settings: settings::Store,
    keep: Duration,
    upkeep: Upkeep,
    inbox: Inbox,
    wake: Wake,
    identity: Identity,
    /// Absent only while a guest has it.
    connection: Option<Box<Connection>>,
    members: BTreeMap<Arc<str>, Member>,
    /// The handlers, those that have run for less before the others.
    turn: VecDeque<Share>,
    /// How long the handler had run that was picked last, before it ran.
    used: Duration,
    /// When the first of those may run that have something to do, and have taken more of a processor than they may.
    held_back: Option<Instant>,
    lanes: HashMap<Token, Lane>,
    /// When lanes have pending records or timers due.
    due: BinaryHeap<Reverse<(i64, Token)>>,
    /// Whether the process before this one has not ended in order: what may have killed it runs alone.
    unclean: bool,
    /// Runs that are counted in `tm_crash` and have not ended, by lane and offset, with the crashes before them.
    counted: HashMap<(Token, i64), u32>,
    next_token: u64,
    next_owner: u32,
    next_outbox_id: i64,
    /// How many groups still have savepoints.
    savepoints_for: u32,
    /// Whether all have: a virtual table is told by them where a delivery ends.
    virtual_tables: bool,
    /// Whose the handlers' tables are.
    tables: Arc<Tables>,
    backlog: Backlog,
    relayed: Relayed,
    outside: Outside,
    /// For answers from the outside.
    own: mpsc::Sender<Message>,
    next_request: u64,
    /// Since when the store cannot be written, and when it is tried again.
    unwell: Option<Instant>,
    stopping: bool,
    /// When the first pause ends by itself, milliseconds since the Unix epoch.
    pause_ends: Option<i64>,
    /// Who waits until nothing is left to do.
    resting: Vec<SyncSender<Option<i64>>>,
    /// What a scraper reads.
    meter: Arc<meters::Store>,
}

impl Executor {
    fn run(mut self, receiver: Receiver<Message>) {
        loop {
            self.meter.beat.rest();
            let received = receiver.recv_timeout(self.idle_time());
            self.meter.beat.begin();
            match received {
                Ok(message) => self.receive(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            loop {
                while let Ok(message) = receiver.try_recv() {
                    self.receive(message);
                }
                self.wake_due();
                self.end_pauses();
                if self.unwell.is_some_and(|until| Instant::now() < until) || !self.run_group() {
                    break;
                }
                self.meter.beat.begin();
            }
            if self.stopping {
                break;
            }
            self.rest();
        }
        if !self.relayed.is_empty() {
            self.run_group();
        }
        let requests = |m: &mut Member| {
            let outside = std::mem::take(&mut m.outside_requests);
            m.requests.drain(..).chain(outside.into_values()).collect::<Vec<_>>()
        };
        for waiting in self.members.values_mut().flat_map(requests) {
            let _ = waiting.reply.send(Err(Refusal::Stopping));
        }
        self.meter.beat.rest();
        if let Err(error) = ledger::crash::end_run(self.connection()) {
            tracing::warn!(store = %self.name, %error, "note that the store is closed in order");
        }
        tracing::debug!(store = %self.name, "store closed");
    }

    /// Answers those who wait for rest, if nothing is left but what waits for its time: when that is next.
    fn rest(&mut self) {
        let waits = |member: &Member| member.outside > 0 || !member.outside_requests.is_empty() || member.sending > 0;
        if self.resting.is_empty()
            || self.held_back.is_some()
            || !self.relayed.is_empty()
            || self.members.values().any(waits)
        {
            return;
        }
        let due = self.due.peek().map(|Reverse((due, _))| *due);
        let closes = self.members.values().filter(|m| !m.ready.is_empty()).filter_map(|m| m.circuit.until());
        let next = due.into_iter().chain(closes).min();
        for reply in self.resting.drain(..) {
            let _ = reply.send(next);
        }
    }

    /// How long nothing can happen without a message.
    fn idle_time(&self) -> Duration {
        let now = crate::clock::now();
        let mut wait = self.upkeep.idle().min(Duration::from_secs(60));
        let due = self.due.peek().map(|Reverse((due, _))| *due);
        for due in due.into_iter().chain(self.pause_ends) {
            wait = wait.min(Duration::from_millis(u64::try_from(due - now).unwrap_or(0)));
        }
        if let Some(since) = self.relayed.since {
            wait = wait.min(CLEAR_WITHIN.saturating_sub(since.elapsed()));
        }
        for until in self.members.values().filter(|member| !member.ready.is_empty()).filter_map(|m| m.circuit.until()) {
            wait = wait.min(Duration::from_millis(u64::try_from(until - now).unwrap_or(0)));
        }
        if let Some(until) = self.held_back {
            wait = wait.min(until.saturating_duration_since(Instant::now()));
        }
        if let Some(pause) = self.unwell.and_then(|until| until.checked_duration_since(Instant::now())) {
            wait = pause;
        }
        wait
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Open { handler, lanes, complete, reply } => {
                let opened = self.open_lanes(&handler, lanes, complete);
                let _ = reply.send(opened.map_err(|e| e.to_string()));
            }
            Message::Records { token, records } => {
                if let Some(lane) = self.lanes.get_mut(&token) {
                    lane.push(records);
                    lane.note_oldest();
                    self.list(token);
                }
            }
            Message::Close { tokens, done } => {
                tokens.into_iter().for_each(|token| self.close_lane(token));
                if let Some(done) = done {
                    let _ = done.send(());
                }
            }
            Message::Request { handler, waiting } => self.receive_request(&handler, *waiting),
            Message::Answered { token, id, fingerprint, answer } => {
                if let Some(lane) = self.lanes.get_mut(&token) {
                    lane.answer(id, fingerprint, answer);
                    self.list(token);
                }
            }
            Message::RequestAnswered { handler, number, fingerprint, answer } => {
                if let Some(member) = self.members.get_mut(&handler)
                    && let Some(mut waiting) = member.outside_requests.remove(&number)
                {
                    let aside = waiting.aside.get_or_insert_default();
                    Arc::make_mut(&mut aside.answers).push((fingerprint, answer));
                    member.requests.push_front(waiting);
                }
            }
            Message::Completed { handler, completed } => self.receive_completed(&handler, *completed),
            Message::Published { ranges } => {
                fault::reach(Moment::Acknowledged);
                self.relayed.published.extend(ranges);
                self.relayed.since.get_or_insert_with(Instant::now);
            }
            Message::NotPublished { ids, error } => {
                self.relayed.failed.extend(ids.into_iter().map(|id| (id, error.clone())));
                self.relayed.since.get_or_insert_with(Instant::now);
            }
            Message::Refused { id, error } => {
                self.relayed.refused.push((id, error));
                self.relayed.since.get_or_insert_with(Instant::now);
            }
            Message::Switch { version, reply } => {
                let _ = reply.send(self.switch(*version));
            }
            Message::Reset { handler, moves, again, reply } => {
                let _ = reply.send(self.reset(&handler, &moves, again));
            }
            Message::Letters { errands, dry, reply } => {
                let _ = reply.send(self.dispose(errands, dry, Self::run_errand));
            }
            Message::Stored { chores, dry, reply } => {
                let _ = reply.send(self.dispose(chores, dry, Self::run_chore));
            }
            Message::Pause { handler, change, reply } => {
                let _ = reply.send(self.change_pauses(&handler, &change));
            }
            Message::Remove { handler, reply } => {
                self.remove(&handler);
                let _ = reply.send(());
            }
            Message::Rest { reply } => self.resting.push(reply),
            Message::Note { write, reply } => {
                let _ = reply.send(write(self.connection()));
            }
            Message::Stop => self.stopping = true,
        }
    }

    fn receive_request(&mut self, handler: &Arc<str>, waiting: Waiting) {
        let refusal = match self.members.get_mut(handler) {
            None => Refusal::Gone,
            Some(_) if self.unwell.is_some_and(|until| Instant::now() < until) => Refusal::StoreUnavailable,
            Some(_) if self.backlog.is_full() => Refusal::OutboxFull,
            Some(member) => {
                member.requests.push_back(waiting);
                return;
            }
        };
        let _ = waiting.reply.send(Err(refusal));
    }

    fn close_lane(&mut self, token: Token) {
        if let Some(lane) = self.lanes.remove(&token)
            && let Some(member) = self.members.get_mut(&lane.handler)
        {
            member.outside -= lane.outside.len().min(member.outside);
            member.meter.remove_lane(token);
        }
        self.counted.retain(|(lane, _), _| *lane != token);
    }

    /// Puts a lane on its handler's list of lanes that may have something to run.
    fn list(&mut self, token: Token) {
        if let Some(lane) = self.lanes.get_mut(&token)
            && !lane.listed
            && let Some(member) = self.members.get_mut(&lane.handler)
        {
            lane.listed = true;
            member.ready.push_back(token);
        }
    }

    /// Lists the lanes whose pending record is due.
    fn wake_due(&mut self) {
        let now = crate::clock::now();
        while let Some(Reverse((due, token))) = self.due.peek().copied() {
            if due > now {
                break;
            }
            self.due.pop();
            if let Some(lane) = self.lanes.get_mut(&token).filter(|lane| lane.alarm == Some(due)) {
                lane.alarm = None;
            }
            self.list(token);
        }
    }

    /// Sees to it that a lane is listed when its first pending record, or its timer, is due.
    fn set_alarm(&mut self, token: Token) {
        if let Some(lane) = self.lanes.get_mut(&token)
            && let Some(due) = lane.due()
            && lane.alarm != Some(due)
        {
            lane.alarm = Some(due);
            self.due.push(Reverse((due, token)));
        }
    }

    /// The lane of a partition, or of a schedule, if it is open.
    fn lane_of(&self, handler: &str, topic: &str, partition: i32) -> Option<Token> {
        let is_it = |lane: &Lane| lane.partition == partition && *lane.handler == *handler && *lane.topic == *topic;
        self.lanes.iter().find(|(_, lane)| is_it(lane)).map(|(token, _)| *token)
    }

    /// The open lanes of a handler.
    fn lanes_of(&self, handler: &str) -> Vec<Token> {
        self.lanes.iter().filter(|(_, lane)| *lane.handler == *handler).map(|(token, _)| *token).collect()
    }

    /// Does all of something in a transaction of its own, or nothing of it.
    fn whole<T, E: From<Error>>(&mut self, act: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        self.connection().execute("BEGIN IMMEDIATE", &[])?;
        let done = act(self).and_then(|done| {
            self.connection().execute("COMMIT", &[])?;
            Ok(done)
        });
        if done.is_err() {
            let _ = self.rollback();
        }
        done
    }

    /// A lane and the handler it belongs to.
    fn lane(&self, token: Token) -> Option<(&Lane, &Member)> {
        let lane = self.lanes.get(&token)?;
        Some((lane, self.members.get(&lane.handler)?))
    }

    /// The connection. It is absent only inside a delivery, which cannot come here.
    fn connection(&self) -> &Connection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("the connection is back before anything else runs"),
        }
    }
}
