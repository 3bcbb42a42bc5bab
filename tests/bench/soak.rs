//! Memory under full load, minute by minute: whether it grows.
//!
//! Records are produced as fast as the host takes them, with no more than [`AHEAD`] waiting, so it never rests and never falls behind for
//! good. Its inbox keeps ids for a few minutes, since each takes memory for as long; what is left must be flat. The topics keep a few hundred MiB.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidemill_tests::{Daemon, Kafka, Store};

use crate::load::{self, Ends};
use crate::process;
use crate::report::{Report, say};
use crate::throughput::{self, PARTITIONS};

const INPUT: &str = "soak-in";
const OUTPUT: &str = "soak-out";
/// Records that may wait.
const AHEAD: u64 = 100_000;
/// Records that are produced together.
const BATCH: u64 = 5_000;
/// How long ids are kept, and the first part of the run, which does not count: the inbox has to fill.
const KEEP: Duration = Duration::from_secs(120);

/// Runs for so many minutes, and writes what it found into the report.
pub(crate) fn measure(kafka: &Kafka, minutes: u64, report: &mut Report) -> Result<()> {
    for topic in [INPUT, OUTPUT] {
        kafka.client().create_topic(topic, PARTITIONS);
        let config = "retention.bytes=67108864,segment.bytes=33554432";
        kafka.tool("configs", &["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", config]);
    }
    let settings = format!("[inbox]\nkeep = \"{}s\"\n", KEEP.as_secs());
    let sandbox = throughput::sandbox(kafka, INPUT, OUTPUT, &settings);
    let mut daemon = Daemon::start(&sandbox);
    let producer = load::producer(kafka.bootstrap(), "5")?;
    let ends = Ends::of(kafka.bootstrap(), OUTPUT)?;
    let (began, mut sent, mut minute, mut done_before) = (Instant::now(), 0, 0, 0);
    let mut own = Vec::new();
    while minute < minutes {
        let done = ends.last()?;
        if sent - done.min(sent) < AHEAD {
            for n in sent + 1..=sent + BATCH {
                let (key, value) = load::order(n, false);
                load::send(&producer, INPUT, &key, &value)?;
            }
            sent += BATCH;
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
        if began.elapsed() < Duration::from_secs(60) * (u32::try_from(minute)? + 1) {
            continue;
        }
        minute += 1;
        let weight = process::weight(daemon.pid())?;
        let rate = (done - done_before) / 60;
        done_before = done;
        own.push(weight.own);
        say(&format!(
            "soak, minute {minute}: {rate} records/s, {:.1} MiB resident, {:.1} of its own",
            weight.resident, weight.own
        ));
    }
    load::flush(&producer)?;
    let all = format!("SELECT count(*) = {sent} FROM entries");
    let store = Store::open(&sandbox, "bench");
    tidemill_tests::eventually(Duration::from_secs(120), "all events are there", || {
        ends.last().is_ok_and(|there| there == sent)
    });
    ensure!(store.count(&all) == 1, "a record of {sent} is missing, or there twice");
    daemon.terminate();
    let settled = own.split_off(own.len().min(usize::try_from(KEEP.as_secs() * 2 / 60)?));
    let half = settled.len() / 2;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, second) = settled.split_at_checked(half).context("too few minutes")?;
    report.section("memory under full load");
    report.line(
        "the process's own",
        format!(
            "{:.1} MiB in the first half, {:.1} in the second, of {} minutes and {sent} records",
            mean(first),
            mean(second),
            settled.len()
        ),
        json!({ "records": sent, "minutes": settled.len(), "first_mib": mean(first), "second_mib": mean(second), "each_mib": settled }),
    );
    Ok(())
}
