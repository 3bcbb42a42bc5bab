//! The smoke test: a version runs the last records on a copy of its store, and nothing of it is kept.
//!
//! Each record is run as a new one, whatever inbox and offsets say of it, once, with what the records before it have left in the
//! copy. Events go nowhere and sends are said to have arrived; a call to the outside finds nobody there. A trap turns the version away;
//! what the handler itself makes of a record is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Store;
use super::manifest::Spec;
use crate::executor::event_id;
use crate::guest::{Answers, Component, Context, Environment, trial};
use crate::id::{InputId, Seed};
use crate::kafka::sender::{Position, Sender};
use crate::ledger::{outbox, schema};
use crate::outbound::{CallError, CallErrorKind};
use crate::record::Record;
use crate::store::rights::Rights;

/// The most records of one test.
pub const MAX: usize = 10_000;
/// What the ids of its deliveries are made of, in place of the topic's: they are not those that the records had.
const TOPIC_ID: &str = "smoke";

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Smoke {
    /// Records that were run.
    pub records: usize,
    /// Those that were done.
    pub done: usize,
    /// The others, by their outcomes.
    pub failed: BTreeMap<String, usize>,
}

impl fmt::Display for Smoke {
    /// As `7 records: 5 done, 2 unavailable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records: {} done", self.records, self.done)?;
        self.failed.iter().try_for_each(|(outcome, count)| write!(f, ", {count} {outcome}"))
    }
}

/// Runs records on a copy of a store.
///
/// # Errors
/// The version traps on one of them; or the copy fails.
pub(super) fn run(
    copy: Store,
    component: &Component,
    spec: &Spec,
    rights: Arc<Rights>,
    records: &[Record],
) -> Result<Smoke> {
    let secret = schema::identity(&copy)?.secret;
    let environment = Arc::new(Environment { spec: spec.clone(), owner: 1, rights });
    let mut copy = Box::new(copy);
    let mut smoke = Smoke { records: records.len(), ..Smoke::default() };
    for record in records {
        if !copy.in_transaction() {
            copy.execute("BEGIN IMMEDIATE", &[])?;
        }
        let next_outbox_id = outbox::first_id(&copy)?;
        let context = |answers| context(&environment, &secret, record, next_outbox_id, answers);
        let tried = trial::run(component, copy, record, context, |_, _| {
            let message = "connection refused: a smoke test calls nobody".to_owned();
            Err(CallError { kind: CallErrorKind::Unreachable, message })
        })?;
        copy = tried.connection;
        match tried.failure {
            None => smoke.done += 1,
            Some(failure) if failure.outcome.is_trap() => bail!(
                "smoke test: record {}/{}@{} makes it end in {}: {}",
                record.topic,
                record.partition,
                record.offset,
                failure.outcome.name(),
                failure.message
            ),
            Some(failure) => *smoke.failed.entry(failure.outcome.name().to_owned()).or_default() += 1,
        }
    }
    Ok(smoke)
}

fn context(
    environment: &Arc<Environment>,
    secret: &str,
    record: &Record,
    next_outbox_id: i64,
    answers: Answers,
) -> Context {
    let spec = &environment.spec;
    let id = InputId::Record { topic_id: TOPIC_ID.into(), partition: record.partition, offset: record.offset };
    Context {
        environment: environment.clone(),
        seed: Seed::derive(secret.as_bytes(), &spec.name, &id),
        now: crate::clock::now(),
        input_time: record.timestamp.millis().unwrap_or(0),
        attempt: 1,
        event_id: event_id::find(&spec.event_id, record),
        record: Some(Arc::new(record.clone())),
        source: id.describe(&record.topic),
        next_outbox_id: Some(next_outbox_id),
        answers,
        deadline: None,
        sender: Some(Sender::scripted(Arc::new(|_, _| Ok(Position { partition: 0, offset: 0 })))),
        warm: None,
        trace: None,
        place: Default::default(),
    }
}
