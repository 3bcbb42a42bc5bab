//! `tm_outbox`: events that were committed and are to be published, in the order of their ids.
//!
//! The executor gives the ids, ever growing while the store is open, so that the order of rows is the order of
//! commits even after rows were removed; the relay only reads. A row leaves when the broker has acknowledged it, or for the fallback.

use bytes::Bytes;

use super::encoding;
use crate::record::Header;
use crate::store::{Connection, Error, Kind, Row, Value};

/// What kind of event a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Enqueued by a handler.
    Event,
    /// A record that was given up on. Its topic, if it has to be made first, gets so many partitions and replicas;
    /// where a number is missing, the source topic or the brokers say it.
    DeadLetter {
        /// `partitions` of the handler's `[dead-letter]`.
        partitions: Option<i32>,
        /// `replicas` of the handler's `[dead-letter]`.
        replicas: Option<i32>,
    },
    /// What could not be compensated either. It stays in the fallback, and is never published.
    Compensation,
}

impl EventKind {
    /// As written in the column `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::DeadLetter { .. } => "dead-letter",
            Self::Compensation => "compensation",
        }
    }
}

/// An event to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique in the store.
    pub event_id: String,
    /// For example `ORDER_CREATED`.
    pub event_type: String,
    /// Where to.
    pub topic: String,
    /// A fixed partition, or `None` for the partitioner.
    pub partition: Option<i32>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value.
    pub value: Option<Bytes>,
    /// The record's headers.
    pub headers: Vec<Header>,
    /// Of a handler, or of the host.
    pub kind: EventKind,
}

impl Event {
    /// About how many bytes the event takes.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        self.event_id.len()
            + self.event_type.len()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers
    }
}

/// A row that waits for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The row's id.
    pub id: i64,
    /// The event.
    pub event: Event,
    /// The handler that caused it.
    pub handler: String,
}

/// The id for the first row after the store was opened.
pub fn first_id(connection: &Connection) -> Result<i64, Error> {
    let highest = connection.first("SELECT max(id) FROM main.tm_outbox", &[], |row| row.opt_integer(0))?.flatten();
    Ok(highest.unwrap_or(0) + 1)
}

/// Adds an event. `false` means that one with this id waits already; one that was published makes room.
pub fn insert(
    connection: &Connection,
    id: i64,
    event: &Event,
    handler: &str,
    source: &str,
    now: i64,
) -> Result<bool, Error> {
    match try_insert(connection, id, event, handler, source, now) {
        Err(error) if error.kind == Kind::Constraint => {
            let sql = "DELETE FROM main.tm_outbox WHERE event_id = ?1 AND status = 'published'";
            if connection.execute(sql, &[event.event_id.as_str().into()])? == 0 {
                return Ok(false);
            }
            try_insert(connection, id, event, handler, source, now).map(|()| true)
        }
        inserted => inserted.map(|()| true),
    }
}

fn try_insert(
    connection: &Connection,
    id: i64,
    event: &Event,
    handler: &str,
    source: &str,
    now: i64,
) -> Result<(), Error> {
    let sql = "INSERT INTO main.tm_outbox (id, event_id, event_type, topic, partition, partition_key, payload, headers,
               kind, handler, source, created_at, topic_partitions, topic_replicas)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
    let (partitions, replicas) = match event.kind {
        EventKind::Event | EventKind::Compensation => (None, None),
        EventKind::DeadLetter { partitions, replicas } => (partitions, replicas),
    };
    let params = [
        id.into(),
        event.event_id.as_str().into(),
        event.event_type.as_str().into(),
        event.topic.as_str().into(),
        event.partition.into(),
        event.key.as_deref().map_or(Value::Null, Value::readable),
        event.value.as_deref().map_or(Value::Null, Value::readable),
        encoding::write_headers(&event.headers).into(),
        event.kind.name().into(),
        handler.into(),
        source.into(),
        now.into(),
        partitions.into(),
        replicas.into(),
    ];
    connection.execute(sql, &params).map(drop)
}

