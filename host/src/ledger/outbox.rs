//! `tm_outbox`: events that were committed and are to be published, in the order of their ids.
//!
//! The executor gives the ids, ever growing while the store is open, so that the order of rows is the order of
//! commits even after rows were removed; the relay only reads. A delayed row stands outside of that order: it has a
//! place by its due time. A row leaves when the broker has acknowledged it, or for the fallback.

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
    /// The record that a dead letter was, which the operator publishes again as it was.
    Record,
    /// A timer that was given up on. It stays in the fallback too.
    Timer,
    /// What could not be compensated either. It stays in the fallback, and is never published.
    Compensation,
}

impl EventKind {
    /// As written in the column `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::DeadLetter { .. } => "dead-letter",
            Self::Record => "record",
            Self::Timer => "timer",
            Self::Compensation => "compensation",
        }
    }

    /// The kind of this name; a dead letter's topic is made as the brokers say.
    pub fn of_name(name: &str) -> Option<Self> {
        let letter = Self::DeadLetter { partitions: None, replicas: None };
        [Self::Event, letter, Self::Record, Self::Timer, Self::Compensation]
            .into_iter()
            .find(|kind| kind.name() == name)
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
    /// Not published before this time, in milliseconds since the Unix epoch.
    pub not_before: Option<i64>,
}

/// The place of a delayed row: rows that are due go out by time, and then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// When it is due, in milliseconds since the Unix epoch.
    pub due: i64,
    /// Its id.
    pub id: i64,
}

impl Place {
    /// Before all others.
    pub const FIRST: Self = Self { due: i64::MIN, id: i64::MIN };

    /// After all that are due at `now`.
    pub fn last_at(now: i64) -> Self {
        Self { due: now, id: i64::MAX }
    }

    /// The place just before this one.
    pub fn before(self) -> Self {
        Self { id: self.id - 1, ..self }
    }
}

impl Event {
    /// About how many bytes the event takes.
    pub fn size(&self) -> usize {
        // A header without name and value is some bytes of JSON all the same.
        let header = |h: &Header| h.name.len() + h.value.as_ref().map_or(0, Bytes::len) + 8;
        let headers: usize = self.headers.iter().map(header).sum();
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
    /// When its delivery began, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Waiting {
    /// From when on it could be published, in milliseconds since the Unix epoch.
    pub fn ready_at(&self) -> i64 {
        self.event.not_before.unwrap_or(i64::MIN).max(self.created_at)
    }

    /// Where a delayed row stands.
    pub fn place(&self) -> Option<Place> {
        self.event.not_before.map(|due| Place { due, id: self.id })
    }
}

/// The id for the first row after the store was opened.
pub fn first_id(connection: &Connection) -> Result<i64, Error> {
    Ok(last_id(connection)? + 1)
}

/// The highest id, 0 if there is no row.
pub fn last_id(connection: &Connection) -> Result<i64, Error> {
    let highest = connection.first("SELECT max(id) FROM main.tm_outbox", &[], |row| row.opt_integer(0))?.flatten();
    Ok(highest.unwrap_or(0))
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
               kind, handler, source, created_at, topic_partitions, topic_replicas, not_before)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    let (partitions, replicas) = match event.kind {
        EventKind::Event | EventKind::Record | EventKind::Timer | EventKind::Compensation => (None, None),
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
        event.not_before.into(),
    ];
    connection.execute(sql, &params).map(drop)
}

/// Which rows to read.
#[derive(Clone, Copy, Debug)]
pub enum Span<'a> {
    /// Rows after this id, of every topic, delayed ones among them.
    After(i64),
    /// Rows of one topic that are not delayed, from the first id to the second, both included.
    Of(&'a str, i64, i64),
    /// Delayed rows, in the order of their places.
    Due(Due<'a>),
}

/// Which delayed rows to read.
#[derive(Clone, Copy, Debug)]
pub struct Due<'a> {
    /// Of one topic, or of all.
    pub topic: Option<&'a str>,
    /// After this place.
    pub after: Place,
    /// Up to this one, itself included.
    pub until: Place,
    /// None with a higher id.
    pub last_id: i64,
}

/// Rows that were read, and what bounds them.
struct Batch {
    rows: Vec<Waiting>,
    limit: usize,
    bytes: usize,
}

