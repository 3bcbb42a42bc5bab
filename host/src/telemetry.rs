//! Logs: lines on standard error, as text or as JSON, filtered by level and module.
//!
//! Set up once, before anything is worth a line. Nothing here decides what is logged where.

use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;

use crate::settings::Log;

/// Starts logging for the whole process, by `[log]` (which `TIDEMILL_LOG_LEVEL` overrides).
///
/// # Errors
/// The filter is not valid, or logging was started before.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).with_context(|| format!("read the log filter \"{}\"", log.level))?;
    // What cannot be written is passed over. It would otherwise be told to the same standard error, by a macro that panics.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = if log.json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    started.map_err(|error| anyhow!("start logging: {error}"))
}
