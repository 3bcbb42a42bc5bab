//! `tm_pending`: records that wait for their next attempt, whole.
//!
//! A record moves here at its first failure, in the transaction that moves the offset past it, and leaves it in
//! the transaction that does it or gives it up: it is always in exactly one place. One that stands behind another of its key
//! has no due time of its own; it gets one when that other leaves. Nor has one that waits for a call to the outside, which the
//! executor has in memory.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::encoding;
use crate::policy::{Order, Outcome};
use crate::record::{Record, Timestamp};
use crate::store::{Connection, Error, Row, Value};

/// What a waiting record waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be handled.
    Handle,
    /// To be compensated, for this reason.
    Compensate {
        /// How its last attempt ended.
        reason: String,
        /// What else is known if it is an event that Kafka has refused.
        event: Option<Refused>,
    },
}

/// An event that Kafka has refused, beside what it has in common with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// The input that caused it.
    pub source: String,
}

/// The partition under which refused events wait.
pub const NO_PARTITION: i32 = -1;
/// The partition under which timers wait that are tried again: the topic is the schedule's name, the offset the due time.
pub const TIMERS: i32 = -2;

/// A waiting record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The row's id.
    pub id: i64,
    /// The record, as Kafka gave it.
    pub record: Arc<Record>,
    /// The id of the topic it came from.
    pub topic_id: String,
    /// What it waits for.
    pub purpose: Purpose,
    /// Who waits for it.
    pub scope: Order,
    /// Attempts made so far.
    pub attempts: u32,
    /// Not before this time, milliseconds since the Unix epoch; none while another record of its key is before it.
    pub due: Option<i64>,
    /// What went wrong each time, oldest first, as a JSON array.
    pub errors: String,
}

impl Pending {
    /// How and when the last attempt ended, if there was one.
    pub fn last_failure(&self) -> Option<(Outcome, i64)> {
        let list: Vec<Json> = serde_json::from_str(&self.errors).ok()?;
        let last = list.last()?;
        Some((Outcome::of_name(last.get("outcome")?.as_str()?)?, last.get("at")?.as_i64()?))
    }
}

/// Under which an error has what services had answered.
pub const ANSWERS: &str = "answers";
/// Under which it has what its attempt's clock said.
pub const CLOCK: &str = "clock";
/// The most errors that a row keeps; the oldest go first.
const ERRORS_KEPT: usize = 20;

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// From 1.
    pub number: u32,
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
    /// What its clock said, where that is another time: it had waited for a service.
    pub clock: Option<i64>,
    /// The outcome's name.
    pub outcome: &'a str,
    /// What went wrong.
    pub message: &'a str,
    /// What services had answered, as JSON.
    pub answers: Option<Json>,
}

/// `errors` with one more. Answers are kept of the last one only.
pub fn push_error(errors: &str, attempt: Attempt<'_>) -> String {
    let mut list: Vec<Json> = serde_json::from_str(errors).unwrap_or_default();
    list.iter_mut().filter_map(Json::as_object_mut).for_each(|error| drop(error.remove(ANSWERS)));
    let Attempt { number, at, clock, outcome, message, answers } = attempt;
    let message: String = message.chars().take(2_000).collect();
    let mut error = json!({ "attempt": number, "at": at, "outcome": outcome, "message": message });
    if let Some(fields) = error.as_object_mut() {
        fields.extend(clock.map(|clock| (CLOCK.into(), clock.into())));
        fields.extend(answers.map(|answers| (ANSWERS.into(), answers)));
    }
    list.push(error);
    let surplus = list.len().saturating_sub(ERRORS_KEPT);
    Json::Array(list.split_off(surplus)).to_string()
}

/// What waits on one lane, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Records for which the whole lane waits.
    pub blocking: u64,
    /// When the first of them is due, milliseconds since the Unix epoch.
    pub due: Option<i64>,
}

impl Waiting {
    fn add(&mut self, pending: &Pending) {
        self.records += 1;
        self.bytes += size(&pending.record);
        self.blocking += u64::from(pending.scope == Order::Partition);
    }

    fn remove(&mut self, pending: &Pending) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size(&pending.record));
        self.blocking = self.blocking.saturating_sub(u64::from(pending.scope == Order::Partition));
    }
}

fn size(record: &Record) -> u64 {
    let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, |part| part.len() as u64);
    bytes(&record.key) + bytes(&record.value)
}

