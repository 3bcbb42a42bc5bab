//! The store's age: for how long it has been in use, by a clock that nobody can set.
//!
//! What is kept for a time is kept by this age, so that a wall clock that jumps forward throws nothing away. It grows
//! with monotonic time while the store is open. What it was closed for counts as the wall clock tells it, but each time
//! only up to a bound. It never goes back.

use super::schema;
use crate::store::{Connection, Error};

const AGE: &str = "age";
const NOTED_AT: &str = "age-noted-at";

/// The age in milliseconds of a store that is opened at `now`; the time since it was last noted counts up to `bound`.
pub fn open(connection: &Connection, now: i64, bound: i64) -> Result<i64, Error> {
    let number = |key| Ok::<_, Error>(schema::get(connection, key)?.and_then(|text| text.parse::<i64>().ok()));
    let closed = number(NOTED_AT)?.map_or(0, |noted| now.saturating_sub(noted).clamp(0, bound));
    Ok(number(AGE)?.unwrap_or(0).max(0).saturating_add(closed))
}

/// Notes the age that the store has reached at `now`.
pub fn note(connection: &Connection, age: i64, now: i64) -> Result<(), Error> {
    schema::set(connection, AGE, &age.to_string())?;
    schema::set(connection, NOTED_AT, &now.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_clock_that_jumps_while_the_store_is_closed_adds_no_more_than_the_bound_and_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        assert_eq!(open(&connection, 5_000_000, 100).unwrap(), 0, "nothing was noted yet");
        note(&connection, 700, 1_000).unwrap();
        for (now, age) in [(1_000, 700), (1_030, 730), (1_100, 800), (i64::MAX, 800), (999, 700), (i64::MIN, 700)] {
            assert_eq!(open(&connection, now, 100).unwrap(), age, "opened at {now}");
        }
    }
}
