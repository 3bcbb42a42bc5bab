//! What the commands on dead letters and those on rows of the stores have in common: how one of many is shown and asked for, and how
//! something is done with many.
//!
//! Many are done in chunks, each of which the daemon does whole or not at all, so that who ends the command in between has lost and doubled
//! nothing, and can call it again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::remote::{Daemon, Remote, print_json, table};
use super::say;
use crate::deploy::page::{MAX, Page, USUAL};
use crate::http::admin::operation::{CURSOR, LIMIT};

/// Characters of a message in a list.
const SHORT: usize = 120;

/// Which part of a list is printed, and how.
#[derive(Debug, Args)]
pub(super) struct Part {
    /// How many.
    #[arg(long, value_name = "NUMBER", default_value_t = USUAL as u32, value_parser = clap::value_parser!(u32).range(1..=MAX as i64))]
    pub(super) limit: u32,
    /// Go on where another list ended, as it says.
    #[arg(long)]
    pub(super) cursor: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// How something is done with many.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Only say what it would do.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// So many a second at most.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What is to be done, and with which: those that are named, or all that a search finds.
pub(super) struct Work<'a> {
    /// `dead letters`, for example.
    pub(super) what: &'a str,
    /// What stands above their names.
    pub(super) head: &'a str,
    /// `replay`, for example.
    pub(super) verb: &'a str,
    /// `put back`, for example.
    pub(super) done: &'a str,
    pub(super) names: &'a [String],
    pub(super) all_matching: bool,
}

/// Those that are asked for at once.
pub(super) enum Chunk<'a> {
    /// By their names.
    Named(&'a [String]),
    /// So many that a search finds, from where it ended before.
    Found { limit: usize, cursor: Option<String> },
}

/// What came of one.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) of: Option<String>,
    pub(super) handler: Option<String>,
    pub(super) error: Option<String>,
    pub(super) note: Option<String>,
}

