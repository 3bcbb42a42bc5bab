//! Logs: lines on standard error, as text or as JSON, filtered by level and module.
//!
//! Set up once, before anything is worth a line. As text each event is one line, whatever a handler says in it. Nothing here decides
//! what is logged where.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Stderr, Write};

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
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let started = if log.json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).with_writer(|| OneLine(io::stderr())).try_init()
    };
    started.map_err(|error| anyhow!("start logging: {error}"))
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
