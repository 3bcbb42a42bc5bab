//! `tidemill records`: records as they stand in Kafka, for people or as JSON lines.
//!
//! It is in no consumer group and commits nothing. Its JSON is what `tidemill replay` and a rig read.

mod tail;
mod text;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Config, produce, say};
use crate::kafka::peek;
use crate::record::{self, Record};
use crate::rig::wire;

/// `tidemill records`
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the records of a topic, a line each.
    Tail(tail::Arguments),
    /// Print records by their place, whole.
    Show(Show),
}

/// Which records.
#[derive(Debug, Args)]
struct Show {
    /// Where the first one is, as logs and dead letters name it.
    #[arg(value_name = "TOPIC/PARTITION@OFFSET", value_parser = place)]
    place: Place,
    /// How many, as far as there are so many.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Print each as a line of JSON, as `tidemill replay` reads it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: Broker,
}

/// Which broker.
#[derive(Debug, Args)]
struct Broker {
    /// The brokers; without it those of the settings, or the embedded broker of a daemon or of `tidemill dev` in this folder.
    #[arg(long, value_name = "HOST:PORT,..")]
    bootstrap: Option<String>,
    #[command(flatten)]
    config: Config,
}

impl Broker {
    fn connection(&self) -> Result<crate::kafka::config::Connection> {
        produce::connection(&self.config.load()?, self.bootstrap.as_deref())
    }
}

/// A topic, a partition and an offset.
type Place = (String, i32, i64);

fn place(text: &str) -> Result<Place, String> {
    record::place(text).ok_or_else(|| "write it as TOPIC/PARTITION@OFFSET, like orders/0@42".to_owned())
}

/// Prints them.
///
/// # Errors
/// No broker is found or answers; there is no record at that place, or no such topic.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let show = match &arguments.what {
        What::Tail(tail) => return tail::run(tail),
        What::Show(show) => show,
    };
    let connection = show.broker.connection()?;
    let (topic, partition, offset) = &show.place;
    for record in peek::read(&connection, topic, *partition, *offset, show.count as usize)? {
        say(&if show.json { json(&record) } else { text::whole(&record) })?;
    }
    Ok(())
}

fn json(record: &Record) -> String {
    wire::record(record).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_in_the_log() {
        assert_eq!(place("orders.v1/0@42"), Ok(("orders.v1".into(), 0, 42)));
        for wrong in
            ["orders", "orders/0", "orders@1", "/0@1", "orders/x@1", "orders/-1@0", "orders/0@-1", "orders/0@x"]
        {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
