//! `tm_timer`: how far each schedule of a handler is.
//!
//! The next due time moves in the transaction of the delivery that fired for the one before, by compare-and-set, so a due time fires
//! once. What is tried again waits in `tm_pending`, on the partition [`TIMERS`](super::pending::TIMERS).

use crate::schedule::Schedule;
use crate::store::{Connection, Error};

/// Takes the schedules of a version up, at `now`. One that is new or was changed, or whose next due time lies behind the one that follows
/// `latest`, goes on with the first due time after `now`, and never with one that was fired; one that is gone stands still. Times are
/// milliseconds since the Unix epoch. Returns the next due times, in the order of the schedules.
pub fn take_up(
    connection: &Connection,
    handler: &str,
    schedules: &[Schedule],
    now: i64,
    latest: i64,
) -> Result<Vec<i64>, Error> {
    let known: Vec<(String, String, Option<i64>, Option<i64>)> = connection.query(
        "SELECT name, schedule, next_due, last_due FROM main.tm_timer WHERE handler = ?1",
        &[handler.into()],
        |row| Ok((row.text(0)?, row.text(1)?, row.opt_integer(2)?, row.opt_integer(3)?)),
    )?;
    let stop = "UPDATE main.tm_timer SET next_due = NULL WHERE handler = ?1 AND name = ?2";
    for (name, ..) in known.iter().filter(|(name, ..)| schedules.iter().all(|schedule| schedule.name != *name)) {
        connection.execute(stop, &[handler.into(), name.as_str().into()])?;
    }
    let write = "INSERT INTO main.tm_timer (handler, name, schedule, next_due) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (handler, name) DO UPDATE SET schedule = excluded.schedule, next_due = excluded.next_due";
    let next = |schedule: &Schedule| {
        let (times, text) = (&schedule.times, schedule.times.to_string());
        let known = known.iter().find(|(name, ..)| schedule.name == *name);
        let goes_on = known.filter(|(_, before, ..)| *before == text).and_then(|(_, _, next, _)| *next);
        // One that a clock has written that was far ahead would stand still until then.
        if let Some(next) = goes_on.filter(|next| *next <= times.from(latest)) {
            return Ok(next);
        }
        let fired = known.and_then(|(_, _, _, last)| *last).filter(|last| *last <= latest);
        let next = times.from(now.max(fired.unwrap_or(now)).saturating_add(1));
        connection
            .execute(write, &[handler.into(), schedule.name.as_str().into(), text.as_str().into(), next.into()])
            .map(|_| next)
    };
    schedules.iter().map(next).collect()
}

/// Moves the next due time of a schedule from one to another, after it has fired for `last`, if it has. Returns whether it was still there.
pub fn advance(
    connection: &Connection,
    handler: &str,
    name: &str,
    (from, to): (i64, i64),
    last: Option<i64>,
) -> Result<bool, Error> {
    let sql = "UPDATE main.tm_timer SET next_due = ?4, last_due = coalesce(?5, last_due)
               WHERE handler = ?1 AND name = ?2 AND next_due = ?3";
    Ok(connection.execute(sql, &[handler.into(), name.into(), from.into(), to.into(), last.into()])? == 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::ledger::schema;
    use crate::schedule::{Missed, Times};

    const DAY: i64 = 86_400_000;

    fn every(name: &str, millis: u64) -> Schedule {
        let times = Times::Interval(Duration::from_millis(millis));
        Schedule { name: name.into(), times, missed: Missed::Latest }
    }

    #[test]
    fn s2_13_a_schedule_goes_on_where_it_was_and_one_that_changed_goes_on_from_now() {
        let folder = tempfile::tempdir().unwrap();
        let store = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&store).unwrap();
        let up = |schedules: &[Schedule], now| take_up(&store, "h", schedules, now, now + 2 * DAY).unwrap();
        assert_eq!(up(&[every("a", 100), every("b", 70)], 1_000), [1_100, 1_050]);
        assert!(advance(&store, "h", "a", (1_100, 1_200), Some(1_100)).unwrap());
        assert!(!advance(&store, "h", "a", (1_100, 1_200), Some(1_100)).unwrap(), "it fires once for a due time");
        assert!(advance(&store, "h", "a", (1_200, 1_200), None).unwrap(), "nothing was fired");
        assert_eq!(up(&[every("a", 100), every("b", 70)], 5_000), [1_200, 1_050], "what was missed is known");
        assert_eq!(up(&[every("a", 150)], 5_000), [5_100]);
        // A clock that was set back since the last one.
        assert!(advance(&store, "h", "a", (5_100, 5_250), Some(5_100)).unwrap());
        assert_eq!(up(&[every("a", 10), every("b", 70)], 4_990), [5_110, 5_040], "what was gone begins again");
        assert_eq!(take_up(&store, "other", &[every("a", 10)], 0, 2 * DAY).unwrap(), [10]);
    }

    #[test]
    fn s2_13_a_clock_that_was_years_ahead_does_not_hold_a_schedule_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&store).unwrap();
        let monthly = [every("a", 30 * 86_400_000)];
        let up = |now| take_up(&store, "h", &monthly, now, now + 2 * DAY).unwrap();
        assert_eq!(up(1), [30 * DAY]);
        assert_eq!(up(DAY), [30 * DAY], "far away, and right");
        assert!(advance(&store, "h", "a", (30 * DAY, 3_000 * DAY), Some(2_970 * DAY)).unwrap());
        assert_eq!(up(2 * DAY), [30 * DAY]);
    }
}
