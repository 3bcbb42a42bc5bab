//! Latency: from an order to its notification on an idle host, and from a record to its event when idle, at half load and
//! at full load.
//!
//! Both are seen from outside, over HTTP and Kafka. Beside the second stands the broker's own hop, and the native
//! program, measured in the same run. A record's time begins when it was due, not when it could be sent, so that
//! a stall is counted for everything that it held up (no coordinated omission).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tidemill_tests::{Daemon, Kafka, Sandbox, token};

use crate::load::{self, Ends};
use crate::report::{Report, millis, percentile, say};
use crate::throughput::{self, Native};

/// Orders, and the time from one to the next.
const ORDERS: u64 = 200;
const ORDER_EVERY: Duration = Duration::from_millis(50);
/// Users who order: the list of one stays short.
const USERS: u64 = 20;
/// Records a second of an idle host, and how many there are.
const IDLE: f64 = 200.0;
const RECORDS: u64 = 1_000;
/// For how long a loaded one is measured, in seconds.
const LOADED: f64 = 10.0;
/// Records and orders before any that counts.
pub(crate) const WARM_UP: u64 = 20;
/// How long a notification may take.
pub(crate) const OVERDUE: Duration = Duration::from_secs(30);

/// Measures, and writes what it found into the report.
/// `full` is what the host does at most, in records a second.
pub(crate) fn measure(kafka: &Kafka, full: f64, report: &mut Report) -> Result<()> {
    report.section("latency");
    orders(kafka, report).context("orders")?;
    let client = kafka.client();
    client.create_topic("hop", 6);
    let hop = events(kafka, "hop", "hop", IDLE, RECORDS, order).context("the broker alone")?;
    line(report, "broker alone: record -> read back", &hop);
    for (load, rate, records) in [
        ("idle", IDLE, RECORDS),
        ("half load", full / 2.0, (full / 2.0 * LOADED) as u64),
        ("full load", full, (full * LOADED) as u64),
    ] {
        let [input, output] = ["in", "out"].map(|end| format!("latency-{}-{end}", load.replace(' ', "-")));
        let [native_input, native_output] = [&input, &output].map(|topic| format!("{topic}-native"));
        [&input, &output, &native_input, &native_output].iter().for_each(|topic| client.create_topic(topic, 6));

        let folder = tempfile::tempdir().context("make a folder")?;
        let database = folder.path().join("native.db");
        let program = Native::start(kafka.bootstrap(), &native_input, &native_output, &database)?;
        let native = events(kafka, &native_input, &native_output, rate, records, order)
            .with_context(|| format!("native, {load}"))?;
        program.stop()?;
        load::check_store(&database, records)?;
        line(report, &format!("native, {load} ({rate:.0}/s): record -> event read back"), &native);

        let sandbox = throughput::sandbox(kafka, &input, &output, "");
        let mut daemon = Daemon::start(&sandbox);
        let host = events(kafka, &input, &output, rate, records, order).with_context(|| format!("host, {load}"))?;
        daemon.terminate();
        load::check_store(&sandbox.store_file("bench"), records)?;
        line(report, &format!("host, {load} ({rate:.0}/s): record -> event read back"), &host);
        let ratio = |share| percentile(&host, share) / percentile(&native, share);
        report.line(
            &format!("host/native, {load}"),
            format!("p50 {:.2}   p99 {:.2}", ratio(0.5), ratio(0.99)),
            json!({ "p50": ratio(0.5), "p99": ratio(0.99) }),
        );
    }
    Ok(())
}

/// One figure.
pub(crate) fn line(report: &mut Report, name: &str, took: &[f64]) {
    let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|share| percentile(took, share));
    let text = format!(
        "p50 {p50:>6.2} ms   p99 {p99:>6.2} ms   p99.9 {p999:>6.2} ms   max {max:>7.2} ms   ({} times)",
        took.len()
    );
    say(&format!("latency, {name}: {text}"));
    report.line(
        name,
        text,
        json!({ "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max, "times": took.len() }),
    );
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

/// The record of an order.
pub(crate) fn order(n: u64) -> (String, String) {
    load::order(n, false)
}

/// Produces records at a steady pace, by their numbers, and says how long each order took to come out at the other end, in milliseconds.
pub(crate) fn events(
    kafka: &Kafka,
    input: &str,
    output: &str,
    rate: f64,
    records: u64,
    record: impl Fn(u64) -> (String, String),
) -> Result<Vec<f64>> {
    let times = timed(kafka, input, output, rate, records, record)?;
    Ok(times.into_iter().map(|(_, took)| took).collect())
}

/// The same, each with the time at which it was due.
pub(crate) fn timed(
    kafka: &Kafka,
    input: &str,
    output: &str,
    rate: f64,
    records: u64,
    record: impl Fn(u64) -> (String, String),
) -> Result<Vec<(Instant, f64)>> {
    let consumer = Ends::of(kafka.bootstrap(), output)?.read_from(Offset::End)?;
    let reader = std::thread::spawn(move || read(&consumer, records));
    let producer = load::producer(kafka.bootstrap(), "0")?;
    let mut due = Vec::new();
    let mut began = Instant::now();
    let every = Duration::from_secs_f64(1.0 / rate);
    for n in 1..=records {
        // The first record alone waits until everybody has joined, and the pace starts after it.
        if n == 2 {
            let ends = Ends::of(kafka.bootstrap(), output)?;
            tidemill_tests::eventually(OVERDUE, "the first record came through", || ends.count().is_ok_and(|n| n == 1));
            began = Instant::now();
        }
        due.push(pace(began, every, n));
        let (key, value) = record(n);
        load::send(&producer, input, &key, &value)?;
    }
    load::flush(&producer)?;
    let came = reader.join().ok().context("the reader panicked")??;
    let took = due.iter().zip(1..).skip(WARM_UP as usize).map(|(due, n)| {
        let came = came.get(&n).with_context(|| format!("order {n} never came"))?;
        Ok((*due, came.saturating_duration_since(*due).as_secs_f64() * 1_000.0))
    });
    took.collect()
}

/// When each of the orders came.
fn read(consumer: &BaseConsumer, records: u64) -> Result<HashMap<u64, Instant>> {
    let mut came = HashMap::new();
    while came.len() < records as usize {
        let Some(message) = consumer.poll(OVERDUE) else { bail!("{} of {records} came", came.len()) };
        let message = message.context("read")?;
        let order: Numbered = serde_json::from_slice(message.payload().unwrap_or_default()).context("parse")?;
        let again = came.insert(order.order_id, Instant::now());
        ensure!(again.is_none(), "order {} came twice", order.order_id);
    }
    Ok(came)
}

/// Waits until it is time for the n-th, and returns that time.
fn pace(began: Instant, every: Duration, n: u64) -> Instant {
    let due = began + every.mul_f64(n as f64);
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
    due
}
