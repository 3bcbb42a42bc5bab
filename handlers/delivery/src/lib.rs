//! Sends orders that are paid to the addresses of their users. It fails where no address is known.
//!
//! Like `payment` it takes what happens to orders, and what a saga asks for, for the same.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemill_sdk::compensation::Input;
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::json::text;
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_deliveries.sql"],
    records: handle,
    compensate: compensate,
    http: {
        "PUT /api/address" => move_to,
        "GET /api/deliveries" => mine,
    },
}

/// An event of an order, or a command.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    event_type: Told,
    #[serde(deserialize_with = "text")]
    order_id: String,
    #[serde(deserialize_with = "text")]
    user_id: String,
}

#[allow(clippy::enum_variant_names, reason = "the names are those of the events")]
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Told {
    OrderCreated,
    #[serde(alias = "SHIP")]
    OrderPaid,
    #[serde(alias = "CALL_OFF")]
    OrderCancelled,
}

/// The body of `PUT /api/address`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    address: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Delivery {
    order_id: String,
    address: Option<String>,
    status: String,
}

fn handle(record: &Record) -> Result<(), Failure> {
    let order: Order = record.json()?;
    match order.event_type {
        Told::OrderCreated => Ok(()),
        Told::OrderPaid => {
            let address: Option<String> =
                sql::query_optional("SELECT address FROM addresses WHERE user_id = ?1", params![&order.user_id])?;
            start(&order, address)
        }
        Told::OrderCancelled => {
            note(&order, "FAILED", None)?;
            call_off(&order.order_id)?;
            tell("DELIVERY_CALLED_OFF", &order.order_id)
        }
    }
}

fn start(order: &Order, address: Option<String>) -> Result<(), Failure> {
    let (status, event_type) =
        if address.is_some() { ("STARTED", "DELIVERY_STARTED") } else { ("FAILED", "DELIVERY_FAILED") };
    if note(order, status, address)? { tell(event_type, &order.order_id) } else { Ok(()) }
}

/// Notes how a delivery has begun; `false` if that is known already.
fn note(order: &Order, status: &str, address: Option<String>) -> Result<bool, sql::Error> {
    let noted = sql::execute(
        "INSERT INTO deliveries (order_id, user_id, address, status) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![&order.order_id, &order.user_id, address, status],
    )?;
    Ok(noted == 1)
}

/// `false` if there is no delivery under way.
fn call_off(order_id: &str) -> Result<bool, sql::Error> {
    let update = "UPDATE deliveries SET status = 'CALLED_OFF' WHERE order_id = ?1 AND status = 'STARTED'";
    Ok(sql::execute(update, params![order_id])? == 1)
}

/// An order that cannot be handled is not delivered, and a delivery that nobody hears of is called off.
fn compensate(input: &Input, _reason: &str) -> Result<(), Failure> {
    match input {
        Input::Event(lost) => {
            let order_id = String::from_utf8_lossy(lost.key.as_deref().unwrap_or_default());
            if call_off(&order_id)? { tell("DELIVERY_CALLED_OFF", &order_id) } else { Ok(()) }
        }
        Input::Record(record) => match record.json::<Order>() {
            Ok(order) if matches!(order.event_type, Told::OrderPaid) => start(&order, None),
            Ok(_) => handle(record),
            Err(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// `DELIVERY_STARTED`, `DELIVERY_FAILED` or `DELIVERY_CALLED_OFF`.
fn tell(event_type: &str, order_id: &str) -> Result<(), Failure> {
    let value = |event_id: &str| json!({ "eventId": event_id, "eventType": event_type, "orderId": order_id });
    Event::new("delivery-events", event_type).key(order_id).json_with_id(value).enqueue()?;
    Ok(())
}

fn move_to(request: &Request) -> http::Result {
    let (user, Address { address }) = (request.user()?, request.json()?);
    if address.trim().is_empty() {
        return Err(Problem::bad_request("address must not be empty"));
    }
    let set = "INSERT INTO addresses (user_id, address) VALUES (?1, ?2)
               ON CONFLICT (user_id) DO UPDATE SET address = excluded.address";
    sql::execute(set, params![user, address])?;
    Ok(Response::new(204))
}

fn mine(request: &Request) -> http::Result {
    let deliveries: Vec<Delivery> = sql::query(
        "SELECT order_id, address, status FROM deliveries WHERE user_id = ?1 ORDER BY rowid DESC LIMIT 1000",
        params![request.user()?],
    )?;
    Ok(Response::ok(&deliveries))
}

#[cfg(test)]
mod tests;
