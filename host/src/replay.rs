//! A replay: one record, run once by any version on a copy of its store, with all that it would cause shown and none of it
//! caused.
//!
//! Its invariant: the record meets what it met in the daemon - the code of a delivery, the ids, the random numbers and the
//! clock. It changes neither the store nor anything outside: the copy goes with the replay, events stay in it, and
//! calls are answered with what was given.

pub mod told;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};

use self::told::{Before, Told};
use crate::deploy::artifact::Artifact;
use crate::deploy::manifest::Spec;
use crate::executor::event_id;
use crate::guest::trial::{self, Tried};
use crate::guest::{Answers, Component, Context, Environment, Trace};
use crate::id::{InputId, Seed};
use crate::kafka::dead_letter::is_dead_letter;
use crate::kafka::sender::{Position, Sender};
use crate::ledger::outbox::{self, Event, Span};
use crate::ledger::{deployment, inbox, offset, owners, pending, schema};
use crate::outbound::{Answer, Call, Outbound, recorded};
use crate::policy::{Failure, Next, Situation, decide};
use crate::record::Record;
use crate::rig::kafka::shown;
use crate::rig::services::Services;
use crate::rig::wire::{self, Expected};
use crate::scratch::Scratch;
use crate::settings::units;
use crate::store::Connection;
use crate::store::rights::{Rights, Tables};
use crate::trace::{Incoming, Origin, Tracer};

/// The secret and the topic id where the store does not know them.
const UNKNOWN: &str = "replay";
/// More events than a delivery may publish, and more bytes.
const EVENTS: usize = 1_000_000;
const EVENT_BYTES: usize = 1 << 30;

/// A version that can run.
pub struct Version {
    /// The file.
    pub artifact: Artifact,
    /// Its configuration.
    pub spec: Spec,
    /// Its code.
    pub component: Component,
}

/// What is replayed.
#[derive(Clone)]
pub struct Plan {
    /// The record.
    pub record: Record,
    /// How its attempts ended, as its dead letter says: oldest first, as a JSON array.
    pub errors: Option<String>,
    /// The clock, in milliseconds since the Unix epoch; else that of its last attempt.
    pub at: Option<i64>,
    /// The attempt, from 1; else its last one.
    pub attempt: Option<u32>,
    /// What calls are answered, each once.
    pub answers: Vec<Expected>,
    /// Decides of which traces is told, as in the daemon.
    pub tracer: Tracer,
}

/// Runs the record on a copy of `store`, or on an empty store.
///
/// # Errors
/// The store cannot be copied; a migration of the version fails on it; or the copy fails.
pub fn run(version: &Version, store: Option<&Path>, plan: &Plan) -> Result<Told> {
    let scratch = Scratch::new()?;
    let path = scratch.path().join("store.db");
    let mut connection = Connection::open_copy(&path)?;
    if let Some(store) = store {
        Connection::open_reader(store)
            .and_then(|store| store.copy_to(&mut connection))
            .with_context(|| format!("copy the store {} to {}", store.display(), path.display()))?;
    }
    let identity = schema::prepare(&connection).context("read the store")?;
    let secret = store.map_or(UNKNOWN, |_| &identity.secret);
    let Version { artifact, spec, .. } = version;
    let tables = Arc::new(Tables::default());
    tables.set(owners::load(&connection)?);
    let rights = Arc::new(Rights { user: spec.name.as_str().into(), grants: spec.tables.clone(), tables });
    let migrations = migrate(&connection, &rights, artifact)?;
    let facts = Facts::find(&connection, spec, plan)?;
    let record = &plan.record;
    let id = InputId::Record { topic_id: facts.topic_id.clone(), partition: record.partition, offset: record.offset };
    let desk = Desk {
        version,
        plan,
        environment: Arc::new(Environment { spec: spec.clone(), owner: 1, rights }),
        seed: Seed::derive(secret.as_bytes(), &spec.name, &id),
        source: id.describe(&record.topic),
        sent: Arc::default(),
        services: Arc::default(),
        statements: Arc::default(),
        facts,
    };
    for answer in &plan.answers {
        desk.services().expect(answer.clone())?;
    }
    let (tried, published) = desk.run(connection)?;
    let Desk { facts, sent, services, statements, seed, .. } = desk;
    // What went past the transaction has gone, whatever came of it.
    let mut events = std::mem::take(&mut *lock(&sent));
    events.extend(published);
    let failure = tried.failure.as_ref();
    let log = tried.log.iter();
    Ok(Told {
        handler: spec.name.clone(),
        artifact: artifact.version.clone(),
        store: store.map(|store| store.display().to_string()),
        record: wire::record(record),
        at: units::show_time(facts.at),
        clock: facts.clock,
        attempt: facts.attempt,
        before: facts.before,
        topic_known: facts.topic_known,
        migrations,
        outcome: failure.map_or("done", |failure| failure.outcome.name()).to_owned(),
        error: failure.map(|failure| failure.message.clone()),
        next: failure.map(|failure| next(spec, record, failure, facts.attempt, facts.at, &seed)),
        statements: lock(&statements).iter().map(told::statement).collect(),
        events,
        calls: tried.calls.iter().map(|(call, answer)| told::call(call, answer)).collect(),
        unanswered: std::mem::take(&mut lock(&services).unexpected),
        log: log.map(|line| json!({ "level": line.level.as_str().to_lowercase(), "message": line.message })).collect(),
    })
}

