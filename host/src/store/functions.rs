//! SQL functions of our own in place of SQLite's, where one call of SQLite's takes the product of two lengths.
//!
//! A function runs to its end whatever the deadline, so each must be done in a time that grows like its arguments. They
//! answer as SQLite's do; a REAL is written in the shortest form that reads back as itself.

use std::borrow::Cow;
use std::collections::HashSet;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Result};

/// The longest text that `replace` makes, in bytes.
const MADE_MAX: usize = 4 << 20;

/// Replaces `instr`, `replace`, `trim`, `ltrim`, `rtrim` and `unhex` with two arguments on one connection.
pub(super) fn replace_slow(connection: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(c"instr", 2, flags, |context: &Context<'_>| Ok(instr(context)))?;
    connection.create_scalar_function(c"replace", 3, flags, |context: &Context<'_>| replaced(context))?;
    for (name, left, right) in [(c"trim", true, true), (c"ltrim", true, false), (c"rtrim", false, true)] {
        connection.create_scalar_function(name, 2, flags, move |context: &Context<'_>| {
            Ok(texts(context).map(|[text, set]| trimmed(&text, &set, left, right).to_owned()))
        })?;
    }
    connection.create_scalar_function(c"unhex", 2, flags, |context: &Context<'_>| {
        Ok(texts(context).and_then(|[text, ignored]| unhexed(&text, &ignored)))
    })
}

/// The arguments as text, or `None` where one is NULL.
fn texts<'a, const N: usize>(context: &'a Context<'_>) -> Option<[Cow<'a, str>; N]> {
    let mut all = [const { Cow::Borrowed("") }; N];
    for (i, place) in all.iter_mut().enumerate() {
        *place = text(context.get_raw(i))?;
    }
    Some(all)
}

fn text(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(value) => value.to_string().into(),
        ValueRef::Real(value) => format!("{value:?}").into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes),
    })
}

/// The place of the second in the first, from 1, in characters, or in bytes where both are BLOBs; 0 if it is not there.
fn instr(context: &Context<'_>) -> Option<i64> {
    let place = match (context.get_raw(0), context.get_raw(1)) {
        (ValueRef::Blob(bytes), ValueRef::Blob(part)) => {
            // A character for each byte, since only text has a search that is linear.
            let widened = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
            place(&widened(bytes), &widened(part))
        }
        (text_value, part) => place(&text(text_value)?, &text(part)?),
    };
    Some(place)
}

fn place(text: &str, part: &str) -> i64 {
    let found = text.find(part).and_then(|at| text.get(..at));
    found.map_or(0, |before| i64::try_from(before.chars().count()).unwrap_or(i64::MAX - 1) + 1)
}

fn replaced(context: &Context<'_>) -> Result<Option<String>> {
    let (Some(whole), Some(from)) = (text(context.get_raw(0)), text(context.get_raw(1))) else { return Ok(None) };
    if from.is_empty() {
        return Ok(Some(whole.into_owned()));
    }
    let Some(to) = text(context.get_raw(2)) else { return Ok(None) };
    let more = whole.matches(&*from).count().saturating_mul(to.len().saturating_sub(from.len()));
    if whole.len().saturating_add(more) > MADE_MAX {
        return Err(Error::UserFunctionError(format!("replace: the result has more than {MADE_MAX} bytes").into()));
    }
    Ok(Some(whole.replace(&*from, &to)))
}

fn trimmed<'a>(text: &'a str, set: &str, left: bool, right: bool) -> &'a str {
    let set: HashSet<char> = set.chars().collect();
    let text = if left { text.trim_start_matches(|c| set.contains(&c)) } else { text };
    if right { text.trim_end_matches(|c| set.contains(&c)) } else { text }
}

/// The bytes of pairs of hexadecimal digits, between which characters of `ignored` may stand; `None` for anything else.
fn unhexed(text: &str, ignored: &str) -> Option<Vec<u8>> {
    let ignored: HashSet<char> = ignored.chars().collect();
    let (mut bytes, mut chars) = (Vec::with_capacity(text.len() / 2), text.chars());
    while let Some(c) = chars.next() {
        match c.to_digit(16) {
            Some(high) => bytes.push(u8::try_from(high * 16 + chars.next()?.to_digit(16)?).ok()?),
            None if ignored.contains(&c) => {}
            None => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use rusqlite::types::Value;

    fn ask(connection: &Connection, sql: &str, params: &[Value]) -> Value {
        connection.query_row(sql, rusqlite::params_from_iter(params), |row| row.get(0)).unwrap()
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (-20i64..2_000).prop_map(Value::Integer),
            (-20i64..200).prop_map(|n| Value::Real(n as f64 / 4.0)),
            "[ab01 é한]{0,8}".prop_map(Value::Text),
            prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'1')], 0..5).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn they_answer_as_sqlite_does(a in values(), b in values(), c in values()) {
            let (sqlite, ours) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
            replace_slow(&ours).unwrap();
            for sql in ["instr(?1, ?2)", "trim(?1, ?2)", "ltrim(?1, ?2)", "rtrim(?1, ?2)", "unhex(?1, ?2)"] {
                let (sql, params) = (format!("SELECT {sql}"), [a.clone(), b.clone()]);
                prop_assert_eq!(ask(&ours, &sql, &params), ask(&sqlite, &sql, &params), "{} {:?}", sql, params);
            }
            let params = [a, b, c];
            let sql = "SELECT replace(?1, ?2, ?3)";
            prop_assert_eq!(ask(&ours, sql, &params), ask(&sqlite, sql, &params), "{:?}", params);
        }
    }
}
