//! The latest time that a store knows of as past, by what waits in it.
//!
//! Host time goes on from there. So a clock that was ahead, and was set right while the daemon was down, delays nothing: what
//! it was asked to wait for is counted from when that was written, by the same clock. It writes nothing.

use crate::store::{Connection, Error};

/// When the last failure was, or the last delivery that delayed an event, of all that wait; none if nothing does. What waits
/// for nothing but its turn has its time as its due time.
pub fn latest(connection: &Connection) -> Result<Option<i64>, Error> {
    let sql = "SELECT max(at) FROM (
               SELECT max(created_at) AS at FROM main.tm_outbox WHERE not_before IS NOT NULL AND status = 'waiting'
               UNION ALL SELECT max(coalesce(errors ->> '$[#-1].at', due)) FROM main.tm_pending)";
    Ok(connection.first(sql, &[], |row| row.opt_integer(0))?.flatten())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::schema;

    #[test]
    fn it_is_the_latest_failure_or_delay_of_what_still_waits() {
        let folder = tempfile::tempdir().unwrap();
        let store = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&store).unwrap();
        let pending = |offset: i64, due: &str, errors: &str| {
            let sql = format!(
                "INSERT INTO tm_pending (handler, topic, topic_id, partition, \"offset\", timestamp_type, headers, scope,
                 attempts, due, errors, purpose) VALUES ('h', 't', 'i', 0, {offset}, 'None', '[]', 'none', 0, {due}, '{errors}', 'handle')"
            );
            store.batch(&sql).unwrap();
        };
        let event = |id: i64, created_at: i64, status: &str, not_before: &str| {
            let sql = format!(
                "INSERT INTO tm_outbox (id, event_id, event_type, topic, headers, kind, handler, source, created_at, status, not_before)
                 VALUES ({id}, '{id}', 't', 't', '[]', 'event', 'h', 's', {created_at}, '{status}', {not_before})"
            );
            store.batch(&sql).unwrap();
        };
        assert_eq!(latest(&store).unwrap(), None);
        event(1, 900, "waiting", "NULL");
        event(2, 900, "published", "950");
        assert_eq!(latest(&store).unwrap(), None, "neither has to wait");
        event(3, 100, "waiting", "990");
        assert_eq!(latest(&store).unwrap(), Some(100));
        pending(1, "NULL", "[]");
        pending(2, "800", r#"[{"at":700},{"at":200}]"#);
        assert_eq!(latest(&store).unwrap(), Some(200), "the last failure, not when it is due");
        pending(3, "300", "[]");
        assert_eq!(latest(&store).unwrap(), Some(300), "due at once");
    }
}
