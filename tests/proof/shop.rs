//! S2.12 under load: payments and deliveries that fail at random, events that come twice, and a daemon that is killed twice. At the end
//! there is a balance sheet, on which every order and every cent must stand once.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use tidemill_tests::{Client, Daemon, Kafka, Out, Sandbox, Store, eventually, token};

use crate::dice::{Dice, full, records};

const HANDLERS: [&str; 5] = ["order", "payment", "inventory", "delivery", "notification"];
const TOPICS: [&str; 8] = [
    "order-events",
    "order-timers",
    "inventory-events",
    "payment-events",
    "delivery-events",
    "inventory-commands",
    "payment-commands",
    "delivery-commands",
];
const USERS: u64 = 20;
const PRODUCTS: u64 = 3;

struct Shop {
    sandbox: Sandbox,
    tokens: Vec<String>,
    orders: u64,
    deposits: i64,
}

impl Shop {
    /// Some users have no money, some have no address, and one product runs out; of the rest one in twenty fails once it is
    /// paid, and one in twenty once it is sent.
    fn open(kafka: &Kafka, orders: u64, dice: &mut Dice) -> Self {
        let sandbox = Sandbox::with(&HANDLERS);
        let topics: String = TOPICS.iter().map(|topic| format!("[[topic]]\nname = \"{topic}\"\n")).collect();
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[defaults.retry]\nmax-attempts = 2\norder = \"key\"\n\
             backoff = {{ kind = \"fixed\", interval = \"50ms\" }}\n{}{topics}",
            kafka.bootstrap(),
            include_str!("../../handlers/tidemill.toml")
        ));
        let tokens: Vec<String> = (0..USERS).map(|user| token(&sandbox, &user.to_string())).collect();
        let mut daemon = Daemon::start(&sandbox);
        let mut deposits = 0;
        for (user, token) in (0_i64..).zip(&tokens) {
            if user % 5 > 0 {
                // Enough for most of what he will ask for.
                let amount = orders as i64 * 6;
                let deposit = json!({ "amount": amount }).to_string();
                daemon.post("/api/account", token, &deposit).expect_status(200);
                deposits += amount * 100;
            }
            if user % 7 > 0 {
                let address = json!({ "address": "1 Harbour Street" }).to_string();
                daemon.call("PUT", "/api/address").token(token).body(&address).send().expect_status(204);
            }
        }
        for product in 1..=PRODUCTS {
            let supply = json!({ "quantity": Self::supplied(product, orders) }).to_string();
            daemon.post(&format!("/api/stock/{product}"), &tokens[0], &supply).expect_status(200);
        }
        daemon.terminate();
        for (store, table, status) in [("payment", "payments", "PAID"), ("delivery", "deliveries", "STARTED")] {
            let connection = Connection::open(sandbox.store_file(store)).unwrap();
            let fails = format!(
                "CREATE TRIGGER fails BEFORE INSERT ON {table}
                 WHEN new.status = '{status}' AND (CAST(new.order_id AS INTEGER) * 7919 + {}) % 20 = 0
                 BEGIN SELECT length(zeroblob(50000000)); END",
                dice.below(20)
            );
            connection.execute_batch(&fails).unwrap();
        }
        Self { sandbox, tokens, orders, deposits }
    }

    fn supplied(product: u64, orders: u64) -> u64 {
        if product == PRODUCTS { orders / 10 } else { orders * 3 }
    }

    /// Places an order; it may be placed again.
    fn place(&self, daemon: &Daemon, n: u64, dice: &mut Dice) {
        let price = format!("{}.{:02}", dice.below(100), 1 + dice.below(99));
        let item = json!({ "productId": 1 + dice.below(PRODUCTS), "quantity": 1 + dice.below(3), "price": price });
        let order = daemon.call("POST", "/api/orders").token(&self.tokens[dice.below(USERS) as usize]);
        let order = order.header("Idempotency-Key", &format!("order-{n}"));
        order.body(&json!({ "items": [item] }).to_string()).send().expect_status(201);
    }

    /// The sheet, or why it does not balance.
    fn sheet(&self, client: &Client) -> Result<String, String> {
        let [orders, payments, inventory, deliveries, notifications] =
            HANDLERS.map(|name| Store::open(&self.sandbox, name));
        let states = orders.lines("SELECT status, count(*) FROM orders GROUP BY status ORDER BY status");
        let ended = orders.count("SELECT count(*) FROM orders WHERE status IN ('PAID', 'CANCELLED')");
        if ended as u64 != self.orders {
            return Err(format!("{states:?} of {}", self.orders));
        }
        let amounts = |store: &Store, sql: &str| -> Vec<String> {
            let mut lines = store.lines(sql);
            lines.sort();
            lines
        };
        // All amounts have two places, so that without the point they are whole cents.
        let cents = |lines: &[String]| -> i64 {
            lines.iter().map(|line| line.rsplit('|').next().unwrap().replace('.', "").parse::<i64>().unwrap()).sum()
        };
        let paid = amounts(&orders, "SELECT id, total_amount FROM orders WHERE status = 'PAID'");
        let taken = amounts(&payments, "SELECT order_id, amount FROM payments WHERE status = 'PAID'");
        if paid != taken {
            return Err(format!("{} orders are paid, and {} payments taken", paid.len(), taken.len()));
        }
        let left = cents(&payments.lines("SELECT balance FROM accounts"));
        if left + cents(&taken) != self.deposits {
            return Err(format!("{left} are left and {} taken of {}", cents(&taken), self.deposits));
        }
        let good: Vec<&str> = paid.iter().map(|line| line.split('|').next().unwrap()).collect();
        let sent = amounts(&deliveries, "SELECT order_id FROM deliveries WHERE status = 'STARTED'");
        let reserved = amounts(&inventory, "SELECT order_id FROM reservations WHERE status = 'RESERVED'");
        let sorted: HashSet<&str> = good.iter().copied().collect();
        for (what, theirs) in [("sent", &sent), ("reserved", &reserved)] {
            if theirs.len() != good.len() || !theirs.iter().all(|id| sorted.contains(id.as_str())) {
                return Err(format!("{} are {what}, and {} paid", theirs.len(), good.len()));
            }
        }
        let mut stock = Vec::new();
        for product in 1..=PRODUCTS {
            let available = inventory.count(&format!("SELECT available FROM stock WHERE product_id = {product}"));
            let given = inventory.count(&format!(
                "SELECT coalesce(sum(quantity), 0) FROM pieces JOIN reservations USING (order_id)
                 WHERE product_id = {product} AND status = 'RESERVED'"
            ));
            let supplied = Self::supplied(product, self.orders) as i64;
            if available < 0 || available + given != supplied {
                return Err(format!("product {product}: {available} left and {given} given of {supplied}"));
            }
            stock.push(format!("{product}: {given} given, {available} left"));
        }
        let told = notifications.count("SELECT count(*) FROM notifications");
        let different = notifications.count("SELECT count(DISTINCT message) FROM notifications");
        let records = client.consume_all("order-events");
        let events: HashSet<_> = records.iter().map(|event| event.header_text("event-id")).collect();
        if told as usize != events.len() || different != told {
            return Err(format!("{told} notifications, {different} different, for {} events", events.len()));
        }
        let failed = payments.count("SELECT count(*) FROM payments WHERE status = 'FAILED'");
        let refunded = payments.count("SELECT count(*) FROM payments WHERE status = 'REFUNDED'");
        Ok(format!(
            "orders    {states:?}\npayments  {} taken, {failed} failed, {refunded} refunded; {} cents taken, {left} left\n\
             stock     {}\ntold      {told}, of {} records",
            taken.len(),
            cents(&taken),
            stock.join("; "),
            records.len()
        ))
    }
}

