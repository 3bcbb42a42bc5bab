//! S2.12, S0.8: an order through stock, payment and delivery, and back where a part fails: as a choreography around `order`, and as an
//! orchestration by `saga`, side by side in one daemon and with the same participants. Whatever happens, the books balance in the end.

use std::collections::BTreeSet;
use std::time::Instant;

use rusqlite::Connection;
use serde_json::{Value, json};
use tidemill_tests::{Call, Daemon, Kafka, LONG, SOON, Sandbox, Store, eventually, token};

use crate::rig::messages;

const HANDLERS: [&str; 6] = ["order", "payment", "inventory", "delivery", "saga", "notification"];
const TOPICS: [&str; 9] = [
    "order-events",
    "order-timers",
    "inventory-events",
    "payment-events",
    "delivery-events",
    "inventory-commands",
    "payment-commands",
    "delivery-commands",
    "saga-timers",
];
/// What every user but the poor one has, and how much there is of the product 1; of the product 2 there is none.
const DEPOSIT: i64 = 1_000_000;
const STOCK: i64 = 1_000;

/// Who orders: with money and an address, with no money, with no address.
#[derive(Clone, Copy)]
enum User {
    Rich = 7,
    Poor = 8,
    Lost = 9,
}

struct Shop {
    sandbox: Sandbox,
    tokens: Vec<String>,
}

impl Shop {
    /// With these handlers, the settings of the examples and some more, on this cluster or on the embedded broker.
    fn new(handlers: &[&str], kafka: Option<&Kafka>, more: &str) -> Self {
        let sandbox = Sandbox::with(handlers);
        let topics: String = TOPICS.iter().map(|topic| format!("[[topic]]\nname = \"{topic}\"\n")).collect();
        let examples = include_str!("../../handlers/tidemill.toml");
        // The records outlive an orderly stop.
        let embedded = || "keep-embedded = true".to_owned();
        let kafka = kafka.map_or_else(embedded, |kafka| format!("bootstrap = \"{}\"", kafka.bootstrap()));
        sandbox.write_toml(&format!("[kafka]\n{kafka}\n{examples}{topics}{more}"));
        let tokens = (0..10).map(|user| token(&sandbox, &user.to_string())).collect();
        Self { sandbox, tokens }
    }

    fn start(&self) -> Daemon {
        Daemon::start(&self.sandbox)
    }

    /// Money, addresses and stock.
    fn furnish(&self, daemon: &Daemon) {
        let put = |method: &str, path: &str, user: User, body: Value| {
            let call = daemon.call(method, path).token(self.token(user)).body(&body.to_string());
            assert!((200..300).contains(&call.send().status), "{path}");
        };
        for user in [User::Rich, User::Lost] {
            put("POST", "/api/account", user, json!({ "amount": DEPOSIT }));
        }
        for user in [User::Rich, User::Poor] {
            put("PUT", "/api/address", user, json!({ "address": "1 Harbour Street" }));
        }
        put("POST", "/api/stock/1", User::Rich, json!({ "quantity": STOCK }));
    }

    fn token(&self, user: User) -> &str {
        &self.tokens[user as usize]
    }

    /// Asks for two pieces at 2.50, of `order` and of `saga`: the paths of both.
    fn buy(&self, daemon: &Daemon, user: User, product: i64) -> [String; 2] {
        self.requests(product).map(|(path, body)| {
            let placed = daemon.post(path, self.token(user), &body.to_string()).expect_status(201);
            placed.header("location").unwrap().to_owned()
        })
    }

