//! Keeps every change of an order as an event, and a read model of what follows from them.
//!
//! Events are appended behind the version that the read model has seen, or not at all. The read model can be built anew from the first
//! event while the old one serves: see `rebuild`.

mod rebuild;

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::json::{decimal, text};
use tidemill_sdk::{Decimal, Failure, Record, Time, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_history.sql"],
    records: handle,
    compensate: rebuild::give_up,
    http: {
        "GET /api/history/{order}" => show,
        "POST /api/read-model" => rebuild::begin,
        "GET /api/read-model" => rebuild::show,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    event_type: String,
}

/// A change of an order, as `order` publishes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    event_type: String,
    timestamp: Time,
    #[serde(deserialize_with = "text")]
    order_id: String,
    #[serde(deserialize_with = "text")]
    user_id: String,
    #[serde(deserialize_with = "decimal")]
    total_amount: Decimal,
}

/// The same as it is kept.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Event {
    #[serde(skip_serializing)]
    position: i64,
    #[serde(skip_serializing)]
    order_id: String,
    version: i64,
    event_type: String,
    #[serde(skip_serializing)]
    user_id: String,
    total_amount: Decimal,
    at: Time,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Order {
    order_id: String,
    total_amount: Decimal,
    status: String,
    version: i64,
    #[serde(default)]
    events: Vec<Event>,
}

fn handle(record: &Record) -> Result<(), Failure> {
    match record.json::<Kind>()?.event_type.as_str() {
        "REBUILD" | "SWEEP" => rebuild::step(&record.json()?),
        _ => append(&record.json()?),
    }
}

/// The statuses that an event may follow, and the one that it leads to.
fn transition(event_type: &str) -> Result<(&'static [&'static str], &'static str), Failure> {
    match event_type {
        "ORDER_CREATED" => Ok((&["unknown"], "PENDING")),
        "ORDER_PAID" => Ok((&["PENDING"], "PAID")),
        "ORDER_CANCELLED" => Ok((&["PENDING", "PAID"], "CANCELLED")),
        other => Err(Failure::reject(format!("orders have no events of type `{other}`"))),
    }
}

/// Appends a change behind the version that was seen. One that comes too early, or too late, is tried again.
fn append(change: &Change) -> Result<(), Failure> {
    let Change { event_type, timestamp, order_id, user_id, total_amount } = change;
    let (follows, _) = transition(event_type)?;
    let live: i64 = sql::query_one("SELECT generation FROM models WHERE status = 'LIVE'", params![])?;
    let seen: Option<(String, i64)> = sql::query_optional(
        "SELECT status, version FROM orders WHERE generation = ?1 AND order_id = ?2",
        params![live, order_id],
    )?;
    let (status, version) = seen.unwrap_or_else(|| ("unknown".into(), 0));
    if !follows.contains(&status.as_str()) {
        return Err(Failure::retry(format!("{event_type} does not follow: order {order_id} is {status}")));
    }
    let event: Event = sql::query_one(
        "INSERT INTO events (order_id, version, event_type, user_id, total_amount, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         RETURNING *",
        params![order_id, version + 1, event_type, user_id, total_amount, timestamp],
    )
    .map_err(|error| match error.is_duplicate() {
        true => Failure::retry(format!("order {order_id} was expected at version {version}, and has come further")),
        false => error.into(),
    })?;
    apply(live, &event)
}

/// What follows from an event.
fn apply(generation: i64, event: &Event) -> Result<(), Failure> {
    let (_, status) = transition(&event.event_type)?;
    sql::execute(
        "INSERT INTO orders (generation, order_id, user_id, total_amount, status, version) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET status = excluded.status, version = excluded.version",
        params![generation, &event.order_id, &event.user_id, event.total_amount, status, event.version],
    )?;
    Ok(())
}

fn show(request: &Request) -> http::Result {
    let (user, id) = (request.user()?, request.param::<String>("order")?);
    let order = sql::query_optional(
        "SELECT order_id, total_amount, orders.status, version FROM orders JOIN models USING (generation)
         WHERE models.status = 'LIVE' AND order_id = ?1 AND user_id = ?2",
        params![&id, user],
    )?;
    let order: Order = order.ok_or_else(|| Problem::not_found(format!("nothing is known of order {id}")))?;
    let events = sql::query("SELECT * FROM events WHERE order_id = ?1 ORDER BY version", params![id])?;
    Ok(Response::ok(&Order { events, ..order }))
}

#[cfg(test)]
mod tests;
