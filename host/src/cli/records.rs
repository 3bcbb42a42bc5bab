//! `tidemill records show`: records as they stand in Kafka, one JSON object a line.
//!
//! It is in no consumer group and commits nothing. What it prints is what `tidemill replay` and a rig read.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Config, produce, say};
use crate::kafka::peek;
use crate::rig::wire;

/// `tidemill records`
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print records by their place.
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
    /// The brokers; without it those of the settings, or the embedded broker of a daemon or of `tidemill dev` in this folder.
    #[arg(long, value_name = "HOST:PORT,..")]
    bootstrap: Option<String>,
    #[command(flatten)]
    config: Config,
}

/// A topic, a partition and an offset.
type Place = (String, i32, i64);

fn place(text: &str) -> Result<Place, String> {
    let read = || {
        let (topic, place) = text.rsplit_once('/')?;
        let (partition, offset) = place.split_once('@')?;
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        (!topic.is_empty() && partition >= 0 && offset >= 0).then(|| (topic.to_owned(), partition, offset))
    };
    read().ok_or_else(|| "write it as TOPIC/PARTITION@OFFSET, like orders/0@42".to_owned())
}

/// Prints them.
///
/// # Errors
/// No broker is found or answers; there is no record at that place.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let What::Show(show) = &arguments.what;
    let connection = produce::connection(&show.config.load()?, show.bootstrap.as_deref())?;
    let (topic, partition, offset) = &show.place;
    for record in peek::read(&connection, topic, *partition, *offset, show.count as usize)? {
        say(&wire::record(&record).to_string())?;
    }
    Ok(())
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
