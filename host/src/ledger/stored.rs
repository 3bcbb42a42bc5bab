//! The rows of `tm_fallback`, `tm_outbox` and `tm_pending` as an operator sees them: what waits, and why.
//!
//! A row is named by its number and a check of what it stands for, since the number of a row that is gone may be given to another one.
//! Nothing here changes a row.

use std::fmt;
use std::str::FromStr;

use serde_json::Value as Json;

use super::encoding;
use crate::record::Header;
use crate::store::{Connection, Error, Row};

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// What is kept for a person.
    Fallback,
    /// What waits for Kafka, or for an HTTP destination.
    Outbox,
    /// What waits for its next attempt.
    Pending,
}

impl Table {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Fallback, Self::Outbox, Self::Pending];

    /// As the operator knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Outbox => "outbox",
            Self::Pending => "pending",
        }
    }

    /// What is told of a row, and the rows that are told of.
    fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::Fallback => (
                "id, handler, kind, topic, source, event_id, key, NULL, created_at, NULL, cause,
                 created_at || ' ' || event_id || ' ' || source",
                "main.tm_fallback WHERE true",
            ),
            Self::Outbox => (
                "id, handler, kind, topic, source, event_id, partition_key, attempts, created_at, not_before, last_error, event_id",
                "main.tm_outbox WHERE status = 'waiting'",
            ),
            Self::Pending => (
                "id, handler, purpose, topic, coalesce(source, topic || '/' || partition || '@' || \"offset\"), event_id, key, attempts,
                 timestamp, due, coalesce(json_extract(errors, '$[#-1].outcome') || ': ' || json_extract(errors, '$[#-1].message'), reason),
                 handler || ' ' || topic || '/' || partition || '@' || \"offset\" || ' ' || topic_id",
                "main.tm_pending WHERE true",
            ),
        }
    }
}

/// What a row is known by: `STORE/NUMBER-CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The store's name.
    pub store: String,
    /// The row's number.
    pub id: i64,
    /// Of what it stands for.
    pub check: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.store, self.id, self.check)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (store, row) = text.rsplit_once('/')?;
            let (id, check) = row.split_once('-')?;
            Some(Self { store: store.to_owned(), id: id.parse().ok()?, check: check.to_owned() })
        };
        parts().ok_or_else(|| format!("{text:?} is no row; write it as the list has it, STORE/NUMBER-CHECK"))
    }
}

/// A row, without its headers and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub id: i64,
    /// Of what it stands for.
    pub check: String,
    /// Whose it is.
    pub handler: String,
    /// The kind of an event, or what a record waits for.
    pub kind: String,
    /// Where it goes, or came from.
    pub topic: String,
    /// The input that it came from.
    pub source: String,
    /// The event's id, if it is one.
    pub event_id: Option<String>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// Attempts made so far.
    pub attempts: Option<i64>,
    /// When it came there; of a record that waits, when that was written. Milliseconds since the Unix epoch.
    pub at: Option<i64>,
    /// Not before this time, in milliseconds since the Unix epoch.
    pub due: Option<i64>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The rest of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<Header>,
    /// What went wrong each time, the oldest first.
    pub errors: Vec<Json>,
}

/// The highest number of a row, 0 if there is none.
pub fn last(connection: &Connection, table: Table) -> Result<i64, Error> {
    let sql = format!("SELECT max(id) FROM main.tm_{}", table.name());
    Ok(connection.first(&sql, &[], |row| row.opt_integer(0))?.flatten().unwrap_or(0))
}

/// Looks at rows after the first number and up to the second, in their order, until `each` says `false`.
pub fn each(
    connection: &Connection,
    table: Table,
    after: i64,
    to: i64,
    mut each: impl FnMut(Stored) -> bool,
) -> Result<(), Error> {
    let (columns, of) = table.columns();
    let sql = format!("SELECT {columns} FROM {of} AND id > ?1 AND id <= ?2 ORDER BY id");
    connection.each(&sql, &[after.into(), to.into()], |row| Ok(each(read(row)?)))
}

/// A row, if it is still there.
pub fn find(connection: &Connection, table: Table, id: i64, check: &str) -> Result<Option<Stored>, Error> {
    let (columns, of) = table.columns();
    let found = connection.first(&format!("SELECT {columns} FROM {of} AND id = ?1"), &[id.into()], read)?;
    Ok(found.filter(|found| found.check == check))
}

/// The rest of a row.
pub fn content(connection: &Connection, table: Table, id: i64) -> Result<Option<Content>, Error> {
    let columns = match table {
        Table::Fallback => "value, headers, NULL FROM main.tm_fallback",
        Table::Outbox => "payload, headers, NULL FROM main.tm_outbox",
        Table::Pending => "value, headers, errors FROM main.tm_pending",
    };
    connection.first(&format!("SELECT {columns} WHERE id = ?1"), &[id.into()], |row| {
        let errors = row.opt_text(2)?.and_then(|errors| serde_json::from_str(&errors).ok());
        let headers = encoding::read_headers(&row.text(1)?)?;
        Ok(Content { value: row.opt_bytes(0)?, headers, errors: errors.unwrap_or_default() })
    })
}

fn read(row: &Row<'_>) -> Result<Stored, Error> {
    Ok(Stored {
        id: row.integer(0)?,
        handler: row.text(1)?,
        kind: row.text(2)?,
        topic: row.text(3)?,
        source: row.text(4)?,
        event_id: row.opt_text(5)?,
        key: row.opt_bytes(6)?,
        attempts: row.opt_integer(7)?,
        at: row.opt_integer(8)?,
        due: row.opt_integer(9)?,
        error: row.opt_text(10)?,
        check: crate::id::sha256_hex(row.text(11)?.as_bytes()).chars().take(8).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h3_a_row_is_named_by_its_store_its_number_and_a_check() {
        let name = Name { store: "a-b".into(), id: 12, check: "00ff00ff".into() };
        assert_eq!(name.to_string().parse(), Ok(name));
        for wrong in ["", "a", "a/12", "a/b-1", "12-00ff"] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong:?}");
        }
    }
}