/// The rows of one lane.
#[derive(Clone, Copy)]
pub struct Rows<'c> {
    /// The store.
    pub connection: &'c Connection,
    /// The handler's name.
    pub handler: &'c str,
    /// The topic.
    pub topic: &'c str,
    /// The partition.
    pub partition: i32,
}

const COLUMNS: &str =
    "SELECT id, topic, partition, \"offset\", timestamp, timestamp_type, key, value, headers, topic_id,
    scope, attempts, due, errors, purpose, reason, event_id, event_type, source FROM main.tm_pending";
const OF_LANE: &str = "handler = ?1 AND topic = ?2 AND partition = ?3";

impl Rows<'_> {
    fn lane(&self) -> [Value; 3] {
        [self.handler.into(), self.topic.into(), self.partition.into()]
    }

    fn with<const N: usize>(&self, more: [Value; N]) -> Vec<Value> {
        self.lane().into_iter().chain(more).collect()
    }

    /// Looks at all of them, after bringing due times that lie too far ahead to `latest` (milliseconds since the Unix
    /// epoch): a clock that was wrong when a record failed must not hold it for ever. Those that waited for an answer are due
    /// at `now`, since nobody asks any more: so it is for a lane that has no calls under way.
    pub fn open(&self, now: i64, latest: i64) -> Result<Waiting, Error> {
        let heads = format!(
            "UPDATE main.tm_pending AS waits SET due = ?4 WHERE {OF_LANE} AND due IS NULL AND (scope <> 'key' OR id =
             (SELECT min(id) FROM main.tm_pending WHERE {OF_LANE} AND scope = 'key' AND key = waits.key))"
        );
        self.connection.execute(&heads, &self.with([now.into()]))?;
        let clamp = format!("UPDATE main.tm_pending SET due = ?4 WHERE {OF_LANE} AND due > ?4");
        self.connection.execute(&clamp, &self.with([latest.into()]))?;
        self.look()
    }

    /// Looks at all of them.
    pub fn look(&self) -> Result<Waiting, Error> {
        let sql = format!(
            "SELECT count(*), sum(coalesce(length(CAST(key AS BLOB)), 0) + coalesce(length(CAST(value AS BLOB)), 0)),
             count(*) FILTER (WHERE scope = 'partition'), min(due) FROM main.tm_pending WHERE {OF_LANE}"
        );
        let count = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
        let waiting = self.connection.first(&sql, &self.lane(), |row| {
            Ok(Waiting {
                records: count(row.opt_integer(0)?),
                bytes: count(row.opt_integer(1)?),
                blocking: count(row.opt_integer(2)?),
                due: row.opt_integer(3)?,
            })
        })?;
        Ok(waiting.unwrap_or_default())
    }

    /// The record that is due first, if any is at `now`.
    pub fn first_due(&self, now: i64) -> Result<Option<Pending>, Error> {
        let sql = format!("{COLUMNS} WHERE {OF_LANE} AND due <= ?4 ORDER BY due, id LIMIT 1");
        self.connection.first(&sql, &self.with([now.into()]), read)
    }

    /// One of them, by its row.
    pub fn get(&self, id: i64) -> Result<Option<Pending>, Error> {
        let sql = format!("{COLUMNS} WHERE {OF_LANE} AND id = ?4");
        self.connection.first(&sql, &self.with([id.into()]), read)
    }

    /// One of them, by its offset.
    pub fn at(&self, offset: i64) -> Result<Option<Pending>, Error> {
        let sql = format!("{COLUMNS} WHERE {OF_LANE} AND \"offset\" = ?4");
        self.connection.first(&sql, &self.with([offset.into()]), read)
    }

    /// Whether a record of this key is among them for which the later ones of the key wait.
    pub fn hold(&self, key: &[u8]) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM main.tm_pending WHERE {OF_LANE} AND scope = 'key' AND key = ?4 LIMIT 1");
        Ok(self.connection.first(&sql, &self.with([Value::readable(key)]), |row| row.integer(0))?.is_some())
    }

    /// Throws away those that wait to be handled; what waits to be compensated stays. Returns how many they were.
    pub fn clear(&self) -> Result<u64, Error> {
        let sql = format!("DELETE FROM main.tm_pending WHERE {OF_LANE} AND purpose = 'handle'");
        self.connection.execute(&sql, &self.lane())
    }

    /// How many of them wait to be handled.
    pub fn to_handle(&self) -> Result<u64, Error> {
        let sql = format!("SELECT count(*) FROM main.tm_pending WHERE {OF_LANE} AND purpose = 'handle'");
        let count = self.connection.first(&sql, &self.lane(), |row| row.integer(0))?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// Puts a record aside; its `id` is not looked at. Returns the row's, or `None` where the record is there already, which
    /// then stays as it is.
    pub fn add(&self, pending: &Pending, waiting: &mut Waiting) -> Result<Option<i64>, Error> {
        let sql =
            "INSERT INTO main.tm_pending (handler, topic, partition, topic_id, \"offset\", timestamp, timestamp_type,
                   key, value, headers, scope, attempts, due, errors, purpose, reason)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
                   ON CONFLICT (handler, topic, partition, \"offset\", topic_id) DO NOTHING RETURNING id";
        let record = &pending.record;
        let params = self.with([
            pending.topic_id.as_str().into(),
            record.offset.into(),
            record.timestamp.millis().into(),
            record.timestamp.type_name().into(),
            record.key.as_deref().map_or(Value::Null, Value::readable),
            record.value.as_deref().map_or(Value::Null, Value::readable),
            encoding::write_headers(&record.headers).into(),
            scope_name(pending.scope).into(),
            pending.attempts.into(),
            pending.due.into(),
            pending.errors.as_str().into(),
            purpose_name(&pending.purpose).into(),
            reason(&pending.purpose).into(),
        ]);
        let id = self.connection.first(sql, &params, |row| row.integer(0))?;
        if id.is_some() {
            waiting.add(pending);
            waiting.due = waiting.due.into_iter().chain(pending.due).min();
        }
        Ok(id)
    }

    /// Notes what it waits for, and until when.
    pub fn update(&self, pending: &Pending, waiting: &mut Waiting) -> Result<(), Error> {
        let sql =
            "UPDATE main.tm_pending SET attempts = ?2, due = ?3, errors = ?4, purpose = ?5, reason = ?6 WHERE id = ?1";
        let params = [
            pending.id.into(),
            pending.attempts.into(),
            pending.due.into(),
            pending.errors.as_str().into(),
            purpose_name(&pending.purpose).into(),
            reason(&pending.purpose).into(),
        ];
        self.connection.execute(sql, &params)?;
        waiting.due = self.earliest()?;
        Ok(())
    }

    /// Takes a record out, since it is done or given up on; the next of its key is due at `now`, if it was the first.
    pub fn remove(&self, pending: &Pending, now: i64, waiting: &mut Waiting) -> Result<(), Error> {
        self.connection.execute("DELETE FROM main.tm_pending WHERE id = ?1", &[pending.id.into()])?;
        if let (Order::Key, Some(key)) = (pending.scope, &pending.record.key) {
            let sql = format!(
                "UPDATE main.tm_pending SET due = ?5 WHERE due IS NULL AND id > ?6 AND id =
                 (SELECT min(id) FROM main.tm_pending WHERE {OF_LANE} AND scope = 'key' AND key = ?4)"
            );
            // One before it may wait for a call.
            self.connection.execute(&sql, &self.with([Value::readable(key), now.into(), pending.id.into()]))?;
        }
        waiting.remove(pending);
        waiting.due = self.earliest()?;
        Ok(())
    }

    /// When the first of them is due, in milliseconds since the Unix epoch.
    pub fn earliest(&self) -> Result<Option<i64>, Error> {
        let sql = format!("SELECT min(due) FROM main.tm_pending WHERE {OF_LANE} AND due IS NOT NULL");
        Ok(self.connection.first(&sql, &self.lane(), |row| row.opt_integer(0))?.flatten())
    }
}