/// A message as a part of one line.
pub(super) fn short(message: &str) -> String {
    let short: String = message.chars().take(SHORT).collect();
    short.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text as it is, anything else as JSON.
pub(super) fn text_of(json: &Json) -> String {
    match json {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Headers, a line each, and the value below them.
///
/// # Errors
/// None that is known.
pub(super) fn content(headers: &Json, value: &Json) -> Result<Vec<String>> {
    let header = |pair: &Json| {
        let part = |n: usize| pair.get(n).map(text_of).unwrap_or_default();
        format!("header    {}: {}", part(0), part(1))
    };
    let mut lines: Vec<String> = headers.as_array().into_iter().flatten().map(header).collect();
    let value = match value {
        Json::String(text) => text.clone(),
        value => serde_json::to_string_pretty(value).context("write JSON")?,
    };
    lines.push(format!("value\n{value}"));
    Ok(lines)
}

/// Asks for a part of a listing and prints it: below `head` the `cells` of each.
///
/// # Errors
/// As [`Daemon::ask`].
pub(super) fn list<T: DeserializeOwned + Serialize, const N: usize>(
    part: &Part,
    path: &str,
    filters: &[(&str, Option<String>)],
    head: [&str; N],
    cells: fn(T) -> Vec<String>,
) -> Result<()> {
    let (daemon, limit) = (part.remote.daemon()?, part.limit as usize);
    let mut found: Page<T> = Page { items: Vec::new(), next: part.cursor.clone() };
    // Where few fit, an answer may end before it has found enough.
    loop {
        let asked = [(LIMIT, Some((limit - found.items.len()).to_string())), (CURSOR, found.next.take())];
        let query = query(filters.iter().cloned().chain(asked));
        let page: Page<T> = daemon.ask(Method::GET, &format!("{path}?{query}"), None)?;
        found.items.extend(page.items);
        found.next = page.next;
        if found.next.is_none() || found.items.len() >= limit {
            break;
        }
    }
    if part.json {
        return print_json(&found);
    }
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(found.items.into_iter().map(cells));
    say(&table(&rows))?;
    if let Some(next) = found.next {
        eprintln!("there may be more: --cursor {next}");
    }
    Ok(())
}

/// Does it, and tells what came of each. `ask` does a chunk, and says where a search goes on; `line` tells of one.
///
/// # Errors
/// No daemon answers; or it could not be done with one of them, which is told of each.
pub(super) fn run<T: Serialize>(
    work: &Work<'_>,
    how: &How,
    line: fn(&T) -> Line,
    mut ask: impl FnMut(&Daemon, Chunk<'_>) -> Result<(Vec<T>, Option<String>)>,
) -> Result<()> {
    let Work { what, head, verb, done, names, all_matching } = *work;
    let daemon = how.remote.daemon()?;
    let told = if how.dry_run { format!("would be {done}") } else { done.to_owned() };
    let mut all: Vec<T> = Vec::new();
    let failed = |all: &[T]| all.iter().filter(|outcome| line(outcome).error.is_some()).count();
    let ended = in_chunks(names, all_matching, how.rate, |chunk| {
        let (outcomes, next) = ask(&daemon, chunk)?;
        let count = outcomes.len();
        all.extend(outcomes);
        if next.is_some() || all.len() > count {
            let failed = failed(&all);
            eprintln!("{} {told}, {failed} not", all.len() - failed);
        }
        Ok((count, next))
    });
    let failed = failed(&all);
    if how.json {
        print_json(&all)?;
    } else if !all.is_empty() {
        let mut rows = vec![[head, "OF", "HANDLER", "RESULT"].map(str::to_owned).to_vec()];
        rows.extend(all.iter().map(|outcome| {
            let Line { name, of, handler, error, note } = line(outcome);
            let result = result(&told, error, note);
            vec![name, of.unwrap_or_else(|| "-".into()), handler.unwrap_or_else(|| "-".into()), result]
        }));
        say(&table(&rows))?;
    } else if ended.is_ok() {
        eprintln!("there are no such {what}");
    }
    ended.with_context(|| match all.len() {
        0 => format!("{verb} {what}"),
        count => format!("{count} {what} were seen to, and no more; call it again for the rest"),
    })?;
    if failed > 0 {
        bail!("{failed} of {} {what}: not {done}, as said of each", all.len());
    }
    Ok(())
}

/// Gives an order to the daemon.
///
/// # Errors
/// As [`Daemon::ask`].
pub(super) fn order<T: DeserializeOwned>(daemon: &Daemon, path: &str, order: &impl Serialize) -> Result<T> {
    let body = serde_json::to_vec(order).context("write JSON")?;
    daemon.ask(Method::POST, path, Some(("application/json", body)))
}

/// Goes through those that are named, and then through a search; `run` does a chunk, and says how many they were and where a search goes on.
fn in_chunks(
    names: &[String],
    all_matching: bool,
    rate: Option<u32>,
    mut run: impl FnMut(Chunk<'_>) -> Result<(usize, Option<String>)>,
) -> Result<()> {
    let limit = rate.map_or(USUAL, |rate| (rate as usize).clamp(1, USUAL));
    let mut run = |chunk: Chunk<'_>| {
        let began = Instant::now();
        let (count, next) = run(chunk)?;
        if let Some(rate) = rate {
            let takes = Duration::from_secs_f64(count as f64 / f64::from(rate));
            std::thread::sleep(takes.saturating_sub(began.elapsed()));
        }
        anyhow::Ok(next)
    };
    for names in names.chunks(limit) {
        run(Chunk::Named(names))?;
    }
    let (mut more, mut cursor) = (all_matching, None);
    while more {
        cursor = run(Chunk::Found { limit, cursor })?;
        more = cursor.is_some();
    }
    Ok(())
}

/// What came of one that was to be `done`.
fn result(done: &str, error: Option<String>, note: Option<String>) -> String {
    match (error, note) {
        (Some(error), _) => format!("not {done}: {error}"),
        (None, Some(note)) => format!("{done}; {note}"),
        (None, None) => done.to_owned(),
    }
}

/// A query of what is given.
fn query<'a>(named: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let pair = |(name, value): (&str, Option<String>)| {
        Some(format!("{name}={}", utf8_percent_encode(&value?, NON_ALPHANUMERIC)))
    };
    named.into_iter().filter_map(pair).collect::<Vec<_>>().join("&")
}
