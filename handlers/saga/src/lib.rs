//! Takes an order through stock, payment and delivery, and back, the last step first, where one fails.
//!
//! It alone knows the steps. The participants are those of the choreography around `order`, told by commands what they read of
//! events there; its orders are numbered `saga-1`, `saga-2`, so that both run side by side. Whoever does not answer in time has failed,
//! and what may have been done is taken back.

mod steps;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemill_sdk::compensation::Input;
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::json::{decimal, text};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Decimal, Failure, Record, config, handler, params, sql};

use steps::{Place, STEPS, place};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_sagas.sql"],
    records: handle,
    compensate: compensate,
    http: {
        "POST /api/sagas" => begin,
        "GET /api/sagas/{id}" => show,
    },
}

/// The body of `POST /api/sagas`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Draft {
    items: Vec<Item>,
    #[serde(deserialize_with = "decimal")]
    total_amount: Decimal,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Item {
    product_id: i64,
    quantity: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Saga {
    id: i64,
    #[serde(skip_serializing)]
    user_id: String,
    total_amount: Decimal,
    #[serde(skip_serializing)]
    items: String,
    status: String,
}

/// What a participant answers, or a deadline, with the status for which it was set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    event_type: String,
    #[serde(deserialize_with = "text")]
    order_id: String,
    status: Option<String>,
}

impl Answer {
    /// Whether it is the deadline of what the saga is at.
    fn expires(&self, saga: &Saga) -> bool {
        self.event_type == "DEADLINE" && self.status.as_ref() == Some(&saga.status)
    }
}

fn begin(request: &Request) -> http::Result {
    let (user, Draft { items, mut total_amount }) = (request.user()?, request.json()?);
    let right = (1..=100).contains(&items.len()) && items.iter().all(|item| item.quantity > 0);
    if !right || total_amount <= Decimal::ZERO || total_amount.normalize().scale() > 2 {
        return Err(Problem::bad_request("it takes 1 to 100 items, one piece or more of each, and an amount above 0"));
    }
    total_amount.rescale(2);
    let saga: Saga = sql::query_one(
        "INSERT INTO sagas (user_id, total_amount, items, status) VALUES (?1, ?2, ?3, 'NEW') RETURNING *",
        params![user, total_amount, json!(items).to_string()],
    )?;
    forward(&saga, 0)?;
    Ok(Response::created(format!("/api/sagas/{}", saga.id), &find(saga.id)?))
}

fn show(request: &Request) -> http::Result {
    let id = request.param("id")?;
    let saga = find(id)?.filter(|saga| request.user().is_ok_and(|user| user == saga.user_id));
    Ok(Response::ok(&saga.ok_or_else(|| Problem::not_found(format!("there is no saga {id}")))?))
}

fn find(id: i64) -> Result<Option<Saga>, sql::Error> {
    sql::query_optional("SELECT * FROM sagas WHERE id = ?1", params![id])
}

/// The saga of one of its orders; there are orders of others on the topics.
fn of_order(order_id: &str) -> Result<Option<Saga>, sql::Error> {
    order_id.strip_prefix("saga-").and_then(|id| id.parse().ok()).map_or(Ok(None), find)
}

fn handle(record: &Record) -> Result<(), Failure> {
    let answer: Answer = record.json()?;
    let Some(saga) = of_order(&answer.order_id)? else { return Ok(()) };
    let (event_type, expired) = (answer.event_type.as_str(), answer.expires(&saga));
    match place(&saga.status) {
        Some(Place::Forward(n, step)) if event_type == step.done => forward(&saga, n + 1),
        Some(Place::Forward(n, step)) if event_type == step.failed || event_type == step.undone => back(&saga, n),
        Some(Place::Back(n, step)) if event_type == step.undone => back(&saga, n),
        Some(Place::Forward(n, _) | Place::Back(n, _)) if expired => back(&saga, n + 1),
        _ => Ok(()),
    }
}

/// A command that its topic refuses is like one that has failed; an answer that cannot be taken may have been any. What is being taken
/// back is asked for again at its deadline.
fn compensate(input: &Input, _reason: &str) -> Result<(), Failure> {
    let value = match input {
        Input::Record(record) => &record.value,
        Input::Event(event) => &event.value,
        _ => return Ok(()),
    };
    let answer = serde_json::from_slice::<Answer>(value.as_deref().unwrap_or_default());
    let Ok(answer) = answer else { return Ok(()) };
    let Some(saga) = of_order(&answer.order_id)? else { return Ok(()) };
    let event_type = answer.event_type.as_str();
    match place(&saga.status) {
        Some(Place::Forward(n, step)) if event_type == step.command => back(&saga, n),
        Some(Place::Forward(n, step))
            if answer.expires(&saga) || [step.done, step.failed, step.undone].contains(&event_type) =>
        {
            back(&saga, n + 1)
        }
        _ => Ok(()),
    }
}

/// Begins step `n`, or completes the saga.
fn forward(saga: &Saga, n: usize) -> Result<(), Failure> {
    match STEPS.get(n) {
        Some(step) => enter(saga, step.doing, Some((step.participant, step.command))),
        None => enter(saga, "COMPLETED", None),
    }
}

/// Takes the step before `n` back, or cancels the saga.
fn back(saga: &Saga, n: usize) -> Result<(), Failure> {
    match n.checked_sub(1).and_then(|before| STEPS.get(before)) {
        Some(step) => enter(saga, step.undoing, Some((step.participant, step.undo))),
        None => enter(saga, "CANCELLED", None),
    }
}

/// Moves on from the status that was looked at, unless somebody has, and commands what is to be done now. Only `RESERVE` is told what is
/// in the order.
fn enter(saga: &Saga, status: &str, told: Option<(&str, &str)>) -> Result<(), Failure> {
    let update = "UPDATE sagas SET status = ?3 WHERE id = ?1 AND status = ?2";
    let moved = sql::execute(update, params![saga.id, &saga.status, status])?;
    let Some((participant, command)) = told.filter(|_| moved == 1) else { return Ok(()) };
    let order_id = format!("saga-{}", saga.id);
    let order = |event_id: &str| {
        json!({ "eventId": event_id, "eventType": command, "orderId": order_id, "userId": saga.user_id,
                "totalAmount": saga.total_amount })
    };
    let mut event = Event::new(participant, command).key(&order_id).json_with_id(order);
    if command == "RESERVE" {
        event = event.header("items", saga.items.as_str());
    }
    event.enqueue()?;
    let within = Duration::from_secs(config::parse("step-seconds")?.unwrap_or(60));
    let deadline =
        |event_id: &str| json!({ "eventId": event_id, "eventType": "DEADLINE", "orderId": order_id, "status": status });
    Event::new("saga-timers", "DEADLINE").key(&order_id).json_with_id(deadline).enqueue_after(within)?;
    Ok(())
}

#[cfg(test)]
mod tests;
