//! Reserves stock for orders, all of an order or nothing, and releases it when an order is cancelled.
//!
//! Like `payment` it takes what happens to orders, and what a saga asks for, for the same. Stock is reserved once for an order, and never
//! after the order was cancelled; there is never less than none.

use serde::Deserialize;
use serde_json::json;
use tidemill_sdk::compensation::Input;
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::json::text;
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_stock.sql"],
    records: handle,
    compensate: compensate,
    http: {
        "POST /api/stock/{product}" => supply,
        "GET /api/stock/{product}" => show,
    },
}

/// An event of an order, or a command. What is in the order, `[{"productId":1,"quantity":2}]`, is in the header `items`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    event_type: Told,
    #[serde(deserialize_with = "text")]
    order_id: String,
}

#[allow(clippy::enum_variant_names, reason = "the names are those of the events")]
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Told {
    #[serde(alias = "RESERVE")]
    OrderCreated,
    #[serde(alias = "RELEASE")]
    OrderCancelled,
    OrderPaid,
}

/// The body of `POST /api/stock/{product}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Supply {
    quantity: u32,
}

fn handle(record: &Record) -> Result<(), Failure> {
    let Order { event_type, order_id } = record.json()?;
    match event_type {
        Told::OrderCreated => {
            let items = record.header_str("items").ok_or_else(|| Failure::reject("there is no header `items`"))?;
            reserve(&order_id, items)
        }
        Told::OrderCancelled => {
            note(&order_id, "REFUSED")?;
            release(&order_id)?;
            tell("STOCK_RELEASED", &order_id)
        }
        Told::OrderPaid => Ok(()),
    }
}

fn reserve(order_id: &str, items: &str) -> Result<(), Failure> {
    if !note(order_id, "RESERVED")? {
        return Ok(());
    }
    sql::execute(
        "INSERT INTO pieces (order_id, product_id, quantity)
         SELECT ?1, value ->> 'productId', sum(value ->> 'quantity') FROM json_each(?2) GROUP BY 2",
        params![order_id, items],
    )?;
    let lacking: i64 = sql::query_one(
        "SELECT count(*) FROM pieces LEFT JOIN stock USING (product_id)
         WHERE order_id = ?1 AND quantity > coalesce(available, 0)",
        params![order_id],
    )?;
    if lacking > 0 {
        sql::execute("UPDATE reservations SET status = 'REFUSED' WHERE order_id = ?1", params![order_id])?;
        return tell("STOCK_REFUSED", order_id);
    }
    sql::execute(
        "UPDATE stock SET available = available - pieces.quantity FROM pieces
         WHERE pieces.product_id = stock.product_id AND pieces.order_id = ?1",
        params![order_id],
    )?;
    tell("STOCK_RESERVED", order_id)
}

/// Notes how a reservation has begun; `false` if that is known already.
fn note(order_id: &str, status: &str) -> Result<bool, sql::Error> {
    let insert = "INSERT INTO reservations (order_id, status) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    Ok(sql::execute(insert, params![order_id, status])? == 1)
}

/// Puts back what is reserved for an order; `false` if nothing is.
fn release(order_id: &str) -> Result<bool, sql::Error> {
    let released = sql::execute(
        "UPDATE reservations SET status = 'RELEASED' WHERE order_id = ?1 AND status = 'RESERVED'",
        params![order_id],
    )?;
    if released == 1 {
        sql::execute(
            "UPDATE stock SET available = available + pieces.quantity FROM pieces
             WHERE pieces.product_id = stock.product_id AND pieces.order_id = ?1",
            params![order_id],
        )?;
    }
    Ok(released == 1)
}

/// An order that cannot be handled gets no stock, and stock of which nobody hears is put back.
fn compensate(input: &Input, _reason: &str) -> Result<(), Failure> {
    let (event_type, order_id) = match input {
        Input::Event(lost) => {
            let order_id = String::from_utf8_lossy(lost.key.as_deref().unwrap_or_default()).into_owned();
            (release(&order_id)?.then_some("STOCK_RELEASED"), order_id)
        }
        Input::Record(record) => match record.json() {
            Ok(Order { event_type: Told::OrderCreated, order_id }) => {
                (note(&order_id, "REFUSED")?.then_some("STOCK_REFUSED"), order_id)
            }
            Ok(_) => return handle(record),
            Err(_) => return Ok(()),
        },
        _ => return Ok(()),
    };
    event_type.map_or(Ok(()), |event_type| tell(event_type, &order_id))
}

/// `STOCK_RESERVED`, `STOCK_REFUSED` or `STOCK_RELEASED`.
fn tell(event_type: &str, order_id: &str) -> Result<(), Failure> {
    let value = |event_id: &str| json!({ "eventId": event_id, "eventType": event_type, "orderId": order_id });
    Event::new("inventory-events", event_type).key(order_id).json_with_id(value).enqueue()?;
    Ok(())
}

fn supply(request: &Request) -> http::Result {
    let (product, Supply { quantity }) = (request.param::<i64>("product")?, request.json()?);
    if quantity == 0 {
        return Err(Problem::bad_request("quantity must be 1 or more, is 0"));
    }
    sql::execute(
        "INSERT INTO stock (product_id, available) VALUES (?1, ?2)
         ON CONFLICT (product_id) DO UPDATE SET available = available + excluded.available",
        params![product, quantity],
    )?;
    show(request)
}

fn show(request: &Request) -> http::Result {
    let product: i64 = request.param("product")?;
    let available: Option<i64> =
        sql::query_optional("SELECT available FROM stock WHERE product_id = ?1", params![product])?;
    Ok(Response::ok(&json!({ "productId": product, "available": available.unwrap_or(0) })))
}

#[cfg(test)]
mod tests;
