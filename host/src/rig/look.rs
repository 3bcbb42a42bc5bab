//! What a rig's test is told of the ledger: how a record ended, what waits, what was published.
//!
//! It reads what the executor has committed, and nothing else knows how a record ended. It changes nothing.

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::kafka::{Kafka, shown};
use super::wire;
use crate::deploy::manifest::Spec;
use crate::executor::event_id;
use crate::ledger::outbox::{self, Span, Waiting};
use crate::ledger::{inbox, offset, pending};
use crate::record::Record;
use crate::store::Connection;

/// More rows of the outbox than a test has.
const ROWS: usize = 1_000_000;
/// And bytes.
const BYTES: usize = 1 << 30;

/// Whether the inbox knows a record's event already.
pub(super) fn is_known(store: &Connection, spec: &Spec, record: &Record) -> Result<bool> {
    let Some(id) = event_id::find(&spec.event_id, record) else { return Ok(false) };
    Ok(inbox::done_at(store, &spec.name, &id)?.is_some())
}

/// How a record ended; `known` says that it was done before it came.
pub(super) fn ended(
    store: &Connection,
    kafka: &Kafka,
    spec: &Spec,
    (topic, partition, at): (&str, i32, i64),
    known: bool,
) -> Result<Json> {
    let source = format!("{topic}/{partition}@{at}");
    let rows = pending::Rows { connection: store, handler: &spec.name, topic, partition };
    if let Some(waits) = rows.at(at)? {
        let last = last_error(&waits.errors);
        let outcome = last.get("outcome").and_then(Json::as_str).unwrap_or_default();
        let ended = match (&waits.purpose, outcome) {
            (pending::Purpose::Compensate { .. }, _) => "compensating",
            (pending::Purpose::Handle, "") => "waiting",
            (pending::Purpose::Handle, "unavailable") => "unavailable",
            (pending::Purpose::Handle, _) => "retry",
        };
        return Ok(json!({
            "ended": ended, "attempts": waits.attempts, "due": waits.due, "outcome": outcome,
            "error": last.get("message"),
        }));
    }
    let sql = "SELECT cause FROM main.tm_fallback
               WHERE handler = ?1 AND source = ?2 AND kind <> 'event' ORDER BY id DESC LIMIT 1";
    let params = [spec.name.as_str().into(), source.as_str().into()];
    if let Some(cause) = store.first(sql, &params, |row| row.text(0))? {
        return Ok(json!({ "ended": "fallback", "error": cause }));
    }
    let is_its = |event: &&Json| {
        let is = |key: &str, value: &str| event.get(key).and_then(Json::as_str) == Some(value);
        is("kind", "dead-letter") && is("source", &source)
    };
    let waiting = waiting(store)?;
    if let Some(event) = kafka.events().iter().chain(&waiting).find(is_its) {
        let history = header(event, "kafka_dlt-exception-stacktrace").unwrap_or_default();
        let last = last_error(history);
        return Ok(json!({
            "ended": "dead-letter", "topic": event.get("topic"), "attempts": last.get("attempt"),
            "outcome": last.get("outcome"), "error": last.get("message"),
        }));
    }
    let stored = offset::find(store, &spec.name, topic, partition)?;
    let ended = match stored {
        Some(stored) if stored.next_offset > at && known => "duplicate",
        Some(stored) if stored.next_offset > at => "done",
        _ => "waiting",
    };
    Ok(json!({ "ended": ended }))
}

fn last_error(errors: &str) -> Json {
    let all: Vec<Json> = serde_json::from_str(errors).unwrap_or_default();
    all.into_iter().next_back().unwrap_or_default()
}

fn header<'a>(event: &'a Json, name: &str) -> Option<&'a str> {
    let pairs = event.get("headers")?.as_array()?;
    let pair = pairs.iter().find(|pair| pair.get(0).and_then(Json::as_str) == Some(name))?;
    pair.get(1)?.as_str()
}

/// Rows of the outbox that may go to Kafka at `now`, in the order in which they do: those that are due first.
pub(super) fn ready(store: &Connection, now: i64) -> Result<Vec<Waiting>> {
    let (delayed, ordinary): (Vec<_>, Vec<_>) =
        outbox::waiting(store, Span::After(0), ROWS, BYTES)?.into_iter().partition(|row| row.place().is_some());
    let mut due: Vec<_> = delayed.into_iter().filter(|row| row.place().is_some_and(|place| place.due <= now)).collect();
    due.sort_by_key(Waiting::place);
    due.extend(ordinary);
    Ok(due)
}

/// What caused a row of the outbox.
pub(super) fn source(store: &Connection, id: i64) -> Result<String> {
    let sql = "SELECT source FROM main.tm_outbox WHERE id = ?1";
    Ok(store.first(sql, &[id.into()], |row| row.text(0))?.unwrap_or_default())
}

/// Events that wait in the outbox.
pub(super) fn waiting(store: &Connection) -> Result<Vec<Json>> {
    let rows = outbox::waiting(store, Span::After(0), ROWS, BYTES)?;
    rows.iter().map(|row| Ok(shown(&row.event, "outbox", &source(store, row.id)?))).collect()
}

/// Records that wait in the store.
pub(super) fn pending(store: &Connection) -> Result<Json> {
    let sql = "SELECT topic, partition, \"offset\", key, value, purpose, scope, attempts, due, errors, reason, event_id
               FROM main.tm_pending ORDER BY id";
    let rows = store.query(sql, &[], |row| {
        let errors: Json = serde_json::from_str(&row.text(9)?).unwrap_or_default();
        Ok(json!({
            "topic": row.text(0)?, "partition": row.integer(1)?, "offset": row.integer(2)?,
            "key": wire::text(row.opt_bytes(3)?.as_deref()), "value": wire::text(row.opt_bytes(4)?.as_deref()),
            "purpose": row.text(5)?, "scope": row.text(6)?, "attempts": row.integer(7)?, "due": row.opt_integer(8)?,
            "errors": errors, "reason": row.opt_text(10)?, "event": row.opt_text(11)?,
        }))
    })?;
    Ok(rows.into())
}

/// What even its dead letter topic has not taken.
pub(super) fn fallback(store: &Connection) -> Result<Json> {
    let sql = "SELECT kind, source, event_id, event_type, topic, key, value, cause FROM main.tm_fallback ORDER BY id";
    let rows = store.query(sql, &[], |row| {
        Ok(json!({
            "kind": row.text(0)?, "source": row.text(1)?, "id": row.text(2)?, "type": row.text(3)?,
            "topic": row.text(4)?, "key": wire::text(row.opt_bytes(5)?.as_deref()),
            "value": wire::text(row.opt_bytes(6)?.as_deref()), "cause": row.text(7)?,
        }))
    })?;
    Ok(rows.into())
}
