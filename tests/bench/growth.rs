//! What growth costs: the same work with larger records, more partitions, more handlers, and more that is in the store
//! already. Each sweep becomes a line of the report for each point, its slope, and a plot.
//!
//! The work and its check are the throughput run's. A point is one run of the host, so neighbours show; the slope over
//! the whole sweep is what counts.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use serde_json::json;
use tidemill::ledger::inbox::Inbox;
use tidemill::ledger::schema;
use tidemill_tests::{Daemon, Kafka, Sandbox};

use crate::load;
use crate::plot::{self, Point};
use crate::report::{Report, say};
use crate::throughput::{self, PARTITIONS};

/// Deliveries of a run, if its records are small.
const DELIVERIES: u64 = 100_000;
/// Bytes of a run, if its records are large.
const BYTES: u64 = 128 << 20;
/// For a store in which as many records wait as one likes.
const ANY_PENDING: &str =
    "[handler.bench.retry]\norder = \"key\"\nmax-pending = 100000000\nmax-pending-bytes = \"100GiB\"\n";
/// Nothing listens there.
const NOBODY: &str = "[kafka]\nbootstrap = \"127.0.0.1:1\"\n";

/// What is there before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Ids in the inbox, random.
    Ids,
    /// Rows in the handler's own table.
    Rows,
    /// Events in the outbox, published first.
    Events,
    /// Records that wait for an attempt far away, each of a key of its own.
    Pending,
}

