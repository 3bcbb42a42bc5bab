//! `tidemill dlt`: dead letters - finding them, looking at one, putting their records back, discarding them.
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
use crate::deploy::dead_letters::{Detail, Handled, Letter, Order, Outcome, Search};
use crate::record::Place;
use crate::settings::units;

/// `tidemill dlt`
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List dead letters, the oldest first, without those that were replayed or discarded.
    List(Listing),
    /// Show all of one: its attempts, headers and value.
    Show(Showing),
    /// Put records back to the handler that gave them up, once each; they run under its own policy, and nobody waits for them.
    Replay(Replaying),
    /// Note that nothing is to be done with dead letters any more; Kafka keeps them until their retention ends.
    Discard(Discarding),
}

/// Which dead letters: all of these must fit.
#[derive(Clone, Debug, Args)]
struct Filter {
    /// Given up by this handler.
    #[arg(long, value_name = "NAME", value_parser = name)]
    handler: Option<String>,
    /// On this dead letter topic, or from this topic.
    #[arg(long)]
    topic: Option<String>,
    /// With this text in the outcome or the message, in any case of letters.
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Written at this time or later, like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
    /// Written before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
    /// With this key.
    #[arg(long)]
    key: Option<String>,
    /// With this header; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<String>,
}

impl Filter {
    fn search(&self, limit: usize, cursor: Option<String>) -> Search {
        let Self { handler, topic, error, since, until, key, headers } = self.clone();
        Search { handler, topic, error, since, until, key, headers, all: false, limit: Some(limit), cursor }
    }

    fn is_given(&self) -> bool {
        let Self { handler, topic, error, since, until, key, headers } = self;
        [handler, topic, error, since, until, key].iter().any(|part| part.is_some()) || !headers.is_empty()
    }
}

#[derive(Debug, Args)]
struct Listing {
    #[command(flatten)]
    filter: Filter,
    /// Also those that were replayed, published again or discarded.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    part: Part,
}

#[derive(Debug, Args)]
struct Showing {
    /// Where it is, as the list has it.
    #[arg(value_name = "TOPIC/PARTITION@OFFSET", value_parser = place)]
    place: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Those of some places, or those that a filter finds.
#[derive(Debug, Args)]
struct Chosen {
    /// Where they are, as the list has it.
    #[arg(value_name = "TOPIC/PARTITION@OFFSET", value_parser = place)]
    places: Vec<String>,
    /// All that fit the filters, of those that are there now; without a filter all.
    #[arg(long, conflicts_with = "places")]
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
    /// To this handler, and not to the one that gave it up. It runs there as well if it was done there, unless the handler knows events by their ids.
    #[arg(long, value_name = "NAME", value_parser = name)]
    on: Option<String>,
    /// Publish it again to the topic that it came from. Every group that reads the topic sees it, and only those that know events by
    /// their ids drop what they have done.
    #[arg(long, conflicts_with = "on")]
    to_topic: bool,
    /// Also what was replayed, published or discarded before.
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Args)]
struct Discarding {
    #[command(flatten)]
    chosen: Chosen,
}

fn place(text: &str) -> Result<String, String> {
    text.parse::<Place>().map(|_| text.to_owned())
}

fn time(text: &str) -> Result<String, String> {
    units::time(text).map(|_| text.to_owned()).ok_or_else(|| "write it like 2026-01-31T12:00:00Z".to_owned())
}

fn header(text: &str) -> Result<String, String> {
    text.split_once('=').map(|_| text.to_owned()).ok_or_else(|| "write it as NAME=VALUE".to_owned())
}

/// Lists, shows, replays or discards.
///
/// # Errors
/// No daemon answers; there is no such dead letter; or one of them could not be replayed, which is told of each.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::List(listing) => list(listing),
        What::Show(showing) => show(showing),
        What::Replay(Replaying { chosen, on, to_topic, again }) => {
            let order = Order { on: on.clone(), to_topic: *to_topic, again: *again, ..Order::default() };
            handle(chosen, "replay", order, if *to_topic { "published again" } else { "put back" })
        }
        What::Discard(Discarding { chosen }) => handle(chosen, "discard", Order::default(), "discarded"),
    }
}

