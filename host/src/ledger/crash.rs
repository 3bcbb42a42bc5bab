//! `tm_crash`: how often a process ended while it ran a record.
//!
//! The count is committed before the record runs and taken back when it has run, so what is left of it is the crashes. It is
//! apart from the record's attempts: a process that ended in the middle has finished none.

use super::schema;
use crate::record::Record;
use crate::store::{Connection, Error, Value};

/// Says that a process runs on this store from now on. Returns whether the one before has not ended in order.
pub fn begin_run(connection: &Connection) -> Result<bool, Error> {
    let unclean = schema::get(connection, "running")?.is_some_and(|running| running == "yes");
    schema::set(connection, "running", "yes")?;
    Ok(unclean)
}

/// Says that the process ends in order.
pub fn end_run(connection: &Connection) -> Result<(), Error> {
    schema::set(connection, "running", "no")
}

/// Counts a run of this record that has not ended yet. Returns how many have not, this one included.
pub fn count(connection: &Connection, handler: &str, topic_id: &str, record: &Record) -> Result<u32, Error> {
    let sql = "INSERT INTO main.tm_crash (handler, topic_id, topic, partition, \"offset\", crashes) VALUES (?1, ?2, ?3, ?4, ?5, 1)
               ON CONFLICT (handler, topic, partition, \"offset\", topic_id) DO UPDATE SET crashes = crashes + 1
               RETURNING crashes";
    let counted = connection.first(sql, &place(handler, topic_id, record), |row| row.integer(0))?;
    Ok(counted.and_then(|count| u32::try_from(count).ok()).unwrap_or(u32::MAX))
}

/// Takes the count of a run back that has ended, whatever it ended in.
pub fn take_back(connection: &Connection, handler: &str, topic_id: &str, record: &Record) -> Result<(), Error> {
    const OF_RECORD: &str = "handler = ?1 AND topic_id = ?2 AND topic = ?3 AND partition = ?4 AND \"offset\" = ?5";
    let place = place(handler, topic_id, record);
    let last = format!("DELETE FROM main.tm_crash WHERE {OF_RECORD} AND crashes <= 1");
    if connection.execute(&last, &place)? == 0 {
        connection.execute(&format!("UPDATE main.tm_crash SET crashes = crashes - 1 WHERE {OF_RECORD}"), &place)?;
    }
    Ok(())
}

/// Forgets the crashes of a record that is done or given up on.
pub fn forget(connection: &Connection, handler: &str, topic_id: &str, record: &Record) -> Result<(), Error> {
    let sql = "DELETE FROM main.tm_crash
               WHERE handler = ?1 AND topic_id = ?2 AND topic = ?3 AND partition = ?4 AND \"offset\" = ?5";
    connection.execute(sql, &place(handler, topic_id, record)).map(drop)
}

fn place(handler: &str, topic_id: &str, record: &Record) -> [Value; 5] {
    [handler.into(), topic_id.into(), (*record.topic).into(), record.partition.into(), record.offset.into()]
}
