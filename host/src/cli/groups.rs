//! `tidemill groups`: the handlers' consumer groups, where they stand, and moving one to other offsets.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use reqwest::Method;

use super::progress::Progress;
use super::remote::{Remote, print_json, table};
use super::say;
use crate::deploy::groups::{Again, Done, Group, Partition, Reset, Target};
use crate::deploy::pausing::{Paused, Pausing};
use crate::settings::units;

/// `tidemill groups`
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the groups, each with its lag.
    List(Listing),
    /// Say where a group stands in each of its partitions.
    Describe(Describing),
    /// Let a group go on at other offsets, while it runs. Its records that wait for another attempt are thrown away.
    Reset(Resetting),
    /// Let a group, a topic of it or a partition stand still: no record or timer is begun until it is resumed. Requests are answered as ever.
    Pause(Pause),
    /// Let a group, or a part of it, that was paused go on.
    Resume(Resume),
}

#[derive(Debug, Args)]
struct Listing {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Describing {
    /// The group: a handler's name, unless its manifest says otherwise.
    group: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Resetting {
    /// The group: a handler's name, unless its manifest says otherwise.
    group: String,
    /// Where to go on: earliest, latest, an offset like 1200, or the first record of a time like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: String,
    /// Only this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition; may be given several times.
    #[arg(long = "partition", value_name = "NUMBER")]
    partitions: Vec<i32>,
    /// What becomes of events that are read again and were done: each runs once more, or is dropped as the duplicate that it is.
    #[arg(long, value_name = "WHAT")]
    duplicates: Option<Again>,
    /// Only say what it would do.
    #[arg(long)]
    dry_run: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Part {
    /// The group: a handler's name, unless its manifest says otherwise.
    group: String,
    /// Only this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition of the topic.
    #[arg(long, value_name = "NUMBER", requires = "topic")]
    partition: Option<i32>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Pause {
    #[command(flatten)]
    part: Part,
    /// Let it go on by itself after this time, like 10m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<String>,
}

#[derive(Debug, Args)]
struct Resume {
    #[command(flatten)]
    part: Part,
}

fn duration(text: &str) -> Result<String, String> {
    units::duration(text).map(|_| text.to_owned())
}

fn place(text: &str) -> Result<String, String> {
    text.parse::<Target>().map(|_| text.to_owned())
}

/// Lists, describes, or moves.
///
/// # Errors
/// No daemon answers; there is no such group; it cannot go there, and was left where it is.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::List(listing) => list(listing),
        What::Describe(describing) => describe(describing),
        What::Reset(resetting) => reset(resetting),
        What::Pause(Pause { part, time }) => {
            let paused = change(part, "pause", time.clone())?;
            if part.json { print_json(&paused) } else { say(&told_of_pause(&paused)) }
        }
        What::Resume(Resume { part }) => {
            let resumed = change(part, "resume", None)?;
            if part.json { print_json(&resumed) } else { say(&told_of_resume(&resumed)) }
        }
    }
}

fn change(part: &Part, verb: &str, time: Option<String>) -> Result<Paused> {
    let pausing = Pausing { topic: part.topic.clone(), partition: part.partition, time };
    let body = serde_json::to_vec(&pausing).context("write JSON")?;
    let path = format!("groups/{}/{verb}", in_path(&part.group));
    part.remote.daemon()?.ask(Method::POST, &path, Some(("application/json", body)))
}

fn told_of_pause(paused: &Paused) -> String {
    let lines = paused.before.iter().map(|before| format!("in the place of the pause of {before}"));
    let group = &paused.group;
    let now = paused.pauses.iter().map(|pause| format!("group {group} is paused: {pause}"));
    lines.chain(now).collect::<Vec<_>>().join("\n")
}

fn told_of_resume(resumed: &Paused) -> String {
    let group = &resumed.group;
    let ended = resumed.before.iter().map(|pause| format!("group {group} goes on: {pause}"));
    let left = resumed.pauses.iter().map(|pause| format!("group {group} is still paused: {pause}"));
    let lines: Vec<String> = ended.chain(left).collect();
    if resumed.changed {
        lines.join("\n")
    } else {
        [vec![format!("group {group} was not paused there")], lines].concat().join("\n")
    }
}

fn list(arguments: &Listing) -> Result<()> {
    let all: Vec<Group> = arguments.remote.daemon()?.list("groups")?;
    if arguments.json {
        return print_json(&all);
    }
    warn(all.first());
    let mut rows = vec![["GROUP", "HANDLER", "PARTITIONS", "LAG", "PENDING", "PAUSED"].map(str::to_owned).to_vec()];
    rows.extend(all.into_iter().map(|group| {
        let lag = group.partitions.iter().map(|p| p.lag).sum::<Option<i64>>();
        let pending: u64 = group.partitions.iter().map(|p| p.pending).sum();
        let partitions = group.partitions.len().to_string();
        let scopes: Vec<String> = group.pauses.iter().map(|pause| pause.scope.to_string()).collect();
        let paused = if scopes.is_empty() { "-".to_owned() } else { scopes.join(", ") };
        vec![group.group, group.handler, partitions, known(lag), pending.to_string(), paused]
    }));
    say(&table(&rows))
}

fn describe(arguments: &Describing) -> Result<()> {
    let path = format!("groups/{}", in_path(&arguments.group));
    let group: Group = arguments.remote.daemon()?.ask(Method::GET, &path, None)?;
    if arguments.json {
        return print_json(&group);
    }
    warn(Some(&group));
    let head = ["TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "PENDING", "REPLAY-UNTIL", "PAUSED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(group.partitions.into_iter().map(|p| {
        let Partition { topic, partition, offset, end, lag, pending, replay_until, paused } = p;
        let (partition, offset, pending) = (partition.to_string(), offset.to_string(), pending.to_string());
        let paused = if paused { "yes" } else { "-" };
        vec![topic, partition, offset, known(end), known(lag), pending, known(replay_until), paused.to_owned()]
    }));
    let pauses = group.pauses.iter().map(|pause| format!("paused: {pause}"));
    say(&pauses.chain([table(&rows)]).collect::<Vec<_>>().join("\n"))
}

fn reset(arguments: &Resetting) -> Result<()> {
    let reset = Reset {
        to: arguments.to.clone(),
        topic: arguments.topic.clone(),
        partitions: arguments.partitions.clone(),
        duplicates: arguments.duplicates,
        dry_run: arguments.dry_run,
    };
    let body = serde_json::to_vec(&reset).context("write JSON")?;
    let path = format!("groups/{}/reset", in_path(&arguments.group));
    let daemon = arguments.remote.daemon()?;
    let progress = Progress::begin("the daemon asks Kafka where the partitions go on");
    let done: Done = daemon.ask(Method::POST, &path, Some(("application/json", body)))?;
    drop(progress);
    if arguments.json { print_json(&done) } else { say(&told(&done)) }
}

fn told(done: &Done) -> String {
    let head = ["TOPIC", "PARTITION", "CURRENT-OFFSET", "NEW-OFFSET", "PENDING"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(done.partitions.iter().map(|placed| {
        let numbers = [i64::from(placed.partition), placed.from, placed.to].map(|number| number.to_string());
        let mut row = vec![placed.topic.clone()];
        row.extend(numbers);
        row.push(placed.pending.to_string());
        row
    }));
    let (group, pending) = (&done.group, done.partitions.iter().map(|placed| placed.pending).sum::<u64>());
    let mut text = format!("{}\n", table(&rows));
    text += &match done.changed {
        true => format!("group {group} goes on there"),
        false => format!("a dry run: group {group} is where it was"),
    };
    if pending > 0 {
        let verb = if done.changed { "were" } else { "would be" };
        text += &format!("; {pending} records that waited for another attempt {verb} thrown away");
    }
    text + match (done.partitions.iter().any(|placed| placed.to < placed.from), done.duplicates) {
        (false, _) => "",
        (_, Some(Again::Run)) => "; what is read again runs again",
        (_, Some(Again::Drop)) => "; of what is read again only events run that were not done",
        (_, None) => "; --duplicates has to say what becomes of what is read again",
    }
}

fn in_path(group: &str) -> PercentEncode<'_> {
    utf8_percent_encode(group, NON_ALPHANUMERIC)
}

fn known(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn warn(group: Option<&Group>) {
    if let Some(warning) = group.and_then(|group| group.warning.as_ref()) {
        eprintln!("warning: {warning}");
    }
}
