//! `tidemill fallback`, `tidemill outbox`, `tidemill pending`: what lies in the stores - finding it, looking at it, putting it back, trying
//! it now, taking it out.
//!
//! It decides nothing: what can be done with one is the daemon's to say.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::Value as Json;

use super::many::{self, Chunk, How, Line, Part, Work, content, short, text_of};
use super::remote::{Remote, name, print_json};
use super::say;
use crate::deploy::stored::{Detail, Entry, Handled, Order, Outcome, Search};
use crate::ledger::stored::{Name, Table};
use crate::settings::units;

/// `tidemill fallback`
#[derive(Debug, Args)]
pub struct Fallback {
    #[command(subcommand)]
    what: Kept,
}

/// `tidemill outbox` and `tidemill pending`
#[derive(Debug, Args)]
pub struct Waiting {
    #[command(subcommand)]
    what: Waits,
}

#[derive(Debug, Subcommand)]
enum Kept {
    /// List rows, by stores and the oldest first.
    List(Listing),
    /// Show all of one: its headers and value.
    Show(Showing),
    /// Put records, timers and compensations back to their handlers, and events to their topics.
    Replay(Replaying),
    /// Take rows out for good: what they hold is gone.
    Discard(Chosen),
}

#[derive(Debug, Subcommand)]
enum Waits {
    /// List what waits, by stores and the oldest first.
    List(Listing),
    /// Show all of one: its attempts, headers and value.
    Show(Showing),
    /// Try it now, and not when its time comes.
    Retry(Chosen),
    /// Take it out: an event goes to the fallback, and a record becomes a dead letter.
    Discard(Chosen),
}

/// Which rows: all of these must fit.
#[derive(Clone, Debug, Args)]
struct Filter {
    /// Of this handler.
    #[arg(long, value_name = "NAME", value_parser = name)]
    handler: Option<String>,
    /// To this topic, or of records of it.
    #[arg(long)]
    topic: Option<String>,
    /// With this key.
    #[arg(long)]
    key: Option<String>,
    /// With this text in what went wrong last, in any case of letters.
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

impl Filter {
    fn search(&self, limit: usize, cursor: Option<String>) -> Search {
        let Self { handler, topic, key, error } = self.clone();
        Search { handler, topic, key, error, limit: Some(limit), cursor }
    }

