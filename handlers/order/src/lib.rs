//! Takes orders over HTTP and publishes ORDER_CREATED with each.
//!
//! An order belongs to the user of the token; nobody is shown, or told of, an order of somebody else. Money is exact to
//! the last digit, with two places.

mod draft;

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Decimal, Time, delivery, handler, params, sql};

use draft::Draft;

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_orders.sql"],
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
    let order = request.json::<Draft>()?.check()?;
    let now = delivery::now();

    let id: i64 = sql::query_one(
        "INSERT INTO orders (user_id, total_amount, status, created_at) VALUES (?1, ?2, 'PENDING', ?3) RETURNING id",
        params![user, order.total, now],
    )?;
    for item in order.items {
        sql::execute(
            "INSERT INTO order_items (order_id, product_id, quantity, price) VALUES (?1, ?2, ?3, ?4)",
            params![id, item.product_id, item.quantity, item.price],
        )?;
    }
    Event::new("order-events", "ORDER_CREATED")
        .key(id)
        .json_with_id(|event_id| OrderEvent {
            event_id: event_id.to_owned(),
            event_type: "ORDER_CREATED",
            timestamp: now,
            order_id: id,
            user_id: user,
            total_amount: order.total,
        })
        .enqueue()?;

    Ok(Response::created(format!("/api/orders/{id}"), &find(user, id)?))
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
