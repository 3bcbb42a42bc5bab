//! What a process costs, as Linux counts it: memory, threads, and processor time for each thread.
//!
//! It only reads `/proc`; what has ended can no longer be asked, so processes are looked at while they run.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// Clock ticks in a second (`sysconf(_SC_CLK_TCK)`, 100 on Linux).
const TICKS: f64 = 100.0;

/// Memory and threads at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weight {
    /// Resident memory, in MiB.
    pub(crate) resident: f64,
    /// The part of it that is no file's: what the process made itself.
    pub(crate) own: f64,
    /// Threads.
    pub(crate) threads: u64,
}

/// What a process weighs now.
pub(crate) fn weight(pid: u32) -> Result<Weight> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let number = |name: &str| -> Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{path}: {name}"))?;
        let digits = line.split_whitespace().next().unwrap_or_default();
        digits.parse().with_context(|| format!("{path}: {name}{line}"))
    };
    let mebibytes = |name| number(name).map(|kib| kib as f64 / 1024.0);
    Ok(Weight { resident: mebibytes("VmRSS:")?, own: mebibytes("RssAnon:")?, threads: number("Threads:")? })
}

/// Seconds of processor time that each kind of thread of a process has used, by its name without trailing digits.
pub(crate) fn thread_seconds(pid: u32) -> Result<BTreeMap<String, f64>> {
    let path = format!("/proc/{pid}/task");
    let mut seconds = BTreeMap::new();
    for entry in fs::read_dir(&path).with_context(|| format!("read {path}"))? {
        // A thread may end while we look.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        let Some((name, used)) = parse(&stat) else { continue };
        *seconds.entry(name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()).or_insert(0.0) += used;
    }
    Ok(seconds)
}

/// Microseconds of processor time that this thread has used, waiting for a processor not among them.
pub(crate) fn own_thread_micros() -> Result<f64> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let nanos: f64 = text.split_whitespace().next().unwrap_or_default().parse().with_context(|| path.to_owned())?;
    Ok(nanos / 1_000.0)
}

/// Name and processor time of `/proc/PID/stat` (proc(5)): the name stands in parentheses, and may contain some.
fn parse(stat: &str) -> Option<(&str, f64)> {
    let (start, end) = (stat.find('(')?, stat.rfind(')')?);
    let mut fields = stat.get(end + 1..)?.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((stat.get(start + 1..end)?, (user + system) / TICKS))
}

/// All threads together.
pub(crate) fn seconds(pid: u32) -> Result<f64> {
    Ok(thread_seconds(pid)?.values().sum())
}
