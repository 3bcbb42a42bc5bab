//! How long things take to begin: the daemon, a handler that is dropped into its folder, and the next version of one that
//! is at work.
//!
//! All is seen from outside: by the line that says "ready", and by the events that come out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use tidemill_tests::sandbox::with_section;
use tidemill_tests::{Daemon, Kafka, LONG, Out, built, eventually};

use crate::latency;
use crate::load::{self, Ends};
use crate::report::{Report, percentile, say};
use crate::throughput;

/// Records a second while versions change, and how many there are.
const RATE: f64 = 1_000.0;
const RECORDS: u64 = 6_000;
/// Versions that follow one another, and the time between two.
const VERSIONS: u32 = 5;
const EVERY: Duration = Duration::from_millis(900);

/// Measures, and writes what it found into the report.
pub(crate) fn measure(kafka: &Kafka, report: &mut Report) -> Result<()> {
    report.section("start");
    let client = kafka.client();
    let [input, output] = ["start-in", "start-out"];
    [input, output].iter().for_each(|topic| client.create_topic(topic, 6));
    let ends = Ends::of(kafka.bootstrap(), output)?;
    let sandbox = throughput::sandbox(kafka, input, output, "");
    sandbox.remove("bench.wasm");
    for (n, cache) in [(1, "compiled for it"), (2, "compiled before")] {
        let (key, value) = load::order(n, false);
        client.produce(input, &Out::new(value).key(key));
        let mut daemon = Daemon::start(&sandbox);
        line(report, &format!("daemon without handlers ready, {n}"), daemon.ready_after());
        let began = Instant::now();
        sandbox.deploy("bench");
        eventually(LONG, "the event is there", || ends.count().is_ok_and(|count| count == n));
        line(report, &format!("handler dropped into the folder -> its first event, {cache}"), began.elapsed());
        daemon.terminate();
        let mut daemon = Daemon::start(&sandbox);
        line(report, &format!("daemon with the handler ready, {n}"), daemon.ready_after());
        daemon.terminate();
        sandbox.remove("bench.wasm");
    }

    let [input, output] = ["reload-in", "reload-out"];
    [input, output].iter().for_each(|topic| client.create_topic(topic, 6));
    let sandbox = throughput::sandbox(kafka, input, output, "");
    let mut daemon = Daemon::start(&sandbox);
    let quiet = latency::events(kafka, input, output, RATE, RECORDS).context("no reload")?;
    let [input, output] = ["reload-again-in", "reload-again-out"];
    [input, output].iter().for_each(|topic| client.create_topic(topic, 6));
    daemon.terminate();
    let sandbox = throughput::sandbox(kafka, input, output, "");
    let mut daemon = Daemon::start(&sandbox);
    let busy = std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=VERSIONS {
                std::thread::sleep(EVERY);
                sandbox.deploy_bytes("bench.wasm", &with_section(&built("bench"), &format!("version {version}")));
            }
        });
        latency::events(kafka, input, output, RATE, RECORDS)
    });
    let busy = busy.context("with reloads")?;
    daemon.terminate();
    load::check_store(&sandbox.store_file("bench"), RECORDS)?;
    for (name, took) in [("no version changes", &quiet), (&*format!("{VERSIONS} versions follow one another"), &busy)] {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(took, share));
        let text = format!("p50 {p50:>6.2} ms   p99 {p99:>6.2} ms   longest {max:>6.2} ms");
        say(&format!("start, {RATE} records/s while {name}: {text}"));
        report.line(
            &format!("record -> event at {RATE}/s while {name}"),
            text,
            json!({ "p50_ms": p50, "p99_ms": p99, "max_ms": max }),
        );
    }
    Ok(())
}

fn line(report: &mut Report, name: &str, took: Duration) {
    let seconds = took.as_secs_f64();
    say(&format!("start, {name}: {seconds:.3} s"));
    report.line(name, format!("{seconds:.3} s"), seconds);
}
