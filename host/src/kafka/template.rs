//! Names of topics in which a date may stand: `post-activity-{date:%Y%m%d}` is a topic for each day.
//!
//! Pure: the time and the zone come in as arguments, so the same event has the same topic whenever it is run again. A
//! date always takes the same number of digits, so a topic's name tells whether it is one of a template's.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::deploy::manifest::names;

/// How a date begins, and how it ends.
const OPEN: &str = "{date:";
const CLOSE: char = '}';
/// The last time whose year has four digits in every zone, in milliseconds since the Unix epoch.
const LAST: i64 = 253_402_207_200_000;

/// A topic's name, or one for each day, hour or month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A part of a date, always of so many digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Year,
    Month,
    Day,
    Hour,
    DayOfYear,
}

impl Field {
    /// By its letter, as in `strftime` of POSIX.
    fn of(letter: char) -> Option<Self> {
        Some(match letter {
            'Y' => Self::Year,
            'm' => Self::Month,
            'd' => Self::Day,
            'H' => Self::Hour,
            'j' => Self::DayOfYear,
            _ => return None,
        })
    }

    fn digits(self) -> usize {
        match self {
            Self::Year => 4,
            Self::Month | Self::Day | Self::Hour => 2,
            Self::DayOfYear => 3,
        }
    }
}

impl Template {
    /// Reads a topic's name, in which dates like `{date:%Y%m%d}` may stand, with `%Y`, `%m`, `%d`, `%H` and `%j`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let date = after.strip_prefix(OPEN.trim_start_matches('{')).and_then(|date| date.split_once(CLOSE));
            let (format, behind) = date.ok_or_else(|| {
                format!("\"{text}\": only a date can stand in braces; write it like \"posts-{{date:%Y%m%d}}\"")
            })?;
            parts.extend(some_text(before));
            parts.extend(fields(text, format)?);
            rest = behind;
        }
        parts.extend(some_text(rest));
        let template = Self { text: text.to_owned(), parts };
        names::topic(&template.topic(0, &TimeZone::UTC)).map_err(|wrong| match template.is_dated() {
            true => format!("\"{text}\" makes no valid topic: {wrong}"),
            false => wrong,
        })?;
        Ok(template)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is more than one topic.
    pub fn is_dated(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Field(_)))
    }

    /// The topic at a time, in milliseconds since the Unix epoch.
    pub fn topic(&self, at: i64, zone: &TimeZone) -> String {
        if !self.is_dated() {
            return self.text.clone();
        }
        let at = Timestamp::from_millisecond(at.clamp(0, LAST)).unwrap_or(Timestamp::UNIX_EPOCH);
        let at = at.to_zoned(zone.clone());
        let written = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(field) => {
                let number = match field {
                    Field::Year => at.year(),
                    Field::Month => at.month().into(),
                    Field::Day => at.day().into(),
                    Field::Hour => at.hour().into(),
                    Field::DayOfYear => at.day_of_year(),
                };
                format!("{number:0digits$}", digits = field.digits())
            }
        });
        written.collect()
    }

    /// Whether the topic is one that it makes.
    pub fn matches(&self, topic: &str) -> bool {
        let rest = self.parts.iter().try_fold(topic.as_bytes(), |rest, part| match part {
            Part::Text(text) => rest.strip_prefix(text.as_bytes()),
            Part::Field(field) => {
                let (digits, rest) = rest.split_at_checked(field.digits())?;
                digits.iter().all(u8::is_ascii_digit).then_some(rest)
            }
        });
        rest.is_some_and(<[u8]>::is_empty)
    }

    /// A pattern of SQLite's `GLOB` that fits the same topics. No character of a topic's name has a meaning there.
    pub fn glob(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(field) => "[0-9]".repeat(field.digits()),
        };
        self.parts.iter().map(part).collect()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads the name of a time zone, like `Asia/Seoul`.
///
/// # Errors
/// There is none of this name.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        format!("\"{name}\" is no time zone; write \"UTC\" or a name of the IANA database, like \"Asia/Seoul\"")
    })
}

/// A zone by its name.
pub fn zone_name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

fn some_text(text: &str) -> Option<Part> {
    (!text.is_empty()).then(|| Part::Text(text.to_owned()))
}

fn fields(text: &str, format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            parts.push(Part::Text(letter.into()));
            continue;
        }
        let field = letters.next().and_then(Field::of).ok_or_else(|| {
            format!("\"{text}\": a date has %Y, %m, %d, %H and %j (the day of the year), like {{date:%Y-%m-%d}}")
        })?;
        parts.push(Part::Field(field));
    }
    match parts.iter().any(|part| matches!(part, Part::Field(_))) {
        true => Ok(parts),
        false => Err(format!("\"{text}\": the date has no part of a date; write it like {{date:%Y%m%d}}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// 2025-12-30T15:30:00Z
    const AT: i64 = 1_767_108_600_000;

    #[test]
    fn s4_5_a_template_names_the_topic_of_a_day_in_its_zone() {
        let topic = |text: &str, at, zone: &str| Template::parse(text).unwrap().topic(at, &super::zone(zone).unwrap());
        for (text, zone, expected) in [
            ("orders", "UTC", "orders"),
            ("post-activity-{date:%Y%m%d}", "UTC", "post-activity-20251230"),
            ("post-activity-{date:%Y%m%d}", "Asia/Seoul", "post-activity-20251231"),
            ("post-activity-{date:%Y%m%d}", "America/New_York", "post-activity-20251230"),
            ("{date:%Y-%m}.{date:%d_%H}-x", "UTC", "2025-12.30_15-x"),
            ("a{date:%j}", "UTC", "a364"),
        ] {
            assert_eq!(topic(text, AT, zone), expected, "{text} in {zone}");
        }
        // What a producer has got wrong makes a topic all the same.
        assert_eq!(topic("a{date:%Y}", i64::MAX, "Asia/Seoul"), "a9999");
        assert_eq!(topic("a{date:%Y}", -1, "UTC"), "a1970");
        assert!(zone("Asia/Soul").unwrap_err().contains("\"Asia/Soul\" is no time zone"));
        assert_eq!(zone_name(&zone("Asia/Seoul").unwrap()), "Asia/Seoul");
        assert_eq!(zone_name(&zone("UTC").unwrap()), "UTC");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, wrong) in [
            ("a{b}", "only a date can stand in braces"),
            ("a{date:%Y", "only a date can stand in braces"),
            ("a{date:}", "no part of a date"),
            ("a{date:x}", "no part of a date"),
            ("a{date:%y}", "%Y, %m, %d"),
            ("a{date:%}", "%Y, %m, %d"),
            ("a{date:%Y/%m}", "makes no valid topic"),
            ("a}", "is not a valid topic"),
            ("", "is not a valid topic"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    proptest! {
        /// It knows what it has made, and nothing that is longer or shorter.
        #[test]
        fn it_knows_its_own_topics(at in 0i64..LAST, template in prop::sample::select(&["t", "t-{date:%Y%m%d}", "{date:%j}a{date:%H}"][..])) {
            let template = Template::parse(template).unwrap();
            let topic = template.topic(at, &TimeZone::UTC);
            prop_assert!(template.matches(&topic));
            let longer = format!("{topic}0");
            prop_assert!(!template.matches(&longer) && !template.matches(&topic[1..]));
            prop_assert!(!template.is_dated() || !template.matches(template.as_str()));
        }
    }
}
