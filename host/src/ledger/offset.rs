//! `tm_offset`: where each lane goes on. The store is the truth; Kafka's committed offset follows.
//!
//! The next offset moves by compare-and-set on the offset and the epoch that the lane was opened with, so that a
//! lane that was taken away and given again cannot move it. An epoch never comes back.

use super::schema;
use crate::store::{Connection, Error, Row};

/// One lane's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The topic's id when the row was made.
    pub topic_id: String,
    /// The cluster's id when the row was made.
    pub cluster_id: String,
    /// The first offset that is not done.
    pub next_offset: i64,
    /// How often the lane was opened.
    pub epoch: i64,
}

fn stored(row: &Row<'_>) -> Result<Stored, Error> {
    Ok(Stored {
        topic_id: row.text(0)?,
        cluster_id: row.text(1)?,
        next_offset: row.integer(2)?,
        epoch: row.integer(3)?,
    })
}

/// The row of one lane, if it was ever opened.
pub fn find(connection: &Connection, handler: &str, topic: &str, partition: i32) -> Result<Option<Stored>, Error> {
    let sql = "SELECT topic_id, cluster_id, next_offset, epoch FROM main.tm_offset
               WHERE handler = ?1 AND topic = ?2 AND partition = ?3";
    connection.first(sql, &[handler.into(), topic.into(), partition.into()], stored)
}

/// Whether the handler has ever read anything.
pub fn any(connection: &Connection, handler: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.tm_offset WHERE handler = ?1 LIMIT 1";
    Ok(connection.first(sql, &[handler.into()], |row| row.integer(0))?.is_some())
}

/// Writes the row that a lane was opened with.
pub fn open(connection: &Connection, handler: &str, topic: &str, partition: i32, row: &Stored) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_offset (handler, topic, partition, topic_id, cluster_id, next_offset, epoch)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
               ON CONFLICT (handler, topic, partition) DO UPDATE SET topic_id = excluded.topic_id,
               cluster_id = excluded.cluster_id, next_offset = excluded.next_offset, epoch = excluded.epoch";
    let params = [
        handler.into(),
        topic.into(),
        partition.into(),
        row.topic_id.as_str().into(),
        row.cluster_id.as_str().into(),
        row.next_offset.into(),
        row.epoch.into(),
    ];
    connection.execute(sql, &params).map(drop)
}

/// Moves the next offset, if it still stands at `from` in `epoch`. `false` means that the lane is stale.
pub fn advance(
    connection: &Connection,
    handler: &str,
    topic: &str,
    partition: i32,
    epoch: i64,
    from: i64,
    to: i64,
) -> Result<bool, Error> {
    let sql = "UPDATE main.tm_offset SET next_offset = ?6
               WHERE handler = ?1 AND topic = ?2 AND partition = ?3 AND epoch = ?4 AND next_offset = ?5";
    let params = [handler.into(), topic.into(), partition.into(), epoch.into(), from.into(), to.into()];
    Ok(connection.execute(sql, &params)? == 1)
}

/// Forgets where a handler was on a topic (or on all), and lets it take offsets over that another store committed.
/// Returns how many offsets were forgotten. For `tidemill adopt`.
pub fn adopt(connection: &Connection, handler: &str, topic: Option<&str>) -> Result<u64, Error> {
    schema::set(connection, &adopted_key(handler), "yes")?;
    let sql = "DELETE FROM main.tm_offset WHERE handler = ?1 AND (?2 IS NULL OR topic = ?2)";
    connection.execute(sql, &[handler.into(), topic.into()])
}

/// Whether the operator has adopted the handler since this was last asked; asking uses it up.
pub fn take_adopted(connection: &Connection, handler: &str) -> Result<bool, Error> {
    let adopted = is_adopted(connection, handler)?;
    if adopted {
        schema::set(connection, &adopted_key(handler), "done")?;
    }
    Ok(adopted)
}

/// The same, without using it up.
pub fn is_adopted(connection: &Connection, handler: &str) -> Result<bool, Error> {
    Ok(schema::get(connection, &adopted_key(handler))?.is_some_and(|value| value == "yes"))
}

fn adopted_key(handler: &str) -> String {
    format!("adopted/{handler}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A lane that was taken away and given again is stale, wherever it stands.
    #[test]
    fn only_the_lane_that_was_opened_last_moves_and_only_from_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let store = Connection::open_writer(&folder.path().join("store.db"), false).unwrap();
        schema::prepare(&store).unwrap();
        let row = |next_offset, epoch| Stored { topic_id: "t".into(), cluster_id: "c".into(), next_offset, epoch };
        let advance = |epoch, from, to| advance(&store, "handler", "topic", 0, epoch, from, to).unwrap();
        let stands = || find(&store, "handler", "topic", 0).unwrap();
        open(&store, "handler", "topic", 0, &row(5, 1)).unwrap();
        assert!(advance(1, 5, 7));
        assert!(!advance(1, 5, 8), "it does not stand at 5");
        open(&store, "handler", "topic", 0, &row(7, 2)).unwrap();
        assert!(!advance(1, 7, 9), "the lane of epoch 1 was opened again");
        assert_eq!(stands(), Some(row(7, 2)));
        // A group that moves no offset checks the epoch as well.
        assert!(!advance(1, 7, 7));
        assert!(advance(2, 7, 7));
        assert!(advance(2, 7, 9));
        assert_eq!(stands(), Some(row(9, 2)));
    }
}
