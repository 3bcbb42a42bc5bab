//! Sums order amounts by windows of time, and finds amounts that are far from what their user spends.
//!
//! Time is that of the events. A window is closed by a timer, and its result published once, however often the daemon ends in between.
//! Sums are exact; means and deviations are estimates.

mod anomalies;
mod windows;

use serde::{Deserialize, Serialize, Serializer};
use tidemill_sdk::{Decimal, Failure, Record, Time, config, handler, json};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_insight.sql"],
    records: observe,
    timers: {
        "close-windows" => windows::close,
    },
    http: {
        "GET /api/insight/windows" => windows::list,
        "GET /api/insight/anomalies" => anomalies::list,
    },
}

/// Places of an amount of money.
const PLACES: u32 = 2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderEvent {
    event_type: String,
    timestamp: Time,
    order_id: i64,
    #[serde(deserialize_with = "json::text")]
    user_id: String,
    #[serde(deserialize_with = "json::decimal")]
    total_amount: Decimal,
}

/// Money in hundredths; in JSON as exact decimal text.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
struct Money(i64);

impl Money {
    fn of(amount: Decimal) -> Result<Self, Failure> {
        let mut exact = amount;
        exact.rescale(PLACES);
        let hundredths = i64::try_from(exact.mantissa()).ok().filter(|_| exact == amount && exact.scale() == PLACES);
        hundredths
            .map(Self)
            .ok_or_else(|| Failure::reject(format!("the amount {amount} is no whole number of hundredths")))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Decimal::new(self.0, PLACES))
    }
}

fn observe(record: &Record) -> Result<(), Failure> {
    let event: OrderEvent = record.json()?;
    if event.event_type != "ORDER_CREATED" {
        return Ok(());
    }
    let amount = Money::of(event.total_amount)?;
    windows::add(record.partition, event.timestamp, amount)?;
    anomalies::look(&event, amount)
}

/// A setting that is a whole number from 1.
fn setting(name: &str) -> Result<i64, Failure> {
    let number: i64 = config::parse(name)?.unwrap_or(0);
    if number < 1 {
        return Err(Failure::unavailable(format!("setting `{name}` is {number}; it must be 1 or more")));
    }
    Ok(number)
}

#[cfg(test)]
mod tests;