    fn requests(&self, product: i64) -> [(&'static str, Value); 2] {
        let order = json!({ "items": [{ "productId": product, "quantity": 2, "price": "2.50" }] });
        let saga = json!({ "items": [{ "productId": product, "quantity": 2 }], "totalAmount": "5.00" });
        [("/api/orders", order), ("/api/sagas", saga)]
    }

    fn status(&self, daemon: &Daemon, user: User, path: &str) -> String {
        let shown = daemon.get(path, self.token(user)).expect_status(200).json();
        shown["status"].as_str().unwrap().to_owned()
    }

    /// Waits until both have come to this end.
    fn ends(&self, daemon: &Daemon, user: User, both: &[String; 2], good: bool) {
        for (path, status) in both.iter().zip(if good { ["PAID", "COMPLETED"] } else { ["CANCELLED"; 2] }) {
            eventually(LONG, &format!("{path} is {status}"), || self.status(daemon, user, path) == status);
        }
    }

    /// Makes what is given fail, as if from inside: a trigger, while the daemon does not run.
    fn prepare(&self, store: &str, statements: &str) {
        let connection = Connection::open(self.sandbox.store_file(store)).unwrap();
        connection.execute_batch(statements).unwrap();
    }

    /// Waits until the books balance: every order has come to an end, and stock, money and deliveries are what follows from that.
    fn balances(&self) {
        let stores = HANDLERS.map(|name| Store::open(&self.sandbox, name));
        let end = Instant::now() + LONG;
        eventually(LONG * 2, "the books balance", || {
            let books = books(&stores);
            assert!(books.is_ok() || Instant::now() < end, "the books do not balance: {books:?}");
            books.is_ok()
        });
        for store in &stores {
            store.until("SELECT count(*) FROM tm_pending", 0);
            store.until("SELECT count(*) FROM tm_outbox WHERE not_before IS NULL", 0);
        }
    }
}

/// Why the books do not balance.
fn books(stores: &[Store; 6]) -> Result<(), String> {
    let [orders, payments, inventory, deliveries, sagas, _] = stores;
    let ended = [
        orders.lines("SELECT id || ' ' || (status = 'PAID') FROM orders WHERE status <> 'PENDING'"),
        sagas.lines("SELECT 'saga-' || id || ' ' || (status = 'COMPLETED') FROM sagas WHERE status IN ('COMPLETED', 'CANCELLED')"),
    ]
    .concat();
    let all = orders.count("SELECT count(*) FROM orders") + sagas.count("SELECT count(*) FROM sagas");
    if ended.len() as i64 != all {
        return Err(format!("{} of {all} have come to an end", ended.len()));
    }
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let good =
        |lines: &[String]| sorted(lines.iter().filter_map(|line| line.strip_suffix(" 1")).map(str::to_owned).collect());
    let good = good(&ended);
    for (what, theirs) in [
        ("paid", payments.lines("SELECT order_id FROM payments WHERE status = 'PAID'")),
        ("reserved", inventory.lines("SELECT order_id FROM reservations WHERE status = 'RESERVED'")),
        ("delivered", deliveries.lines("SELECT order_id FROM deliveries WHERE status = 'STARTED'")),
    ] {
        if sorted(theirs.clone()) != good {
            return Err(format!("{what} are {theirs:?}, and the good ones {good:?}"));
        }
    }
    // All amounts have two places, so that without the point they are whole cents.
    let cents =
        |sql: &str| payments.lines(sql).iter().map(|line| line.replace('.', "").parse::<i64>().unwrap()).sum::<i64>();
    let (left, paid) =
        (cents("SELECT balance FROM accounts"), cents("SELECT amount FROM payments WHERE status = 'PAID'"));
    if left + paid != 2 * DEPOSIT * 100 {
        return Err(format!("{left} are left and {paid} paid of {}", 2 * DEPOSIT * 100));
    }
    let available = inventory.count("SELECT available FROM stock WHERE product_id = 1");
    if available + 2 * good.len() as i64 != STOCK {
        return Err(format!("{available} pieces are left of {STOCK}, and {} orders have got two", good.len()));
    }
    Ok(())
}

#[test]
fn s2_12_s3_1_a_choreography_and_an_orchestration_run_side_by_side_and_take_back_what_was_done() {
    let shop = Shop::new(&HANDLERS, None, "");
    let mut daemon = shop.start();
    shop.furnish(&daemon);
    for (user, product, good) in
        [(User::Rich, 1, true), (User::Poor, 1, false), (User::Lost, 1, false), (User::Rich, 2, false)]
    {
        let both = shop.buy(&daemon, user, product);
        shop.ends(&daemon, user, &both, good);
    }
    shop.balances();
    // The one without an address was paid first, and its user told of all.
    let told = |order: i64| {
        ["생성", "결제", "취소"].map(|what| format!("주문이 {what}되었습니다. 주문번호: {order}, 금액: 5.00원"))
    };
    eventually(SOON, "the user is told", || messages(&daemon, shop.token(User::Lost)) == told(3));
    assert_eq!(
        Store::open(&shop.sandbox, "payment")
            .lines("SELECT order_id, status FROM payments WHERE user_id = '9' ORDER BY 1"),
        ["3|REFUNDED", "saga-3|REFUNDED"]
    );
    // S2.2: each kind of event says as much, and is keyed by its order.
    let mut types = BTreeSet::new();
    for event in daemon.client().consume_all("order-events") {
        let value = event.json();
        let keys: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["eventId", "eventType", "orderId", "timestamp", "totalAmount", "userId"].into(), "{value}");
        assert_eq!(event.key_text(), value["orderId"].to_string());
        types.insert(value["eventType"].as_str().unwrap().to_owned());
    }
    assert_eq!(types, ["ORDER_CANCELLED", "ORDER_CREATED", "ORDER_PAID"].map(str::to_owned).into());
    daemon.terminate();
}

