//! `tidemill publish`: events that are published in a handler's name, through its outbox.
//!
//! It prints where each goes and its id once it is committed. Lines of standard input go in batches of what has come while the one before
//! was committed, each of them whole or not at all.

use std::io::{BufRead as _, IsTerminal as _};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use reqwest::Method;

use super::produce::header;
use super::progress;
use super::remote::{Daemon, Remote, name};
use super::say;
use crate::deploy::report::Published;
use crate::http::admin::body::{EVENTS_MAX, NewEvent, Publish};

type Line = std::io::Result<Vec<u8>>;

/// Bytes of values after which a batch is full.
const BATCH_BYTES: usize = 1 << 20;

/// `tidemill publish`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The destination, by its name under the handler's `[publish]`.
    destination: String,
    /// The event's value; `-` reads standard input, of which each line is an event.
    value: String,
    /// The handler in whose name it is published.
    #[arg(long, value_name = "NAME", value_parser = name)]
    handler: String,
    /// The event's key: events of one key stay in order.
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// A header of the event; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Its type, like ORDER_CREATED.
    #[arg(long, value_name = "TYPE", default_value = "")]
    event_type: String,
    /// The version of its schema.
    #[arg(long, value_name = "VERSION")]
    event_version: Option<String>,
    /// Its id; without it, it gets a new one.
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// Publish it so much later, like 30s.
    #[arg(long, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<String>,
    /// Publish it at this time, like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Publishes.
///
/// # Errors
/// The daemon does not answer, or refuses; what was printed is published all the same.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let daemon = arguments.remote.daemon()?;
    if arguments.value != "-" {
        return publish(&daemon, arguments, vec![arguments.value.clone()], None);
    }
    if arguments.event_id.is_some() {
        bail!("each line is an event with an id of its own: leave --event-id out");
    }
    let (sender, lines) = sync_channel(EVENTS_MAX);
    crate::thread::spawn("input", move || {
        for line in std::io::stdin().lock().split(b'\n') {
            // Nobody takes it once a batch has failed.
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    let mut before = 0;
    while let Ok(first) = lines.recv() {
        let values = batch(first, &lines, before)?;
        let last = before + values.len();
        publish(&daemon, arguments, values, Some((before + 1, last)))?;
        before = last;
        // What is printed goes before it, where both are on one terminal.
        if !std::io::stdout().is_terminal() {
            progress::line(&format!("{before} lines are published"));
        }
    }
    if before > 0 {
        progress::line("");
    }
    Ok(())
}

/// The first line and those that have come already, behind so many others.
fn batch(first: Line, lines: &Receiver<Line>, before: usize) -> Result<Vec<String>> {
    let (mut values, mut bytes) = (Vec::new(), 0);
    let mut next = Some(first);
    while let Some(line) = next {
        let number = before + values.len() + 1;
        let value = String::from_utf8(line.context("read standard input")?);
        let value = value
            .map_err(|_| anyhow!("line {number} is no UTF-8, and nothing from line {} on is published", before + 1))?;
        bytes += value.len();
        values.push(value);
        next = if values.len() < EVENTS_MAX && bytes < BATCH_BYTES { lines.try_recv().ok() } else { None };
    }
    Ok(values)
}

/// Publishes a batch: one event, or the lines from the first number to the second.
fn publish(daemon: &Daemon, arguments: &Arguments, values: Vec<String>, lines: Option<(usize, usize)>) -> Result<()> {
    let event = |value| NewEvent {
        destination: arguments.destination.clone(),
        value,
        key: arguments.key.clone(),
        event_type: arguments.event_type.clone(),
        event_version: arguments.event_version.clone(),
        event_id: arguments.event_id.clone(),
        headers: arguments.header.clone(),
        delay: arguments.delay.clone(),
        at: arguments.at.clone(),
    };
    let body = Publish { events: values.into_iter().map(event).collect() };
    let body = serde_json::to_vec(&body).context("write JSON")?;
    let path = format!("handlers/{}/events", arguments.handler);
    let asked: Result<Published> = daemon.ask(Method::POST, &path, Some(("application/json", body)));
    let published = asked.map_err(|error| {
        // It may have been done before the connection broke.
        let broken = error.downcast_ref::<reqwest::Error>().is_some_and(|error| !error.is_connect());
        match lines {
            Some((first, last)) if broken => {
                error.context(format!("whether lines {first} to {last} are published is not known"))
            }
            Some((first, last)) => error.context(format!("lines {first} to {last}")),
            None if broken => error.context("whether the event is published is not known"),
            None => error,
        }
    })?;
    let told: Vec<String> =
        published.events.iter().map(|event| format!("{} {}", event.topic, event.event_id)).collect();
    say(&told.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn s1_3_a_batch_is_what_has_come_up_to_its_size() {
        let (sender, lines) = sync_channel(EVENTS_MAX);
        let batches = |all: &[&[u8]], before| {
            all.iter().for_each(|line| sender.send(Ok(line.to_vec())).unwrap());
            let (mut lengths, mut done) = (Vec::new(), before);
            while let Ok(first) = lines.try_recv() {
                let batch = batch(first, &lines, done).map_err(|error| error.to_string())?;
                done += batch.len();
                lengths.push(batch.len());
            }
            Ok::<_, String>(lengths)
        };
        assert_eq!(batches(&[b"a", b"", b"b"], 0), Ok(vec![3]));
        assert_eq!(batches(&[&b"a"[..]; EVENTS_MAX], 3), Ok(vec![EVENTS_MAX]));
        let large = vec![b'x'; BATCH_BYTES];
        assert_eq!(batches(&[b"a", &large, b"b", &large, b"c"], 0), Ok(vec![2, 2, 1]));
        let wrong = batches(&[b"a", b"b", b"\xff", b"c"], 400).unwrap_err();
        assert_eq!(wrong, "line 403 is no UTF-8, and nothing from line 401 on is published");
    }
}
