//! `tm_pause`: what an operator has paused of a handler, and until when.
//!
//! A pause is of all that the handler is run on but requests, of a topic, or of one partition. What stands here holds for each start and each
//! version. It says who asked, so that the store tells it where the audit log is not at hand.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units;
use crate::store::{Connection, Error, Row, Value};

/// What is paused: with neither, all of the handler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PauseScope")]
pub struct Scope {
    /// A topic that it reads.
    pub topic: Option<String>,
    /// One partition of that.
    pub partition: Option<i32>,
}

impl Scope {
    /// Whether all that is of the other is of this one.
    pub fn holds(&self, other: &Self) -> bool {
        let topic = self.topic.is_none() || self.topic == other.topic;
        topic && (self.partition.is_none() || self.partition == other.partition)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.topic, self.partition) {
            (None, _) => f.write_str("all of it"),
            (Some(topic), None) => f.write_str(topic),
            (Some(topic), Some(partition)) => write!(f, "{topic}/{partition}"),
        }
    }
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// What is paused.
    #[serde(flatten)]
    pub scope: Scope,
    /// When it began, milliseconds since the Unix epoch.
    pub since: i64,
    /// When it ends by itself, if it does, milliseconds since the Unix epoch.
    pub until: Option<i64>,
    /// Who asked for it.
    pub who: String,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, since, until, who } = self;
        write!(f, "{scope}, by {who} at {}", units::show_time(*since))?;
        until.iter().try_for_each(|until| write!(f, ", until {}", units::show_time(*until)))
    }
}

/// What becomes of a handler's pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This one begins, in the place of one of the same scope.
    Begin(Pause),
    /// Those within this scope end.
    End(Scope),
}

const COLUMNS: &str = "topic, partition, since, until, who";

fn pause(row: &Row<'_>) -> Result<Pause, Error> {
    let partition = row.opt_integer(1)?.and_then(|partition| i32::try_from(partition).ok());
    let scope = Scope { topic: row.opt_text(0)?, partition };
    Ok(Pause { scope, since: row.integer(2)?, until: row.opt_integer(3)?, who: row.text(4)? })
}

/// A handler's pauses, the widest first.
pub fn all(connection: &Connection, handler: &str) -> Result<Vec<Pause>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM main.tm_pause WHERE handler = ?1 ORDER BY topic, partition");
    connection.query(&sql, &[handler.into()], pause)
}

/// Whether one of these pauses a lane. Lanes that are none of Kafka's partitions stand still where all of the handler does.
pub fn cover(pauses: &[Pause], topic: &str, partition: i32) -> bool {
    let lane = match partition {
        0.. => Scope { topic: Some(topic.to_owned()), partition: Some(partition) },
        _ => Scope::default(),
    };
    pauses.iter().any(|pause| pause.scope.holds(&lane))
}

/// Changes a handler's pauses. Returns what was there of just the scope that is paused, or those that have ended.
pub fn change(connection: &Connection, handler: &str, change: &Change) -> Result<Vec<Pause>, Error> {
    let before = all(connection, handler)?;
    let goes = |pause: &Pause| match change {
        Change::Begin(begins) => pause.scope == begins.scope,
        Change::End(scope) => scope.holds(&pause.scope),
    };
    let gone: Vec<Pause> = before.into_iter().filter(goes).collect();
    for Pause { scope: Scope { topic, partition }, .. } in &gone {
        let sql = "DELETE FROM main.tm_pause WHERE handler = ?1 AND topic IS ?2 AND partition IS ?3";
        connection.execute(sql, &[handler.into(), text(topic), number(partition.map(i64::from))])?;
    }
    if let Change::Begin(Pause { scope, since, until, who }) = change {
        let sql = format!("INSERT INTO main.tm_pause (handler, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
        let partition = number(scope.partition.map(i64::from));
        let params =
            [handler.into(), text(&scope.topic), partition, (*since).into(), number(*until), who.as_str().into()];
        connection.execute(&sql, &params)?;
    }
    Ok(gone)
}

/// When the first pause of the store ends by itself, milliseconds since the Unix epoch.
pub fn next_end(connection: &Connection) -> Result<Option<i64>, Error> {
    Ok(connection.first("SELECT min(until) FROM main.tm_pause", &[], |row| row.opt_integer(0))?.flatten())
}

/// A pause that has ended, with its handler.
pub type Ended = (String, Pause);

/// Ends the pauses whose time is over at `now`. Returns them with their handlers, and when the next one ends.
pub fn end_due(connection: &Connection, now: i64) -> Result<(Vec<Ended>, Option<i64>), Error> {
    let sql = format!("SELECT {COLUMNS}, handler FROM main.tm_pause WHERE until <= ?1");
    let ended = connection.query(&sql, &[now.into()], |row| Ok((row.text(5)?, pause(row)?)))?;
    connection.execute("DELETE FROM main.tm_pause WHERE until <= ?1", &[now.into()])?;
    Ok((ended, next_end(connection)?))
}

fn text(text: &Option<String>) -> Value {
    text.as_deref().map_or(Value::Null, Value::from)
}

fn number(number: Option<i64>) -> Value {
    number.map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::pending::TIMERS;
    use crate::ledger::schema;

    fn scope(topic: Option<&str>, partition: Option<i32>) -> Scope {
        Scope { topic: topic.map(str::to_owned), partition }
    }

    #[test]
    fn a_pause_is_of_its_scope_and_the_last_word_on_a_scope_holds() {
        let folder = tempfile::tempdir().unwrap();
        let store = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&store).unwrap();
        let begin = |scope: &Scope, until, who: &str| {
            let begins = Pause { scope: scope.clone(), since: 5, until, who: who.to_owned() };
            change(&store, "h", &Change::Begin(begins)).unwrap()
        };
        let (whole, topic, one) = (Scope::default(), scope(Some("t"), None), scope(Some("t"), Some(1)));
        assert_eq!(begin(&one, None, "a"), []);
        let covered = |topic: &str, partition| cover(&all(&store, "h").unwrap(), topic, partition);
        assert!(covered("t", 1) && !covered("t", 0) && !covered("u", 1) && !covered("t", TIMERS));
        begin(&topic, Some(100), "b");
        assert!(covered("t", 0) && !covered("u", 0) && !covered("t", TIMERS));
        begin(&whole, Some(50), "c");
        assert!(covered("u", 0) && covered("daily", TIMERS));
        assert!(all(&store, "another").unwrap().is_empty());
        let before = begin(&whole, None, "d");
        assert_eq!((before.len(), before.first().map(|pause| &*pause.who)), (1, Some("c")));

        assert_eq!(next_end(&store).unwrap(), Some(100));
        let (ended, next) = end_due(&store, 100).unwrap();
        assert_eq!((ended.len(), next, covered("t", 0)), (1, None, true));
        assert_eq!(change(&store, "h", &Change::End(topic)).unwrap().len(), 1, "the partition within it");
        assert_eq!(change(&store, "h", &Change::End(one)).unwrap(), []);
        assert_eq!(change(&store, "h", &Change::End(whole)).unwrap().len(), 1);
        assert!(!covered("t", 1));
    }
}
