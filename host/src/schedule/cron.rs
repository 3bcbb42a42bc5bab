//! The five fields of crontab(5), in a time zone.
//!
//! What is due on the days on which clocks are set is as in cron(8): a schedule of every hour goes by the time that passes; one that
//! names hours fires once for each time that it names, at the moment of the change where the clock leaves that time out, and at the first of
//! the two where the clock shows it twice.

use std::fmt;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan as _};

/// Days that are looked through for the next due time: a 29 February can be eight years away, and one on a given day of the week is not asked
/// for (two fields of days are an "or").
const DAYS: usize = 9 * 366;
/// Hours by which clocks are set back at most.
const SET_BACK: i64 = 3;
const MINUTE: i64 = 60_000;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
    text: String,
    zone: TimeZone,
}

/// One of the five: a bit for each value that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// Whether it begins with `*`.
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & (1 << value) != 0)
    }

    /// The values from `first` to `last` that it takes.
    fn values(self, first: i8, last: i8) -> impl Iterator<Item = i8> {
        (first..=last).filter(move |value| self.has(*value))
    }
}

/// What a field may hold.
struct Kind {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const KINDS: [Kind; 5] = [
    Kind { name: "minute", first: 0, last: 59, names: &[] },
    Kind { name: "hour", first: 0, last: 23, names: &[] },
    Kind { name: "day of the month", first: 1, last: 31, names: &[] },
    Kind {
        name: "month",
        first: 1,
        last: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Kind { name: "day of the week", first: 0, last: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

impl Cron {
    /// Reads the five fields.
    ///
    /// # Errors
    /// What is wrong with one of them, or that no day is ever meant.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words.as_slice() else {
            return Err(format!(
                "\"{text}\" has {} fields; write five: minute, hour, day of the month, month, day of the week, like \"*/5 * * * *\"",
                words.len()
            ));
        };
        let [minute, hour, day, month, weekday] = &KINDS;
        let weekdays = field(weekdays, weekday)?;
        let cron = Self {
            minutes: field(minutes, minute)?,
            hours: field(hours, hour)?,
            days: field(days, day)?,
            months: field(months, month)?,
            // 7 is Sunday too.
            weekdays: Field { bits: (weekdays.bits | weekdays.bits >> 7) & 0x7f, ..weekdays },
            text: words.join(" "),
            zone,
        };
        match cron.from(0) {
            Some(_) => Ok(cron),
            None => Err(format!("\"{text}\" names a day that no month has: it is never due")),
        }
    }

    /// The first due time at `at` or later, if there is one within nine years; both in milliseconds since the Unix epoch.
    pub(super) fn from(&self, at: i64) -> Option<i64> {
        let at = at.checked_add(MINUTE - 1)?.div_euclid(MINUTE) * MINUTE;
        if self.hours.bits == (1 << 24) - 1 { self.by_time_passed(at) } else { self.by_the_clock(at) }
    }

    /// Of every hour: each minute that passes, whatever the clock was set to before.
    fn by_time_passed(&self, mut at: i64) -> Option<i64> {
        for _ in 0..DAYS {
            let local = self.local(at)?;
            if !self.has_day(local.date()) {
                let next = self.days_from(local.date()).next()?;
                at = self.instant(next.at(0, 0, 0, 0))?.max(at + MINUTE);
                continue;
            }
            // The rest of the hour, as the clock shows it now; what follows may show another one.
            match self.minutes.values(local.minute(), 59).next() {
                Some(minute) => {
                    let due = at + i64::from(minute - local.minute()) * MINUTE;
                    // The clock may be set within the hour, and tell another minute then, or day.
                    if self
                        .local(due)
                        .is_some_and(|local| self.minutes.has(local.minute()) && self.has_day(local.date()))
                    {
                        return Some(due);
                    }
                    at += MINUTE;
                }
                None => at += i64::from(60 - local.minute()) * MINUTE,
            }
        }
        None
    }

    /// Of certain hours: each time that is named, once.
    fn by_the_clock(&self, at: i64) -> Option<i64> {
        let local = self.local(at)?;
        // The clock may have shown a later time before `at` than it does now.
        let from = local.checked_sub(SET_BACK.hours()).ok()?;
        for date in self.days_from(from.date()) {
            for hour in self.hours.values(0, 23) {
                for minute in self.minutes.values(0, 59) {
                    let time = date.at(hour, minute, 0, 0);
                    if time < from {
                        continue;
                    }
                    let due = self.instant(time)?;
                    if due >= at {
                        return Some(due);
                    }
                }
            }
        }
        None
    }

    /// The days from this one on that it takes.
    fn days_from(&self, first: Date) -> impl Iterator<Item = Date> {
        first.series(1.day()).take(DAYS).filter(|date| self.has_day(*date))
    }

    fn has_day(&self, date: Date) -> bool {
        let (day, weekday) = (self.days.has(date.day()), self.weekdays.has(date.weekday().to_sunday_zero_offset()));
        // Where both are restricted, one of them is enough.
        let both = if self.days.any || self.weekdays.any { day && weekday } else { day || weekday };
        both && self.months.has(date.month())
    }

    fn local(&self, at: i64) -> Option<DateTime> {
        Some(self.zone.to_datetime(Timestamp::from_millisecond(at).ok()?))
    }

    /// When the clock shows this time for the first time, or skips it.
    fn instant(&self, time: DateTime) -> Option<i64> {
        let ambiguous = self.zone.to_ambiguous_timestamp(time);
        let at = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(time).ok()?
            }
            // By the offset before, the time lies after the change.
            AmbiguousOffset::Gap { before, .. } => {
                let after = before.to_timestamp(time).ok()?.checked_add(1.nanosecond()).ok()?;
                self.zone.preceding(after).next()?.timestamp()
            }
        };
        Some(at.as_millisecond())
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone.iana_name().unwrap_or("UTC"))
    }
}

