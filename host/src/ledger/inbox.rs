//! `tm_inbox`: the ids of the events that a handler has done.
//!
//! A row commits with the effects of its event and is written for nothing else, so an event that failed, or that
//! waits for another attempt, is never taken for a duplicate. Rows are cut into parts by time (`tm_inbox_part`): ids are
//! added to the newest, looked for in all, and the oldest is purged in the order of its keys, so that a slice of it is a
//! few pages and not one for each id.

use crate::store::{Connection, Error, Value};

/// A part is filled for half of the time that ids are kept, and kept until two more are full. More parts would keep fewer
/// ids too long, and cost a look-up each.
pub const FULL: u32 = 2;

/// Whether the handler has done this event.
pub fn contains(connection: &Connection, handler: &str, event_id: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.tm_inbox
               WHERE part IN (SELECT part FROM main.tm_inbox_part) AND handler = ?1 AND event_id = ?2";
    Ok(connection.first(sql, &[handler.into(), event_id.into()], |row| row.integer(0))?.is_some())
}

/// Notes that the handler has done this event, at `now` (milliseconds since the Unix epoch).
pub fn add(connection: &Connection, handler: &str, event_id: &str, now: i64) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_inbox (part, handler, event_id, done_at)
               VALUES ((SELECT max(part) FROM main.tm_inbox_part), ?1, ?2, ?3)";
    connection.execute(sql, &[handler.into(), event_id.into(), now.into()]).map(drop)
}

/// Begins a new part if the newest has been filled for its time. `age` is the store's, and ids are kept for `keep`
/// milliseconds of it.
pub fn turn(connection: &Connection, age: i64, keep: i64) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_inbox_part (part, begun)
               SELECT max(part) + 1, ?1 FROM main.tm_inbox_part HAVING max(begun) <= ?2";
    let full = keep.saturating_add(i64::from(FULL) - 1) / i64::from(FULL);
    connection.execute(sql, &[age.into(), age.saturating_sub(full).into()]).map(drop)
}

/// Removes up to `limit` ids of the oldest part, if all of it is older than `keep`. `false` means that there was no such
/// part.
pub fn purge(connection: &Connection, age: i64, keep: i64, limit: i64) -> Result<bool, Error> {
    // A part's last id is as old as the part that followed it.
    let sql = "SELECT part FROM main.tm_inbox_part old WHERE
               (SELECT min(begun) FROM main.tm_inbox_part new WHERE new.part > old.part) <= ?1 ORDER BY part LIMIT 1";
    let Some(part) = connection.first(sql, &[age.saturating_sub(keep).into()], |row| row.integer(0))? else {
        return Ok(false);
    };
    let sql =
        "SELECT handler, event_id FROM main.tm_inbox WHERE part = ?1 ORDER BY handler, event_id LIMIT 1 OFFSET ?2";
    let behind = connection.first(sql, &[part.into(), limit.into()], |row| {
        Ok([Value::Integer(part), row.text(0)?.into(), row.text(1)?.into()])
    })?;
    match behind {
        Some(behind) => {
            let sql = "DELETE FROM main.tm_inbox WHERE part = ?1 AND (handler, event_id) < (?2, ?3)";
            connection.execute(sql, &behind)?;
        }
        None => {
            connection.execute("DELETE FROM main.tm_inbox WHERE part = ?1", &[part.into()])?;
            connection.execute("DELETE FROM main.tm_inbox_part WHERE part = ?1", &[part.into()])?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn store() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        crate::ledger::schema::prepare(&connection).unwrap();
        (folder, connection)
    }

    fn parts(connection: &Connection) -> i64 {
        let count = connection.first("SELECT count(*) FROM tm_inbox_part", &[], |row| row.integer(0));
        count.unwrap().unwrap()
    }

    #[test]
    fn a_part_goes_slice_by_slice_and_the_others_stay() {
        let (_folder, connection) = store();
        for part in 0..5 {
            turn(&connection, part * 100, 200).unwrap();
            for n in 0..10 {
                add(&connection, &format!("h{}", n % 2), &format!("{part}-{n}"), 0).unwrap();
            }
        }
        assert_eq!(parts(&connection), 5);
        let purged = |age| (0..).take_while(|_| purge(&connection, age, 200, 4).unwrap()).count();
        assert_eq!(purged(299), 0, "the last id of the first part may be 199 old");
        assert_eq!(purged(300), 3, "slices of 4, 4 and 2 ids");
        assert_eq!(parts(&connection), 4);
        for part in 0..5 {
            for n in 0..10 {
                let found = contains(&connection, &format!("h{}", n % 2), &format!("{part}-{n}")).unwrap();
                assert_eq!(found, part > 0, "{part}-{n}");
            }
        }
        assert_eq!(purged(i64::MAX), 9, "all but the newest, which ids may still be added to");
        assert_eq!(parts(&connection), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Whatever the times between, and also where `keep` is changed: an id is there for as long as each `keep` since
        /// has asked for, and not for ever.
        #[test]
        fn an_id_is_kept_at_least_so_long_and_goes_in_the_end(
            steps in prop::collection::vec((0i64..400, 1i64..900), 1..60)
        ) {
            let (_folder, connection) = store();
            let mut age = 0;
            // Each id, when it was added, and the shortest `keep` since.
            let mut ids: Vec<(String, i64, i64)> = Vec::new();
            for (n, (wait, keep)) in steps.iter().enumerate() {
                age += wait;
                turn(&connection, age, *keep).unwrap();
                while purge(&connection, age, *keep, 3).unwrap() {}
                for (id, added, shortest) in &mut ids {
                    *shortest = (*shortest).min(*keep);
                    let kept = contains(&connection, "h", id).unwrap();
                    prop_assert!(kept || age - *added >= *shortest, "{} of {} is gone at {}", id, added, age);
                }
                add(&connection, "h", &format!("e{n}"), 0).unwrap();
                ids.push((format!("e{n}"), age, i64::MAX));
            }
            for _ in 0..8 {
                age += 1_000;
                turn(&connection, age, 900).unwrap();
                while purge(&connection, age, 900, 3).unwrap() {}
            }
            prop_assert_eq!(connection.first("SELECT count(*) FROM tm_inbox", &[], |row| row.integer(0)).unwrap(), Some(0));
        }
    }
}
