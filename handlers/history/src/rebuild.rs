//! Builds the read model anew, from the first event, in steps that the handler gives itself as events.
//!
//! The old read model serves, and takes new changes, until the new one has seen all; both change places in the transaction of the
//! last step. What is no longer used is swept away in steps as well, so that no delivery is longer for a longer history.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemill_sdk::compensation::Input;
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::{Failure, config, params, publisher, sql};

use crate::{Event, apply};

/// What the handler gives itself to do.
#[derive(Deserialize)]
#[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Step {
    /// To go on with a generation behind this position of the events.
    Rebuild {
        generation: i64,
        after: i64,
    },
    Sweep {},
}

#[derive(Deserialize, Serialize)]
struct Model {
    generation: i64,
    status: String,
    orders: u32,
}

pub(crate) fn begin(_: &Request) -> http::Result {
    let generation: Option<i64> = sql::query_optional(
        "INSERT INTO models (generation, status) SELECT max(generation) + 1, 'BUILDING' FROM models
         WHERE true ON CONFLICT DO NOTHING RETURNING generation",
        params![],
    )?;
    let generation = generation.ok_or_else(|| Problem::conflict("a read model is being built already"))?;
    next(generation, 0)?;
    Ok(Response::json(202, &json!({ "generation": generation })))
}

pub(crate) fn step(step: &Step) -> Result<(), Failure> {
    match *step {
        Step::Rebuild { generation, after } => build(generation, after),
        Step::Sweep {} => sweep(),
    }
}

fn build(generation: i64, after: i64) -> Result<(), Failure> {
    let building = "SELECT count(*) FROM models WHERE generation = ?1 AND status = 'BUILDING'";
    if sql::query_one::<u32>(building, params![generation])? == 0 {
        return Ok(());
    }
    let most = most()?;
    let events: Vec<Event> =
        sql::query("SELECT * FROM events WHERE position > ?1 ORDER BY position LIMIT ?2", params![after, most])?;
    for event in &events {
        apply(generation, event)?;
    }
    match events.last() {
        Some(last) if events.len() == most as usize => next(generation, last.position),
        _ => switch(generation),
    }
}

/// It has seen all that there is: from here on it serves.
fn switch(generation: i64) -> Result<(), Failure> {
    sql::execute("UPDATE models SET status = 'OLD' WHERE status = 'LIVE'", params![])?;
    sql::execute("UPDATE models SET status = 'LIVE' WHERE generation = ?1", params![generation])?;
    tell_self("SWEEP", json!({}))
}

fn sweep() -> Result<(), Failure> {
    let most = most()?;
    let swept = sql::execute(
        "DELETE FROM orders WHERE (generation, order_id) IN
           (SELECT generation, order_id FROM orders JOIN models USING (generation) WHERE models.status = 'OLD' LIMIT ?1)",
        params![most],
    )?;
    if swept == u64::from(most) { tell_self("SWEEP", json!({})) } else { Ok(()) }
}

/// One that cannot be finished makes way for the next.
pub(crate) fn give_up(input: &Input, _reason: &str) -> Result<(), Failure> {
    let value = match input {
        Input::Record(record) => &record.value,
        Input::Event(event) => &event.value,
        _ => return Ok(()),
    };
    let step = serde_json::from_slice(value.as_deref().unwrap_or_default());
    let Ok(Step::Rebuild { generation, .. }) = step else { return Ok(()) };
    let update = "UPDATE models SET status = 'OLD' WHERE generation = ?1 AND status = 'BUILDING'";
    if sql::execute(update, params![generation])? == 1 { tell_self("SWEEP", json!({})) } else { Ok(()) }
}

fn next(generation: i64, after: i64) -> Result<(), Failure> {
    tell_self("REBUILD", json!({ "generation": generation, "after": after }))
}

/// All steps have one key, so that they come one after the other.
fn tell_self(event_type: &str, payload: serde_json::Value) -> Result<(), Failure> {
    publisher::Event::new("history-steps", event_type).key("read-model").envelope(payload).enqueue()?;
    Ok(())
}

/// How much one delivery does.
fn most() -> Result<u32, Failure> {
    Ok(config::parse("step")?.unwrap_or(500))
}

pub(crate) fn show(_: &Request) -> http::Result {
    let models: Vec<Model> = sql::query(
        "SELECT generation, status, (SELECT count(*) FROM orders WHERE orders.generation = models.generation) AS orders
         FROM models ORDER BY generation",
        params![],
    )?;
    Ok(Response::ok(&models))
}
