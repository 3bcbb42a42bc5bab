//! Anomalies: an amount that is further from the mean of the user's last ones than so many of their deviations.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Time, params, sql};

use crate::{Money, OrderEvent, setting};

/// With fewer amounts nothing is usual yet.
const LEAST: usize = 5;
/// The least deviation, as a part of the mean: to always pay the same makes a cent more no anomaly.
const LEAST_DEVIATION: f64 = 0.05;

/// An anomaly, as a row and as JSON.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Anomaly {
    order_id: i64,
    user_id: String,
    amount: Money,
    mean: Money,
    deviation: Money,
    timestamp: Time,
}

/// Holds an order's amount against the user's last ones, and then remembers it.
pub(crate) fn look(order: &OrderEvent, amount: Money) -> Result<(), Failure> {
    let (user_id, sample) = (&order.user_id, setting("sample")?);
    let last: Vec<i64> = sql::query(
        "SELECT amount FROM amounts WHERE user_id = ?1 ORDER BY id DESC LIMIT ?2",
        params![user_id, sample],
    )?;
    let count = last.len() as f64;
    let mean = last.iter().map(|amount| *amount as f64).sum::<f64>() / count;
    let variance = last.iter().map(|amount| (*amount as f64 - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let deviation = variance.sqrt().max(mean.abs() * LEAST_DEVIATION);
    if last.len() >= LEAST && (amount.0 as f64 - mean).abs() > setting("deviations")? as f64 * deviation {
        let [mean, deviation] = [mean, deviation].map(|hundredths| Money(hundredths.round() as i64));
        sql::execute(
            "INSERT INTO anomalies VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![order.order_id, user_id, amount.0, mean.0, deviation.0, order.timestamp],
        )?;
        let (order_id, user_id, timestamp) = (order.order_id, user_id.clone(), order.timestamp);
        Event::new("anomalies", "ANOMALY_FOUND")
            .key(&order.user_id)
            .envelope(Anomaly { order_id, user_id, amount, mean, deviation, timestamp })
            .enqueue()?;
    }
    sql::execute("INSERT INTO amounts (user_id, amount) VALUES (?1, ?2)", params![user_id, amount.0])?;
    sql::execute(
        "DELETE FROM amounts WHERE user_id = ?1 AND id <=
         (SELECT id FROM amounts WHERE user_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        params![user_id, sample],
    )?;
    Ok(())
}

/// The newest first, a thousand at most.
pub(crate) fn list(_: &Request) -> http::Result {
    let anomalies: Vec<Anomaly> =
        sql::query("SELECT * FROM anomalies ORDER BY timestamp DESC, order_id DESC LIMIT 1000", params![])?;
    Ok(Response::ok(&anomalies))
}