/// Brings the copy to the version's schema. Returns the migrations that this took.
fn migrate(connection: &Connection, rights: &Arc<Rights>, artifact: &Artifact) -> Result<Vec<String>> {
    connection.batch("BEGIN IMMEDIATE")?;
    let left = deployment::outstanding(connection, &rights.user, &artifact.migrations)?;
    let names = left.iter().map(|(migration, _)| migration.name.clone()).collect();
    rights.tables.set(deployment::migrate(connection, rights, &artifact.migrations, crate::clock::now())?);
    connection.batch("COMMIT")?;
    Ok(names)
}

/// What the store and the dead letter know about the record.
struct Facts {
    topic_id: String,
    /// Whether the store has read that topic, so that ids are those of the daemon.
    topic_known: bool,
    event_id: Option<String>,
    attempt: u32,
    at: i64,
    /// Whose clock it is.
    clock: &'static str,
    /// What services had answered to its last attempt.
    answered: Answers,
    /// What the store has of it already.
    before: Before,
}

impl Facts {
    fn find(connection: &Connection, spec: &Spec, plan: &Plan) -> Result<Self> {
        let (name, record) = (spec.name.as_str(), &plan.record);
        let stored = offset::find(connection, name, &record.topic, record.partition)?;
        let rows = pending::Rows { connection, handler: name, topic: &record.topic, partition: record.partition };
        let waits = rows.at(record.offset)?;
        let event_id = event_id::find(&spec.event_id, record);
        let done_at = event_id.as_ref().map(|id| inbox::done_at(connection, name, id)).transpose()?.flatten();
        let errors = plan.errors.as_ref().or(waits.as_ref().map(|waits| &waits.errors));
        let errors: Vec<Json> = errors.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let last = |key: &str| errors.last().and_then(|error| error.get(key)).and_then(Json::as_i64);
        let attempt = last("attempt").and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(1).max(1);
        let clocks = [
            (plan.at, "as given"),
            (last(pending::CLOCK).or(last("at")), "its last attempt's"),
            (done_at, "when it was done"),
            (record.timestamp.millis(), "its own timestamp"),
        ];
        let clock = clocks.into_iter().find_map(|(at, of)| Some((at?, of)));
        let (at, clock) = clock.unwrap_or((crate::clock::now(), "now"));
        let passed = stored.as_ref().is_some_and(|stored| stored.next_offset > record.offset);
        let topic_id = waits.as_ref().map(|waits| &waits.topic_id).or(stored.as_ref().map(|stored| &stored.topic_id));
        Ok(Self {
            topic_known: topic_id.is_some(),
            topic_id: topic_id.cloned().unwrap_or_else(|| UNKNOWN.to_owned()),
            before: match (done_at, &waits) {
                (Some(_), _) => Before::Done,
                (None, Some(_)) => Before::Waits,
                // Without an id in the inbox nobody knows whether it was done or given up on.
                (None, None) if passed => Before::Passed,
                (None, None) => Before::New,
            },
            event_id,
            attempt: plan.attempt.unwrap_or(attempt),
            at,
            clock,
            answered: errors
                .last()
                .and_then(|error| error.get(pending::ANSWERS))
                .map(recorded::read)
                .unwrap_or_default(),
        })
    }
}