/// Which rows to read.
#[derive(Clone, Copy, Debug)]
pub enum Span<'a> {
    /// Rows after this id, of every topic.
    After(i64),
    /// Rows of one topic from the first id to the second, both included.
    Of(&'a str, i64, i64),
}

/// Up to `limit` rows that wait for the broker, in order, and at least one but no more than about `bytes` of them.
pub fn waiting(connection: &Connection, span: Span<'_>, limit: i64, bytes: usize) -> Result<Vec<Waiting>, Error> {
    const COLUMNS: &str =
        "SELECT id, event_id, event_type, topic, partition, partition_key, payload, headers, kind, handler,
        topic_partitions, topic_replicas FROM main.tm_outbox";
    let (filter, params) = match span {
        Span::After(id) => ("id > ?1", vec![id.into(), limit.into()]),
        Span::Of(topic, from, to) => {
            ("id >= ?1 AND id <= ?3 AND topic = ?4", vec![from.into(), limit.into(), to.into(), topic.into()])
        }
    };
    let sql = format!("{COLUMNS} WHERE status = 'waiting' AND {filter} ORDER BY id LIMIT ?2");
    let (mut rows, mut size) = (Vec::new(), 0);
    connection.each(&sql, &params, |row| {
        let waiting = read(row)?;
        size += waiting.event.size();
        rows.push(waiting);
        Ok(size < bytes)
    })?;
    Ok(rows)
}

fn read(row: &Row<'_>) -> Result<Waiting, Error> {
    let small = |column| Ok::<_, Error>(row.opt_integer(column)?.and_then(|n| i32::try_from(n).ok()));
    Ok(Waiting {
        id: row.integer(0)?,
        event: Event {
            event_id: row.text(1)?,
            event_type: row.text(2)?,
            topic: row.text(3)?,
            partition: small(4)?,
            key: row.opt_bytes(5)?.map(Bytes::from),
            value: row.opt_bytes(6)?.map(Bytes::from),
            headers: encoding::read_headers(&row.text(7)?)?,
            kind: match row.text(8)?.as_str() {
                "dead-letter" => EventKind::DeadLetter { partitions: small(10)?, replicas: small(11)? },
                _ => EventKind::Event,
            },
        },
        handler: row.text(9)?,
    })
}

/// Removes acknowledged rows, from the first id to the second, both included.
pub fn clear(connection: &Connection, from: i64, to: i64) -> Result<(), Error> {
    connection.execute("DELETE FROM main.tm_outbox WHERE id BETWEEN ?1 AND ?2", &[from.into(), to.into()]).map(drop)
}

/// Keeps acknowledged rows, marked as published at `now`, for those who ask later.
pub fn mark_published(connection: &Connection, from: i64, to: i64, now: i64) -> Result<(), Error> {
    let sql = "UPDATE main.tm_outbox SET status = 'published', published_at = ?3, attempts = attempts + 1
               WHERE id BETWEEN ?1 AND ?2";
    connection.execute(sql, &[from.into(), to.into(), now.into()]).map(drop)
}

/// Removes rows that were published before `before` (milliseconds since the Unix epoch).
pub fn purge(connection: &Connection, before: i64) -> Result<u64, Error> {
    let sql = "DELETE FROM main.tm_outbox WHERE status = 'published' AND published_at < ?1";
    connection.execute(sql, &[before.into()])
}

/// Whose event a row is; `None` if it is gone, or no event of a handler.
pub fn publisher(connection: &Connection, id: i64) -> Result<Option<String>, Error> {
    let sql = "SELECT handler FROM main.tm_outbox WHERE id = ?1 AND kind = 'event'";
    connection.first(sql, &[id.into()], |row| row.text(0))
}

/// Notes that a row could not be published, and waits.
pub fn note_failure(connection: &Connection, id: i64, error: &str) -> Result<(), Error> {
    let sql = "UPDATE main.tm_outbox SET attempts = attempts + 1, last_error = ?2 WHERE id = ?1";
    connection.execute(sql, &[id.into(), error.into()]).map(drop)
}