/// Up to `limit` rows that wait for the broker, in order, and at least one but no more than about `bytes` of them.
pub fn waiting(connection: &Connection, span: Span<'_>, limit: usize, bytes: usize) -> Result<Vec<Waiting>, Error> {
    let mut batch = Batch { rows: Vec::new(), limit, bytes };
    match span {
        Span::After(id) => batch.read(connection, "id > ?1 ORDER BY id", &[id.into()])?,
        Span::Of(topic, from, to) => {
            let rest = "not_before IS NULL AND id BETWEEN ?1 AND ?2 AND topic = ?3 ORDER BY id";
            batch.read(connection, rest, &[from.into(), to.into(), topic.into()])?;
        }
        Span::Due(Due { topic, after, until, last_id }) => {
            let bounds = "(not_before, id) <= (?3, ?4) AND +id <= ?5 AND (?6 IS NULL OR topic = ?6)";
            let params =
                [after.due.into(), after.id.into(), until.due.into(), until.id.into(), last_id.into(), topic.into()];
            // In two steps: for one comparison of both, SQLite would look through all rows of one time again and again.
            let same = format!("not_before = ?1 AND id > ?2 AND {bounds} ORDER BY id");
            batch.read(connection, &same, &params)?;
            let later = format!("not_before > ?1 AND not_before <= ?3 AND {bounds} ORDER BY not_before, id");
            batch.read(connection, &later, &params)?;
        }
    }
    Ok(batch.rows)
}

impl Batch {
    fn read(&mut self, connection: &Connection, rest: &str, params: &[Value]) -> Result<(), Error> {
        if self.is_full() {
            return Ok(());
        }
        let sql = format!(
            "SELECT id, event_id, event_type, topic, partition, partition_key, payload, headers, kind, handler, not_before,
             topic_partitions, topic_replicas, created_at
             FROM main.tm_outbox WHERE status = 'waiting' AND {rest}"
        );
        connection.each(&sql, params, |row| {
            let row = read(row)?;
            self.bytes = self.bytes.saturating_sub(row.event.size());
            self.rows.push(row);
            Ok(!self.is_full())
        })
    }

    fn is_full(&self) -> bool {
        self.bytes == 0 || self.rows.len() >= self.limit
    }
}

/// What is to be known of a row that waits, to send it in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Light {
    /// The row's id.
    pub id: i64,
    /// Where to.
    pub topic: String,
    /// The record's key.
    pub key: Option<Bytes>,
    /// When a delayed row is due, in milliseconds since the Unix epoch.
    pub not_before: Option<i64>,
}

impl Light {
    /// Where a delayed row stands.
    pub fn place(&self) -> Option<Place> {
        self.not_before.map(|due| Place { due, id: self.id })
    }
}

/// Which rows of some topics to read.
#[derive(Clone, Copy, Debug)]
pub enum Stretch {
    /// After the first id and up to the second, in the order of ids, delayed ones among them.
    Ids(i64, i64),
    /// Delayed ones after the first place and up to the second, in the order of their places.
    Places(Place, Place),
}

/// Up to `limit` rows that wait, for topics that fit a pattern of `GLOB`, in order.
pub fn light(connection: &Connection, glob: &str, stretch: Stretch, limit: i64) -> Result<Vec<Light>, Error> {
    const COLUMNS: &str = "SELECT id, topic, partition_key, not_before FROM main.tm_outbox WHERE status = 'waiting'";
    let read = |row: &Row<'_>| {
        let key = row.opt_bytes(2)?.map(Bytes::from);
        Ok(Light { id: row.integer(0)?, topic: row.text(1)?, key, not_before: row.opt_integer(3)? })
    };
    match stretch {
        Stretch::Ids(after, to) => {
            let sql = format!("{COLUMNS} AND id > ?1 AND id <= ?2 AND topic GLOB ?3 ORDER BY id LIMIT ?4");
            connection.query(&sql, &[after.into(), to.into(), glob.into(), limit.into()], read)
        }
        Stretch::Places(after, until) => {
            // In two steps, as above.
            let same = format!(
                "{COLUMNS} AND not_before = ?1 AND id > ?2 AND (not_before, id) <= (?3, ?4) AND topic GLOB ?5 ORDER BY id LIMIT ?6"
            );
            let later = format!(
                "{COLUMNS} AND not_before > ?1 AND (not_before, id) <= (?2, ?3) AND topic GLOB ?4 ORDER BY not_before, id LIMIT ?5"
            );
            let bounds = [until.due.into(), until.id.into(), glob.into()];
            let params = [&[after.due.into(), after.id.into()], &bounds[..], &[limit.into()]].concat();
            let mut rows = connection.query(&same, &params, read)?;
            let left = limit.saturating_sub(i64::try_from(rows.len()).unwrap_or(i64::MAX));
            if left > 0 {
                let params = [&[after.due.into()], &bounds[..], &[left.into()]].concat();
                rows.extend(connection.query(&later, &params, read)?);
            }
            Ok(rows)
        }
    }
}