/// A record on the desk, and all that stands around it.
struct Desk<'a> {
    version: &'a Version,
    plan: &'a Plan,
    facts: Facts,
    environment: Arc<Environment>,
    seed: Seed,
    source: String,
    sent: Arc<Mutex<Vec<Json>>>,
    services: Arc<Mutex<Services>>,
    statements: Trace,
}

impl Desk<'_> {
    /// Runs it. Returns how it ended, and the events that it would publish after the commit.
    fn run(&self, connection: Connection) -> Result<(Tried, Vec<Json>)> {
        let (spec, record) = (&self.version.spec, &self.plan.record);
        // Events that it published before have its ids.
        let before = "DELETE FROM main.tm_outbox WHERE handler = ?1 AND source = ?2";
        connection.execute(before, &[spec.name.as_str().into(), self.source.as_str().into()])?;
        let first = outbox::first_id(&connection)?;
        connection.batch("BEGIN IMMEDIATE")?;
        let context = |answers| self.context(answers, first);
        let tried = trial::run(&self.version.component, Box::new(connection), record, context, |call, position| {
            let recorded = self.facts.answered.get(position).filter(|(of, _)| *of == call.fingerprint);
            recorded.map_or_else(|| self.ask(call.clone()), |(_, answer)| answer.clone())
        });
        let tried = tried.context("use the copy of the store")?;
        let rows = outbox::waiting(&tried.connection, Span::After(first - 1), EVENTS, EVENT_BYTES)?;
        let enqueued = rows.iter().map(|row| shown(&row.event, "outbox", &self.source));
        let sends = tried.sends.iter().filter(|_| tried.failure.is_none());
        let events = enqueued.chain(sends.map(|sending| shown(&sending.event, "send-async", &self.source))).collect();
        Ok((tried, events))
    }

    /// For a run, of which nothing is known yet.
    fn context(&self, answers: Answers, next_outbox_id: i64) -> Context {
        lock(&self.statements).clear();
        lock(&self.sent).clear();
        let (sent, source) = (self.sent.clone(), self.source.clone());
        let sender = Sender::scripted(Arc::new(move |event: &Event, _| {
            let mut sent = lock(&sent);
            sent.push(shown(event, "send", &source));
            let offset = i64::try_from(sent.len()).unwrap_or(i64::MAX) - 1;
            Ok(Position { partition: event.partition.unwrap_or(0), offset })
        }));
        Context {
            environment: self.environment.clone(),
            seed: self.seed.clone(),
            now: self.facts.at,
            input_time: self.plan.record.timestamp.millis().unwrap_or(0),
            attempt: self.facts.attempt,
            event_id: self.facts.event_id.clone(),
            record: Some(Arc::new(self.plan.record.clone())),
            source: self.source.clone(),
            next_outbox_id: Some(next_outbox_id),
            answers,
            deadline: None,
            sender: Some(sender),
            warm: None,
            trace: Some(self.statements.clone()),
            place: self.plan.tracer.place(
                Incoming::of_record(&self.plan.record.headers),
                Origin { root: &self.seed, seed: &self.seed, attempt: self.facts.attempt },
            ),
        }
    }

    /// What a call is answered, after as many tries as it has.
    fn ask(&self, call: Call) -> Answer {
        let services = self.services.clone();
        let given: Arc<Mutex<Option<Answer>>> = Arc::default();
        let take = given.clone();
        let outbound = Outbound::scripted(Arc::new(move |call: &Call| lock(&services).call(call)));
        outbound.call(call, self.version.spec.outbound.clone(), 0.0, move |answer| *lock(&take) = Some(answer));
        let answer = lock(&given).take();
        answer.unwrap_or_else(|| {
            Err(crate::outbound::CallError {
                kind: crate::outbound::CallErrorKind::Unreachable,
                message: "there is no answer".into(),
            })
        })
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        lock(&self.services)
    }
}

/// What would follow the failure.
fn next(spec: &Spec, record: &Record, failure: &Failure, attempt: u32, now: i64, seed: &Seed) -> String {
    let situation = Situation { attempt, circuit_open: false, others_pass: false, now, dice: seed.dice(attempt) };
    match decide(&spec.retry, failure, situation) {
        Next::Retry { due } => format!("it would be tried again after {} ms", due - now),
        Next::Wait => "it would be tried again when the circuit lets it".to_owned(),
        Next::DeadLetter if is_dead_letter(record) => "it would be kept in tm_fallback".to_owned(),
        Next::DeadLetter => {
            format!("it would become a dead letter in {}", spec.dead_letter.topic.replace("{topic}", &record.topic))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
