//! `tm_fallback`: what even its destination refused for good.
//!
//! A row holds all that is needed to publish it later, and why it is here. Rows come from the outbox in one
//! transaction; the host never removes one by itself.

use crate::store::{Connection, Error};

/// Moves an outbox row here. Does nothing when the row is gone.
pub fn take_from_outbox(connection: &Connection, id: i64, cause: &str, now: i64) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_fallback (kind, handler, source, event_id, event_type, topic, partition, key, value,
               headers, cause, created_at)
               SELECT kind, handler, source, event_id, event_type, topic, partition, partition_key, payload, headers, ?2, ?3
               FROM main.tm_outbox WHERE id = ?1";
    connection.execute(sql, &[id.into(), cause.into(), now.into()])?;
    connection.execute("DELETE FROM main.tm_outbox WHERE id = ?1", &[id.into()]).map(drop)
}
