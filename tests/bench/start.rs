//! How long things take to begin: the daemon, a handler that is dropped into its folder, and the next version of one that
//! is at work.
//!
//! All is seen from outside: by the line that says "ready", and by the events that come out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidemill_tests::sandbox::with_section;
use tidemill_tests::{Daemon, Kafka, LONG, Out, built, eventually};

use crate::latency;
use crate::load::{self, Ends};
use crate::report::{Report, median, say};
use crate::throughput;

/// Records a second while versions change.
const RATE: f64 = 1_000.0;
/// Versions that follow one another.
const VERSIONS: u32 = 20;
/// A moment that is looked at: one begins with a version, and in the next nothing happens. A version is compiled and live within it.
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

    reloads(kafka, report).context("reloads")
}

/// Drops versions into the folder while records flow, and compares the longest time of a record in the moments after a drop with that in
/// moments in which nothing happens. Medians over many: a neighbour on the machine lengthens some of both.
fn reloads(kafka: &Kafka, report: &mut Report) -> Result<()> {
    let [input, output] = ["reload-in", "reload-out"];
    [input, output].iter().for_each(|topic| kafka.client().create_topic(topic, 6));
    let sandbox = throughput::sandbox(kafka, input, output, "");
    let mut daemon = Daemon::start(&sandbox);
    let records = (RATE * EVERY.as_secs_f64()) as u64 * 2 * (u64::from(VERSIONS) + 1);
    let (dropped, times) = std::thread::scope(|scope| {
        let dropping = scope.spawn(|| {
            (1..=VERSIONS)
                .map(|version| {
                    std::thread::sleep(EVERY * 2);
                    sandbox.deploy_bytes("bench.wasm", &with_section(&built("bench"), &format!("version {version}")));
                    Instant::now()
                })
                .collect::<Vec<_>>()
        });
        let times = latency::timed(kafka, input, output, RATE, records, latency::order);
        (dropping.join(), times)
    });
    let (dropped, times) = (dropped.ok().context("a version was not written")?, times?);
    let live = daemon.log().matches("handler is live").count();
    daemon.terminate();
    load::check_store(&sandbox.store_file("bench"), records)?;
    ensure!(live == VERSIONS as usize + 1, "{live} versions went live of {}", VERSIONS + 1);
    let longest = |from: Instant| {
        let moment = times.iter().filter(|(due, _)| (from..from + EVERY).contains(due));
        moment.map(|(_, took)| *took).reduce(f64::max)
    };
    let after: Vec<f64> = dropped.iter().filter_map(|at| longest(*at)).collect();
    let quiet: Vec<f64> = dropped.iter().filter_map(|at| longest(*at + EVERY)).collect();
    ensure!(
        after.len() == VERSIONS as usize && quiet.len() == after.len(),
        "the records ended before the versions did"
    );
    let (after, quiet) = (median(&after), median(&quiet));
    let text = format!("{after:.2} ms, and {quiet:.2} ms in as long a time without one");
    say(&format!("start, longest time of a record around a reload: {text}"));
    report.line(
        &format!(
            "longest time of a record at {RATE}/s in the {} ms after a new version is dropped, median of {VERSIONS}",
            EVERY.as_millis()
        ),
        text,
        json!({ "reload_ms": after, "quiet_ms": quiet }),
    );
    Ok(())
}

fn line(report: &mut Report, name: &str, took: Duration) {
    let seconds = took.as_secs_f64();
    say(&format!("start, {name}: {seconds:.3} s"));
    report.line(name, format!("{seconds:.3} s"), seconds);
}
