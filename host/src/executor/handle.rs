//! How the rest of the host talks to a store's executor: its messages, and the handle that sends them.
//!
//! Messages of one sender arrive in the order in which they were sent. A handle outlives its executor, and then says
//! that it has stopped; nothing here touches the store.

use std::sync::mpsc::{SendError, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use super::Waiting;
use super::completed::Completed;
use super::letters::{Disposed, Errand};
use super::positions::Positions;
use super::publish::Publication;
use super::reset::Moved;
use super::stored::Chore;
use crate::deploy::manifest::Spec;
use crate::guest::{Component, Environment};
use crate::lane::opening::Seen;
use crate::lane::{Meter, Token};
use crate::ledger::Identity;
use crate::ledger::deployment::{Migration, Status};
use crate::ledger::offset::Move;
use crate::ledger::pause::{Change, Pause};
use crate::metrics::meters;
use crate::outbound;
use crate::policy::Spent;
use crate::record::{Answer, Record, Refusal, Request};
use crate::store::{Connection, Error};

/// What a consumer asks when a partition was assigned.
pub struct Open {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// What Kafka says about it.
    pub seen: Seen,
    /// By which the consumer and the lane share how much is held.
    pub meter: Arc<Meter>,
}

/// What the consumer is told.
pub enum Opened {
    /// Read from here.
    At {
        /// Goes with each batch of records.
        token: Token,
        /// The first offset to read.
        next: i64,
    },
    /// Do not read; the reason was logged.
    Shut,
}

/// A version that is to go live.
pub struct Version {
    /// Its configuration.
    pub spec: Spec,
    /// Its code.
    pub component: Component,
    /// Its migrations, in order.
    pub migrations: Vec<Migration>,
    /// The file's hash, in hexadecimal.
    pub sha256: String,
    /// The manifest as TOML.
    pub manifest: String,
    /// Where it came from.
    pub source: String,
    /// The artifact's version.
    pub artifact: String,
    /// The artifact of the file that lies in the handlers folder, where this one runs in its place.
    pub instead_of: Option<String>,
    /// Who asked for it.
    pub who: String,
    /// What becomes of the version before.
    pub before: Status,
    /// How its probation goes, if it is to be on one where it takes another's place.
    pub probation: Option<Box<OnProbation>>,
}

/// A version's probation.
#[derive(Default)]
pub struct OnProbation {
    /// The version before, if it can do what this one cannot.
    pub before: Option<(Component, Spec)>,
    /// Whether one that has failed begins again.
    pub anew: bool,
}

/// A live version.
pub struct Live {
    /// Its code.
    pub component: Component,
    /// What its deliveries share.
    pub environment: Arc<Environment>,
    /// Its number.
    pub version: i64,
    /// What its deliveries have come to.
    pub(super) meter: Arc<meters::Handler>,
    /// What its requests that only read have taken of a processor.
    pub(super) reading: Mutex<Spent>,
    /// Why it reads nothing any more.
    condemned: OnceLock<String>,
}

impl Live {
    pub(super) fn new(
        component: Component,
        environment: Arc<Environment>,
        version: i64,
        meter: Arc<meters::Handler>,
    ) -> Self {
        Self { component, environment, version, meter, reading: Mutex::default(), condemned: OnceLock::new() }
    }

    pub(super) fn condemn(&self, why: String) {
        let _ = self.condemned.set(why);
    }
}

/// The live version of a handler, for those who only read; `None` once it was removed.
pub type Slot = Arc<RwLock<Option<Arc<Live>>>>;

/// Why the live version has failed its probation, once it has; another one should take its place.
pub fn condemned(slot: &Slot) -> Option<String> {
    slot.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.condemned.get().cloned()
}

/// A handler that has gone live.
#[derive(Clone)]
pub struct Joined {
    /// For readers.
    pub slot: Slot,
    /// For the consumer.
    pub positions: Arc<Positions>,
    /// The number of the version.
    pub version: i64,
    /// Whether it has it since now: what was live before a restart goes on under its number.
    pub new: bool,
}

/// A write to the ledger that belongs to no delivery.
pub(super) type Note = Box<dyn FnOnce(&Connection) -> Result<(), Error> + Send>;

/// A message to the executor.
pub(super) enum Message {
    Open { handler: Arc<str>, lanes: Vec<Open>, complete: bool, reply: SyncSender<Result<Vec<Opened>, String>> },
    Records { token: Token, records: Vec<Record> },
    Close { tokens: Vec<Token>, done: Option<SyncSender<()>> },
    Request { handler: Arc<str>, waiting: Box<Waiting> },
    Answered { token: Token, id: i64, fingerprint: [u8; 32], answer: outbound::Answer },
    RequestAnswered { handler: Arc<str>, number: u64, fingerprint: [u8; 32], answer: outbound::Answer },
    Completed { handler: Arc<str>, completed: Box<Completed> },
    Published { ranges: Vec<(i64, i64)> },
    NotPublished { ids: Vec<i64>, error: String },
    Refused { id: i64, error: String },
    Switch { version: Box<Version>, reply: SyncSender<Result<Joined>> },
    Reset { handler: Arc<str>, moves: Vec<Move>, again: bool, reply: SyncSender<Result<Vec<Moved>>> },
    Letters { errands: Vec<Errand>, dry: bool, reply: SyncSender<Result<Vec<Disposed>>> },
    Pause { handler: Arc<str>, change: Change, reply: SyncSender<Result<Vec<Pause>>> },
    Stored { chores: Vec<Chore>, dry: bool, reply: SyncSender<Result<Vec<Disposed>>> },
    Remove { handler: Arc<str>, reply: SyncSender<()> },
    Rest { reply: SyncSender<Option<i64>> },
    Note { write: Note, reply: SyncSender<Result<(), Error>> },
    Stop,
}

/// How the rest of the host talks to a store's executor.
#[derive(Clone)]
pub struct Handle {
    sender: Sender<Message>,
    identity: Identity,
    name: Arc<str>,
    meter: Arc<meters::Store>,
}

impl Handle {
    pub(super) fn new(sender: Sender<Message>, identity: Identity, name: Arc<str>, meter: Arc<meters::Store>) -> Self {
        Self { sender, identity, name, meter }
    }

    /// The store's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The store's identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the store's work has come to.
    pub fn meter(&self) -> &Arc<meters::Store> {
        &self.meter
    }

    /// Opens lanes; `complete` says that they are all that are assigned and not open yet. Waits for the group under way.
    pub fn open(&self, handler: &Arc<str>, lanes: Vec<Open>, complete: bool) -> Result<Vec<Opened>> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Open { handler: handler.clone(), lanes, complete, reply })?;
        answer.recv().context("the store's executor has stopped")?.map_err(anyhow::Error::msg)
    }

    /// Hands over records of a lane, in order. Their sizes must be on the lane's meter already.
    pub fn records(&self, token: Token, records: Vec<Record>) -> Result<()> {
        self.send(Message::Records { token, records })
    }

    /// Closes lanes: what they hold is forgotten, since Kafka still has it.
    pub fn close(&self, tokens: Vec<Token>) -> Result<()> {
        self.send(Message::Close { tokens, done: None })
    }

    /// The same, and waits until it is done; then the positions are final.
    pub fn close_and_wait(&self, tokens: Vec<Token>) -> Result<()> {
        let (done, answer) = sync_channel(1);
        self.send(Message::Close { tokens, done: Some(done) })?;
        answer.recv().context("the store's executor has stopped")
    }

    /// Runs a request that writes; the answer comes after the commit. Never blocks.
    pub fn request(&self, handler: &Arc<str>, request: Request) -> oneshot::Receiver<Answer> {
        self.ask(handler, request, None)
    }

    /// Publishes events for a request, in a handler's name and without running it; the answer comes after the commit. Never blocks.
    pub fn publish(&self, handler: &Arc<str>, request: Request, publication: Publication) -> oneshot::Receiver<Answer> {
        self.ask(handler, request, Some(publication))
    }

    fn ask(&self, handler: &Arc<str>, request: Request, publication: Option<Publication>) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let (request, publication) = (Arc::new(request), publication.map(Arc::new));
        let waiting = Box::new(Waiting { request, publication, reply, since: Instant::now(), aside: None });
        let message = Message::Request { handler: handler.clone(), waiting };
        if let Err(SendError(Message::Request { waiting, .. })) = self.sender.send(message) {
            let _ = waiting.reply.send(Err(Refusal::StoreUnavailable));
        }
        answer
    }

    /// The broker has acknowledged these rows: ranges of ids, both ends included.
    pub fn published(&self, ranges: Vec<(i64, i64)>) -> Result<()> {
        self.send(Message::Published { ranges })
    }

    /// These rows wait, for a reason that may pass.
    pub fn not_published(&self, ids: Vec<i64>, error: String) -> Result<()> {
        self.send(Message::NotPublished { ids, error })
    }

    /// This row was refused for good.
    pub fn refused(&self, id: i64, error: String) -> Result<()> {
        self.send(Message::Refused { id, error })
    }

    /// Makes a version live between two deliveries, with its migrations, or leaves everything as it was.
    pub fn switch(&self, version: Version) -> Result<Joined> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Switch { version: Box::new(version), reply })?;
        answer.recv().context("the store's executor has stopped")?
    }

    /// Moves partitions to other offsets, all of them or none, and closes their lanes: the consumer has to open them anew. With
    /// `again` what is read a second time is a replay, in which the inbox knows nothing of what was done before.
    pub fn reset(&self, handler: &Arc<str>, moves: Vec<Move>, again: bool) -> Result<Vec<Moved>> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Reset { handler: handler.clone(), moves, again, reply })?;
        answer.recv().context("the store's executor has stopped")?
    }

    /// Does with dead letters what the operator wants of each, in one transaction; `dry` only says what it would do. Those that it
    /// cannot be done with are told, and left as they are.
    pub fn dispose(&self, errands: Vec<Errand>, dry: bool) -> Result<Vec<Disposed>> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Letters { errands, dry, reply })?;
        answer.recv().context("the store's executor has stopped")?
    }

    /// Begins or ends pauses of a handler. Returns those that were there of just what is paused, or that have ended.
    pub fn pause(&self, handler: &Arc<str>, change: Change) -> Result<Vec<Pause>> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Pause { handler: handler.clone(), change, reply })?;
        answer.recv().context("the store's executor has stopped")?
    }

    /// The same with rows that lie in the store.
    pub fn tend(&self, chores: Vec<Chore>, dry: bool) -> Result<Vec<Disposed>> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Stored { chores, dry, reply })?;
        answer.recv().context("the store's executor has stopped")?
    }

    /// Removes a handler whose consumer has stopped. Its tables stay.
    pub fn remove(&self, handler: &Arc<str>) -> Result<()> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Remove { handler: handler.clone(), reply })?;
        answer.recv().context("the store's executor has stopped")
    }

    /// Waits until nothing is left to do but what waits for its time, calls and sends under way included. Returns when, by
    /// the host's clock, in milliseconds since the Unix epoch, something is due next.
    pub fn rest(&self, within: Duration) -> Result<Option<i64>> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Rest { reply })?;
        answer.recv_timeout(within).with_context(|| format!("the store's executor did not come to rest in {within:?}"))
    }

    /// Writes to the ledger between two groups.
    pub fn note(&self, write: impl FnOnce(&Connection) -> Result<(), Error> + Send + 'static) -> Result<()> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Note { write: Box::new(write), reply })?;
        Ok(answer.recv().context("the store's executor has stopped")??)
    }

    /// Ends the executor after the work that it holds now.
    pub fn stop(&self) {
        let _ = self.send(Message::Stop);
    }

    fn send(&self, message: Message) -> Result<()> {
        self.sender.send(message).ok().context("the store's executor has stopped")
    }
}