/// Lets the handler of an outbox row compensate it, at `now` or behind others of its key. Returns its topic.
pub fn add_refused(connection: &Connection, id: i64, why: &str, now: i64) -> Result<Option<String>, Error> {
    let sql = "INSERT INTO main.tm_pending (handler, topic, partition, topic_id, \"offset\", timestamp, timestamp_type,
               key, value, headers, scope, attempts, due, errors, purpose, reason, event_id, event_type, source)
               SELECT handler, topic, ?4, 'event ' || event_id, id, created_at, 'CreateTime', partition_key, payload, headers,
               CASE WHEN partition_key IS NULL THEN 'none' ELSE 'key' END, 0,
               CASE WHEN EXISTS (SELECT 1 FROM main.tm_pending p WHERE p.handler = o.handler AND p.topic = o.topic
                   AND p.partition = ?4 AND p.scope = 'key' AND p.key = o.partition_key) THEN NULL ELSE ?3 END,
               '[]', 'compensate', ?2, event_id, event_type, source
               FROM main.tm_outbox o WHERE id = ?1 RETURNING topic";
    let params = [id.into(), why.into(), now.into(), NO_PARTITION.into()];
    connection.first(sql, &params, |row| row.text(0))
}

/// Whether an event that Kafka has refused waits to be compensated.
pub fn compensates(connection: &Connection, handler: &str, event_id: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.tm_pending WHERE handler = ?1 AND partition = ?2 AND topic_id = 'event ' || ?3";
    let params = [handler.into(), NO_PARTITION.into(), event_id.into()];
    Ok(connection.first(sql, &params, |row| row.integer(0))?.is_some())
}

