//! `tm_letter`: what an operator has done with dead letters, which Kafka keeps as they are.
//!
//! A row is written in the transaction that does it, so that nobody does it a second time without wanting to. It is of use for as long as
//! Kafka has the letter, and goes when that is known to be gone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::Place;
use crate::store::{Connection, Error, Kind, Row};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Its record was put back to a handler.
    Replayed,
    /// Its record was published again to its topic.
    Published,
    /// It needs nothing any more.
    Discarded,
}

impl Fate {
    /// As written in the column `fate`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Published => "published",
            Self::Discarded => "discarded",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Replayed, Self::Published, Self::Discarded].into_iter().find(|fate| fate.name() == name)
    }
}

/// A dead letter, told from the one at the same place of a topic that was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where it is.
    pub place: Place,
    /// The id of its topic.
    pub topic_id: String,
}

/// What was done with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What.
    pub fate: Fate,
    /// To which handler, or of which.
    pub handler: String,
    /// The place of its record, where it tells one.
    pub original: Option<String>,
    /// By whom.
    pub who: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
}

const COLUMNS: &str = "fate, handler, original, who, at";

/// What was done with a dead letter.
pub fn find(connection: &Connection, letter: &Letter) -> Result<Option<Done>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM main.tm_letter WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND topic_id = ?4"
    );
    let Letter { place, topic_id } = letter;
    let params = [place.topic.as_str().into(), place.partition.into(), place.offset.into(), topic_id.as_str().into()];
    connection.first(&sql, &params, done)
}

/// When a record was last put back to a handler or published again, by whichever of its dead letters, and which of them that was.
pub fn last(connection: &Connection, handler: &str, original: &str) -> Result<Option<(Done, String)>, Error> {
    let sql = format!(
        "SELECT {COLUMNS}, topic || '/' || partition || '@' || \"offset\" FROM main.tm_letter
         WHERE handler = ?1 AND original = ?2 AND fate <> 'discarded' ORDER BY at DESC LIMIT 1"
    );
    connection.first(&sql, &[handler.into(), original.into()], |row| Ok((done(row)?, row.text(5)?)))
}

/// Notes what was done with a dead letter, in the place of what was done before.
pub fn note(connection: &Connection, letter: &Letter, done: &Done) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO main.tm_letter (topic, topic_id, partition, \"offset\", handler, original, fate, who, at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let Letter { place, topic_id } = letter;
    let params = [
        place.topic.as_str().into(),
        topic_id.as_str().into(),
        place.partition.into(),
        place.offset.into(),
        done.handler.as_str().into(),
        done.original.as_deref().into(),
        done.fate.name().into(),
        done.who.as_str().into(),
        done.at.into(),
    ];
    connection.execute(sql, &params).map(drop)
}

/// Forgets the dead letters of a partition that Kafka no longer has: those before `low`.
pub fn forget(connection: &Connection, letter: &Letter, low: i64) -> Result<(), Error> {
    let sql = "DELETE FROM main.tm_letter WHERE topic = ?1 AND partition = ?2 AND \"offset\" < ?3 AND topic_id = ?4";
    let Letter { place, topic_id } = letter;
    let params = [place.topic.as_str().into(), place.partition.into(), low.into(), topic_id.as_str().into()];
    connection.execute(sql, &params).map(drop)
}

fn done(row: &Row<'_>) -> Result<Done, Error> {
    let fate = row.text(0)?;
    let unknown = || Error::new(Kind::Other, format!("tm_letter knows no fate {fate:?}: the store is damaged"));
    Ok(Done {
        fate: Fate::of_name(&fate).ok_or_else(unknown)?,
        handler: row.text(1)?,
        original: row.opt_text(2)?,
        who: row.text(3)?,
        at: row.integer(4)?,
    })
}
