//! Figures: collected by name, printed as a table and written as JSON, with what they were measured on.
//!
//! It computes nothing but medians, percentiles and ratios, and never leaves out a round.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value as Json, json};

/// A line on standard output, at once: others read it.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The value below which `share` (0 to 1) of the values lie: the nearest rank.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle value; of two, the lower.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// Milliseconds, with two places.
pub(crate) fn millis(values: &[Duration]) -> Vec<f64> {
    values.iter().map(|value| value.as_secs_f64() * 1_000.0).collect()
}

/// What was measured, section by section.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<(String, Vec<Line>)>,
}

#[derive(Debug)]
struct Line {
    name: String,
    figure: String,
    json: Json,
}

impl Report {
    /// The lines that follow belong to this.
    pub(crate) fn section(&mut self, title: &str) {
        self.sections.push((title.to_owned(), Vec::new()));
    }

    /// One figure: as people read it, and as programs do.
    pub(crate) fn line(&mut self, name: &str, figure: impl Into<String>, json: impl Into<Json>) {
        if let Some((_, lines)) = self.sections.last_mut() {
            lines.push(Line { name: name.to_owned(), figure: figure.into(), json: json.into() });
        }
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let width = self.sections.iter().flat_map(|(_, lines)| lines).map(|line| line.name.chars().count()).max();
        let width = width.unwrap_or(0) + 2;
        let mut out = String::new();
        for (title, lines) in &self.sections {
            out.push_str(&format!("\n{title}\n"));
            for line in lines {
                let pad = width.saturating_sub(line.name.chars().count());
                out.push_str(&format!("  {}{}{}\n", line.name, " ".repeat(pad), line.figure));
            }
        }
        out
    }

    /// Writes the figures as one JSON object.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut all = Map::new();
        for (title, lines) in &self.sections {
            let lines: Map<String, Json> = lines.iter().map(|line| (line.name.clone(), line.json.clone())).collect();
            all.insert(title.clone(), Json::Object(lines));
        }
        let text = serde_json::to_string_pretty(&Json::Object(all)).context("write the figures as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }

    /// The machine that the figures are of.
    pub(crate) fn machine(&mut self) {
        self.section("machine");
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let model = field(&read("/proc/cpuinfo"), "model name");
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        self.line("cores", format!("{cores} ({model})"), json!({ "count": cores, "model": model }));
        self.line("memory", format!("{} GiB", kibibytes.div_ceil(1 << 20)), json!({ "kib": kibibytes }));
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        self.line("kernel", kernel.clone(), kernel);
        let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
        self.line("load before (1, 5, 15 minutes)", load.clone(), load);
    }
}
