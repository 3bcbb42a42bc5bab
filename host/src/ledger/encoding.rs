//! How headers stand in a column: a JSON array of `[name, value]`, in order, so that a person can read them.
//!
//! A value is a string, null, or `{"hex": "..."}` for bytes that are not UTF-8. Reading gives back the same bytes.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::record::Header;
use crate::store::{Error, Kind};

/// Headers as a column's text.
pub fn write_headers(headers: &[Header]) -> String {
    let pairs = headers.iter().map(|h| (h.name.as_str(), h.value.as_deref()));
    write_pairs(pairs)
}

pub(super) fn write_pairs<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> String {
    let list: Vec<Json> = pairs
        .map(|(name, value)| match value.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
            None => json!([name, null]),
            Some((Ok(text), _)) => json!([name, text]),
            Some((Err(_), bytes)) => json!([name, { "hex": crate::id::hex(bytes) }]),
        })
        .collect();
    Json::Array(list).to_string()
}

/// A column's text as headers.
///
/// # Errors
/// It is no such text.
pub fn read_headers(text: &str) -> Result<Vec<Header>, Error> {
    let broken = || Error::new(Kind::Other, format!("a headers column of the ledger cannot be read: {text}"));
    let list: Vec<(String, Json)> = serde_json::from_str(text).map_err(|_| broken())?;
    list.into_iter()
        .map(|(name, value)| {
            let value = match value {
                Json::Null => None,
                Json::String(text) => Some(Bytes::from(text)),
                other => Some(other.get("hex").and_then(Json::as_str).and_then(unhex).ok_or_else(broken)?),
            };
            Ok(Header { name, value })
        })
        .collect()
}

/// The bytes of hexadecimal digits.
pub fn unhex(text: &str) -> Option<Bytes> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back_as_they_were(headers in prop::collection::vec((".*", prop::option::of(prop::collection::vec(any::<u8>(), 0..20))), 0..8)) {
            let headers: Vec<Header> =
                headers.into_iter().map(|(name, value)| Header { name, value: value.map(Bytes::from) }).collect();
            prop_assert_eq!(read_headers(&write_headers(&headers)).unwrap(), headers);
        }
    }
}
