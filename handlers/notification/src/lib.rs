//! Tells users what became of their orders: one notification for each event on `order-events`.
//!
//! It never checks for duplicates: the host's inbox knows each event by its `eventId`.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Request, Response};
use tidemill_sdk::{Decimal, Failure, Record, Time, delivery, handler, json, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_notifications.sql"],
    records: notify,
    http: { "GET /api/notifications" => mine },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderEvent {
    event_type: String,
    order_id: i64,
    #[serde(deserialize_with = "json::text")]
    user_id: String,
    #[serde(deserialize_with = "json::decimal")]
    total_amount: Decimal,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Notification {
    id: i64,
    user_id: String,
    r#type: String,
    message: String,
    created_at: Time,
}

fn notify(record: &Record) -> Result<(), Failure> {
    let event: OrderEvent = record.json()?;
    let what_happened = match event.event_type.as_str() {
        "ORDER_CREATED" => "주문이 생성되었습니다.",
        "ORDER_PAID" => "주문이 결제되었습니다.",
        "ORDER_CANCELLED" => "주문이 취소되었습니다.",
        other => return Err(Failure::reject(format!("there is no notification for events of type `{other}`"))),
    };
    let places = event.total_amount.scale().max(2) as usize;
    let message = format!("{what_happened} 주문번호: {}, 금액: {:.places$}원", event.order_id, event.total_amount);
    sql::execute(
        "INSERT INTO notifications (user_id, type, message, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![event.user_id, event.event_type, message, delivery::now()],
    )?;
    Ok(())
}

/// The newest first.
fn mine(request: &Request) -> http::Result {
    let notifications: Vec<Notification> = sql::query(
        "SELECT * FROM notifications WHERE user_id = ?1 ORDER BY id DESC LIMIT 1000",
        params![request.user()?],
    )?;
    Ok(Response::ok(&notifications))
}

#[cfg(test)]
mod tests;