    fn is_given(&self) -> bool {
        let Self { handler, topic, key, error } = self;
        [handler, topic, key, error].iter().any(|part| part.is_some())
    }
}

#[derive(Debug, Args)]
struct Listing {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    part: Part,
}

#[derive(Debug, Args)]
struct Showing {
    /// Which, as the list has it.
    #[arg(value_name = "ROW", value_parser = row)]
    row: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Some rows, or those that a filter finds.
#[derive(Debug, Args)]
struct Chosen {
    /// Which, as the list has them.
    #[arg(value_name = "ROW", value_parser = row)]
    rows: Vec<String>,
    /// All that fit the filters, of those that are there now; without a filter all.
    #[arg(long, conflicts_with = "rows")]
    all_matching: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Replaying {
    #[command(flatten)]
    chosen: Chosen,
    /// Publish dead letters to the topic that refused them, and do not put their records back.
    #[arg(long)]
    to_topic: bool,
}

fn row(text: &str) -> Result<String, String> {
    text.parse::<Name>().map(|_| text.to_owned())
}

/// Lists, shows, replays or discards what is kept.
///
/// # Errors
/// No daemon answers; there is no such row; or it could not be done with one of them, which is told of each.
pub(super) fn fallback(arguments: &Fallback) -> Result<()> {
    let of = Table::Fallback;
    match &arguments.what {
        Kept::List(listing) => list(of, listing),
        Kept::Show(showing) => show(of, showing),
        Kept::Replay(Replaying { chosen, to_topic }) => tend(of, chosen, "replay", *to_topic, "put back"),
        Kept::Discard(chosen) => tend(of, chosen, "discard", false, "discarded"),
    }
}

/// Lists, shows, retries or discards what waits in `of`.
///
/// # Errors
/// As for [`fallback`].
pub(super) fn waiting(of: Table, arguments: &Waiting) -> Result<()> {
    match &arguments.what {
        Waits::List(listing) => list(of, listing),
        Waits::Show(showing) => show(of, showing),
        Waits::Retry(chosen) => tend(of, chosen, "retry", false, "tried now"),
        Waits::Discard(chosen) => tend(of, chosen, "discard", false, "discarded"),
    }
}

fn list(of: Table, arguments: &Listing) -> Result<()> {
    let Filter { handler, topic, key, error } = arguments.filter.clone();
    let filters = [("handler", handler), ("topic", topic), ("key", key), ("error", error)];
    let at = if of == Table::Pending { "WRITTEN" } else { "SINCE" };
    let head = ["ROW", "HANDLER", "KIND", "TOPIC", "OF", "EVENT", "KEY", "ATTEMPTS", at, "DUE", "ERROR"];
    many::list(&arguments.part, of.name(), &filters, head, cells)
}

fn cells(entry: Entry) -> Vec<String> {
    let Entry { row, handler, kind, topic, source, event_id, key, attempts, at, due, error } = entry;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        row,
        handler,
        kind,
        topic,
        source,
        or_none(event_id),
        text_of(&key),
        or_none(attempts.map(|attempts| attempts.to_string())),
        or_none(at),
        or_none(due),
        short(&error.unwrap_or_default()),
    ]
}

fn show(of: Table, arguments: &Showing) -> Result<()> {
    let path = format!("{}/{}", of.name(), utf8_percent_encode(&arguments.row, NON_ALPHANUMERIC));
    let detail: Detail = arguments.remote.daemon()?.ask(Method::GET, &path, None)?;
    if arguments.json {
        return print_json(&detail);
    }
    say(&told(&detail)?)
}

fn told(detail: &Detail) -> Result<String> {
    let Entry { row, handler, kind, topic, source, event_id, key, attempts, at, due, error } = &detail.entry;
    let (key, attempts) = (text_of(key), attempts.map(|attempts| attempts.to_string()));
    let known = [
        ("row", Some(row)),
        ("handler", Some(handler)),
        ("kind", Some(kind)),
        ("topic", Some(topic)),
        ("of", Some(source)),
        ("event", event_id.as_ref()),
        ("key", Some(&key)),
        ("attempts", attempts.as_ref()),
        ("at", at.as_ref()),
        ("due", due.as_ref()),
        ("error", error.as_ref()),
    ];
    let known = known.into_iter().filter_map(|(name, text)| Some(format!("{name:<10}{}", text?)));
    let mut lines: Vec<String> = known.collect();
    for attempt in &detail.errors {
        let text = |key: &str| attempt.get(key).and_then(Json::as_str).unwrap_or_default();
        let at = attempt.get("at").and_then(Json::as_i64).map(units::show_time).unwrap_or_default();
        lines.push(format!("          {at} {}: {}", text("outcome"), text("message")));
    }
    lines.extend(content(&detail.headers, &detail.value)?);
    Ok(lines.join("\n"))
}

fn tend(of: Table, chosen: &Chosen, verb: &str, to_topic: bool, done: &str) -> Result<()> {
    if chosen.rows.is_empty() && !chosen.all_matching {
        bail!("say which rows, as `tidemill {} list` prints them, or --all-matching", of.name());
    }
    if !chosen.rows.is_empty() && chosen.filter.is_given() {
        bail!("filters choose among all (--all-matching); leave them out, or the rows");
    }
    let path = format!("{}/{verb}", of.name());
    let Chosen { rows: names, all_matching, .. } = chosen;
    let work = Work { what: "rows", head: "ROW", verb, done, names, all_matching: *all_matching };
    many::run(&work, &chosen.how, line, |daemon, chunk| {
        let order = Order { to_topic, dry_run: chosen.how.dry_run, ..Order::default() };
        let order = match chunk {
            Chunk::Named(rows) => Order { rows: rows.to_vec(), ..order },
            Chunk::Found { limit, cursor } => Order { matching: Some(chosen.filter.search(limit, cursor)), ..order },
        };
        let Handled { rows, next } = many::order(daemon, &path, &order)?;
        Ok((rows, next))
    })
}

fn line(outcome: &Outcome) -> Line {
    let Outcome { row: name, source: of, handler, error, note } = outcome.clone();
    Line { name, of, handler, error, note }
}
