//! `tidemill records tail`: the records of a topic from a place on, those that are asked for, and what comes after them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{Broker, json, text};
use crate::cli::say_more;
use crate::cli::terminal::plain;
use crate::deploy::groups::Target;
use crate::kafka::reader::{Reader, Span};
use crate::record::Record;

/// `tidemill records tail`
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The topic.
    topic: String,
    /// Where to begin in each partition: earliest, latest, an offset like 1200, or a time like 2026-01-31T12:00:00Z. Without it at the
    /// earliest record, and with --follow at the latest.
    #[arg(long, value_name = "PLACE", value_parser = target)]
    from: Option<Target>,
    /// Only this partition; may be given several times.
    #[arg(long = "partition", value_name = "NUMBER")]
    partitions: Vec<i32>,
    /// Only records with this key.
    #[arg(long)]
    key: Option<String>,
    /// Only records with this header; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Only records with this text in the key or the value.
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// End after so many records.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Go on with what comes, until it is ended.
    #[arg(long, short)]
    follow: bool,
    /// Print each as a line of JSON, as `tidemill replay` reads it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: Broker,
}

fn target(text: &str) -> Result<Target, String> {
    text.parse()
}

fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "write it as NAME=VALUE".to_owned())
}

impl Arguments {
    fn wants(&self, record: &Record) -> bool {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let has = |(name, wanted): &(String, String)| {
            record.headers.iter().any(|h| h.name == *name && h.value.as_deref() == Some(wanted.as_bytes()))
        };
        let early = match self.from {
            // A partition is not in the order of time, and the embedded broker looks up none.
            Some(Target::Time(at)) => record.timestamp.millis().is_some_and(|written| written < at),
            _ => false,
        };
        !early
            && self.key.as_ref().is_none_or(|wanted| key == Some(wanted.as_bytes()))
            && self.headers.iter().all(has)
            && self.grep.as_ref().is_none_or(|text| [key, value].into_iter().flatten().any(|part| holds(part, text)))
    }

    /// Where to begin, in the partitions that are asked for.
    fn begin(&self, reader: &Reader, spans: &[Span]) -> Result<BTreeMap<i32, i64>> {
        let each = |offset: &dyn Fn(&Span) -> i64| spans.iter().map(|span| (span.partition, offset(span))).collect();
        Ok(match self.from {
            Some(Target::Earliest) => each(&|span| span.low),
            None if !self.follow => each(&|span| span.low),
            None | Some(Target::Latest) => each(&|span| span.high),
            Some(Target::Offset(offset)) => each(&|span| offset.clamp(span.low, span.high)),
            Some(Target::Time(at)) => reader.at(&self.topic, spans, at)?,
        })
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Prints them.
///
/// # Errors
/// There is no such topic or partition; or no broker answers.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let connection = arguments.broker.connection()?;
    let reader = Reader::open(&connection)?;
    let mut spans = reader.spans(&arguments.topic)?;
    if spans.is_empty() {
        bail!("there is no topic {} at {}: check its name", plain(&arguments.topic), connection.bootstrap);
    }
    if let Some(missing) = arguments.partitions.iter().find(|wanted| spans.iter().all(|s| s.partition != **wanted)) {
        bail!("topic {} has no partition {missing}: it has {}", arguments.topic, spans.len());
    }
    spans.retain(|span| arguments.partitions.is_empty() || arguments.partitions.contains(&span.partition));
    let begin = arguments.begin(&reader, &spans)?;
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    reader.read(&arguments.topic, &begin, arguments.follow, |record| {
        if !arguments.wants(&record) {
            return Ok(true);
        }
        left -= 1;
        Ok(say_more(&if arguments.json { json(&record) } else { text::line(&record) })? && left > 0)
    })
}