fn list(arguments: &Listing) -> Result<()> {
    let Listing { filter, all, part } = arguments;
    let Filter { handler, topic, error, since, until, key, headers } = filter.clone();
    let headers = Some(headers.join("\n")).filter(|headers| !headers.is_empty());
    let filters = [
        ("handler", handler),
        ("topic", topic),
        ("error", error),
        ("since", since),
        ("until", until),
        ("key", key),
        ("headers", headers),
        ("all", Some(all.to_string())),
    ];
    let head = ["PLACE", "WRITTEN", "HANDLER", "OF", "KEY", "STATE", "OUTCOME", "MESSAGE"];
    many::list(part, "dead-letters", &filters, head, row)
}

fn row(letter: Letter) -> Vec<String> {
    let Letter { place, written, handler, group, of, key, outcome, message, fate, problem } = letter;
    let unknown = || "-".to_owned();
    vec![
        place,
        written.unwrap_or_else(unknown),
        handler.or_else(|| group.map(|group| format!("({group})"))).unwrap_or_else(unknown),
        of.unwrap_or_else(unknown),
        text_of(&key),
        fate.map_or_else(unknown, |fated| fated.fate.name().to_owned()),
        outcome.unwrap_or_else(unknown),
        short(&message.or(problem).unwrap_or_default()),
    ]
}

fn show(arguments: &Showing) -> Result<()> {
    let path = format!("dead-letters/{}", utf8_percent_encode(&arguments.place, NON_ALPHANUMERIC));
    let detail: Detail = arguments.remote.daemon()?.ask(Method::GET, &path, None)?;
    if arguments.json {
        return print_json(&detail);
    }
    say(&told(&detail)?)
}

fn told(detail: &Detail) -> Result<String> {
    let letter = &detail.letter;
    let fate = letter
        .fate
        .as_ref()
        .map(|fated| format!("{} at {} by {}, handler {}", fated.fate.name(), fated.at, fated.who, fated.handler));
    let mut lines = Vec::new();
    let mut line = |name: &str, text: Option<&str>| {
        lines.extend(text.map(|text| format!("{name:<10}{text}")));
    };
    line("place", Some(&letter.place));
    line("written", letter.written.as_deref());
    line("handler", letter.handler.as_deref());
    line("group", letter.group.as_deref());
    line("of", letter.of.as_deref());
    line("timestamp", detail.timestamp.as_deref());
    line("key", Some(&text_of(&letter.key)));
    line("state", fate.as_deref());
    line("problem", letter.problem.as_deref());
    line("outcome", letter.outcome.as_deref());
    line("message", letter.message.as_deref());
    for attempt in &detail.attempts {
        let text = |key: &str| attempt.get(key).and_then(Json::as_str).unwrap_or_default();
        let at = attempt.get("at").and_then(Json::as_i64).map(units::show_time).unwrap_or_default();
        let number = attempt.get("attempt").map(|number| format!("attempt {number} ")).unwrap_or_default();
        lines.push(format!("          {at} {number}{}: {}", text("outcome"), text("message")));
    }
    lines.extend(content(&detail.headers, &detail.value)?);
    Ok(lines.join("\n"))
}

fn handle(chosen: &Chosen, verb: &str, order: Order, done: &str) -> Result<()> {
    if chosen.places.is_empty() && !chosen.all_matching {
        bail!("say which dead letters: their places, as `tidemill dlt list` prints them, or --all-matching");
    }
    if !chosen.places.is_empty() && chosen.filter.is_given() {
        bail!("filters choose among all (--all-matching); leave them out, or the places");
    }
    let order = Order { dry_run: chosen.how.dry_run, ..order };
    let path = format!("dead-letters/{verb}");
    let Chosen { places: names, all_matching, .. } = chosen;
    let work = Work { what: "dead letters", head: "PLACE", verb, done, names, all_matching: *all_matching };
    many::run(&work, &chosen.how, line, |daemon, chunk| {
        let order = match chunk {
            Chunk::Named(places) => Order { places: places.to_vec(), ..order.clone() },
            Chunk::Found { limit, cursor } => {
                Order { matching: Some(chosen.filter.search(limit, cursor)), ..order.clone() }
            }
        };
        let Handled { letters, next } = many::order(daemon, &path, &order)?;
        Ok((letters, next))
    })
}

fn line(outcome: &Outcome) -> Line {
    let Outcome { place: name, of, handler, error, note } = outcome.clone();
    Line { name, of, handler, error, note }
}
