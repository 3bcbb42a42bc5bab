//! The usual work of a handler and nothing else: parse the record's JSON, write one row, enqueue one event.
//!
//! The native program that the benchmark compares with does the same work on the same records (tests/bench/native.rs);
//! a change here is a change there.

use serde::{Deserialize, Serialize};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_bench.sql"],
    records: book,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: i64,
    user_id: String,
    total_amount: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Booked<'a> {
    event_id: String,
    order_id: i64,
    user_id: &'a str,
    amount: &'a str,
}

fn book(record: &Record) -> Result<(), Failure> {
    let order: Order = record.json()?;
    sql::execute(
        "INSERT INTO entries (order_id, user_id, amount) VALUES (?1, ?2, ?3)",
        params![order.order_id, &order.user_id, &order.total_amount],
    )?;
    Event::new("out", "BOOKED")
        .key(&order.user_id)
        .json_with_id(|event_id| Booked {
            event_id: event_id.to_owned(),
            order_id: order.order_id,
            user_id: &order.user_id,
            amount: &order.total_amount,
        })
        .enqueue()?;
    Ok(())
}
