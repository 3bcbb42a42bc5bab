//! Takes orders over HTTP, publishes ORDER_CREATED with each, and ORDER_PAID or ORDER_CANCELLED with its end.
//!
//! An order belongs to the user of the token; nobody is shown, or told of, an order of somebody else. Money is exact to
//! the last digit, with two places.

mod draft;
mod choreography;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Decimal, Time, config, delivery, handler, params, sql};

use choreography::{News, Part};
use draft::Draft;

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_orders.sql", "migrations/0002_parts.sql"],
    records: choreography::handle,
    compensate: choreography::compensate,
    http: {
        "POST /api/orders" => place,
        "GET /api/orders" => mine,
        "GET /api/orders/{id}" => show,
    },
}

/// An order, as a row (its columns have these names) and, in camel case, as JSON.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Order {
    id: i64,
    user_id: String,
    total_amount: Decimal,
    status: String,
    created_at: Time,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Item {
    id: i64,
    #[serde(skip_serializing)]
    order_id: i64,
    product_id: i64,
    quantity: u32,
    price: Decimal,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderEvent<'a> {
    event_id: String,
    event_type: &'a str,
    timestamp: Time,
    order_id: i64,
    user_id: &'a str,
    total_amount: Decimal,
}

fn place(request: &Request) -> http::Result {
    let user = request.user()?;
    let draft = request.json::<Draft>()?.check()?;

    let id: i64 = sql::query_one(
        "INSERT INTO orders (user_id, total_amount, status, created_at) VALUES (?1, ?2, 'PENDING', ?3) RETURNING id",
        params![user, draft.total, delivery::now()],
    )?;
    for item in draft.items {
        sql::execute(
            "INSERT INTO order_items (order_id, product_id, quantity, price) VALUES (?1, ?2, ?3, ?4)",
            params![id, item.product_id, item.quantity, item.price],
        )?;
    }
    let order = find(user, id)?;
    tell("ORDER_CREATED", &order).header("items", pieces(id)?).enqueue()?;
    if let Some(seconds) = config::parse("pay-within-seconds")? {
        let due = |event_id: &str| News {
            event_id: event_id.to_owned(),
            event_type: Part::PaymentDue,
            order_id: id.to_string(),
        };
        Event::new("order-timers", "PAYMENT_DUE")
            .key(id)
            .json_with_id(due)
            .enqueue_after(Duration::from_secs(seconds))?;
    }
    Ok(Response::created(format!("/api/orders/{id}"), &order))
}

/// What every event of an order looks like. What is in the order travels in a header, for the one reader that wants it.
fn tell<'a>(event_type: &'a str, order: &'a Order) -> Event<'a> {
    Event::new("order-events", event_type).key(order.id).json_with_id(move |event_id| OrderEvent {
        event_id: event_id.to_owned(),
        event_type,
        timestamp: delivery::now(),
        order_id: order.id,
        user_id: &order.user_id,
        total_amount: order.total_amount,
    })
}

/// `[{"productId":1,"quantity":2}]`
fn pieces(order_id: i64) -> Result<String, sql::Error> {
    sql::query_one(
        "SELECT json_group_array(json_object('productId', product_id, 'quantity', quantity))
         FROM order_items WHERE order_id = ?1",
        params![order_id],
    )
}

fn show(request: &Request) -> http::Result {
    Ok(Response::ok(&find(request.user()?, request.param("id")?)?))
}

/// The newest first, a thousand at most; `?before=ID` goes on from there.
fn mine(request: &Request) -> http::Result {
    let user = request.user()?;
    let before = request.parse_query_param("before")?.unwrap_or(i64::MAX);
    let mut orders: Vec<Order> = sql::query(
        "SELECT * FROM orders WHERE user_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1000",
        params![user, before],
    )?;
    let oldest = orders.last().map(|order| order.id);
    let mut items: Vec<Item> = sql::query(
        "SELECT item.* FROM orders JOIN order_items item ON item.order_id = orders.id
         WHERE orders.user_id = ?1 AND orders.id >= ?2 AND orders.id < ?3 ORDER BY item.order_id, item.id",
        params![user, oldest, before],
    )?;
    for order in &mut orders {
        order.items = items.split_off(items.partition_point(|item| item.order_id < order.id));
    }
    Ok(Response::ok(&orders))
}

fn find(user: &str, id: i64) -> Result<Order, Problem> {
    let order = sql::query_optional("SELECT * FROM orders WHERE id = ?1 AND user_id = ?2", params![id, user])?;
    let order: Order = order.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))?;
    let items = sql::query("SELECT * FROM order_items WHERE order_id = ?1 ORDER BY id", params![id])?;
    Ok(Order { items, ..order })
}

#[cfg(test)]
mod tests;