/// `*`, `5`, `mon`, `1-5`, each with a step behind `/` or none, and lists of them.
fn field(text: &str, kind: &Kind) -> Result<Field, String> {
    let wrong = |part: &str| {
        format!(
            "\"{part}\" is no {}; write {} to {}, `*`, a range like {0}-{1}, a step like `*/2`, or a list of them",
            kind.name, kind.first, kind.last
        )
    };
    let number = |part: &str| {
        let by_name = kind.names.iter().position(|name| name.eq_ignore_ascii_case(part));
        match by_name {
            Some(place) => Some(kind.first + u32::try_from(place).ok()?),
            None => part.parse().ok().filter(|_| part.bytes().all(|c| c.is_ascii_digit())),
        }
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, number_of_steps(step).ok_or_else(|| wrong(part))?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (Some(kind.first), Some(kind.last)),
            Some((from, to)) => (number(from), number(to)),
            // A step goes from a value to the end.
            None if step > 1 => (number(range), Some(kind.last)),
            None => (number(range), number(range)),
        };
        let range = from.zip(to).filter(|(from, to)| kind.first <= *from && from <= to && *to <= kind.last);
        let (from, to) = range.ok_or_else(|| wrong(part))?;
        (from..=to).step_by(step).for_each(|value| bits |= 1 << value);
    }
    Ok(Field { bits, any: text.starts_with('*') })
}

