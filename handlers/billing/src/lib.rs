//! Pays purchases from the wallets of users, and gives the money back when a purchase fails after its payment.
//!
//! An order is paid once, whatever is said of it how often: each step is taken from the state before it or not at all.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_wallets.sql"],
    records: handle,
    http: {
        "POST /api/wallet" => fill,
        "GET /api/wallet" => show,
    },
}

/// What the checkout says of an order.
#[allow(clippy::enum_variant_names, reason = "the names are those of the events")]
#[derive(Deserialize)]
#[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
enum CheckoutEvent {
    OrderCreated { order_id: i64, user_id: String, total: i64 },
    OrderCompleteFailed { order_id: i64 },
    OrderCompleted {},
}

/// The payload of `PAYMENT_PAID`, `PAYMENT_FAILED` and `PAYMENT_CANCELED`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    order_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The body of `POST /api/wallet`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deposit {
    amount: i64,
}

#[derive(Serialize)]
struct Wallet {
    balance: i64,
}

fn fill(request: &Request) -> http::Result {
    let (user, Deposit { amount }) = (request.user()?, request.json()?);
    if !(1..=1_000_000_000).contains(&amount) {
        return Err(Problem::bad_request(format!("amount must be 1 to 1000000000, is {amount}")));
    }
    put_back(user, amount)?;
    show(request)
}

fn show(request: &Request) -> http::Result {
    let balance = sql::query_optional("SELECT balance FROM wallets WHERE user_id = ?1", params![request.user()?])?;
    Ok(Response::ok(&Wallet { balance: balance.unwrap_or(0) }))
}

fn put_back(user: &str, amount: i64) -> Result<(), sql::Error> {
    let fill = "INSERT INTO wallets (user_id, balance) VALUES (?1, ?2)
                ON CONFLICT (user_id) DO UPDATE SET balance = balance + excluded.balance";
    sql::execute(fill, params![user, amount]).map(drop)
}

fn handle(record: &Record) -> Result<(), Failure> {
    match record.json()? {
        CheckoutEvent::OrderCreated { order_id, user_id, total } => pay(order_id, &user_id, total),
        CheckoutEvent::OrderCompleteFailed { order_id } => cancel(order_id),
        CheckoutEvent::OrderCompleted {} => Ok(()),
    }
}

fn pay(order_id: i64, user: &str, total: i64) -> Result<(), Failure> {
    let known: i64 = sql::query_one("SELECT count(*) FROM payments WHERE order_id = ?1", params![order_id])?;
    if known > 0 {
        return Ok(());
    }
    let taken = "UPDATE wallets SET balance = balance - ?2 WHERE user_id = ?1 AND balance >= ?2";
    let (event_type, status, reason) = if total == 0 || sql::execute(taken, params![user, total])? == 1 {
        ("PAYMENT_PAID", "PAID", None)
    } else {
        ("PAYMENT_FAILED", "FAILED", Some("the wallet does not hold as much"))
    };
    sql::execute(
        "INSERT INTO payments (order_id, user_id, amount, status) VALUES (?1, ?2, ?3, ?4)",
        params![order_id, user, total, status],
    )?;
    tell(event_type, order_id, reason)
}

fn cancel(order_id: i64) -> Result<(), Failure> {
    let canceled: Option<(String, i64)> = sql::query_optional(
        "UPDATE payments SET status = 'CANCELED' WHERE order_id = ?1 AND status = 'PAID' RETURNING user_id, amount",
        params![order_id],
    )?;
    match canceled {
        None => Ok(()),
        Some((user, amount)) => {
            put_back(&user, amount)?;
            tell("PAYMENT_CANCELED", order_id, None)
        }
    }
}

fn tell(event_type: &str, order_id: i64, reason: Option<&'static str>) -> Result<(), Failure> {
    Event::new("billing-events", event_type).key(order_id).envelope(Payment { order_id, reason }).enqueue()?;
    Ok(())
}

#[cfg(test)]
mod tests;
