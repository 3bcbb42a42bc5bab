//! `tm_pending`: records that wait for their next attempt, whole.
//!
//! A record moves here at its first failure, in the transaction that moves the offset past it, and leaves it in
//! the transaction that does it or gives it up: it is always in exactly one place.

use bytes::Bytes;
use serde_json::json;

use super::encoding;
use crate::record::{Record, Timestamp};
use crate::store::{Connection, Error, Row, Value};

/// A waiting record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The row's id.
    pub id: i64,
    /// The record, as Kafka gave it.
    pub record: Record,
    /// The id of the topic it came from.
    pub topic_id: String,
    /// Attempts made so far.
    pub attempts: u32,
    /// Not before this time, milliseconds since the Unix epoch.
    pub due: i64,
    /// What went wrong each time, oldest first, as a JSON array.
    pub errors: String,
}

/// The most errors that a row keeps; the oldest go first.
const ERRORS_KEPT: usize = 20;

/// `errors` with one more.
pub fn push_error(errors: &str, attempt: u32, at: i64, outcome: &str, message: &str) -> String {
    let mut list: Vec<serde_json::Value> = serde_json::from_str(errors).unwrap_or_default();
    let message: String = message.chars().take(2_000).collect();
    list.push(json!({ "attempt": attempt, "at": at, "outcome": outcome, "message": message }));
    let surplus = list.len().saturating_sub(ERRORS_KEPT);
    serde_json::Value::Array(list.split_off(surplus)).to_string()
}

/// Puts a record aside; returns the row's id.
pub fn insert(connection: &Connection, handler: &str, pending: &Pending) -> Result<i64, Error> {
    let sql = "INSERT INTO main.tm_pending (handler, topic, topic_id, partition, \"offset\", timestamp, timestamp_type,
               key, value, headers, purpose, scope, attempts, due, errors)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'handle', 'partition', ?11, ?12, ?13) RETURNING id";
    let record = &pending.record;
    let params = [
        handler.into(),
        (*record.topic).into(),
        pending.topic_id.as_str().into(),
        record.partition.into(),
        record.offset.into(),
        record.timestamp.millis().into(),
        record.timestamp.type_name().into(),
        record.key.as_deref().map_or(Value::Null, Value::readable),
        record.value.as_deref().map_or(Value::Null, Value::readable),
        encoding::write_headers(&record.headers).into(),
        pending.attempts.into(),
        pending.due.into(),
        pending.errors.as_str().into(),
    ];
    Ok(connection.first(sql, &params, |row| row.integer(0))?.unwrap_or_default())
}

/// Notes another failed attempt.
pub fn update(connection: &Connection, id: i64, attempts: u32, due: i64, errors: &str) -> Result<(), Error> {
    let sql = "UPDATE main.tm_pending SET attempts = ?2, due = ?3, errors = ?4 WHERE id = ?1";
    connection.execute(sql, &[id.into(), attempts.into(), due.into(), errors.into()]).map(drop)
}

/// Takes a record out: it is done, or given up on.
pub fn delete(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.execute("DELETE FROM main.tm_pending WHERE id = ?1", &[id.into()]).map(drop)
}

/// The records that wait on one lane, oldest first.
pub fn of_lane(connection: &Connection, handler: &str, topic: &str, partition: i32) -> Result<Vec<Pending>, Error> {
    let sql = "SELECT id, topic, partition, \"offset\", timestamp, timestamp_type, key, value, headers, topic_id,
               attempts, due, errors FROM main.tm_pending WHERE handler = ?1 AND topic = ?2 AND partition = ?3 ORDER BY id";
    connection.query(sql, &[handler.into(), topic.into(), partition.into()], read)
}

fn read(row: &Row<'_>) -> Result<Pending, Error> {
    let at = row.opt_integer(4)?;
    let timestamp = match (row.text(5)?.as_str(), at) {
        ("CreateTime", Some(at)) => Timestamp::CreateTime(at),
        ("LogAppendTime", Some(at)) => Timestamp::LogAppendTime(at),
        _ => Timestamp::None,
    };
    Ok(Pending {
        id: row.integer(0)?,
        record: Record {
            topic: row.text(1)?.into(),
            partition: i32::try_from(row.integer(2)?).unwrap_or(-1),
            offset: row.integer(3)?,
            timestamp,
            key: row.opt_bytes(6)?.map(Bytes::from),
            value: row.opt_bytes(7)?.map(Bytes::from),
            headers: encoding::read_headers(&row.text(8)?)?,
        },
        topic_id: row.text(9)?,
        attempts: u32::try_from(row.integer(10)?).unwrap_or(u32::MAX),
        due: row.integer(11)?,
        errors: row.text(12)?,
    })
}