/// One row, if it waits.
pub fn one(connection: &Connection, id: i64) -> Result<Option<Waiting>, Error> {
    let mut batch = Batch { rows: Vec::new(), limit: 1, bytes: usize::MAX };
    batch.read(connection, "id = ?1", &[id.into()])?;
    Ok(batch.rows.pop())
}

/// When the next delayed row is due after `now`.
pub fn next_due(connection: &Connection, now: i64) -> Result<Option<i64>, Error> {
    let sql = "SELECT min(not_before) FROM main.tm_outbox WHERE status = 'waiting' AND not_before > ?1";
    Ok(connection.first(sql, &[now.into()], |row| row.opt_integer(0))?.flatten())
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
                "dead-letter" => EventKind::DeadLetter { partitions: small(11)?, replicas: small(12)? },
                "record" => EventKind::Record,
                _ => EventKind::Event,
            },
            not_before: row.opt_integer(10)?,
        },
        handler: row.text(9)?,
        created_at: row.integer(13)?,
    })
}

/// How many rows wait for the broker. Looks through an index, so it is for rare moments.
pub fn count(connection: &Connection) -> Result<u64, Error> {
    let sql = "SELECT (SELECT count(*) FROM main.tm_outbox)
               - (SELECT count(*) FROM main.tm_outbox WHERE status = 'published')";
    let rows = connection.first(sql, &[], |row| row.integer(0))?;
    Ok(rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0))
}

/// The first row that waits and is not delayed, from the id `from` on, with the time of its delivery. Where `from` was the last answer of
/// before, nothing is looked through twice: rows that are published wait no more. `Err` has how far it came in time.
pub fn oldest(connection: &Connection, from: i64) -> Result<Option<(i64, i64)>, (i64, Error)> {
    let sql = "SELECT id, status = 'waiting' AND not_before IS NULL, created_at FROM main.tm_outbox WHERE id >= ?1 ORDER BY id";
    let (mut came, mut found) = (from, None);
    let looked = connection.each(sql, &[from.into()], |row| {
        came = row.integer(0)?;
        if row.integer(1)? == 1 {
            found = Some((came, row.integer(2)?));
        }
        Ok(found.is_none())
    });
    looked.map(|()| found).map_err(|error| (came, error))
}

/// How many delayed rows wait, and when the first of them is due, in milliseconds since the Unix epoch.
pub fn delayed(connection: &Connection) -> Result<(u64, Option<i64>), Error> {
    let sql =
        "SELECT count(*), min(not_before) FROM main.tm_outbox WHERE status = 'waiting' AND not_before IS NOT NULL";
    let found = connection.first(sql, &[], |row| Ok((row.integer(0)?, row.opt_integer(1)?)))?;
    Ok(found.map_or((0, None), |(rows, due)| (u64::try_from(rows).unwrap_or(0), due)))
}

/// Removes acknowledged rows, from the first id to the second, both included. Returns how many.
pub fn clear(connection: &Connection, from: i64, to: i64) -> Result<u64, Error> {
    connection.execute("DELETE FROM main.tm_outbox WHERE id BETWEEN ?1 AND ?2", &[from.into(), to.into()])
}