#[test]
fn s2_12_s0_8_what_cannot_be_consumed_is_taken_back_by_whoever_could_not() {
    let shop = Shop::new(
        &HANDLERS,
        None,
        "[defaults.retry]\nmax-attempts = 2\nbackoff = { kind = \"fixed\", interval = \"50ms\" }\n",
    );
    let mut daemon = shop.start();
    shop.furnish(&daemon);
    let both = shop.buy(&daemon, User::Rich, 1);
    shop.ends(&daemon, User::Rich, &both, true);
    let fails = |store: &str, when: &str| {
        shop.prepare(
            store,
            &format!("CREATE TRIGGER outage BEFORE {when} BEGIN SELECT length(zeroblob(50000000)); END"),
        );
    };
    for (store, when) in [
        ("payment", "INSERT ON payments WHEN new.status = 'PAID'"),
        ("inventory", "INSERT ON pieces"),
        ("delivery", "INSERT ON deliveries WHEN new.status = 'STARTED'"),
        ("order", "INSERT ON parts"),
        ("saga", "UPDATE ON sagas WHEN new.status = 'SHIPPING'"),
    ] {
        daemon.terminate();
        fails(store, when);
        daemon = shop.start();
        let both = shop.buy(&daemon, User::Rich, 1);
        let [order, saga] = [store != "saga", store != "order"];
        for (path, cancelled, good) in [(&both[0], order, "PAID"), (&both[1], saga, "COMPLETED")] {
            let status = if cancelled { "CANCELLED" } else { good };
            eventually(LONG, &format!("{path} is {status} without {store}"), || {
                shop.status(&daemon, User::Rich, path) == status
            });
        }
        shop.balances();
        daemon.terminate();
        shop.prepare(store, "DROP TRIGGER outage");
        daemon = shop.start();
    }
    let both = shop.buy(&daemon, User::Rich, 1);
    shop.ends(&daemon, User::Rich, &both, true);
    shop.balances();
    daemon.terminate();
}

#[test]
fn s2_12_s0_8_what_cannot_be_published_is_taken_back_by_whoever_could_not_tell() {
    let kafka = Kafka::start(1);
    let timers = "[handler.order.settings]\npay-within-seconds = 2\n[handler.saga.settings]\nstep-seconds = 2\n";
    let shop = Shop::new(&HANDLERS, Some(&kafka), "");
    let settings = std::fs::read_to_string(shop.sandbox.toml()).unwrap();
    // The examples set it already, for longer.
    let settings = settings.replace("settings = { pay-within-seconds = 1800 }\n", "");
    shop.sandbox.write_toml(&format!("{settings}{timers}"));
    let narrow = |topic: &str, bytes: &str| {
        let entity = ["--alter", "--entity-type", "topics", "--entity-name", topic];
        kafka.tool("configs", &[&entity[..], &["--add-config", &format!("max.message.bytes={bytes}")]].concat());
    };
    let mut daemon = shop.start();
    shop.furnish(&daemon);
    let both = shop.buy(&daemon, User::Rich, 1);
    shop.ends(&daemon, User::Rich, &both, true);

    // What is in the order makes its event too large, and a command of the saga as well.
    for topic in ["order-events", "inventory-commands"] {
        narrow(topic, "1000");
    }
    let piece = json!({ "productId": 1, "quantity": 1, "price": "0.01" });
    let order = json!({ "items": vec![piece; 100] });
    let piece = json!({ "productId": 1, "quantity": 1 });
    let saga = json!({ "items": vec![piece; 100], "totalAmount": "1.00" });
    let large = [("/api/orders", order), ("/api/sagas", saga)].map(|(path, body)| {
        let placed = daemon.post(path, shop.token(User::Rich), &body.to_string()).expect_status(201);
        placed.header("location").unwrap().to_owned()
    });
    shop.ends(&daemon, User::Rich, &large, false);
    shop.balances();
    for (store, lost) in [("order", "ORDER_CREATED"), ("saga", "RESERVE")] {
        let kept =
            Store::open(&shop.sandbox, store).line("SELECT kind, json_extract(value, '$.eventType') FROM tm_fallback");
        assert_eq!(kept, format!("event|{lost}"));
    }

    // Nobody hears of payments: they are given back, and the time of those who wait is over.
    narrow("payment-events", "10");
    let unheard = shop.buy(&daemon, User::Rich, 1);
    eventually(LONG, "the order's time is over", || shop.status(&daemon, User::Rich, &unheard[0]) == "CANCELLED");
    let payment = Store::open(&shop.sandbox, "payment");
    payment.until("SELECT count(*) FROM payments WHERE status = 'REFUNDED'", 2);
    // The saga asks until it is told.
    eventually(LONG, "the saga asks again", || {
        payment.count("SELECT count(*) FROM tm_fallback WHERE json_extract(value, '$.orderId') LIKE 'saga-%'") > 2
    });
    assert_eq!(shop.status(&daemon, User::Rich, &unheard[1]), "REFUNDING");
    narrow("payment-events", "100000");
    shop.ends(&daemon, User::Rich, &unheard, false);
    shop.balances();
    daemon.terminate();
}

