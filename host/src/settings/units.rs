//! Durations such as `"30s"` and sizes such as `"64MiB"`, read and written; times such as
//! `"2026-01-31T12:00:00Z"`, read.
//!
//! Reading is exact: what cannot be told in whole nanoseconds or bytes, or does not fit, is refused, never rounded.

use std::time::Duration;

use toml::value::{Date, Datetime, Offset};

const DURATIONS: [(&str, u128); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// The binary units stand last, from small to large: they are the ones that are written.
const SIZES: [(&str, u128); 8] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads a duration: a number, whole or with a fraction, and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("\"{text}\" is not a duration; write a number and ms, s, m, h or d, like \"30s\" or \"250ms\"");
    let nanos = scaled(text, &DURATIONS).ok_or_else(wrong)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| wrong())?;
    let rest = u32::try_from(nanos % 1_000_000_000).map_err(|_| wrong())?;
    Ok(Duration::new(seconds, rest))
}

/// Reads a size in bytes: a number, whole or with a fraction, and one of `B`, `KiB`, `MiB`, `GiB`, `KB`, `MB`, `GB`,
/// or nothing.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn size(text: &str) -> Result<usize, String> {
    let wrong =
        || format!("\"{text}\" is not a size; write a number and B, KiB, MiB, GiB, KB, MB or GB, like \"64MiB\"");
    let bytes = scaled(text, &SIZES).ok_or_else(wrong)?;
    usize::try_from(bytes).map_err(|_| wrong())
}

/// How often something may be: so many times at once, and again so many in each of these times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From 1.
    pub count: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

const RATES: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3_600)];

/// Reads a rate: a whole number from 1, a slash and `s`, `m` or `h`.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn rate(text: &str) -> Result<Rate, String> {
    let read = || {
        let (count, unit) = text.split_once('/')?;
        let (_, seconds) = RATES.iter().find(|(name, _)| *name == unit)?;
        let count = count.parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
        Some(Rate { count, per: Duration::from_secs(*seconds) })
    };
    read().ok_or_else(|| {
        format!("\"{text}\" is not a rate; write a whole number up to 1000000 and /s, /m or /h, like \"100/s\"")
    })
}

/// Writes a rate as [`rate`] reads it.
pub fn show_rate(rate: Rate) -> String {
    let unit = RATES.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == rate.per);
    format!("{}/{}", rate.count, unit.map_or("s", |(name, _)| name))
}

/// Reads a time with its offset from UTC (RFC 3339): milliseconds since the Unix epoch, or `None` if it is not one, or
/// an earlier one.
pub fn time(text: &str) -> Option<i64> {
    let at: Datetime = text.parse().ok()?;
    let (date, time) = (at.date?, at.time?);
    let minutes = match at.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // A leap second is the first moment of the next minute.
    let seconds = i64::from(time.hour) * 3_600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let millis = i64::from(time.nanosecond.unwrap_or(0) / 1_000_000);
    let millis = (days(date) * 86_400 + seconds - minutes * 60) * 1_000 + millis;
    (millis >= 0).then_some(millis)
}

/// Days since 1970-01-01 in the Gregorian calendar.
fn days(date: Date) -> i64 {
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    // The year begins in March, so that its leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Writes a time, in milliseconds since the Unix epoch, as UTC: `2026-01-31T12:00:00.000Z`.
pub fn show_time(at: i64) -> String {
    let (day, millis) = (at.div_euclid(86_400_000) + 719_468, at.rem_euclid(86_400_000));
    // The reverse of `days`: 400 years are 146,097 days.
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z", year + era * 400)
}

/// Writes a duration in the largest unit in which it is whole.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    match DURATIONS.iter().rev().find(|(_, unit)| nanos.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None => format!("{}ms", duration.as_secs_f64() * 1_000.0),
    }
}

/// Writes a size in the largest binary unit in which it is whole.
pub fn show_size(bytes: usize) -> String {
    let binary = || SIZES.iter().rev().take_while(|(name, _)| !name.is_empty());
    match binary().find(|(_, unit)| bytes > 0 && (bytes as u128).is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes as u128 / unit),
        None => format!("{bytes}B"),
    }
}

/// `1.5s` as a whole number of the smallest unit, or `None` if it is not one.
fn scaled(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.trim_start_matches(' ');
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let value = whole.parse::<u128>().ok()?.checked_mul(factor)?;
    if fraction.is_empty() {
        return Some(value);
    }
    // 10^20 times the largest factor still fits; a longer fraction says nothing that could be kept anyway.
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 20)?;
    let scale = 10u128.checked_pow(digits)?;
    let part = fraction.parse::<u128>().ok()?.checked_mul(factor)?;
    if !part.is_multiple_of(scale) {
        return None;
    }
    value.checked_add(part / scale)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn s3_4_a_time_is_read_with_its_offset_from_utc() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:30:45.250Z", 951_827_445_250),
            ("2026-01-01T00:00:00Z", 1_767_225_600_000),
            ("2026-01-01 09:00:00+09:00", 1_767_225_600_000),
            ("2025-12-31T19:00:00-05:00", 1_767_225_600_000),
            ("2100-03-01T00:00:00z", 4_107_542_400_000),
        ] {
            assert_eq!(time(text), Some(millis), "{text}");
        }
        let wrong =
            ["", "2026-01-01", "00:00:00", "2026-01-01T00:00:00", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "1"];
        for text in wrong {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_read_exactly() {
        for (text, nanos) in [
            ("30s", 30_000_000_000u128),
            ("250ms", 250_000_000),
            ("5m", 300_000_000_000),
            ("1h", 3_600_000_000_000),
            ("2d", 172_800_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.25ms", 250_000),
            ("0s", 0),
            ("1 s", 1_000_000_000),
        ] {
            assert_eq!(duration(text).unwrap().as_nanos(), nanos, "{text}");
        }
        for text in
            ["", "s", "30", "-1s", "1.s", ".5s", "1.2.3s", "1h30m", "1S", "1e3s", "99999999999999999999d", "１s"]
        {
            assert!(duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
        assert!(duration("0.0000001ms").is_err(), "less than a nanosecond");
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1KiB", 1024),
            ("10MB", 10_000_000),
            ("1GiB", 1 << 30),
            ("2GB", 2_000_000_000),
            ("7B", 7),
            ("512", 512),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "MiB", "64mib", "64Mi", "-1", "0.1B", "1.0001KiB", "99999999999999999999GiB"] {
            assert!(size(text).unwrap_err().contains("is not a size"), "{text}");
        }
    }

    proptest! {
        /// What is shown reads back as the same value.
        #[test]
        fn shown_times_read_back(at in 0i64..250_000_000_000_000) {
            prop_assert_eq!(time(&show_time(at)), Some(at));
        }

        #[test]
        fn shown_durations_read_back(ms in 0u64..u64::MAX / 2_000_000) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(duration(&show_duration(value)), Ok(value));
        }

        /// What is shown reads back as the same value.
        #[test]
        fn shown_sizes_read_back(bytes in any::<usize>()) {
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        /// No text makes the reader panic, and a fraction means what it says.
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9.]{0,40}[a-zA-Z ]{0,4}|\\PC*") {
            let _ = (duration(&text), size(&text));
        }

        /// A fraction of a second is that many milliseconds.
        #[test]
        fn fractions_agree_with_milliseconds(whole in 0u64..1_000_000, ms in 0u64..1000) {
            prop_assert_eq!(duration(&format!("{whole}.{ms:03}s")), Ok(Duration::from_millis(whole * 1000 + ms)));
        }
    }
}