/// Measures, and writes what it found into the report and the plots into `folder`.
/// Points that are larger than `largest` are left out, and sweeps other than `only` if it names one.
pub(crate) fn measure(
    kafka: &Kafka,
    folder: &Path,
    largest: u64,
    only: Option<&str>,
    report: &mut Report,
) -> Result<()> {
    report.section("growth: records a second, and memory at the end");
    let mut sweep = |name: &str, unit: &str, points: Vec<Point>| {
        let slope = plot::slope(&points);
        report.line(
            &format!("{name}: slope"),
            format!("{:+.0} % of the speed for ten times as many {unit}", slope * 100.0),
            json!(slope),
        );
        for point in &points {
            report.line(
                &format!("{name}: {} {unit}", point.x),
                format!("{:>7.0}/s   {:>6.0} MiB", point.rate, point.resident),
                json!({ "rate": point.rate, "resident_mib": point.resident }),
            );
        }
        plot::write(&folder.join(format!("{}.svg", name.replace(' ', "-"))), name, unit, &points)
    };
    type Run<'a> = &'a dyn Fn(u64) -> Result<Point>;
    let sweeps: [(&str, &str, &[u64], Run<'_>); 7] = [
        ("record size", "bytes", &[200, 2_000, 16_000, 128_000, 512_000], &|bytes| sized(kafka, bytes)),
        ("partitions", "partitions", &[1, 6, 25, 100], &|count| partitioned(kafka, count)),
        ("handlers", "handlers", &[1, 2, 4, 10, 50, 100], &|count| handled(kafka, count)),
        ("inbox", "ids", &[100_000, 1_000_000, 10_000_000], &|count| holding(kafka, Held::Ids, count)),
        ("table", "rows", &[100_000, 1_000_000, 10_000_000], &|count| holding(kafka, Held::Rows, count)),
        ("outbox", "events", &[1_000, 100_000, 1_000_000], &|count| holding(kafka, Held::Events, count)),
        ("pending", "records", &[1_000, 100_000, 1_000_000], &|count| holding(kafka, Held::Pending, count)),
    ];
    for (name, unit, sizes, run) in sweeps {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let sizes = sizes.iter().copied().filter(|size| *size <= largest);
        let points = sizes.map(|size| said(name, size, run(size))).collect::<Result<Vec<_>>>()?;
        if points.is_empty() {
            continue;
        }
        sweep(name, unit, points)?;
    }
    Ok(())
}

fn said(name: &str, x: u64, point: Result<Point>) -> Result<Point> {
    let point = point.with_context(|| format!("{name}, {x}"))?;
    say(&format!("growth, {name}, {x}: {:.0}/s, {:.0} MiB", point.rate, point.resident));
    Ok(point)
}

/// Records of about this many bytes.
fn sized(kafka: &Kafka, bytes: u64) -> Result<Point> {
    let (input, output) = (format!("size-{bytes}-in"), format!("size-{bytes}-out"));
    let records = DELIVERIES.min(BYTES / bytes);
    preload(kafka, &input, PARTITIONS, records, bytes as usize)?;
    run(kafka, &input, &output, PARTITIONS, records, bytes)
}

/// Topics with so many partitions.
fn partitioned(kafka: &Kafka, partitions: u64) -> Result<Point> {
    let (input, output) = (format!("partitions-{partitions}-in"), format!("partitions-{partitions}-out"));
    let count = i32::try_from(partitions)?;
    preload(kafka, &input, count, DELIVERIES, 0)?;
    run(kafka, &input, &output, count, DELIVERIES, partitions)
}

/// So many handlers, each with its store, that all read the same records. Those are produced once all are at work.
fn handled(kafka: &Kafka, handlers: u64) -> Result<Point> {
    let (input, output) = (format!("handlers-{handlers}-in"), format!("handlers-{handlers}-out"));
    let records = DELIVERIES / handlers;
    preload(kafka, &input, PARTITIONS, 1, 0)?;
    kafka.client().create_topic(&output, PARTITIONS);
    let sandbox = Sandbox::new();
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n", kafka.bootstrap()));
    for n in 1..=handlers {
        let manifest = throughput::manifest(&format!("bench-{n}"), &input, &output);
        sandbox.deploy_bytes(&format!("bench-{n}.toml"), manifest.as_bytes());
        sandbox.deploy_bytes(&format!("bench-{n}.wasm"), &tidemill_tests::built("bench"));
    }
    let mut daemon = Daemon::start(&sandbox);
    throughput::watch(kafka, &output, handlers, daemon.pid())?;
    let began = Instant::now();
    load::preload(kafka.bootstrap(), &input, 2..=records, false, 0)?;
    let run = throughput::watch(kafka, &output, records * handlers, daemon.pid())?;
    let took = began.elapsed();
    daemon.terminate();
    for n in 1..=handlers {
        load::check_store(&sandbox.store_file(&format!("bench-{n}")), records)?;
    }
    let rate = ((records - 1) * handlers) as f64 / took.as_secs_f64();
    Ok(Point { x: handlers, rate, resident: run.weight.resident })
}

/// A store that holds so much already.
fn holding(kafka: &Kafka, held: Held, count: u64) -> Result<Point> {
    let name = format!("{held:?}-{count}").to_lowercase();
    let (input, output) = (format!("{name}-in"), format!("{name}-out"));
    preload(kafka, &input, PARTITIONS, DELIVERIES, 0)?;
    kafka.client().create_topic(&output, PARTITIONS);
    let settings = if held == Held::Pending { ANY_PENDING } else { "" };
    let sandbox = throughput::sandbox(kafka, &input, &output, settings);
    // The store is made, and nothing is read.
    let settings = std::fs::read_to_string(sandbox.toml())?;
    sandbox.write_toml(NOBODY);
    Daemon::start(&sandbox).terminate();
    fill(&sandbox.store_file("bench"), held, count, &input, &output).with_context(|| format!("fill with {name}"))?;
    sandbox.write_toml(&settings);
    let events = if held == Held::Events { count } else { 0 };
    let mut daemon = Daemon::start(&sandbox);
    let run = throughput::watch(kafka, &output, DELIVERIES + events, daemon.pid())?;
    daemon.terminate();
    let store = Connection::open(sandbox.store_file("bench"))?;
    let rows: i64 = store.query_row("SELECT count(*) FROM entries WHERE order_id > 0", [], |row| row.get(0))?;
    ensure!(rows.unsigned_abs() == DELIVERIES, "{rows} rows for {DELIVERIES} records");
    let pending: i64 = store.query_row("SELECT count(*) FROM tm_pending", [], |row| row.get(0))?;
    ensure!(held != Held::Pending || pending.unsigned_abs() == count, "{pending} records still wait of {count}");
    Ok(Point { x: count, rate: run.rate(DELIVERIES + events), resident: run.weight.resident })
}

fn fill(path: &Path, held: Held, count: u64, input: &str, output: &str) -> Result<()> {
    if held == Held::Ids {
        let connection = tidemill::store::Connection::open_writer(path, false)?;
        let secret = schema::prepare(&connection)?.secret;
        let mut inbox = Inbox::open(&connection, &secret)?;
        for from in (0..count).step_by(50_000) {
            connection.batch("BEGIN IMMEDIATE")?;
            if inbox.is_full(0, None) {
                inbox.turn(&connection, 0)?;
            }
            for n in from..count.min(from + 50_000) {
                // Other than those of the run.
                inbox.add(&connection, "bench", &load::random_id(n + (1 << 40)), tidemill::clock::now())?;
            }
            connection.batch("COMMIT")?;
            inbox.settle();
        }
        return Ok(());
    }
    let store = Connection::open(path)?;
    store.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -500000")?;
    let numbers = format!("WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})");
    let now = tidemill::clock::now();
    let sql = match held {
        Held::Ids => return Ok(()),
        Held::Rows => format!("{numbers} INSERT INTO entries (order_id, user_id, amount) SELECT -n, 'user', '1.00' FROM n"),
        Held::Events => format!(
            "{numbers} INSERT INTO tm_outbox (id, event_id, event_type, topic, partition_key, payload, headers, kind, handler, source, created_at)
             SELECT n, 'event-' || n, 'HELD', '{output}', 'user-' || (n % 1000), '{{\"held\":true}}', '[]', 'event', 'bench', 'bench', {now} FROM n"
        ),
        Held::Pending => format!(
            "{numbers} INSERT INTO tm_pending (handler, topic, partition, topic_id, \"offset\", timestamp, timestamp_type, key, value, headers, scope, attempts, due, errors, purpose)
             SELECT 'bench', '{input}', n % {PARTITIONS}, 'gone', n, 0, 'CreateTime', 'k' || n, '{{}}', '[]', 'key', 1, {now} + 43200000,
             '[{{\"attempt\":1,\"at\":{now},\"outcome\":\"retry\",\"message\":\"held\"}}]', 'handle' FROM n"
        ),
    };
    store.execute_batch(&sql)?;
    Ok(())
}

/// One run, with its checks.
fn run(kafka: &Kafka, input: &str, output: &str, partitions: i32, records: u64, x: u64) -> Result<Point> {
    kafka.client().create_topic(output, partitions);
    let sandbox = throughput::sandbox(kafka, input, output, "");
    let mut daemon = Daemon::start(&sandbox);
    let run = throughput::watch(kafka, output, records, daemon.pid())?;
    daemon.terminate();
    load::check_store(&sandbox.store_file("bench"), records)?;
    load::check_events(kafka.bootstrap(), output, records)?;
    Ok(Point { x, rate: run.rate(records), resident: run.weight.resident })
}

/// Makes the topic, with records of at least so many bytes.
fn preload(kafka: &Kafka, topic: &str, partitions: i32, records: u64, bytes: usize) -> Result<()> {
    kafka.client().create_topic(topic, partitions);
    load::preload(kafka.bootstrap(), topic, 1..=records, false, bytes)
        .with_context(|| format!("preload {topic}"))
        .map(drop)
}
