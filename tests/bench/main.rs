//! `bench`: throughput, mixes, latency, ways of publishing, HTTP, start, memory, many handlers and growth, on Apache Kafka and the release build.
//!
//! It measures from outside, as a user would, and checks what came out: a run that lost or repeated a record fails.
//! `README.md` beside this file says how to read the figures.

mod report;
mod process;
mod load;
mod native;
mod throughput;
mod pairs;
mod mixes;
mod latency;
mod ways;
mod http;
mod start;
mod memory;
mod soak;
mod inbox;
mod growth;
mod plot;
mod dispatch;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use tidemill_tests::Kafka;

use crate::report::{Report, say};

/// Measures Tidemill: builds come first, `make bench` does both.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Options {
    /// What to measure; all if nothing is named.
    #[arg(value_enum)]
    what: Vec<What>,
    /// Records of a throughput run.
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// Throughput runs of each contender.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Event ids that rise with time, instead of random ones: how much the inbox costs.
    #[arg(long)]
    ordered_ids: bool,
    /// Ids that are in the inbox already when it is measured.
    #[arg(long, default_value_t = 3_000_000)]
    inbox_ids: u64,
    /// What full load is for latency, in records a second, where throughput is not measured before it.
    #[arg(long, default_value_t = 25_000.0)]
    full: f64,
    /// The other build of `pairs`: a `tidemill` of the same contract.
    #[arg(long, required_if_eq("what", "pairs"))]
    other: Option<PathBuf>,
    /// How long a soak takes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// A file of settings for the host in throughput runs, as in `tidemill.toml`, without `[kafka] bootstrap`.
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Points of growth that are larger are left out.
    #[arg(long, default_value_t = 10_000_000)]
    largest: u64,
    /// The only sweep of growth: record size, partitions, handlers, inbox, table, outbox or pending.
    #[arg(long)]
    sweep: Option<String>,
    /// The folder that plots go to.
    #[arg(long, default_value = "target")]
    plots: PathBuf,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Records a second, beside a native program that does the same.
    Throughput,
    /// Records a second where some fail or wait for a service.
    Mixes,
    /// From an order to its notification, and from a record to its event.
    Latency,
    /// From a record to its event by each way of publishing, and from an order to the end of its saga.
    Ways,
    /// The host beside itself with traces on: none, one of a hundred and all of them told; only when it is named.
    Traces,
    /// The host beside another build of it (`--other`), pair by pair; only when it is named.
    Pairs,
    /// Requests a second over HTTP.
    Http,
    /// How long the daemon, a handler and the next version of one take to begin.
    Start,
    /// Memory and threads at rest.
    Memory,
    /// Memory, threads and start with 100 handlers.
    Handlers,
    /// What one delivery costs by itself.
    Dispatch,
    /// What larger records, more partitions and handlers and fuller stores cost; only when it is named.
    Growth,
    /// What a large inbox costs, in SQLite alone; only when it is named.
    Inbox,
    /// Memory under full load, for `--minutes`; only when it is named.
    Soak,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // The same program is also what the host is compared with, as a process of its own.
    if let [_, native, bootstrap, input, output, database] = arguments.as_slice()
        && native == "native"
    {
        return native::run(&native::Plan {
            bootstrap: bootstrap.clone(),
            input: input.clone(),
            output: output.clone(),
            group: output.clone(),
            database: PathBuf::from(database),
        });
    }
    let options = Options::parse();
    let named = |what| options.what.contains(&what);
    let asked = |what| options.what.is_empty() || named(what);
    let mut report = Report::default();
    report.machine();
    if named(What::Inbox) {
        inbox::measure(options.inbox_ids, &mut report)?;
    }
    if asked(What::Dispatch) {
        dispatch::measure(&mut report)?;
    }
    if asked(What::Memory) {
        memory::at_rest(&mut report)?;
    }
    if [What::Throughput, What::Mixes, What::Latency, What::Ways, What::Http, What::Start, What::Handlers]
        .into_iter()
        .any(asked)
        || named(What::Growth)
        || [What::Soak, What::Traces, What::Pairs].into_iter().any(named)
    {
        say("starting Apache Kafka");
        let kafka = Kafka::start(1);
        let mut full = options.full;
        let settings = options.settings.as_ref().map_or(Ok(String::new()), std::fs::read_to_string);
        let plan = throughput::Plan {
            records: options.records,
            rounds: options.rounds,
            ordered_ids: options.ordered_ids,
            settings: settings.context("read the settings")?,
        };
        if asked(What::Throughput) {
            full = throughput::measure(&kafka, &plan, &mut report)?;
        }
        if named(What::Traces) {
            pairs::traces(&kafka, &plan, &mut report)?;
        }
        if named(What::Pairs) {
            let other = options.other.as_deref().context("--other names the other build")?;
            pairs::builds(&kafka, &plan, other, &mut report)?;
        }
        if asked(What::Mixes) {
            mixes::measure(&kafka, &mut report)?;
        }
        if asked(What::Latency) {
            latency::measure(&kafka, full, &mut report)?;
        }
        if asked(What::Ways) {
            ways::measure(&kafka, &mut report)?;
        }
        if asked(What::Http) {
            http::measure(&kafka, &mut report)?;
        }
        if asked(What::Start) {
            start::measure(&kafka, &mut report)?;
        }
        if named(What::Growth) {
            growth::measure(&kafka, &options.plots, options.largest, options.sweep.as_deref(), &mut report)?;
        }
        if named(What::Soak) {
            soak::measure(&kafka, options.minutes, &mut report)?;
        }
        if asked(What::Handlers) {
            memory::many_handlers(&kafka, &mut report)?;
        }
    }
    say(&report.table());
    report.write(&options.json)?;
    say(&format!("as JSON: {}", options.json.display()));
    Ok(())
}
