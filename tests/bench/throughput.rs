//! Records a second, Kafka -> handler -> commit -> relay: the host with fresh and with reused instances, and the native program, one after
//! the other, on the same records and the same broker.
//!
//! A run begins when the program says that it is ready and ends when the broker holds the last event. Every run has a
//! topic, a group and a store of its own, and is checked: one row, one inbox id and one event for each record.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tidemill_tests::{Daemon, Kafka, Sandbox};

use crate::load::{self, Ends};
use crate::process::{self, Weight};
use crate::report::{Report, median, say};

/// The topic that is read.
const INPUT: &str = "bench-in";
/// Partitions of the topics.
pub(crate) const PARTITIONS: i32 = 6;
/// How often the end of the topic is asked for.
const LOOK: Duration = Duration::from_millis(20);
/// Runs that do not count: a broker that has just started compiles itself, on the processors that are measured.
const WARM_UPS: usize = 3;
/// The topic without an event for so long means that a run stands still.
const STALLED: Duration = Duration::from_secs(60);

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    /// The host, with an instance for each record.
    Fresh,
    /// The host, with instances that serve again.
    Reused,
    /// The program without a host.
    Native,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Fresh, Self::Reused, Self::Native];

    fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Reused => "reused",
            Self::Native => "native",
        }
    }
}

/// What to measure.
pub(crate) struct Plan {
    /// Records of each run.
    pub(crate) records: u64,
    /// Runs of each contender.
    pub(crate) rounds: usize,
    /// Event ids rise with time.
    pub(crate) ordered_ids: bool,
    /// More settings for the host.
    pub(crate) settings: String,
}

/// What one run gave.
pub(crate) struct Run {
    /// From ready to the last event.
    seconds: f64,
    /// From the first event that was seen to the last, and how many came in between.
    flowing: (f64, u64),
    threads: BTreeMap<String, f64>,
    broker: f64,
    pub(crate) weight: Weight,
}

impl Run {
    /// Records a second.
    pub(crate) fn rate(&self, records: u64) -> f64 {
        records as f64 / self.seconds
    }

    /// Processor time of all threads, in seconds.
    pub(crate) fn processor(&self) -> f64 {
        self.threads.values().sum()
    }
}

/// Measures, and writes what it found into the report. Returns what the host does, in records a second.
pub(crate) fn measure(kafka: &Kafka, plan: &Plan, report: &mut Report) -> Result<f64> {
    let Plan { records, rounds, .. } = *plan;
    let bytes = prepare(kafka, plan)?;
    let mut runs: [Vec<Run>; 3] = Default::default();
    for round in 1..=rounds {
        for (contender, runs) in Contender::ALL.into_iter().zip(&mut runs) {
            let name = contender.name();
            let topic = format!("bench-out-{name}-{round}");
            let run = match contender {
                Contender::Native => native(kafka, &topic, records),
                host => run_host(
                    kafka,
                    &topic,
                    &Host { instances: host.name(), settings: &plan.settings, program: None },
                    records,
                ),
            };
            let run = run.with_context(|| format!("{name}, round {round}"))?;
            say(&format!(
                "throughput, round {round}, {name}: {:.0} records/s, {:.1} us of processor a record",
                run.rate(records),
                run.processor() * 1e6 / records as f64
            ));
            runs.push(run);
        }
    }
    describe(records, bytes, &runs, report);
    let [fresh, ..] = &runs;
    Ok(median(&fresh.iter().map(|run| run.rate(records)).collect::<Vec<_>>()))
}

/// Puts the records into Kafka, and lets the broker warm up. Returns their values' bytes.
pub(crate) fn prepare(kafka: &Kafka, plan: &Plan) -> Result<usize> {
    kafka.client().create_topic(INPUT, PARTITIONS);
    let bytes =
        load::preload(kafka.bootstrap(), INPUT, 1..=plan.records, plan.ordered_ids, 0).context("preload records")?;
    for warm_up in 1..=WARM_UPS {
        native(kafka, &format!("bench-out-warm-up-{warm_up}"), plan.records).context("warm up")?;
    }
    Ok(bytes)
}