/// Keeps acknowledged rows, marked as published at `now`, for those who ask later. Returns how many.
pub fn mark_published(connection: &Connection, from: i64, to: i64, now: i64) -> Result<u64, Error> {
    let sql = "UPDATE main.tm_outbox SET status = 'published', published_at = ?3, attempts = attempts + 1
               WHERE id BETWEEN ?1 AND ?2 AND status = 'waiting'";
    connection.execute(sql, &[from.into(), to.into(), now.into()])
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

/// Whether an event of this id waits for the broker.
pub fn waits(connection: &Connection, event_id: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.tm_outbox WHERE event_id = ?1 AND status = 'waiting'";
    Ok(connection.first(sql, &[event_id.into()], |row| row.integer(0))?.is_some())
}

/// Notes that a row could not be published, and waits.
pub fn note_failure(connection: &Connection, id: i64, error: &str) -> Result<(), Error> {
    let sql = "UPDATE main.tm_outbox SET attempts = attempts + 1, last_error = ?2 WHERE id = ?1";
    connection.execute(sql, &[id.into(), error.into()]).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::schema;

    fn event(id: i64, topic: &str, not_before: Option<i64>) -> Event {
        Event {
            event_id: id.to_string(),
            event_type: "E".into(),
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            kind: EventKind::Event,
            not_before,
        }
    }

    /// Many rows of one time, read a few at a time: each once, by time and then by id, whatever stands between them.
    #[test]
    fn delayed_rows_are_read_by_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("store.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        let due = |id: i64| match (id % 3, id % 4) {
            (0, _) => None,
            (_, 0) => Some(50),
            (_, 1) => Some(40),
            _ => Some(60),
        };
        let topic = |id: i64| if id % 5 < 2 { "a" } else { "b" };
        for id in 1..=60 {
            assert!(insert(&connection, id, &event(id, topic(id), due(id)), "h", "s", 1).unwrap());
        }
        let read = |of: Option<&str>, until: Place, last_id: i64| {
            let (mut places, mut after) = (Vec::new(), Place::FIRST);
            loop {
                let span = Span::Due(Due { topic: of, after, until, last_id });
                let rows = waiting(&connection, span, 4, 1 << 20).unwrap();
                let Some(last) = rows.last() else { return places };
                after = last.place().unwrap();
                places.extend(rows.iter().filter_map(Waiting::place));
            }
        };
        let expected = |keep: &dyn Fn(i64, i64) -> bool| {
            let delayed = (1..=60).filter_map(|id| due(id).map(|due| Place { due, id }));
            let mut places: Vec<Place> = delayed.filter(|place| keep(place.due, place.id)).collect();
            places.sort();
            places
        };
        assert_eq!(read(None, Place::last_at(60), 60), expected(&|_, _| true));
        assert_eq!(read(None, Place::last_at(59), 60), expected(&|due, _| due < 60));
        assert_eq!(read(None, Place::last_at(60), 31), expected(&|_, id| id <= 31));
        let until = Place { due: 50, id: 28 };
        let of_a = expected(&|due, id| topic(id) == "a" && Place { due, id } <= until);
        assert!(of_a.iter().any(|place| place.due == 40) && of_a.iter().any(|place| place.due == 50));
        assert_eq!(read(Some("a"), until, 60), of_a);

        let ordinary: Vec<i64> =
            waiting(&connection, Span::Of("a", 1, 60), 100, 1 << 20).unwrap().iter().map(|row| row.id).collect();
        assert_eq!(ordinary, (1..=60).filter(|id| id % 3 == 0 && topic(*id) == "a").collect::<Vec<_>>());
        assert_eq!(next_due(&connection, 40).unwrap(), Some(50));
        assert_eq!(next_due(&connection, 60).unwrap(), None);
    }

    #[test]
    fn s2_10_the_oldest_row_that_waits_is_found_from_where_it_was_looked_for_last() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("store.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        assert_eq!(oldest(&connection, 0).unwrap(), None);
        for (id, not_before) in [(1, None), (2, Some(90)), (3, None), (4, Some(70)), (5, None)] {
            assert!(insert(&connection, id, &event(id, "a", not_before), "h", "s", 10 * id).unwrap());
        }
        assert_eq!(oldest(&connection, 0).unwrap(), Some((1, 10)));
        mark_published(&connection, 1, 1, 99).unwrap();
        assert_eq!(oldest(&connection, 1).unwrap(), Some((3, 30)), "neither what is published nor what is delayed");
        clear(&connection, 3, 5).unwrap();
        assert_eq!(oldest(&connection, 3).unwrap(), None);
        assert_eq!(delayed(&connection).unwrap(), (1, Some(90)));
        clear(&connection, 1, 5).unwrap();
        assert_eq!(delayed(&connection).unwrap(), (0, None));
    }
}
