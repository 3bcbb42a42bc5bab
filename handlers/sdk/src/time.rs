//! A moment in UTC, to the millisecond, written as ISO-8601: `2026-01-31T09:30:00.000Z`.
//!
//! It reads no clock; [`delivery::now`](crate::delivery::now) does.
//!
//! ```
//! use tidemill_sdk::Time;
//!
//! let paid: Time = "2026-01-31T18:30:00+09:00".parse()?;
//! assert_eq!(paid.to_string(), "2026-01-31T09:30:00.000Z");
//! # Ok::<(), tidemill_sdk::time::Invalid>(())
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DAY_MS: i64 = 86_400_000;

/// A moment in UTC, to the millisecond. In JSON and in the store it is ISO-8601 text, which sorts as time does.
///
/// ```
/// use tidemill_sdk::Time;
///
/// #[derive(serde::Deserialize)]
/// struct Payment {
///     at: Time,
/// }
///
/// let payment: Payment = serde_json::from_str(r#"{"at":"1970-01-01T00:00:01.5Z"}"#)?;
/// assert_eq!(payment.at.millis(), 1500);
/// assert!(payment.at < Time::from_millis(1501));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// From milliseconds since 1970-01-01T00:00:00Z.
    ///
    /// ```
    /// # use tidemill_sdk::{Record, Time, test::record};
    /// fn written_at(record: &Record) -> Option<Time> {
    ///     record.timestamp.map(Time::from_millis)
    /// }
    /// assert_eq!(written_at(&record("orders")), None);
    /// ```
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    ///
    /// ```
    /// # use tidemill_sdk::Time;
    /// let (ordered, paid) = (Time::from_millis(1_000), Time::from_millis(61_000));
    /// assert_eq!((paid.millis() - ordered.millis()) / 1000, 60);
    /// ```
    pub const fn millis(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(DAY_MS));
        let rest = self.0.rem_euclid(DAY_MS);
        let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
        let (second, milli) = (rest / 1000 % 60, rest % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// A text that is no time such as `2026-01-31T09:30:00.000Z`.
///
/// ```
/// use tidemill_sdk::{Failure, Time};
///
/// let due = "tomorrow".parse::<Time>().map_err(Failure::reject);
/// assert_eq!(due, Err(Failure::reject("`tomorrow` is not a time such as 2026-01-31T09:30:00.000Z")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a time such as 2026-01-31T09:30:00.000Z", self.0)
    }
}

impl std::error::Error for Invalid {}

impl FromStr for Time {
    type Err = Invalid;

    /// Date, `T`, time, optionally a fraction of a second (cut to milliseconds), then `Z` or an offset like `+09:00`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).ok_or_else(|| Invalid(text.chars().take(64).collect()))
    }
}

fn parse(text: &str) -> Option<Time> {
    let (date, clock) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone_at = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign @ ("+" | "-"), offset) => {
            let [hours, minutes] = numbers(offset, ':', [2, 2])?;
            (hours * 60 + minutes) * if sign == "+" { 60_000 } else { -60_000 }
        }
        _ => return None,
    };
    if fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let milli: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let days = days(year, month, day);
    let exists = civil(days) == (year, month, day) && hour < 24 && minute < 60 && second < 60;
    exists.then_some(Time(days * DAY_MS + hour * 3_600_000 + minute * 60_000 + second * 1000 + milli - offset))
}

/// Numbers of exactly these widths with a separator between them.
fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part =
            parts.next().filter(|part| part.len() == width && part.bytes().all(|digit| digit.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, counted in years that begin in March, so that the leap
/// day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of so many days since 1970-01-01: the inverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 2026-01-31T09:30:00.000Z")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_moments_are_written_as_iso_8601() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time(millis).to_string(), text);
            assert_eq!(text.parse(), Ok(Time(millis)));
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in -150_000..150_000 {
            let (year, month, dom) = civil(day);
            assert_eq!(days(year, month, dom), day);
            assert_eq!(Time(day * DAY_MS).to_string().parse(), Ok(Time(day * DAY_MS)));
        }
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        let at = |text: &str| text.parse::<Time>().unwrap().millis();
        assert_eq!(at("1970-01-01T09:00:00+09:00"), 0);
        assert_eq!(at("1969-12-31T19:00:00.5-05:00"), 500);
        assert_eq!(at("1970-01-01T00:00:00.123456789Z"), 123);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "T", "2026-02-29T00:00:00Z", "2026-01-01", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "é"]
        {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for text in ["2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.+1Z", "+026-01-01T00:00:00Z", "2026-1-01T00:00:00Z"]
        {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
