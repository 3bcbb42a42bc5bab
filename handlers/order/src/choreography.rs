//! An order's part in the saga that nobody conducts: it is PAID once its stock and its payment are there, and CANCELLED as soon as one
//! part fails. What was done elsewhere is taken back by those who did it, when they read of that.

use serde::{Deserialize, Serialize};
use tidemill_sdk::compensation::Input;
use tidemill_sdk::{Failure, Record, error, json, params, sql};

use crate::{Order, tell};

/// What became of one part of an order, or that its time is over.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct News {
    pub(crate) event_id: String,
    pub(crate) event_type: Part,
    #[serde(deserialize_with = "json::text")]
    pub(crate) order_id: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Part {
    StockReserved,
    StockRefused,
    StockReleased,
    PaymentPaid,
    PaymentFailed,
    PaymentRefunded,
    PaymentDue,
    DeliveryStarted,
    DeliveryFailed,
    DeliveryCalledOff,
}

pub(crate) fn handle(record: &Record) -> Result<(), Failure> {
    let News { event_type, order_id, .. } = record.json()?;
    match event_type {
        Part::StockReserved => complete("STOCK", &order_id),
        Part::PaymentPaid => complete("PAYMENT", &order_id),
        Part::PaymentDue => cancel("PENDING", &order_id),
        Part::DeliveryStarted => Ok(()),
        Part::StockRefused
        | Part::StockReleased
        | Part::PaymentFailed
        | Part::PaymentRefunded
        | Part::DeliveryFailed
        | Part::DeliveryCalledOff => cancel("PAID", &order_id),
    }
}

/// Notes a part that is there. The last one completes the order.
fn complete(part: &str, order_id: &str) -> Result<(), Failure> {
    sql::execute(
        "INSERT INTO parts (order_id, part) SELECT id, ?2 FROM orders WHERE id = ?1 AND status = 'PENDING'
         ON CONFLICT DO NOTHING",
        params![order_id, part],
    )?;
    let paid: Option<Order> = sql::query_optional(
        "UPDATE orders SET status = 'PAID' WHERE id = ?1 AND status = 'PENDING'
         AND (SELECT count(*) FROM parts WHERE order_id = ?1) = 2 RETURNING *",
        params![order_id],
    )?;
    if let Some(order) = paid {
        tell("ORDER_PAID", &order).enqueue()?;
    }
    Ok(())
}

/// Cancels an order that is not, unless it has come further than `at_most`.
fn cancel(at_most: &str, order_id: &str) -> Result<(), Failure> {
    let cancelled: Option<Order> = sql::query_optional(
        "UPDATE orders SET status = 'CANCELLED' WHERE id = ?1 AND status IN ('PENDING', ?2) RETURNING *",
        params![order_id, at_most],
    )?;
    if let Some(order) = cancelled {
        tell("ORDER_CANCELLED", &order).enqueue()?;
    }
    Ok(())
}

/// What an order does not learn, or cannot tell, ends it: whoever has done a part takes it back. A timer ends only what is not paid.
pub(crate) fn compensate(input: &Input, reason: &str) -> Result<(), Failure> {
    match input {
        Input::Event(lost) => {
            let order_id = String::from_utf8_lossy(lost.key.as_deref().unwrap_or_default());
            match lost.event_type.as_str() {
                "ORDER_CREATED" | "PAYMENT_DUE" => cancel("PENDING", &order_id),
                "ORDER_PAID" => cancel("PAID", &order_id),
                _ => {
                    error!("{} refuses the {} of {}: {reason}", lost.topic, lost.event_type, lost.source);
                    Ok(())
                }
            }
        }
        Input::Record(record) => match record.json() {
            Ok(News { event_type: Part::DeliveryStarted, .. }) | Err(_) => Ok(()),
            Ok(News { event_type: Part::StockReserved | Part::PaymentPaid | Part::PaymentDue, order_id, .. }) => {
                cancel("PENDING", &order_id)
            }
            Ok(News { order_id, .. }) => cancel("PAID", &order_id),
        },
        _ => Ok(()),
    }
}
