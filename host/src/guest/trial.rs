//! A delivery outside of any executor, in the open transaction of a copy of a store: for a replay, and for a smoke test.
//!
//! Its invariant: it ends as in the daemon, after as many runs as it asks for answers, and what has failed leaves nothing in the copy. It
//! keeps, calls and sends nothing by itself.

use std::sync::Arc;

use super::delivery::handle_record;
use super::{Answers, Component, Context, Ended, Finished, LogLine, Sending};
use crate::outbound::{Answer, Call};
use crate::policy::{Failure, Outcome};
use crate::record::Record;
use crate::store::{Connection, Error};

/// Runs for each call that a delivery may make, as in the daemon.
const ASKED_AGAIN: usize = 4;

/// How it ended, and what it left.
pub struct Tried {
    /// The connection, as it was given.
    pub connection: Box<Connection>,
    /// Its failure, if it is not done.
    pub failure: Option<Failure>,
    /// Its calls, with what they were answered.
    pub calls: Vec<(Box<Call>, Answer)>,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// What would be sent after its commit.
    pub sends: Vec<Sending>,
}

/// Gives a record to the component until it calls no service whose answer it has not got. `context` is asked before each run, and
/// `answer` for the call at a position.
///
/// # Errors
/// The copy fails.
pub fn run(
    component: &Component,
    mut connection: Box<Connection>,
    record: &Record,
    mut context: impl FnMut(Answers) -> Context,
    mut answer: impl FnMut(&Call, usize) -> Answer,
) -> Result<Tried, Error> {
    let mut answers = Answers::default();
    let mut calls: Vec<(Box<Call>, Answer)> = Vec::new();
    let mut runs = 0;
    loop {
        connection.execute("SAVEPOINT delivery", &[])?;
        let context = context(answers.clone());
        let most = context.environment.spec.outbound.max_calls * ASKED_AGAIN;
        let Finished { connection: back, result, log, sends, .. } =
            handle_record(component, connection, context, record);
        connection = back;
        let failure = match result {
            Ok(()) if connection.violates_deferred_keys() => {
                Some(Failure::new(Outcome::Trap, "it leaves a deferred foreign key violated"))
            }
            Ok(()) => None,
            Err(Ended::Failed(failure) | Ended::Broken(failure)) => Some(failure),
            Err(Ended::Asks(call, position)) if runs < most => {
                undo(&connection)?;
                runs += 1;
                let answered = answer(&call, position);
                let answers = Arc::make_mut(&mut answers);
                answers.truncate(position);
                answers.push((call.fingerprint, answered.clone()));
                calls.truncate(position);
                calls.push((call, answered));
                continue;
            }
            Err(Ended::Asks(..)) => Some(Failure::new(
                Outcome::EffectsLimit,
                format!("it asked {most} times for calls, and each time for another one"),
            )),
            // Only without a sender, which is the context's business.
            Err(Ended::Sends) => Some(Failure::new(Outcome::Unavailable, "it sends, and cannot here")),
            Err(Ended::Store(error)) => return Err(error),
        };
        match failure {
            None => drop(connection.execute("RELEASE delivery", &[])?),
            Some(_) => undo(&connection)?,
        }
        return Ok(Tried { connection, failure, calls, log, sends });
    }
}

/// Nothing of the run stays. A statement of its own may have ended the transaction.
fn undo(connection: &Connection) -> Result<(), Error> {
    match connection.in_transaction() {
        true => connection.batch("ROLLBACK TO delivery; RELEASE delivery"),
        false => connection.execute("BEGIN IMMEDIATE", &[]).map(drop),
    }
}
