//! `tm_crash`: how often a process ended while it ran a record.
//!
//! The count is committed before the record runs and taken back when it has run, so what is left of it is the crashes. It is
//! apart from the record's attempts: a process that ended in the middle has finished none.

use super::pending::TIMERS;
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

/// Forgets the crashes of a lane's records that are gone: those of a topic before this one, and those before `next` that do
/// not wait. Returns whether any are left.
pub fn open(
    connection: &Connection,
    handler: &str,
    topic: &str,
    topic_id: &str,
    partition: i32,
    next: i64,
) -> Result<bool, Error> {
    const OF_LANE: &str = "handler = ?1 AND topic = ?2 AND partition = ?3";
    let gone = format!(
        "DELETE FROM main.tm_crash WHERE {OF_LANE} AND (topic_id <> ?4 OR \"offset\" < ?5)
         AND (topic_id, \"offset\") NOT IN (SELECT topic_id, \"offset\" FROM main.tm_pending WHERE {OF_LANE})"
    );
    let lane = [handler.into(), topic.into(), partition.into()];
    connection.execute(&gone, &[&lane[..], &[topic_id.into(), next.into()]].concat())?;
    let left = format!("SELECT 1 FROM main.tm_crash WHERE {OF_LANE} LIMIT 1");
    Ok(connection.first(&left, &lane, |row| row.integer(0))?.is_some())
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

/// Under which offset a record's crashes are counted. A timer's are its schedule's: the next process may fire it for a later due time.
pub fn offset(record: &Record) -> i64 {
    if record.partition == TIMERS { 0 } else { record.offset }
}

fn place(handler: &str, topic_id: &str, record: &Record) -> [Value; 5] {
    [handler.into(), topic_id.into(), (*record.topic).into(), record.partition.into(), offset(record).into()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::Timestamp;

    #[test]
    fn crashes_of_records_that_are_gone_are_forgotten_when_their_lane_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        let record = |partition, offset| Record {
            topic: "t".into(),
            partition,
            offset,
            timestamp: Timestamp::None,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        // Of the topic before this one, done uncounted, waiting, next, and of another lane.
        for (topic_id, partition, offset) in [("old", 0, 9), ("id", 0, 3), ("id", 0, 4), ("id", 0, 7), ("id", 1, 3)] {
            assert_eq!(count(&connection, "h", topic_id, &record(partition, offset)).unwrap(), 1);
        }
        let pending = "INSERT INTO tm_pending (handler, topic, topic_id, partition, \"offset\", timestamp_type, headers,
                       purpose, scope, attempts, errors) VALUES ('h', 't', 'id', 0, 4, '', '', 'handle', 'key', 1, '[]')";
        connection.batch(pending).unwrap();
        assert!(open(&connection, "h", "t", "id", 0, 7).unwrap());
        let left = connection.query("SELECT partition || ' ' || \"offset\" FROM tm_crash", &[], |row| row.text(0));
        assert_eq!(left.unwrap(), ["0 4", "0 7", "1 3"]);
        connection.batch("DELETE FROM tm_pending").unwrap();
        assert!(!open(&connection, "h", "t", "id", 0, 8).unwrap());
    }
}
