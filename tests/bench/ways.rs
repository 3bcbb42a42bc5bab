//! The ways by which an event leaves a handler: how long each takes from the record to the event on an idle host, and how long a saga
//! on the outbox takes from the order to its end, good or bad.
//!
//! What each of them can lose and double is in the README; this is what that buys.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tidemill_tests::{Daemon, Kafka, Sandbox, Store, token};

use crate::latency::{OVERDUE, WARM_UP, events, line};
use crate::load;
use crate::report::{Report, millis};

/// Records a second, and how many there are of each way in a round.
const RATE: f64 = 100.0;
const RECORDS: u64 = 300;
/// Rounds; the first does not count, since the broker has just begun.
const ROUNDS: usize = 4;
/// Orders that come to a good end, and as many that do not.
const ORDERS: u64 = 150;
/// Pieces in stock.
const STOCK: u64 = 10_000;

/// Measures, and writes what it found into the report.
pub(crate) fn measure(kafka: &Kafka, report: &mut Report) -> Result<()> {
    report.section("ways");
    let ways = [("enqueue", None), ("send", Some("now")), ("send-async", Some("async"))];
    let mut took = ways.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for ((way, send), took) in ways.iter().zip(&mut took) {
            let times = publish(kafka, &format!("ways-{way}-{round}"), *send).with_context(|| (*way).to_owned())?;
            took.extend(times.into_iter().filter(|_| round > 0));
        }
    }
    for ((way, _), took) in ways.iter().zip(&took) {
        line(report, &format!("{way} ({RATE:.0}/s): record -> event read back"), took);
    }
    saga(kafka, report).context("saga")
}

/// One round of one way: how long each record took to its event, in milliseconds.
fn publish(kafka: &Kafka, name: &str, send: Option<&str>) -> Result<Vec<f64>> {
    let [input, output] = ["in", "out"].map(|end| format!("{name}-{end}"));
    [&input, &output].iter().for_each(|topic| kafka.client().create_topic(topic, 6));
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[handler.hostile]\ntopics = [\"{input}\"]\ngroup = \"{name}\"\npublish = {{ out = \"{output}\" }}\n",
        kafka.bootstrap()
    ));
    let record = |n: u64| {
        let command = json!({ "do": "publish", "id": n.to_string(), "send": send, "value": { "orderId": n } });
        (load::user(n), command.to_string())
    };
    let mut daemon = Daemon::start(&sandbox);
    let took = events(kafka, &input, &output, RATE, RECORDS, record)?;
    daemon.terminate();
    let rows = Store::open(&sandbox, "hostile").count("SELECT count(DISTINCT id) FROM seen");
    ensure!(rows == RECORDS as i64, "{rows} rows of {RECORDS} records");
    Ok(took)
}

/// Orders one after the other, each until its user can read how it ended, and until what was taken for it is back if that is bad.
fn saga(kafka: &Kafka, report: &mut Report) -> Result<()> {
    let sandbox = Sandbox::with(&["order", "inventory", "payment"]);
    let topics = ["order-events", "inventory-events", "payment-events", "delivery-events", "order-timers"];
    let commands = ["inventory-commands", "payment-commands"];
    topics.iter().chain(&commands).for_each(|topic| kafka.client().create_topic(topic, 3));
    let examples = include_str!("../../handlers/tidemill.toml");
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n{examples}", kafka.bootstrap()));
    let mut daemon = Daemon::start(&sandbox);
    let [rich, poor] = ["rich", "poor"].map(|user| token(&sandbox, user));
    daemon.post("/api/account", &rich, r#"{"amount":"100000.00"}"#).expect_status(200);
    daemon.post("/api/stock/1", &rich, &json!({ "quantity": STOCK }).to_string()).expect_status(200);
    let (mut completed, mut compensated) = (Vec::new(), Vec::new());
    for n in 0..2 * (ORDERS + WARM_UP) {
        let good = n % 2 == 0;
        let (user, status) = if good { (&rich, "PAID") } else { (&poor, "CANCELLED") };
        let left = STOCK - (n / 2 + 1);
        let sent = Instant::now();
        let order = daemon.post("/api/orders", user, r#"{"items":[{"productId":1,"quantity":1,"price":"2.50"}]}"#);
        let order = order.expect_status(201).json();
        let path = format!("/api/orders/{}", order.get("id").context("the order's id")?);
        let ended = |path: &str, name: &str, value: Json| loop {
            if daemon.get(path, user).expect_status(200).json().get(name) == Some(&value) {
                return Ok(sent.elapsed());
            }
            ensure!(sent.elapsed() < OVERDUE, "{path} does not become {value}");
        };
        let mut took = ended(&path, "status", json!(status))?;
        if !good {
            took = ended("/api/stock/1", "available", json!(left))?;
        }
        // The first ones wait for the consumers to join their groups.
        if n >= 2 * WARM_UP {
            if good { &mut completed } else { &mut compensated }.push(took);
        }
    }
    daemon.terminate();
    line(report, "enqueue with a saga: POST /api/orders -> paid", &millis(&completed));
    line(report, "enqueue with a saga: POST /api/orders -> cancelled, and its stock is back", &millis(&compensated));
    Ok(())
}
