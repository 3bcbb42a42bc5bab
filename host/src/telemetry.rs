//! Logs: lines on standard error, as text or as JSON, filtered by level and module.
//!
//! Set up once, before anything is worth a line; the filter can be another one while the daemon runs, for good or for a while. As text
//! each event is one line, whatever a handler says in it. Nothing here decides what is logged where.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::settings::{Log, units};

/// Starts logging for the whole process, by `[log]` (which `TIDEMILL_LOG_LEVEL` overrides).
///
/// # Errors
/// The filter is not valid, or logging was started before.
pub fn init(log: &Log) -> anyhow::Result<Levels> {
    let filter = EnvFilter::try_new(&log.level).with_context(|| format!("read the log filter \"{}\"", log.level))?;
    let (filter, handle) = reload::Layer::new(filter);
    // What cannot be written is passed over. It would otherwise be told to the same standard error, by a macro that panics.
    let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let lines = if log.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).with_writer(|| OneLine(io::stderr())).boxed()
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| anyhow!("start logging: {error}"))?;
    let now = Now { usual: log.level.clone(), meanwhile: None };
    Ok(Levels(Arc::new(Inner { handle, now: Mutex::new(now) })))
}

/// What is logged, and how to log something else.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    handle: reload::Handle<EnvFilter, Registry>,
    now: Mutex<Now>,
}

struct Now {
    /// The filter of the settings, or one that was set for good since.
    usual: String,
    /// Another one, until then.
    meanwhile: Option<(String, Instant)>,
}

/// What is logged now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Logged {
    /// The filter.
    pub filter: String,
    /// The one that comes back, and after how many seconds, a part of one counted as one, if it is for a while.
    // A tuple, which not every tool reads.
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    pub then: Option<(String, u64)>,
}

impl Levels {
    /// What is logged now.
    pub fn logged(&self) -> Logged {
        let now = self.now();
        match &now.meanwhile {
            None => Logged { filter: now.usual.clone(), then: None },
            Some((filter, until)) => {
                let left = until.saturating_duration_since(Instant::now());
                Logged {
                    filter: filter.clone(),
                    then: Some((now.usual.clone(), left.as_millis().div_ceil(1_000) as u64)),
                }
            }
        }
    }

    /// Logs by another filter: until the daemon ends, its settings say another one, or for as long as is said.
    ///
    /// # Errors
    /// It is no filter; nothing has changed.
    pub fn set(&self, filter: &str, within: Option<Duration>) -> anyhow::Result<()> {
        let read = parse(filter).map_err(anyhow::Error::msg)?;
        let mut now = self.now();
        match within {
            None => *now = Now { usual: filter.to_owned(), meanwhile: None },
            Some(time) => {
                let until = Instant::now() + time;
                let levels = self.clone();
                let runtime = Handle::try_current().context("wait for the end of that time")?;
                runtime.spawn(async move {
                    tokio::time::sleep(time).await;
                    levels.go_back(until);
                });
                now.meanwhile = Some((filter.to_owned(), until));
            }
        }
        self.0.handle.reload(read).context("log by another filter")?;
        drop(now);
        tracing::info!(filter, within = within.map(units::show_duration), "logs go by another filter");
        Ok(())
    }

    /// The time is over, unless another filter was set since.
    fn go_back(&self, until: Instant) {
        let mut now = self.now();
        if now.meanwhile.as_ref().is_none_or(|(_, of)| *of != until) {
            return;
        }
        now.meanwhile = None;
        let filter = now.usual.clone();
        if let Ok(read) = EnvFilter::try_new(&filter) {
            let _ = self.0.handle.reload(read);
        }
        drop(now);
        tracing::info!(filter, "logs go by the usual filter again");
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a filter.
///
/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<EnvFilter, String> {
    let wrong = || {
        format!(
            "\"{text}\" is not a filter; write error, warn, info, debug or trace, or a list like \"info,tidemill=debug\""
        )
    };
    // An empty one would log nothing, and a single unknown word would be taken for a module.
    let first = text.split(',').next().unwrap_or_default().trim();
    let plain = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_alphabetic());
    let level = first.parse::<tracing::level_filters::LevelFilter>().is_ok();
    if text.trim().is_empty() || (plain && !level && text.trim() == first) {
        return Err(wrong());
    }
    EnvFilter::try_new(text).map_err(|_| wrong())
}

/// Writes an event, which comes as a whole, as one line: else a handler could write lines that look like the host's.
struct OneLine(Stderr);

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = event.split_at(event.len() - usize::from(event.ends_with(b"\n")));
    if !text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Cow::Borrowed(event);
    }
    let mut line = Vec::with_capacity(event.len() + 16);
    for byte in text {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            other => line.push(*other),
        }
    }
    line.extend(end);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn h4_an_event_is_one_line_whatever_it_says() {
        for (event, expected) in
            [("", ""), ("\n", "\n"), ("a", "a"), ("a\n", "a\n"), ("a\r\nb\n", "a\\r\\nb\n"), ("a\n\n", "a\\n\n")]
        {
            assert_eq!(*one_line(event.as_bytes()), *expected.as_bytes());
        }
    }
}
