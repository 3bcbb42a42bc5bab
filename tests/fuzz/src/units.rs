//! Durations, sizes and times, against plain arithmetic.

use std::time::Duration;

use tidemill::settings::units;
use toml::value::{Datetime, Offset};

/// What was read is shown so that it reads the same, a fraction adds to the whole, and a time is the days and seconds
/// that the calendar says.
pub(crate) fn units(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match units::duration(text) {
        Ok(duration) => {
            if duration.subsec_nanos() % 1_000_000 == 0 {
                assert_eq!(units::duration(&units::show_duration(duration)), Ok(duration));
            }
            if let Some((whole, fraction)) = halves(text) {
                assert_eq!(Ok(duration), sum(units::duration(&whole), units::duration(&fraction)), "{text}");
            }
        }
        Err(wrong) => assert!(wrong.contains(text) && wrong.contains("is not a duration"), "{wrong}"),
    }
    match units::size(text) {
        Ok(bytes) => assert_eq!(units::size(&units::show_size(bytes)), Ok(bytes)),
        Err(wrong) => assert!(wrong.contains(text) && wrong.contains("is not a size"), "{wrong}"),
    }
    assert_eq!(units::time(text), time(text), "{text}");
}

/// `1.5s` as `1s` and `0.5s`.
fn halves(text: &str) -> Option<(String, String)> {
    let (whole, fraction) = text.split_once('.')?;
    let unit = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    Some((format!("{whole}{unit}"), format!("0.{fraction}")))
}

fn sum(one: Result<Duration, String>, other: Result<Duration, String>) -> Result<Duration, String> {
    one?.checked_add(other?).ok_or_else(|| "too long".to_owned())
}

/// Counted year by year and month by month.
fn time(text: &str) -> Option<i64> {
    let at: Datetime = text.parse().ok()?;
    let (date, time, offset) = (at.date?, at.time?, at.offset?);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let year = i64::from(date.year);
    let days = |years: std::ops::Range<i64>| years.map(|year| if leap(year) { 366 } else { 365 }).sum::<i64>();
    let years = days(1970..year) - days(year..1970);
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: i64 = lengths.iter().take(usize::from(date.month) - 1).sum();
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = years + months + i64::from(date.day) - 1;
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - minutes;
    let seconds = minutes * 60 + i64::from(time.second.unwrap_or(0));
    let millis = seconds * 1_000 + i64::from(time.nanosecond.unwrap_or(0) / 1_000_000);
    (millis >= 0).then_some(millis)
}
