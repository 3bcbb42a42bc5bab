//! Requests a second over HTTP, at several numbers of connections: `POST` of an order, which is on disk when it is
//! answered, and `GET` of a list.
//!
//! Each connection stays open and asks again as soon as it has its answer. Every answer is looked at: one that is not the
//! expected status fails the run, and so does a store without exactly the orders that were confirmed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidemill_tests::{Daemon, Kafka, Sandbox, Store, token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process;
use crate::report::{Report, percentile, say};

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
/// How long one figure is measured.
const FOR: Duration = Duration::from_secs(5);
/// The part of it before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
const ORDER: &str = r#"{"items":[{"productId":1,"quantity":2,"price":"25000.00"}]}"#;

/// Measures, and writes what it found into the report.
pub(crate) fn measure(kafka: &Kafka, report: &mut Report) -> Result<()> {
    report.section("HTTP, answers that are on disk");
    kafka.client().create_topic("http-orders", 3);
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[handler.order.publish]\norder-events = \"http-orders\"\n",
        kafka.bootstrap()
    ));
    let mut daemon = Daemon::start(&sandbox);
    let (writer, reader) = (token(&sandbox, "1"), token(&sandbox, "2"));
    daemon.post("/api/orders", &reader, ORDER).expect_status(201);
    let address = daemon.url().strip_prefix("http://").context("the address")?.to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut confirmed = 1;
    for (name, token, method, body, status) in
        [("POST /api/orders", &writer, "POST", ORDER, "201"), ("GET /api/orders", &reader, "GET", "", "200")]
    {
        let request = format!(
            "{method} /api/orders HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        for connections in CONNECTIONS {
            let busy = process::seconds(daemon.pid())?;
            let answers = runtime.block_on(run(&address, &request, status, connections))?;
            let busy = process::seconds(daemon.pid())? - busy;
            if method == "POST" {
                confirmed += answers.all;
            }
            let rate = answers.millis.len() as f64 / (FOR - WARM_UP).as_secs_f64();
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| percentile(&answers.millis, share));
            let cost = busy * 1e6 / answers.all as f64;
            let text = format!(
                "{rate:>7.0}/s   p50 {p50:>6.2} ms   p99 {p99:>6.2} ms   p99.9 {p999:>6.2} ms   {cost:>5.0} us of processor each"
            );
            let name = format!("{name}, {connections} connections");
            say(&format!("http, {name}: {text}"));
            report.line(
                &name,
                text,
                json!({ "rate": rate, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "processor_us": cost }),
            );
        }
    }
    let rows = Store::open(&sandbox, "order").count("SELECT count(*) FROM orders");
    ensure!(rows == confirmed, "{rows} orders are there, and {confirmed} were confirmed");
    daemon.terminate();
    Ok(())
}

/// What came back.
struct Answers {
    /// All of them.
    all: i64,
    /// How long those took that were asked for after the warm-up.
    millis: Vec<f64>,
}

async fn run(address: &str, request: &str, status: &str, connections: usize) -> Result<Answers> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(ask(address.to_owned(), request.to_owned(), format!("HTTP/1.1 {status}"), began)))
        .collect();
    let mut answers = Answers { all: 0, millis: Vec::new() };
    for task in tasks {
        let (all, mut millis) = task.await??;
        answers.all += all;
        answers.millis.append(&mut millis);
    }
    Ok(answers)
}

async fn ask(address: String, request: String, status: String, began: Instant) -> Result<(i64, Vec<f64>)> {
    let mut stream = TcpStream::connect(&address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (mut all, mut millis, mut buffer) = (0, Vec::new(), Vec::with_capacity(16 << 10));
    while began.elapsed() < FOR {
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        buffer.clear();
        let whole = loop {
            ensure!(stream.read_buf(&mut buffer).await? > 0, "the connection was closed");
            if let Some(whole) = length(&buffer)?
                && buffer.len() >= whole
            {
                break whole;
            }
        };
        ensure!(
            whole == buffer.len() && buffer.starts_with(status.as_bytes()),
            "not {status}: {}",
            String::from_utf8_lossy(&buffer)
        );
        all += 1;
        if asked - began >= WARM_UP {
            millis.push(asked.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    Ok((all, millis))
}

/// How long an answer is, head and body, once its head is there. The host tells the length of all that it answers.
fn length(buffer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let body = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("a length")?;
    Ok(Some(end + 4 + body.trim().parse::<usize>()?))
}