/// The manifest of `tests/guests/bench` with another name and other topics.
pub(crate) fn manifest(name: &str, input: &str, output: &str) -> String {
    format!(
        "name = \"{name}\"\ngroup = \"{name}-{output}\"\ntopics = [\"{input}\"]\nstart = \"earliest\"\nevent-id = \"/eventId\"\n\
         [publish]\nout = \"{output}\"\n"
    )
}

/// A sandbox with that handler on this cluster.
pub(crate) fn sandbox(kafka: &Kafka, input: &str, output: &str, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n{settings}", kafka.bootstrap()));
    sandbox.deploy_bytes("bench.toml", manifest("bench", input, output).as_bytes());
    sandbox.deploy("bench");
    sandbox
}

/// A build of the host, and how it runs.
pub(crate) struct Host<'a> {
    /// `instances` of the manifest.
    pub(crate) instances: &'a str,
    /// More settings.
    pub(crate) settings: &'a str,
    /// The build, if it is not the release build.
    pub(crate) program: Option<&'a Path>,
}

/// One run of the host, with its events in a new topic.
pub(crate) fn run_host(kafka: &Kafka, topic: &str, host: &Host<'_>, records: u64) -> Result<Run> {
    kafka.client().create_topic(topic, PARTITIONS);
    let mut sandbox = sandbox(kafka, INPUT, topic, host.settings);
    if let Some(program) = host.program {
        sandbox.set_program(program);
    }
    let manifest = format!("instances = \"{}\"\n{}", host.instances, manifest("bench", INPUT, topic));
    sandbox.deploy_bytes("bench.toml", manifest.as_bytes());
    let mut daemon = Daemon::start(&sandbox);
    let run = watch(kafka, topic, records, daemon.pid())?;
    daemon.terminate();
    load::check_store(&sandbox.store_file("bench"), records)?;
    load::check_events(kafka.bootstrap(), topic, records)?;
    Ok(run)
}

fn native(kafka: &Kafka, topic: &str, records: u64) -> Result<Run> {
    kafka.client().create_topic(topic, PARTITIONS);
    let folder = tempfile::tempdir().context("make a folder")?;
    let database = folder.path().join("native.db");
    let native = Native::start(kafka.bootstrap(), INPUT, topic, &database)?;
    let run = watch(kafka, topic, records, native.pid())?;
    native.stop()?;
    load::check_store(&database, records)?;
    load::check_events(kafka.bootstrap(), topic, records)?;
    Ok(run)
}

/// The native program, as a process of its own.
pub(crate) struct Native(Child);

impl Native {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(bootstrap: &str, input: &str, output: &str, database: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe().context("find this program")?)
            .arg("native")
            .args([bootstrap, input, output])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the native program")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output")?;
        BufReader::new(stdout).read_line(&mut line).context("wait for the native program")?;
        let native = Self(child);
        ensure!(line.starts_with("ready:"), "the native program did not start");
        Ok(native)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it, once it has removed what was acknowledged.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait().context("wait for the native program")?;
        ensure!(status.success(), "the native program failed: {status}");
        Ok(())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The broker's process.
fn broker_pid(kafka: &Kafka) -> Result<u32> {
    let pid = std::fs::read_to_string(kafka.folder().join("b1/pid")).context("read the broker's process id")?;
    pid.trim().parse().context("the broker's process id")
}

