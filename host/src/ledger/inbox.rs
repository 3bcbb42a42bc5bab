//! `tm_inbox`: the ids of the events that a handler has done.
//!
//! A row commits with the effects of its event and is written for nothing else, so an event that failed, or that
//! waits for another attempt, is never taken for a duplicate.

use crate::store::{Connection, Error};

/// Whether the handler has done this event.
pub fn contains(connection: &Connection, handler: &str, event_id: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.tm_inbox WHERE handler = ?1 AND event_id = ?2";
    Ok(connection.first(sql, &[handler.into(), event_id.into()], |row| row.integer(0))?.is_some())
}

/// Notes that the handler has done this event, at `now` (milliseconds since the Unix epoch).
pub fn add(connection: &Connection, handler: &str, event_id: &str, now: i64) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_inbox (handler, event_id, done_at) VALUES (?1, ?2, ?3)";
    connection.execute(sql, &[handler.into(), event_id.into(), now.into()]).map(drop)
}
