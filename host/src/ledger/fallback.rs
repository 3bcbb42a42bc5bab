//! `tm_fallback`: what even its destination refused for good.
//!
//! A row holds all that is needed to publish it later, and why it is here. Rows come from the outbox in one
//! transaction; the host never removes one by itself, and an operator in the transaction that puts it elsewhere.

use bytes::Bytes;

use super::encoding;
use super::outbox::{Event, EventKind};
use crate::store::{Connection, Error, Kind, Value};

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What is kept.
    pub event: Event,
    /// Whose it is.
    pub handler: String,
    /// The input that it came from.
    pub source: String,
    /// Why it is here.
    pub cause: String,
}

/// Moves an outbox row here. Returns how many rows were moved: none if it is gone.
pub fn take_from_outbox(connection: &Connection, id: i64, cause: &str, now: i64) -> Result<u64, Error> {
    let sql = "INSERT INTO main.tm_fallback (kind, handler, source, event_id, event_type, topic, partition, key, value,
               headers, cause, created_at)
               SELECT kind, handler, source, event_id, event_type, topic, partition, partition_key, payload, headers, ?2, ?3
               FROM main.tm_outbox WHERE id = ?1";
    connection.execute(sql, &[id.into(), cause.into(), now.into()])?;
    connection.execute("DELETE FROM main.tm_outbox WHERE id = ?1", &[id.into()])
}

/// One row.
pub fn get(connection: &Connection, id: i64) -> Result<Option<Kept>, Error> {
    let sql = "SELECT event_id, event_type, topic, partition, key, value, headers, kind, handler, source, cause
               FROM main.tm_fallback WHERE id = ?1";
    connection.first(sql, &[id.into()], |row| {
        let kind = row.text(7)?;
        let unknown = || Error::new(Kind::Other, format!("tm_fallback knows no kind {kind:?}: the store is damaged"));
        let event = Event {
            event_id: row.text(0)?,
            event_type: row.text(1)?,
            topic: row.text(2)?,
            partition: row.opt_integer(3)?.and_then(|partition| i32::try_from(partition).ok()),
            key: row.opt_bytes(4)?.map(Bytes::from),
            value: row.opt_bytes(5)?.map(Bytes::from),
            headers: encoding::read_headers(&row.text(6)?)?,
            kind: EventKind::of_name(&kind).ok_or_else(unknown)?,
            not_before: None,
        };
        Ok(Kept { event, handler: row.text(8)?, source: row.text(9)?, cause: row.text(10)? })
    })
}

/// Takes a row out.
pub fn remove(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.execute("DELETE FROM main.tm_fallback WHERE id = ?1", &[id.into()]).map(drop)
}

/// How many rows there are of each handler.
pub fn count(connection: &Connection) -> Result<Vec<(String, u64)>, Error> {
    let sql = "SELECT handler, count(*) FROM main.tm_fallback GROUP BY handler";
    connection.query(sql, &[], |row| Ok((row.text(0)?, u64::try_from(row.integer(1)?).unwrap_or(0))))
}

/// Keeps what must not be published at all: the dead letter of a dead letter, a timer, or what could not be compensated.
pub fn insert(
    connection: &Connection,
    event: &Event,
    handler: &str,
    source: &str,
    cause: &str,
    now: i64,
) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_fallback (kind, handler, source, event_id, event_type, topic, partition, key, value,
               headers, cause, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let params = [
        event.kind.name().into(),
        handler.into(),
        source.into(),
        event.event_id.as_str().into(),
        event.event_type.as_str().into(),
        event.topic.as_str().into(),
        event.partition.into(),
        event.key.as_deref().map_or(Value::Null, Value::readable),
        event.value.as_deref().map_or(Value::Null, Value::readable),
        encoding::write_headers(&event.headers).into(),
        cause.into(),
        now.into(),
    ];
    connection.execute(sql, &params).map(drop)
}
