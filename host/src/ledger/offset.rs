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
    /// The replay that it is in, or was in last.
    pub replay: Replay,
}

/// Records that are read again, and run again though they were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Numbers the replays of a handler, from 1.
    pub round: i64,
    /// The first offset that is read again. A dead letter from before it is no part of the replay.
    pub from: i64,
    /// The first offset that is none of it.
    pub until: i64,
}

/// A partition's new place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The topic's id, by which the offset is meant.
    pub topic_id: String,
    /// The next offset.
    pub to: i64,
}

const COLUMNS: &str = "topic_id, cluster_id, next_offset, epoch, replay_round, replay_from, replay_until";

fn stored(row: &Row<'_>) -> Result<Stored, Error> {
    Ok(Stored {
        topic_id: row.text(0)?,
        cluster_id: row.text(1)?,
        next_offset: row.integer(2)?,
        epoch: row.integer(3)?,
        replay: Replay { round: row.integer(4)?, from: row.integer(5)?, until: row.integer(6)? },
    })
}

/// The row of one lane, if it was ever opened.
pub fn find(connection: &Connection, handler: &str, topic: &str, partition: i32) -> Result<Option<Stored>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM main.tm_offset WHERE handler = ?1 AND topic = ?2 AND partition = ?3");
    connection.first(&sql, &[handler.into(), topic.into(), partition.into()], stored)
}

/// All partitions that a handler has read, each with its row.
pub fn all(connection: &Connection, handler: &str) -> Result<Vec<(String, i32, Stored)>, Error> {
    let sql =
        format!("SELECT {COLUMNS}, topic, partition FROM main.tm_offset WHERE handler = ?1 ORDER BY topic, partition");
    connection.query(&sql, &[handler.into()], |row| {
        Ok((row.text(7)?, i32::try_from(row.integer(8)?).unwrap_or(i32::MAX), stored(row)?))
    })
}

/// Whether the handler has ever read anything.
pub fn any(connection: &Connection, handler: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.tm_offset WHERE handler = ?1 LIMIT 1";
    Ok(connection.first(sql, &[handler.into()], |row| row.integer(0))?.is_some())
}

/// Writes the row that a lane was opened with.
pub fn open(connection: &Connection, handler: &str, topic: &str, partition: i32, row: &Stored) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_offset
               (handler, topic, partition, topic_id, cluster_id, next_offset, epoch, replay_round, replay_from, replay_until)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
               ON CONFLICT (handler, topic, partition) DO UPDATE SET topic_id = excluded.topic_id,
               cluster_id = excluded.cluster_id, next_offset = excluded.next_offset, epoch = excluded.epoch,
               replay_round = excluded.replay_round, replay_from = excluded.replay_from,
               replay_until = excluded.replay_until";
    let params = [
        handler.into(),
        topic.into(),
        partition.into(),
        row.topic_id.as_str().into(),
        row.cluster_id.as_str().into(),
        row.next_offset.into(),
        row.epoch.into(),
        row.replay.round.into(),
        row.replay.from.into(),
        row.replay.until.into(),
    ];
    connection.execute(sql, &params).map(drop)
}

/// Moves the next offset by the operator's word, and makes the lane that is open stale. With a `round`, what was read before and is
/// read again now is a replay of that number. Returns the row as it was, or `None` where the partition was never read, or was
/// read of another topic of that name: then nothing is moved.
pub fn reset(
    connection: &Connection,
    handler: &str,
    Move { topic, partition, topic_id, to }: &Move,
    round: Option<i64>,
) -> Result<Option<Stored>, Error> {
    let stored = find(connection, handler, topic, *partition)?.filter(|stored| stored.topic_id == *topic_id);
    if let Some(before) = &stored {
        let replay = match round {
            Some(round) => Replay { round, from: *to, until: before.replay.until.max(before.next_offset) },
            None => before.replay,
        };
        let row = Stored { next_offset: *to, epoch: before.epoch + 1, replay, ..before.clone() };
        open(connection, handler, topic, *partition, &row)?;
    }
    Ok(stored)
}

/// The number of a handler's next replay.
pub fn next_round(connection: &Connection, handler: &str) -> Result<i64, Error> {
    let sql = "SELECT coalesce(max(replay_round), 0) + 1 FROM main.tm_offset WHERE handler = ?1";
    Ok(connection.first(sql, &[handler.into()], |row| row.integer(0))?.unwrap_or(1))
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
        let row = |next_offset, epoch| Stored {
            topic_id: "t".into(),
            cluster_id: "c".into(),
            next_offset,
            epoch,
            replay: Replay::default(),
        };
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

    #[test]
    fn s3_4_a_replay_ends_where_reading_was_and_a_second_one_goes_as_far() {
        let folder = tempfile::tempdir().unwrap();
        let store = Connection::open_writer(&folder.path().join("store.db"), false).unwrap();
        schema::prepare(&store).unwrap();
        let opened = Stored {
            topic_id: "t".into(),
            cluster_id: "c".into(),
            next_offset: 100,
            epoch: 7,
            replay: Replay::default(),
        };
        open(&store, "h", "topic", 0, &opened).unwrap();
        let reset = |to, again: bool| {
            let round = again.then(|| next_round(&store, "h").unwrap());
            let place = Move { topic: "topic".into(), partition: 0, topic_id: "t".into(), to };
            assert!(reset(&store, "h", &place, round).unwrap().is_some());
            let Stored { next_offset, epoch, replay, .. } = find(&store, "h", "topic", 0).unwrap().unwrap();
            (next_offset, epoch, replay.round, replay.from, replay.until)
        };
        assert_eq!(reset(0, true), (0, 8, 1, 0, 100));
        assert!(!advance(&store, "h", "topic", 0, 7, 100, 101).unwrap(), "the lane that was open is stale");
        assert!(advance(&store, "h", "topic", 0, 8, 0, 40).unwrap());
        // In the middle of it: once more from here, and once without running again what this round has done.
        assert_eq!(reset(20, true), (20, 9, 2, 20, 100));
        assert_eq!(reset(10, false), (10, 10, 2, 20, 100));
        assert_eq!(reset(150, true), (150, 11, 3, 150, 100));
        assert_eq!(reset(120, true), (120, 12, 4, 120, 150));
        let other = Move { topic: "topic".into(), partition: 0, topic_id: "another life".into(), to: 0 };
        assert_eq!(super::reset(&store, "h", &other, None).unwrap(), None);
        assert_eq!(find(&store, "h", "topic", 0).unwrap().unwrap().next_offset, 120);
    }
}
