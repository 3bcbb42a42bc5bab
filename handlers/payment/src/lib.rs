//! Pays orders from the accounts of users, and gives the money back when an order is cancelled.
//!
//! It does not know which saga it takes part in. In a choreography it reads what happens to orders; in an orchestration it is told what to
//! do. Both are the same to it, and it says what became of it to whoever listens. An order is paid once, and never after it was cancelled.

use serde::Deserialize;
use serde_json::json;
use tidemill_sdk::compensation::Input;
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::json::{decimal, text};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Decimal, Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_payments.sql"],
    records: handle,
    compensate: compensate,
    http: {
        "POST /api/account" => deposit,
        "GET /api/account" => show,
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
    #[serde(deserialize_with = "decimal")]
    total_amount: Decimal,
}

#[allow(clippy::enum_variant_names, reason = "the names are those of the events")]
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Told {
    #[serde(alias = "PAY")]
    OrderCreated,
    #[serde(alias = "REFUND")]
    OrderCancelled,
    OrderPaid,
}

/// The body of `POST /api/account`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deposit {
    #[serde(deserialize_with = "decimal")]
    amount: Decimal,
}

fn handle(record: &Record) -> Result<(), Failure> {
    let order: Order = record.json()?;
    match order.event_type {
        Told::OrderCreated => pay(&order),
        Told::OrderCancelled => {
            note(&order, "FAILED")?;
            refund(&order.order_id)?;
            tell("PAYMENT_REFUNDED", &order.order_id)
        }
        Told::OrderPaid => Ok(()),
    }
}

fn pay(order: &Order) -> Result<(), Failure> {
    let left = balance(&order.user_id)? - order.total_amount;
    let (status, event_type) =
        if left < Decimal::ZERO { ("FAILED", "PAYMENT_FAILED") } else { ("PAID", "PAYMENT_PAID") };
    if !note(order, status)? {
        return Ok(());
    }
    if status == "PAID" {
        set_balance(&order.user_id, left)?;
    }
    tell(event_type, &order.order_id)
}

/// Notes how a payment has begun; `false` if that is known already.
fn note(order: &Order, status: &str) -> Result<bool, sql::Error> {
    let noted = sql::execute(
        "INSERT INTO payments (order_id, user_id, amount, status) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![&order.order_id, &order.user_id, order.total_amount, status],
    )?;
    Ok(noted == 1)
}

/// Gives the money of a payment back; `false` if there is none.
fn refund(order_id: &str) -> Result<bool, sql::Error> {
    let refunded: Option<(String, Decimal)> = sql::query_optional(
        "UPDATE payments SET status = 'REFUNDED' WHERE order_id = ?1 AND status = 'PAID' RETURNING user_id, amount",
        params![order_id],
    )?;
    let Some((user, amount)) = refunded else { return Ok(false) };
    set_balance(&user, balance(&user)? + amount)?;
    Ok(true)
}

/// An order that cannot be handled is not paid, and a payment that nobody hears of is given back.
fn compensate(input: &Input, _reason: &str) -> Result<(), Failure> {
    match input {
        Input::Event(lost) => {
            let order_id = String::from_utf8_lossy(lost.key.as_deref().unwrap_or_default());
            if refund(&order_id)? { tell("PAYMENT_REFUNDED", &order_id) } else { Ok(()) }
        }
        Input::Record(record) => match record.json::<Order>() {
            Ok(order) if matches!(order.event_type, Told::OrderCreated) => {
                if note(&order, "FAILED")? {
                    tell("PAYMENT_FAILED", &order.order_id)
                } else {
                    Ok(())
                }
            }
            Ok(_) => handle(record),
            Err(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// `PAYMENT_PAID`, `PAYMENT_FAILED` or `PAYMENT_REFUNDED`.
fn tell(event_type: &str, order_id: &str) -> Result<(), Failure> {
    let value = |event_id: &str| json!({ "eventId": event_id, "eventType": event_type, "orderId": order_id });
    Event::new("payment-events", event_type).key(order_id).json_with_id(value).enqueue()?;
    Ok(())
}

fn deposit(request: &Request) -> http::Result {
    let (user, Deposit { amount }) = (request.user()?, request.json()?);
    if amount <= Decimal::ZERO || amount.normalize().scale() > 2 || amount > Decimal::from(1_000_000_000_000_i64) {
        return Err(Problem::bad_request(format!("amount must be 0.01 to 1000000000000.00, is {amount}")));
    }
    set_balance(user, balance(user)? + amount)?;
    show(request)
}

fn show(request: &Request) -> http::Result {
    Ok(Response::ok(&json!({ "balance": balance(request.user()?)? })))
}

fn balance(user: &str) -> Result<Decimal, sql::Error> {
    let balance = sql::query_optional("SELECT balance FROM accounts WHERE user_id = ?1", params![user])?;
    Ok(balance.unwrap_or_else(|| Decimal::new(0, 2)))
}

fn set_balance(user: &str, mut balance: Decimal) -> Result<(), sql::Error> {
    balance.rescale(2);
    let set = "INSERT INTO accounts (user_id, balance) VALUES (?1, ?2)
               ON CONFLICT (user_id) DO UPDATE SET balance = excluded.balance";
    sql::execute(set, params![user, balance]).map(drop)
}

#[cfg(test)]
mod tests;
