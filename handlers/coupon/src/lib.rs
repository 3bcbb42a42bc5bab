//! Publishes coupons to users who ask for one.
//!
//! Asking is answered at once; the coupon is there when its event was read. It never uses one up: `checkout` does, in the
//! transaction of the purchase.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_coupons.sql"],
    records: publish,
    http: {
        "POST /api/coupons" => ask,
        "GET /api/coupons" => mine,
    },
}

#[derive(Deserialize)]
#[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE")]
enum CouponEvent {
    CouponPublishRequested(Wanted),
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    user_id: String,
    /// Won.
    discount: i64,
}

/// The body of `POST /api/coupons`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    discount: i64,
}

#[derive(Deserialize, Serialize)]
struct Coupon {
    id: i64,
    discount: i64,
    status: String,
}

fn ask(request: &Request) -> http::Result {
    let (user, Draft { discount }) = (request.user()?, request.json()?);
    if !(1..=1_000_000).contains(&discount) {
        return Err(Problem::bad_request(format!("discount must be 1 to 1000000, is {discount}")));
    }
    let wanted = Wanted { user_id: user.to_owned(), discount };
    Event::new("coupon-events", "COUPON_PUBLISH_REQUESTED").key(user).envelope(wanted).enqueue()?;
    Ok(Response::new(202))
}

fn publish(record: &Record) -> Result<(), Failure> {
    let CouponEvent::CouponPublishRequested(wanted) = record.json()?;
    sql::execute(
        "INSERT INTO coupons (user_id, discount, status) VALUES (?1, ?2, 'PUBLISHED')",
        params![wanted.user_id, wanted.discount],
    )?;
    Ok(())
}

/// The newest first.
fn mine(request: &Request) -> http::Result {
    let coupons: Vec<Coupon> = sql::query(
        "SELECT id, discount, status FROM coupons WHERE user_id = ?1 ORDER BY id DESC LIMIT 1000",
        params![request.user()?],
    )?;
    Ok(Response::ok(&coupons))
}

#[cfg(test)]
mod tests;
