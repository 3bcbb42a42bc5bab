//! One value of a settings file or of an environment variable, and the ways to read it.
//!
//! A way to read returns the value or what is wrong with it, without the place: the section that asked knows that.
//! A variable has only text, so numbers and booleans are read from it; in a file they must be written as such.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::units::{self, Rate};

/// Where a value comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'r> {
    /// The file.
    File(&'r DeValue<'r>),
    /// An environment variable.
    Variable(&'r str),
}

impl<'r> Value<'r> {
    /// A string that is not empty.
    pub(crate) fn text(&self) -> Result<&'r str, String> {
        let text = match self {
            Value::File(DeValue::String(text)) => text.as_ref(),
            Value::Variable(text) => text,
            Value::File(_) => return Err(self.expected("a string")),
        };
        if text.is_empty() { Err("must not be empty".into()) } else { Ok(text) }
    }

    /// A string that is not empty, and is not told where it is wrong.
    pub(crate) fn secret(&self) -> Result<&'r str, String> {
        self.text().map_err(|wrong| match self {
            Value::File(DeValue::String(_)) | Value::Variable(_) => wrong,
            Value::File(_) => "expected a string; write what is secret in quotes".to_owned(),
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, String> {
        match self {
            Value::File(DeValue::Boolean(b)) => Ok(*b),
            Value::Variable("true") => Ok(true),
            Value::Variable("false") => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, String> {
        let number = match self {
            Value::File(DeValue::Integer(i)) => i64::from_str_radix(i.as_str(), i.radix()).ok(),
            Value::Variable(text) => match text.parse() {
                Ok(number) => Some(number),
                Err(_) => return Err(self.expected("a whole number")),
            },
            Value::File(_) => return Err(self.expected("a whole number")),
        };
        number
            .filter(|n| range.contains(n))
            .ok_or_else(|| format!("{self} is out of range: from {} to {}", range.start(), range.end()))
    }

    /// A whole number within `range`, as another type; what does not fit that type is out of range.
    pub(crate) fn whole<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Result<T, String> {
        let number = self.integer(range)?;
        T::try_from(number).map_err(|_| format!("{self} is out of range"))
    }

    /// A number within `range`, whole or not.
    pub(crate) fn number(&self, range: RangeInclusive<f64>) -> Result<f64, String> {
        let number = match self {
            Value::File(DeValue::Float(x)) => x.as_str().replace('_', "").parse().ok(),
            Value::File(DeValue::Integer(_)) => Some(self.whole::<i32>(i64::MIN..=i64::MAX)?.into()),
            Value::Variable(text) => text.parse().ok(),
            Value::File(_) => None,
        };
        let number: f64 = number.ok_or_else(|| self.expected("a number"))?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(format!("{self} is out of range: from {} to {}", range.start(), range.end()))
    }

    /// A duration within `range`.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, String> {
        let text = match self {
            Value::File(DeValue::String(text)) => text.as_ref(),
            Value::Variable(text) => text,
            Value::File(DeValue::Integer(_) | DeValue::Float(_)) => {
                return Err(format!(
                    "expected a duration with its unit, found {self}; write it like \"30s\" or \"250ms\""
                ));
            }
            Value::File(_) => return Err(self.expected("a duration like \"30s\"")),
        };
        let duration = units::duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (from, to) = (units::show_duration(*range.start()), units::show_duration(*range.end()));
        Err(format!("{self} is out of range: from \"{from}\" to \"{to}\""))
    }

    /// A size in bytes within `range`.
    pub(crate) fn size(&self, range: RangeInclusive<usize>) -> Result<usize, String> {
        let bytes = match self {
            Value::File(DeValue::String(text)) => units::size(text)?,
            Value::Variable(text) => units::size(text)?,
            Value::File(DeValue::Integer(_)) => self.whole(0..=i64::MAX)?,
            Value::File(_) => return Err(self.expected("a size like \"64MiB\"")),
        };
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        let (from, to) = (units::show_size(*range.start()), units::show_size(*range.end()));
        Err(format!("{self} is out of range: from \"{from}\" to \"{to}\""))
    }

    /// How often something may be: `"100/s"`.
    pub(crate) fn rate(&self) -> Result<Rate, String> {
        units::rate(self.text()?)
    }

    /// One of the words of `choices`.
    pub(crate) fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Result<T, String> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(value.clone());
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Err(format!("{self} is not known here; valid is {}", or_list(&names)))
    }

    /// Any single value - a string, a whole number, a float or a boolean - as text.
    pub(crate) fn scalar(&self) -> Result<String, String> {
        match self {
            Value::File(DeValue::String(text)) => Ok(text.to_string()),
            Value::Variable(text) => Ok((*text).to_owned()),
            Value::File(DeValue::Integer(i)) => i64::from_str_radix(i.as_str(), i.radix())
                .map(|n| n.to_string())
                .map_err(|_| format!("{self} is out of range; write it as a string")),
            Value::File(DeValue::Float(f)) => Ok(f.as_str().to_owned()),
            Value::File(DeValue::Boolean(b)) => Ok(b.to_string()),
            Value::File(_) => Err(self.expected("a string, a number or a boolean")),
        }
    }

    fn expected(&self, what: &str) -> String {
        format!("expected {what}, found {self}")
    }
}

impl fmt::Display for Value<'_> {
    /// As a person would name it; long strings are cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::File(DeValue::String(text)) => quoted(f, text),
            Value::Variable(text) => quoted(f, text),
            Value::File(DeValue::Integer(i)) => write!(f, "{i}"),
            Value::File(DeValue::Float(x)) => write!(f, "{x}"),
            Value::File(DeValue::Boolean(b)) => write!(f, "{b}"),
            Value::File(DeValue::Datetime(at)) => write!(f, "{at}"),
            Value::File(DeValue::Array(_)) => f.write_str("an array"),
            Value::File(DeValue::Table(_)) => f.write_str("a table"),
        }
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn or_list(items: &[String]) -> String {
    match items.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(60).is_some() { "..." } else { "" };
    write!(f, "\"{shown}{more}\"")
}