fn number_of_steps(text: &str) -> Option<usize> {
    text.parse().ok().filter(|step| (1..=59).contains(step) && text.bytes().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::units;

    fn cron(text: &str, zone: &str) -> Cron {
        Cron::parse(text, crate::kafka::template::zone(zone).unwrap()).unwrap()
    }

    /// The due times that follow, as UTC without seconds.
    fn dues(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = cron(text, zone);
        let mut at = units::time(after).unwrap();
        let next = std::iter::repeat_with(|| {
            let due = cron.from(at + 1).unwrap();
            at = due;
            let shown = units::show_time(due);
            shown.strip_suffix(":00.000Z").unwrap().replace('T', " ")
        });
        next.take(count).collect()
    }

    #[test]
    fn s2_13_five_fields_as_in_crontab() {
        for (text, expected) in [
            ("* * * * *", ["2026-01-31 23:59", "2026-02-01 00:00", "2026-02-01 00:01"]),
            ("*/25 * * * *", ["2026-02-01 00:00", "2026-02-01 00:25", "2026-02-01 00:50"]),
            ("5,10-12 * * * *", ["2026-02-01 00:05", "2026-02-01 00:10", "2026-02-01 00:11"]),
            ("50/4 23 * * *", ["2026-02-01 23:50", "2026-02-01 23:54", "2026-02-01 23:58"]),
            ("0 9-17/4 * * mon-fri", ["2026-02-02 09:00", "2026-02-02 13:00", "2026-02-02 17:00"]),
            ("30 4 1,15 * 5", ["2026-02-01 04:30", "2026-02-06 04:30", "2026-02-13 04:30"]),
            ("0 0 */10 * 0", ["2026-02-01 00:00", "2026-03-01 00:00", "2026-05-31 00:00"]),
            ("0 12 * * 7", ["2026-02-01 12:00", "2026-02-08 12:00", "2026-02-15 12:00"]),
            ("0 12 * * 5-7", ["2026-02-01 12:00", "2026-02-06 12:00", "2026-02-07 12:00"]),
            ("0 0 31 * *", ["2026-03-31 00:00", "2026-05-31 00:00", "2026-07-31 00:00"]),
            ("0 0 29 FEB *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
            ("0 * 29 2 *", ["2028-02-29 00:00", "2028-02-29 01:00", "2028-02-29 02:00"]),
        ] {
            assert_eq!(dues(text, "UTC", "2026-01-31T23:58:00Z", 3), expected, "{text}");
        }
        assert_eq!(
            cron("0 0 29 2 *", "UTC").from(units::time("2096-03-01T00:00:00Z").unwrap()),
            units::time("2104-02-29T00:00:00Z")
        );
    }

    #[test]
    fn s2_13_times_are_those_of_the_zone() {
        assert_eq!(
            dues("0 9 * * *", "Asia/Seoul", "2026-01-31T00:00:00Z", 2),
            ["2026-02-01 00:00", "2026-02-02 00:00"]
        );
        assert_eq!(
            dues("15 * * * *", "Asia/Kolkata", "2026-01-31T00:00:00Z", 2),
            ["2026-01-31 00:45", "2026-01-31 01:45"]
        );
        assert_eq!(
            dues("0 0 1 * *", "America/New_York", "2026-02-28T00:00:00Z", 2),
            ["2026-03-01 05:00", "2026-04-01 04:00"]
        );
    }

    /// In Berlin it is 03:00 after 01:59 on 2026-03-29 (at 01:00 UTC), and 02:00 after 02:59 on 2026-10-25 (at 01:00 UTC).
    #[test]
    fn s2_13_a_time_that_the_clock_leaves_out_is_due_at_the_change_and_one_that_it_shows_twice_is_due_once() {
        let spring = |text: &str, count| dues(text, "Europe/Berlin", "2026-03-29T00:10:00Z", count);
        assert_eq!(spring("30 2 * * *", 2), ["2026-03-29 01:00", "2026-03-30 00:30"]);
        assert_eq!(spring("0,30 2 * * *", 2), ["2026-03-29 01:00", "2026-03-30 00:00"], "it fires once for both");
        assert_eq!(spring("0 3 * * *", 2), ["2026-03-29 01:00", "2026-03-30 01:00"]);
        assert_eq!(spring("30 2 29 3 *", 2), ["2026-03-29 01:00", "2027-03-29 00:30"]);
        let autumn = |text: &str, count| dues(text, "Europe/Berlin", "2026-10-24T23:00:00Z", count);
        assert_eq!(autumn("30 2 * * *", 2), ["2026-10-25 00:30", "2026-10-26 01:30"]);
        assert_eq!(
            autumn("0 1-4 * * *", 4),
            ["2026-10-25 00:00", "2026-10-25 02:00", "2026-10-25 03:00", "2026-10-26 00:00"]
        );
        // Between the two, the first has passed.
        assert_eq!(dues("30 2 * * *", "Europe/Berlin", "2026-10-25T00:40:00Z", 1), ["2026-10-26 01:30"]);
    }

    #[test]
    fn s2_13_a_schedule_of_every_hour_goes_by_the_time_that_passes() {
        let spring = dues("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:10:00Z", 3);
        assert_eq!(spring, ["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30"]);
        let autumn = dues("30 * * * *", "Europe/Berlin", "2026-10-24T23:40:00Z", 3);
        assert_eq!(autumn, ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"]);
        // Clocks that are set by half an hour, and at midnight.
        let lord_howe = dues("15 * * * *", "Australia/Lord_Howe", "2026-10-03T14:00:00Z", 3);
        assert_eq!(lord_howe, ["2026-10-03 14:45", "2026-10-03 16:15", "2026-10-03 17:15"]);
        let cairo = dues("0 * 24 4 *", "Africa/Cairo", "2026-04-01T00:00:00Z", 2);
        assert_eq!(cairo, ["2026-04-23 22:00", "2026-04-23 23:00"], "the day begins at one o'clock");
    }

    #[test]
    fn s2_13_what_is_wrong_is_said() {
        for (text, wrong) in [
            ("* * * *", "\"* * * *\" has 4 fields; write five: minute, hour,"),
            ("0 * * * * *", "has 6 fields"),
            ("60 * * * *", "\"60\" is no minute; write 0 to 59,"),
            ("* 24 * * *", "\"24\" is no hour"),
            ("* * 0 * *", "\"0\" is no day of the month; write 1 to 31"),
            ("* * * 13 *", "is no month"),
            ("* * * * 8", "is no day of the week"),
            ("* * * * moon", "\"moon\" is no day of the week"),
            ("5-1 * * * *", "\"5-1\" is no minute"),
            ("*/0 * * * *", "\"*/0\" is no minute"),
            ("+5 * * * *", "\"+5\" is no minute"),
            ("1,,2 * * * *", "\"\" is no minute"),
            ("0 0 30 2 *", "it is never due"),
        ] {
            let error = Cron::parse(text, TimeZone::UTC).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
