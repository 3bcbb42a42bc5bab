//! Latency of an idle host: from an order to its notification, and from a record to its event.
//!
//! Both are seen from outside, over HTTP and Kafka. Beside the second stands the broker's own hop, and the native
//! program, measured in the same run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::topic_partition_list::Offset;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tidemill_tests::{Daemon, Kafka, Sandbox, token};

use crate::load::{self, Ends, PATIENCE};
use crate::report::{Report, millis, percentile, say};
use crate::throughput::{self, Native};

/// Orders, and the time from one to the next.
const ORDERS: u64 = 200;
const ORDER_EVERY: Duration = Duration::from_millis(50);
/// Users who order: the list of one stays short.
const USERS: u64 = 20;
/// Records, and the time from one to the next.
const RECORDS: u64 = 1_000;
const RECORD_EVERY: Duration = Duration::from_millis(5);
/// Records and orders before any that counts.
const WARM_UP: u64 = 20;
/// How long a notification may take.
const OVERDUE: Duration = Duration::from_secs(30);

/// Measures, and writes what it found into the report.
pub(crate) fn measure(kafka: &Kafka, report: &mut Report) -> Result<()> {
    report.section("latency, idle");
    orders(kafka, report).context("orders")?;
    for topic in ["hop", "native-in", "native-out", "host-in", "host-out"] {
        kafka.client().create_topic(topic, 6);
    }
    let hop = events(kafka, "hop", "hop").context("the broker alone")?;
    line(report, "broker alone: record -> read back", &hop);

    let folder = tempfile::tempdir().context("make a folder")?;
    let database = folder.path().join("native.db");
    let program = Native::start(kafka.bootstrap(), "native-in", "native-out", &database)?;
    let native = events(kafka, "native-in", "native-out").context("the native program")?;
    program.stop()?;
    load::check_store(&database, RECORDS)?;
    line(report, "native: record -> event read back", &native);

    let sandbox = throughput::sandbox(kafka, "host-in", "host-out", "");
    let mut daemon = Daemon::start(&sandbox);
    let host = events(kafka, "host-in", "host-out").context("the host")?;
    daemon.terminate();
    load::check_store(&sandbox.store_file("bench"), RECORDS)?;
    line(report, "host: record -> event read back", &host);
    let ratio = |share| percentile(&host, share) / percentile(&native, share);
    report.line(
        "host/native",
        format!("p50 {:.2}   p99 {:.2}", ratio(0.5), ratio(0.99)),
        json!({ "p50": ratio(0.5), "p99": ratio(0.99) }),
    );
    Ok(())
}

fn line(report: &mut Report, name: &str, took: &[f64]) {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(took, share));
    let text = format!("p50 {p50:>6.2} ms   p99 {p99:>6.2} ms   max {max:>7.2} ms   ({} times)", took.len());
    say(&format!("latency, {name}: {text}"));
    report.line(name, text, json!({ "p50_ms": p50, "p99_ms": p99, "max_ms": max, "times": took.len() }));
}

/// Orders one after the other, each until its user can read the notification.
fn orders(kafka: &Kafka, report: &mut Report) -> Result<()> {
    kafka.client().create_topic("order-events", 3);
    let sandbox = Sandbox::new();
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n", kafka.bootstrap()));
    ["order", "notification"].iter().for_each(|name| sandbox.deploy(name));
    let mut daemon = Daemon::start(&sandbox);
    let tokens: Vec<String> = (0..USERS).map(|user| token(&sandbox, &user.to_string())).collect();
    let body = r#"{"items":[{"productId":1,"quantity":2,"price":"25000.00"}]}"#;
    let (mut answered, mut noticed) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for (n, token) in (0..ORDERS + WARM_UP).zip(tokens.iter().cycle()) {
        pace(began, ORDER_EVERY, n);
        let sent = Instant::now();
        let reply = daemon.post("/api/orders", token, body).expect_status(201);
        let replied = sent.elapsed();
        let id = reply.json().get("id").and_then(Json::as_i64).context("the order's id")?;
        let text = format!("주문번호: {id},");
        while !daemon.get("/api/notifications", token).expect_status(200).text().contains(&text) {
            ensure!(sent.elapsed() < OVERDUE, "no notification of order {id}");
        }
        // The first ones wait for the consumer to join its group.
        if n >= WARM_UP {
            answered.push(replied);
            noticed.push(sent.elapsed());
        }
    }
    let rows = tidemill_tests::Store::open(&sandbox, "notification").count("SELECT count(*) FROM notifications");
    ensure!(rows == (ORDERS + WARM_UP) as i64, "{rows} notifications of {} orders", ORDERS + WARM_UP);
    daemon.terminate();
    line(report, "POST /api/orders -> 201", &millis(&answered));
    line(report, "POST /api/orders -> notification can be read", &millis(&noticed));
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbered {
    order_id: u64,
}

/// Produces records at a steady pace, and notes when each order comes out at the other end.
fn events(kafka: &Kafka, input: &str, output: &str) -> Result<Vec<f64>> {
    let consumer = Ends::of(kafka.bootstrap(), output)?.read_from(Offset::End)?;
    let reader = std::thread::spawn(move || read(&consumer));
    let producer = load::producer(kafka.bootstrap(), "0")?;
    let mut sent = Vec::new();
    let mut began = Instant::now();
    for n in 1..=RECORDS {
        // The first record alone waits until everybody has joined, and the pace starts after it.
        if n == 2 {
            let ends = Ends::of(kafka.bootstrap(), output)?;
            tidemill_tests::eventually(OVERDUE, "the first record came through", || ends.count().is_ok_and(|n| n == 1));
            began = Instant::now();
        }
        pace(began, RECORD_EVERY, n);
        let (key, value) = load::order(n, false);
        sent.push(Instant::now());
        producer.send(BaseRecord::to(input).key(&key).payload(&value)).map_err(|(error, _)| error)?;
    }
    producer.flush(PATIENCE)?;
    let came = reader.join().ok().context("the reader panicked")??;
    let took = sent.iter().zip(1..).skip(WARM_UP as usize).map(|(sent, n)| {
        let came = came.get(&n).with_context(|| format!("order {n} never came"))?;
        Ok(came.saturating_duration_since(*sent))
    });
    Ok(millis(&took.collect::<Result<Vec<_>>>()?))
}

/// When each of the orders came.
fn read(consumer: &BaseConsumer) -> Result<HashMap<u64, Instant>> {
    let mut came = HashMap::new();
    while came.len() < RECORDS as usize {
        let Some(message) = consumer.poll(OVERDUE) else { bail!("{} of {RECORDS} came", came.len()) };
        let message = message.context("read")?;
        let order: Numbered = serde_json::from_slice(message.payload().unwrap_or_default()).context("parse")?;
        let again = came.insert(order.order_id, Instant::now());
        ensure!(again.is_none(), "order {} came twice", order.order_id);
    }
    Ok(came)
}

/// Waits until it is time for the n-th.
fn pace(began: Instant, every: Duration, n: u64) {
    let due = began + every * u32::try_from(n).unwrap_or(u32::MAX);
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
