//! The shop that this crate's examples are about: a handler to run on a bench, and a delivery to run a few lines in.
//!
//! It is hidden from the docs and may change at any time: no handler's code or test may use it.

use super::{Bench, ended};
use crate::compensation::Input;
use crate::http::{self, Request, Response};
use crate::publisher::{Event, Receipt};
use crate::sends::Sent;
use crate::timers::Timer;
use crate::{Decimal, Failure, Record, config, delivery, outbound, params, sql};

crate::handler! {
    manifest: "example/handler.toml",
    migrations: ["example/0001_shop.sql"],
    records: handle,
    compensate: cancel,
    sends: completed,
    timers: {
        "expire-orders" => expire,
    },
    http: {
        "POST /api/orders" => place,
        "GET /api/orders/{id}" => show,
    },
}

/// Runs a few lines as a delivery of the shop's, which has the unpaid order 7 of ann's over 25.00. Ends the test if they fail.
#[track_caller]
pub fn run(lines: impl FnOnce() -> Result<(), Failure>) {
    let mut bench = Bench::new(&HANDLER);
    bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    bench.secret("payment-key", "k-1").service(charged);
    let known = super::Known { event_id: Some("evt-1".to_owned()), ..super::Known::default() };
    let outcome = ended(bench.deliver(false, known, lines, Result::is_ok));
    assert_eq!(outcome, Ok(()));
}

/// What the payment service answers: a receipt for a charge, and 404 for all else.
pub fn charged(request: &outbound::Request) -> Result<outbound::Response, outbound::Error> {
    let (status, body) = match request.url.as_str() {
        "https://payments.example.com/charges" => (200, r#"{"number":"r-1"}"#),
        _ => (404, r#"{"error":"unknown"}"#),
    };
    let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
    Ok(outbound::Response { status, headers, body: body.into() })
}

fn handle(record: &Record) -> Result<(), Failure> {
    match record.topic.as_str() {
        "charges" => charge(record),
        "reminders" => remind(record),
        _ => pay(record),
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    order_id: i64,
    #[serde(deserialize_with = "crate::json::decimal")]
    amount: Decimal,
}

/// An order is paid.
fn pay(record: &Record) -> Result<(), Failure> {
    let payment: Payment = record.json()?;
    let id = delivery::event_id().unwrap_or_default();
    sql::execute(
        "INSERT INTO payments VALUES (?1, ?2, ?3, ?4)",
        params![id, payment.order_id, payment.amount, delivery::now()],
    )?;
    let changed = sql::execute(
        "UPDATE orders SET status = 'PAID' WHERE id = ?1 AND status = 'CREATED'",
        params![payment.order_id],
    )?;
    if changed == 1 {
        Event::new("orders", "ORDER_PAID")
            .key(payment.order_id)
            .envelope(serde_json::json!({ "orderId": payment.order_id }))
            .enqueue()?;
    }
    crate::info!("order {} is paid in {}", payment.order_id, config::get("currency").unwrap_or_default());
    Ok(())
}

/// An order's total is charged by the service outside.
fn charge(record: &Record) -> Result<(), Failure> {
    let order = record.key_str().unwrap_or_default();
    let request = outbound::Request::post("https://payments.example.com/charges");
    request.json(&serde_json::json!({ "order": order })).send()?.success()?;
    sql::execute("UPDATE orders SET status = 'PAID' WHERE id = ?1", params![order])?;
    Ok(())
}

/// A user is reminded, by an event that may be lost.
fn remind(record: &Record) -> Result<(), Failure> {
    Event::new("reminders", "REMINDED").key(record.key_str().unwrap_or_default()).send()?;
    Ok(())
}

fn cancel(input: &Input, _: &str) -> Result<(), Failure> {
    let Input::Record(record) = input else { return Ok(()) };
    sql::execute("UPDATE orders SET status = 'CANCELLED' WHERE id = ?1", params![record.key_str()])?;
    Ok(())
}

fn completed(sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
    if let Err(reason) = outcome {
        sql::execute("INSERT INTO unsent VALUES (?1, ?2)", params![&sent.id, reason])?;
    }
    Ok(())
}

/// An order that nobody has paid is taken back.
fn expire(_: &Timer) -> Result<(), Failure> {
    sql::execute("UPDATE orders SET status = 'EXPIRED' WHERE status = 'CREATED'", params![])?;
    Ok(())
}

#[derive(serde::Deserialize)]
struct Draft {
    #[serde(deserialize_with = "crate::json::decimal")]
    total: Decimal,
}

fn place(request: &Request) -> http::Result {
    let draft: Draft = request.json()?;
    let id: i64 = sql::query_one(
        "INSERT INTO orders (user_id, total) VALUES (?1, ?2) RETURNING id",
        params![request.user()?, draft.total],
    )?;
    Ok(Response::created(format!("/api/orders/{id}"), &serde_json::json!({ "id": id })))
}

fn show(request: &Request) -> http::Result {
    let id: i64 = request.param("id")?;
    let status: Option<String> = sql::query_optional("SELECT status FROM orders WHERE id = ?1", params![id])?;
    let status = status.ok_or_else(|| http::Problem::not_found(format!("there is no order {id}")))?;
    Ok(Response::ok(&serde_json::json!({ "id": id, "status": status })))
}