/// Looks at the topic until all events are there.
pub(crate) fn watch(kafka: &Kafka, topic: &str, records: u64, pid: u32) -> Result<Run> {
    let started = Instant::now();
    let before = process::thread_seconds(pid)?;
    let broker = broker_pid(kafka)?;
    let broker_before = process::seconds(broker)?;
    let ends = Ends::of(kafka.bootstrap(), topic)?;
    let (mut first, mut seen, mut moved) = (None, 0, Instant::now());
    while seen < records {
        std::thread::sleep(LOOK);
        let count = ends.count()?;
        if count > seen {
            (seen, moved) = (count, Instant::now());
            first.get_or_insert((moved, count));
        } else if moved.elapsed() > STALLED {
            bail!("it stands still at {seen} of {records} events");
        }
    }
    let (first, early) = first.context("no event came")?;
    let mut threads = process::thread_seconds(pid)?;
    for (name, seconds) in &mut threads {
        *seconds -= before.get(name).copied().unwrap_or(0.0);
    }
    ensure!(seen == records, "{seen} events for {records} records");
    Ok(Run {
        seconds: (moved - started).as_secs_f64(),
        flowing: ((moved - first).as_secs_f64(), records - early),
        threads,
        broker: process::seconds(broker)? - broker_before,
        weight: process::weight(pid)?,
    })
}

fn describe(records: u64, bytes: usize, runs: &[Vec<Run>; 3], report: &mut Report) {
    let middle = |runs: &[Run], figure: &dyn Fn(&Run) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
    let each = |seconds: f64| seconds * 1e6 / records as f64;
    let rate = |run: &Run| run.rate(records);
    let flowing = |run: &Run| run.flowing.1 as f64 / run.flowing.0;
    let processor = |run: &Run| each(run.processor());
    report.section("throughput");
    type Figure<'a> = &'a dyn Fn(&Run) -> f64;
    let figures: [(&str, Figure<'_>, &str); 5] = [
        ("records/s", &rate, "from ready to the last event"),
        ("records/s while they flow", &flowing, "from the first event to the last"),
        ("processor time a record", &processor, "us, all threads"),
        ("broker's processor time a record", &|run| each(run.broker), "us"),
        ("memory at the end", &|run| run.weight.resident, "MiB"),
    ];
    for (name, figure, unit) in figures {
        let [fresh, reused, native] = runs.each_ref().map(|runs| middle(runs, figure));
        let rounds =
            runs.each_ref().map(|runs| runs.iter().map(|run| (figure(run) * 10.0).round() / 10.0).collect::<Vec<_>>());
        report.line(
            name,
            format!(
                "fresh {fresh:>9.1}   reused {reused:>9.1}   native {native:>9.1}   fresh/native {:.2}   reused/native {:.2}   ({unit})",
                fresh / native,
                reused / native
            ),
            json!({ "fresh": fresh, "reused": reused, "native": native, "fresh/native": fresh / native, "reused/native": reused / native, "rounds": rounds }),
        );
    }
    for (contender, runs) in Contender::ALL.into_iter().zip(runs) {
        let name = contender.name();
        let mut names: Vec<&String> = runs.iter().flat_map(|run| run.threads.keys()).collect();
        names.sort();
        names.dedup();
        let mut threads: Vec<(&String, f64)> = names
            .into_iter()
            .map(|name| (name, middle(runs, &|run| each(run.threads.get(name).copied().unwrap_or(0.0)))))
            .filter(|(_, micros)| *micros >= 0.05)
            .collect();
        threads.sort_by(|a, b| b.1.total_cmp(&a.1));
        let text: Vec<String> = threads.iter().map(|(name, micros)| format!("{name} {micros:.1}")).collect();
        let json: serde_json::Map<String, serde_json::Value> =
            threads.iter().map(|(name, micros)| ((*name).clone(), json!(micros))).collect();
        report.line(&format!("{name}: threads, us a record"), text.join(", "), json);
    }
    let [rounds, ..] = runs.each_ref().map(Vec::len);
    report.line(
        "work",
        format!(
            "{records} records, values of {} bytes, {PARTITIONS} partitions, {rounds} rounds each",
            bytes as u64 / records
        ),
        json!({ "records": records, "bytes": bytes, "partitions": PARTITIONS, "rounds": rounds }),
    );
}