/// One row, and whose it is.
pub fn one(connection: &Connection, id: i64) -> Result<Option<(String, Pending)>, Error> {
    let handler = "SELECT handler FROM main.tm_pending WHERE id = ?1";
    let Some(handler) = connection.first(handler, &[id.into()], |row| row.text(0))? else { return Ok(None) };
    let pending = connection.first(&format!("{COLUMNS} WHERE id = ?1"), &[id.into()], read)?;
    Ok(pending.map(|pending| (handler, pending)))
}

/// How many rows each handler has, and when the first of its records among them was written, in milliseconds since the Unix epoch. Looks
/// through an index of all, so it is for rare moments.
pub fn count(connection: &Connection) -> Result<Vec<(String, u64, Option<i64>)>, Error> {
    let sql = "SELECT handler, count(*), min(iif(purpose = 'handle' AND partition >= 0, timestamp, NULL))
               FROM main.tm_pending GROUP BY handler";
    connection
        .query(sql, &[], |row| Ok((row.text(0)?, u64::try_from(row.integer(1)?).unwrap_or(0), row.opt_integer(2)?)))
}

/// The topics of which something waits for this handler, under a partition that is none of Kafka's.
pub fn topics(connection: &Connection, handler: &str, partition: i32) -> Result<Vec<String>, Error> {
    let sql = "SELECT DISTINCT topic FROM main.tm_pending WHERE handler = ?1 AND partition = ?2";
    connection.query(sql, &[handler.into(), partition.into()], |row| row.text(0))
}

fn purpose_name(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Handle => "handle",
        Purpose::Compensate { .. } => "compensate",
    }
}

fn reason(purpose: &Purpose) -> Option<&str> {
    match purpose {
        Purpose::Handle => None,
        Purpose::Compensate { reason, .. } => Some(reason),
    }
}

fn scope_name(scope: Order) -> &'static str {
    match scope {
        Order::Partition => "partition",
        Order::Key => "key",
        Order::None => "none",
    }
}

fn read(row: &Row<'_>) -> Result<Pending, Error> {
    let at = row.opt_integer(4)?;
    let timestamp = match (row.text(5)?.as_str(), at) {
        ("CreateTime", Some(at)) => Timestamp::CreateTime(at),
        ("LogAppendTime", Some(at)) => Timestamp::LogAppendTime(at),
        _ => Timestamp::None,
    };
    Ok(Pending {
        id: row.integer(0)?,
        record: Arc::new(Record {
            topic: row.text(1)?.into(),
            partition: i32::try_from(row.integer(2)?).unwrap_or(-1),
            offset: row.integer(3)?,
            timestamp,
            key: row.opt_bytes(6)?.map(Bytes::from),
            value: row.opt_bytes(7)?.map(Bytes::from),
            headers: encoding::read_headers(&row.text(8)?)?,
        }),
        topic_id: row.text(9)?,
        scope: match row.text(10)?.as_str() {
            "key" => Order::Key,
            "none" => Order::None,
            _ => Order::Partition,
        },
        attempts: u32::try_from(row.integer(11)?).unwrap_or(u32::MAX),
        due: row.opt_integer(12)?,
        errors: row.text(13)?,
        purpose: match row.text(14)?.as_str() {
            "compensate" => {
                let event = match row.opt_text(16)? {
                    None => None,
                    Some(event_id) => Some(Refused { event_id, event_type: row.text(17)?, source: row.text(18)? }),
                };
                Purpose::Compensate { reason: row.opt_text(15)?.unwrap_or_default(), event }
            }
            _ => Purpose::Handle,
        },
    })
}