#[test]
fn s2_12_who_does_not_answer_in_time_has_failed_and_what_he_does_later_is_taken_back() {
    let others = ["order", "inventory", "delivery", "saga", "notification"];
    let shop = Shop::new(&others, None, "[handler.saga.settings]\nstep-seconds = 1\n");
    let settings = std::fs::read_to_string(shop.sandbox.toml()).unwrap();
    shop.sandbox.write_toml(&settings.replace("pay-within-seconds = 1800", "pay-within-seconds = 1"));
    let mut daemon = shop.start();
    let supply = daemon.post("/api/stock/1", shop.token(User::Rich), &json!({ "quantity": STOCK }).to_string());
    supply.expect_status(200);
    let both = shop.buy(&daemon, User::Rich, 1);
    eventually(LONG, "the order's time is over", || shop.status(&daemon, User::Rich, &both[0]) == "CANCELLED");
    eventually(LONG, "the saga's time is over", || shop.status(&daemon, User::Rich, &both[1]) == "REFUNDING");
    // The payments come back, and find what they were asked for and what was taken back since, in this order.
    shop.sandbox.deploy("payment");
    shop.ends(&daemon, User::Rich, &both, false);
    let payment = Store::open(&shop.sandbox, "payment");
    payment.until("SELECT count(*) FROM payments WHERE status <> 'PAID'", 2);
    let inventory = Store::open(&shop.sandbox, "inventory");
    inventory.until("SELECT available FROM stock", STOCK);
    daemon.terminate();
}

/// The process is killed at one moment after another, each time in the middle of what two orders of each kind cause.
#[test]
fn s2_12_a_daemon_that_is_killed_at_any_step_takes_every_order_to_its_end() {
    let shop = Shop::new(&HANDLERS, None, "");
    let mut daemon = shop.start();
    shop.furnish(&daemon);
    daemon.kill9();
    let moments = ["delivered", "committing", "committed", "acknowledged"];
    for (n, moment) in moments.iter().cycle().take(10).enumerate() {
        // From the first step to the last, as they come.
        let nth = 1 + 2 * n;
        daemon = Daemon::start_with(&shop.sandbox, |command| {
            command.env("TIDEMILL_TEST_KILL_AT", format!("{moment}:{nth}"));
        });
        for user in [User::Rich, User::Lost] {
            for (path, body) in shop.requests(1) {
                // It may be dead already.
                let call = Call::new("POST", &format!("{}{path}", daemon.url())).token(shop.token(user));
                let _ = call.body(&body.to_string()).try_send();
            }
        }
        let status = daemon.wait_exit();
        assert!(!status.success(), "{moment} {nth}: {status}");
    }
    daemon = shop.start();
    shop.balances();
    let count = |store: &str, sql: &str| Store::open(&shop.sandbox, store).count(sql);
    assert!(count("order", "SELECT count(*) FROM orders WHERE status = 'PAID'") > 1);
    assert!(count("saga", "SELECT count(*) FROM sagas WHERE status = 'CANCELLED'") > 1);
    // Each event is told of once.
    let paid = "SELECT count(*) FROM (SELECT order_id FROM parts GROUP BY order_id HAVING count(*) = 2)";
    let events = count("order", &format!("SELECT count(*) + sum(status = 'CANCELLED') + ({paid}) FROM orders"));
    Store::open(&shop.sandbox, "notification").until("SELECT count(*) FROM notifications", events);
    daemon.terminate();
}
