//! What `tm_deployment` knows of the live version's probation, and what a version that has failed it gives back.
//!
//! The verdict is written in the transaction of the group that brings it, so that a daemon which is killed before anybody
//! acts on it finds it again. What was counted until then is not kept: after a restart the count begins anew.

use crate::policy::Outcome;
use crate::store::{Connection, Error};

/// How the live version stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has passed, or never was on probation.
    Over,
    /// It is on probation.
    On,
    /// It has failed, for this reason.
    Failed(String),
}

/// The live version of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// When it was deployed, in milliseconds since the Unix epoch.
    pub since: i64,
    /// How it stands.
    pub state: State,
}

/// The live version of a handler, if there is one.
pub fn live(connection: &Connection, handler: &str) -> Result<Option<Live>, Error> {
    let sql =
        "SELECT deployed_at, probation, error FROM main.tm_deployment WHERE handler = ?1 AND status = 'live' LIMIT 1";
    connection.first(sql, &[handler.into()], |row| {
        let state = match row.opt_text(1)?.as_deref() {
            Some("on") => State::On,
            Some("failed") => State::Failed(row.opt_text(2)?.unwrap_or_default()),
            _ => State::Over,
        };
        Ok(Live { since: row.integer(0)?, state })
    })
}

/// The live version is on probation.
pub fn begin(connection: &Connection, handler: &str) -> Result<(), Error> {
    set(connection, handler, "on", None)
}

/// The live version has passed.
pub fn pass(connection: &Connection, handler: &str) -> Result<(), Error> {
    set(connection, handler, "passed", None)
}

/// The live version has failed.
pub fn fail(connection: &Connection, handler: &str, why: &str) -> Result<(), Error> {
    set(connection, handler, "failed", Some(why))
}

fn set(connection: &Connection, handler: &str, probation: &str, why: Option<&str>) -> Result<(), Error> {
    let sql = "UPDATE main.tm_deployment SET probation = ?2, error = ?3 WHERE handler = ?1 AND status = 'live'";
    connection.execute(sql, &[handler.into(), probation.into(), why.into()]).map(drop)
}

/// Records that a failed version has made trap since `since` are due at `now`, and its traps are no attempts of theirs.
/// Times are milliseconds since the Unix epoch.
pub fn give_back(connection: &Connection, handler: &str, since: i64, now: i64) -> Result<(), Error> {
    let traps: Vec<String> =
        Outcome::ALL.into_iter().filter(|outcome| outcome.is_trap()).map(|o| format!("'{}'", o.name())).collect();
    let caused = format!(
        "(SELECT count(*) FROM json_each(errors) WHERE value ->> 'at' >= ?2 AND value ->> 'outcome' IN ({}))",
        traps.join(", ")
    );
    let sql = format!(
        "UPDATE main.tm_pending SET due = ?3, attempts = max(0, attempts - {caused})
         WHERE handler = ?1 AND purpose = 'handle' AND due IS NOT NULL AND {caused} > 0"
    );
    connection.execute(&sql, &[handler.into(), since.into(), now.into()]).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::pending::{Attempt, push_error};
    use crate::ledger::schema;

    #[test]
    fn h2_what_a_failed_version_has_cost_is_given_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        let errors = |outcomes: &[(i64, &str)]| {
            outcomes.iter().fold("[]".to_owned(), |errors, (at, outcome)| {
                push_error(&errors, Attempt { number: 1, at: *at, clock: None, outcome, message: "m", answers: None })
            })
        };
        let rows = [
            // Before the version was there, and by its handler's own wish.
            ("h", 3, Some(900), errors(&[(10, "trap"), (120, "retry"), (130, "trap")])),
            ("h", 2, Some(900), errors(&[(110, "time-limit"), (120, "trap")])),
            ("h", 2, Some(900), errors(&[(110, "retry"), (120, "retry")])),
            // One that waits behind another, or for an answer, keeps its place.
            ("h", 0, None, errors(&[])),
            ("other", 1, Some(900), errors(&[(120, "trap")])),
        ];
        for (offset, (handler, attempts, due, errors)) in (0i64..).zip(rows) {
            let sql = "INSERT INTO tm_pending (handler, topic, topic_id, partition, \"offset\", timestamp_type, headers, purpose,
                       scope, attempts, due, errors) VALUES (?1, 't', 'i', 0, ?2, 'None', '[]', 'handle', 'partition', ?3, ?4, ?5)";
            let attempts: u32 = attempts;
            let due: Option<i64> = due;
            let params = [handler.into(), offset.into(), attempts.into(), due.into(), errors.as_str().into()];
            connection.execute(sql, &params).unwrap();
        }
        give_back(&connection, "h", 100, 500).unwrap();
        let sql = "SELECT \"offset\", attempts, due FROM tm_pending ORDER BY \"offset\"";
        let read = |row: &crate::store::Row<'_>| Ok((row.integer(0)?, row.integer(1)?, row.opt_integer(2)?));
        let rows = connection.query(sql, &[], read).unwrap();
        let expected = [(0, 2, Some(500)), (1, 0, Some(500)), (2, 2, Some(900)), (3, 0, None), (4, 1, Some(900))];
        assert_eq!(rows, expected);
    }
}