#[test]
fn s2_12_a_shop_under_load_balances_to_the_last_cent() {
    let mut dice = Dice::new("shop");
    let orders = records(400, 50_000);
    let kafka = Kafka::start(1);
    let client = kafka.client();
    let shop = Shop::open(&kafka, orders, &mut dice);
    let kills = [1, 2].map(|third| orders * third / 3 + dice.below(orders / 10));
    let mut daemon = Daemon::start(&shop.sandbox);
    for n in 0..orders {
        shop.place(&daemon, n, &mut dice);
        if kills.contains(&n) {
            daemon.kill9();
            // Some of what is there comes once more, as after a producer's retry.
            for topic in ["order-events", "inventory-events", "payment-events", "delivery-events"] {
                let again = client.consume_all(topic).into_iter().filter(|_| dice.once_in(5)).map(|record| {
                    let again = Out::new(record.value.unwrap_or_default()).key(record.key.unwrap_or_default());
                    let headers = record.headers.into_iter();
                    headers.fold(again, |again, (name, value)| again.header(&name, value.unwrap_or_default()))
                });
                client.produce_all(topic, again.collect::<Vec<_>>());
            }
            daemon = Daemon::start(&shop.sandbox);
        }
    }
    let long = Duration::from_secs(if full() { 1_800 } else { 120 });
    let mut last = String::new();
    eventually(long, "the shop comes to rest", || match shop.sheet(&client) {
        Ok(sheet) => {
            last = sheet;
            true
        }
        Err(why) => {
            if why != last {
                println!("{why}");
                last = why;
            }
            false
        }
    });
    println!("{last}");
    for name in HANDLERS {
        let store = Store::open(&shop.sandbox, name);
        store.until("SELECT count(*) FROM tm_pending", 0);
        store.until("SELECT count(*) FROM tm_outbox WHERE not_before IS NULL", 0);
        assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    }
    daemon.terminate();
}
