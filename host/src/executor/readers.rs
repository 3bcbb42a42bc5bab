//! Readers: requests that only read, in parallel, each on a snapshot of its handler's store.
//!
//! They run beside the executor on connections that cannot write, so that a slow query holds nobody up. A request
//! sees one state of the store: the one of its first query.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use tokio::sync::oneshot;

use super::request::{conclude, context};
use super::traced;
use super::{Live, Slot};
use crate::guest::{self, Ended};
use crate::ledger::Identity;
use crate::metrics::meters;
use crate::policy::{Failure, Outcome, Spent};
use crate::record::{Answer, Refusal, Request};
use crate::store::{Connection, Error};
use crate::trace::Tracer;

/// Requests that may wait for a reader.
const QUEUE: usize = 1_024;
/// Connections that one reader keeps open.
const CONNECTIONS: usize = 32;

struct Job {
    slot: Slot,
    store: Arc<Path>,
    identity: Identity,
    request: Box<Request>,
    reply: oneshot::Sender<Answer>,
    since: Instant,
}

/// The readers of the process.
#[derive(Clone)]
pub struct Readers {
    sender: SyncSender<Job>,
}

impl Readers {
    /// Starts one reader for each processor, and at least two.
    pub fn start(tracer: &Tracer) -> Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..std::thread::available_parallelism().map_or(2, |n| n.get()).max(2) {
            let (receiver, tracer) = (receiver.clone(), tracer.clone());
            crate::thread::spawn(format!("reader-{n}"), move || read(&receiver, &tracer))?;
        }
        Ok(Self { sender })
    }

    /// Runs a request that only reads. Never blocks.
    pub fn request(
        &self,
        slot: &Slot,
        store: &Arc<Path>,
        identity: &Identity,
        request: Request,
    ) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            slot: slot.clone(),
            store: store.clone(),
            identity: identity.clone(),
            request: Box::new(request),
            reply,
            since: Instant::now(),
        };
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.sender.try_send(job) {
            let _ = job.reply.send(Err(Refusal::Busy));
        }
        answer
    }
}

fn read(jobs: &Mutex<Receiver<Job>>, tracer: &Tracer) {
    let mut connections: HashMap<PathBuf, Box<Connection>> = HashMap::new();
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let live = job.slot.read().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = match live {
            None => Err(Refusal::Gone),
            Some(_) if Instant::now() >= job.request.deadline => Err(Refusal::Expired),
            // It would keep the readers from all others.
            Some(live) if spent(&live).rests_until().is_some() => Err(Refusal::Resting),
            Some(live) => answer(&mut connections, &job, &live, tracer).unwrap_or_else(|error| {
                tracing::error!(store = %job.store.display(), %error, "read from a store");
                Err(Refusal::StoreUnavailable)
            }),
        };
        let _ = job.reply.send(answer);
    }
}

fn spent(live: &Live) -> MutexGuard<'_, Spent> {
    live.reading.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(
    connections: &mut HashMap<PathBuf, Box<Connection>>,
    job: &Job,
    live: &Live,
    tracer: &Tracer,
) -> Result<Answer, Error> {
    let connection = match connections.remove(&*job.store) {
        Some(connection) => connection,
        None => Box::new(Connection::open_reader(&job.store)?),
    };
    connection.execute("BEGIN", &[])?;
    let request = &job.request;
    let context = context(&job.identity.secret, live.environment.clone(), request, crate::clock::now(), tracer);
    let place = context.place.clone();
    let started = Instant::now();
    let finished = guest::delivery::handle_request(&live.component, connection, context, request);
    let (now, limits) = (Instant::now(), &live.environment.spec.limits);
    live.meter.ran(finished.memory, usize::from(finished.made));
    let failing = finished.result.is_err().then_some(limits.failing_cpu);
    spent(live).spend(now - started, now, limits.cpu, failing);
    let connection = finished.connection;
    if connection.in_transaction() {
        connection.execute("ROLLBACK", &[])?;
    }
    if connections.len() >= CONNECTIONS {
        connections.clear();
    }
    connections.insert(job.store.to_path_buf(), connection);
    let answer = match finished.result {
        Ok(response) => Ok(response),
        Err(Ended::Failed(failure) | Ended::Broken(failure)) => Err::<_, Failure>(failure),
        Err(Ended::Asks(..) | Ended::Sends) => {
            Err(Failure::new(Outcome::Trap, "a request that only reads cannot call"))
        }
        Err(Ended::Store(error)) => return Err(error),
    };
    let ending = answer.as_ref().map(drop).map_err(|failure| failure.outcome);
    live.meter.delivered(meters::Input::Request, ending, std::iter::once(now - started));
    if let Some(traced) = traced::request(&place, live, request, job.since, &answer, finished.spans) {
        traced.tell(tracer, Instant::now());
    }
    let handler = (live.environment.spec.name.as_str(), live.version);
    let (answer, logged) = conclude(handler, request, answer, finished.log, &place);
    if let Some(logged) = logged {
        logged.emit();
    }
    Ok(answer)
}
