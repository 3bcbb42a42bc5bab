//! `tidemill plan`: how many partitions a topic should have.
//!
//! A rule of thumb and nothing more: as many as deliveries may be under way at once, and 10 to 30 % to grow into. It
//! reads no settings and asks nobody.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::say;
use crate::settings::units;

/// As many as a [[topic]] may be given.
const PARTITIONS_MAX: u64 = 100_000;

/// What is known of the work.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Deliveries that one daemon has under way at once: the handler's consumers.
    #[arg(long, value_name = "N", required_unless_present = "rate", conflicts_with = "rate")]
    consumers: Option<NonZeroU32>,
    /// Members that share the group's partitions; a Tidemill handler's group has one, and a standby does not count.
    #[arg(long, value_name = "N", default_value = "1")]
    instances: NonZeroU32,
    /// Instead of --consumers: records that arrive in a second at the busiest time.
    #[arg(long, value_name = "RECORDS", value_parser = rate, requires = "time_per_record")]
    rate: Option<f64>,
    /// With --rate: how long a delivery takes, what it waits for included, like "20ms".
    #[arg(long, value_name = "DURATION", value_parser = units::duration, requires = "rate")]
    time_per_record: Option<Duration>,
}

/// Prints the recommendation.
///
/// # Errors
/// More partitions than Kafka would be happy with; standard output is closed.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    say(&recommend(arguments)?)
}

fn recommend(arguments: &Arguments) -> Result<String> {
    let instances = u64::from(arguments.instances.get());
    let (consumers, why) = match (arguments.consumers, arguments.rate, arguments.time_per_record) {
        (Some(consumers), _, _) => (u64::from(consumers.get()), String::new()),
        (None, Some(rate), Some(time)) => {
            let busy = rate * time.as_secs_f64();
            let why = format!(
                "{rate} records a second of {} each keep {busy:.1} deliveries under way, and ",
                units::show_duration(time)
            );
            (consumers(busy, instances), why)
        }
        _ => bail!("say how many deliveries are under way at once: --consumers N, or --rate N with --time-per-record"),
    };
    let at_once = consumers.saturating_mul(instances);
    let partitions = partitions(at_once);
    if *partitions.end() > PARTITIONS_MAX {
        bail!(
            "{at_once} deliveries at once are too many for one topic of at most {PARTITIONS_MAX} partitions: spread them over several topics"
        );
    }
    let number = match (partitions.start(), partitions.end()) {
        (from, to) if from == to => from.to_string(),
        (from, to) => format!("{from} to {to}"),
    };
    let people = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    Ok(format!(
        "{number} partitions: {why}{} x {} need {at_once}, one for each delivery at once; 10 to 30 % more leave room to \
         grow, because partitions that are added later break the order of keys",
        people(consumers, "consumer"),
        people(instances, "instance"),
    ))
}

/// 10 to 30 % more than `at_once`, rounded up.
fn partitions(at_once: u64) -> RangeInclusive<u64> {
    let more = |percent: u64| at_once.saturating_mul(100 + percent).div_ceil(100);
    more(10)..=more(30)
}

/// How many consumers each instance needs so that `busy` deliveries can be under way; at least one.
fn consumers(busy: f64, instances: u64) -> u64 {
    // What is too large saturates, and is refused as too many partitions.
    ((busy / instances as f64).ceil() as u64).max(1)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "write a number of records above 0, like 500 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn plan(arguments: &str) -> Result<String, String> {
        let line = Line::try_parse_from(std::iter::once("plan").chain(arguments.split_whitespace()));
        recommend(&line.map_err(|error| error.to_string())?.arguments).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn s0_10_partitions_are_consumers_times_instances_and_10_to_30_percent() {
        for (arguments, expected) in [
            ("--consumers 4 --instances 3", "14 to 16 partitions: 4 consumers x 3 instances need 12, "),
            ("--consumers 1", "2 partitions: 1 consumer x 1 instance need 1, "),
            ("--consumers 10", "11 to 13 partitions: 10 consumers x 1 instance need 10, "),
            ("--consumers 100 --instances 10", "1100 to 1300 partitions: "),
            (
                "--rate 600 --time-per-record 20ms --instances 5",
                "17 to 20 partitions: 600 records a second of 20ms each keep 12.0 deliveries under way, and 3 consumers x 5 instances need 15, ",
            ),
            ("--rate 0.5 --time-per-record 1ms", "2 partitions: "),
        ] {
            let said = plan(arguments).unwrap();
            assert!(said.starts_with(expected), "{arguments}: {said}");
        }
    }

    #[test]
    fn wrong_input_is_told() {
        for (arguments, part) in [
            ("", "--consumers"),
            ("--consumers 0", "--consumers"),
            ("--consumers 4 --instances=-1", "--instances"),
            ("--consumers four", "invalid digit"),
            ("--rate 5", "--time-per-record"),
            ("--time-per-record 5ms", "--rate"),
            ("--rate 0 --time-per-record 5ms", "above 0"),
            ("--rate inf --time-per-record 5ms", "above 0"),
            ("--rate 5 --time-per-record 5", "is not a duration"),
            ("--rate 5 --time-per-record 5ms --consumers 2", "cannot be used with"),
            ("--consumers 100000 --instances 2", "too many for one topic"),
            ("--consumers 4294967295 --instances 4294967295", "too many for one topic"),
            ("--rate 1e300 --time-per-record 300d", "too many for one topic"),
        ] {
            let said = plan(arguments).unwrap_err();
            assert!(said.contains(part), "{arguments}: {said}");
        }
    }

    proptest! {
        #[test]
        fn the_room_to_grow_is_10_to_30_percent(at_once in 1u64..1_000_000) {
            let (from, to) = partitions(at_once).into_inner();
            prop_assert!(from * 10 >= at_once * 11 && (from - 1) * 10 < at_once * 11);
            prop_assert!(to * 10 >= at_once * 13 && (to - 1) * 10 < at_once * 13);
        }
    }
}
