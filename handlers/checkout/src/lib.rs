//! Takes a purchase from its order through its payment to its completion or failure.
//!
//! A coupon lowers the total when the order is placed and is used up when the purchase completes: of two purchases with one
//! coupon the second fails then, and its payment is taken back. Each step is taken from the state before it or not at all.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_purchases.sql"],
    records: handle,
    http: {
        "POST /api/purchases" => place,
        "GET /api/purchases/{id}" => show,
    },
}

/// What the billing says of the payment for an order.
#[allow(clippy::enum_variant_names, reason = "the names are those of the events")]
#[derive(Deserialize)]
#[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
enum BillingEvent {
    PaymentPaid { order_id: i64 },
    PaymentFailed { order_id: i64, reason: String },
    PaymentCanceled { order_id: i64 },
}

/// The payload of `ORDER_CREATED`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    order_id: i64,
    user_id: &'a str,
    total: i64,
}

/// The payload of `ORDER_COMPLETED` and `ORDER_COMPLETE_FAILED`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    order_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The body of `POST /api/purchases`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Draft {
    amount: i64,
    coupon_id: Option<i64>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Purchase {
    id: i64,
    coupon_id: Option<i64>,
    total: i64,
    status: String,
    reason: Option<String>,
}

fn place(request: &Request) -> http::Result {
    let (user, draft) = (request.user()?, request.json::<Draft>()?);
    if !(1..=1_000_000_000).contains(&draft.amount) {
        return Err(Problem::bad_request(format!("amount must be 1 to 1000000000, is {}", draft.amount)));
    }
    let discount: i64 = match draft.coupon_id {
        None => 0,
        Some(coupon) => sql::query_optional(
            "SELECT discount FROM coupons WHERE id = ?1 AND user_id = ?2 AND status = 'PUBLISHED'",
            params![coupon, user],
        )?
        .ok_or_else(|| Problem::unprocessable(format!("you have no coupon {coupon} that can be used")))?,
    };
    let total = (draft.amount - discount).max(0);
    let id: i64 = sql::query_one(
        "INSERT INTO purchases (user_id, coupon_id, total, status) VALUES (?1, ?2, ?3, 'CREATED') RETURNING id",
        params![user, draft.coupon_id, total],
    )?;
    Event::new("checkout-events", "ORDER_CREATED")
        .key(id)
        .envelope(Created { order_id: id, user_id: user, total })
        .enqueue()?;
    Ok(Response::created(format!("/api/purchases/{id}"), &find(user, id)?))
}

fn show(request: &Request) -> http::Result {
    Ok(Response::ok(&find(request.user()?, request.param("id")?)?))
}

fn find(user: &str, id: i64) -> Result<Purchase, Problem> {
    let found = sql::query_optional(
        "SELECT id, coupon_id, total, status, reason FROM purchases WHERE id = ?1 AND user_id = ?2",
        params![id, user],
    )?;
    found.ok_or_else(|| Problem::not_found(format!("there is no purchase {id}")))
}

fn handle(record: &Record) -> Result<(), Failure> {
    match record.json()? {
        BillingEvent::PaymentPaid { order_id } => complete(order_id),
        BillingEvent::PaymentFailed { order_id, reason } => {
            step(order_id, "CREATED", "PAYMENT_FAILED", Some(&reason)).map(drop)
        }
        BillingEvent::PaymentCanceled { order_id } => step(order_id, "COMPLETE_FAILED", "CANCELED", None).map(drop),
    }
}

/// The payment is there: the coupon is used up, or the payment has to be taken back.
fn complete(order_id: i64) -> Result<(), Failure> {
    let used = sql::execute(
        "UPDATE coupons SET status = 'USED'
         WHERE status = 'PUBLISHED' AND id = (SELECT coupon_id FROM purchases WHERE id = ?1 AND status = 'CREATED')",
        params![order_id],
    )?;
    let coupons: i64 = sql::query_one(
        "SELECT count(coupon_id) FROM purchases WHERE id = ?1 AND status = 'CREATED'",
        params![order_id],
    )?;
    let (event_type, status, reason) = if used as i64 == coupons {
        ("ORDER_COMPLETED", "COMPLETED", None)
    } else {
        ("ORDER_COMPLETE_FAILED", "COMPLETE_FAILED", Some("the coupon was used for another purchase"))
    };
    if step(order_id, "CREATED", status, reason)? {
        Event::new("checkout-events", event_type).key(order_id).envelope(Ended { order_id, reason }).enqueue()?;
    }
    Ok(())
}

/// Moves a purchase from one status to the next; `false` if it is not there (any more).
fn step(order_id: i64, from: &str, to: &str, reason: Option<&str>) -> Result<bool, Failure> {
    let moved = sql::execute(
        "UPDATE purchases SET status = ?3, reason = coalesce(?4, reason) WHERE id = ?1 AND status = ?2",
        params![order_id, from, to, reason],
    )?;
    Ok(moved == 1)
}

#[cfg(test)]
mod tests;
