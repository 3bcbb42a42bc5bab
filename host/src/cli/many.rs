//! What the commands on dead letters and those on rows of the stores have in common: how one of many is shown, and asked for.
//!
//! It asks nobody and prints nothing.

use anyhow::{Context as _, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

/// Characters of a message in a list.
const SHORT: usize = 120;

/// A message as a part of one line.
pub(super) fn short(message: &str) -> String {
    let short: String = message.chars().take(SHORT).collect();
    short.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text as it is, anything else as JSON.
pub(super) fn text_of(json: &Json) -> String {
    match json {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Headers, a line each, and the value below them.
///
/// # Errors
/// None that is known.
pub(super) fn content(headers: &Json, value: &Json) -> Result<Vec<String>> {
    let header = |pair: &Json| {
        let part = |n: usize| pair.get(n).map(text_of).unwrap_or_default();
        format!("header    {}: {}", part(0), part(1))
    };
    let mut lines: Vec<String> = headers.as_array().into_iter().flatten().map(header).collect();
    let value = match value {
        Json::String(text) => text.clone(),
        value => serde_json::to_string_pretty(value).context("write JSON")?,
    };
    lines.push(format!("value\n{value}"));
    Ok(lines)
}

/// What came of one that was to be `done`.
pub(super) fn result(done: &str, error: Option<String>, note: Option<String>) -> String {
    match (error, note) {
        (Some(error), _) => format!("not {done}: {error}"),
        (None, Some(note)) => format!("{done}; {note}"),
        (None, None) => done.to_owned(),
    }
}

/// A query of what is given.
pub(super) fn query<'a>(named: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let pair = |(name, value): (&str, Option<String>)| {
        Some(format!("{name}={}", utf8_percent_encode(&value?, NON_ALPHANUMERIC)))
    };
    named.into_iter().filter_map(pair).collect::<Vec<_>>().join("&")
}
