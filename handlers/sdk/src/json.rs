//! Fields of JSON documents that plain serde does not read as a handler needs them.
//!
//! Both functions are for `#[serde(deserialize_with = "...")]` and look at the document's own digits, so nothing passes
//! through a float: what cannot be kept digit by digit is an error, never rounded.
//!
//! ```
//! use tidemill_sdk::{Decimal, json};
//!
//! #[derive(serde::Deserialize)]
//! struct Payment {
//!     #[serde(deserialize_with = "json::text")]
//!     user: String,
//!     #[serde(deserialize_with = "json::decimal")]
//!     amount: Decimal,
//! }
//!
//! let payment: Payment = serde_json::from_str(r#"{"user":42,"amount":25.10}"#)?;
//! assert_eq!((payment.user.as_str(), payment.amount.to_string().as_str()), ("42", "25.10"));
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use crate::Decimal;

/// A decimal that is written as a string or as a number. [`Decimal`] by itself reads a number through a float; in the
/// other direction it is always written as a string, with its own number of places: `"50000.00"`.
///
/// ```
/// use tidemill_sdk::{Decimal, json};
///
/// #[derive(serde::Deserialize)]
/// struct Item {
///     #[serde(deserialize_with = "json::decimal")]
///     price: Decimal,
/// }
///
/// let item: Item = serde_json::from_str(r#"{"price":12345678901234567890.10}"#)?;
/// assert_eq!(item.price.to_string(), "12345678901234567890.10");
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    let text = if raw.get().starts_with('"') {
        serde_json::from_str(raw.get()).map_err(de::Error::custom)?
    } else {
        raw.get().to_owned()
    };
    parse(&text).ok_or_else(|| {
        let start: String = text.chars().take(64).collect();
        de::Error::custom(format_args!("`{start}` is not a decimal number of at most 28 digits"))
    })
}

/// A text that some producers write as a whole number, such as the id of a user.
///
/// ```
/// use tidemill_sdk::json;
///
/// #[derive(serde::Deserialize)]
/// struct Follower {
///     #[serde(deserialize_with = "json::text")]
///     id: String,
/// }
///
/// let followers: Vec<Follower> = serde_json::from_str(r#"[{"id":42},{"id":"u-43"}]"#)?;
/// assert_eq!((followers[0].id.as_str(), followers[1].id.as_str()), ("42", "u-43"));
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Natural(u64),
        Integer(i64),
    }
    Ok(match Id::deserialize(deserializer)? {
        Id::Text(text) => text,
        Id::Natural(number) => number.to_string(),
        Id::Integer(number) => number.to_string(),
    })
}

/// Digits, optionally a sign, a point and an exponent; nothing that would have to be rounded.
fn parse(text: &str) -> Option<Decimal> {
    // `Decimal` itself would also take `1_000`.
    if !text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) {
        return None;
    }
    let digits = text.split(['e', 'E']).next()?;
    let exact = Decimal::from_str_exact(digits).ok()?;
    if digits.len() == text.len() {
        return Some(exact);
    }
    let exponent = i64::from_str(text.get(digits.len() + 1..)?).ok()?;
    let scale = i64::from(exact.scale()) - exponent;
    if scale >= 0 {
        return Decimal::try_from_i128_with_scale(exact.mantissa(), u32::try_from(scale).ok()?).ok();
    }
    let power = 10i128.checked_pow(u32::try_from(-scale).ok()?)?;
    Decimal::try_from_i128_with_scale(exact.mantissa().checked_mul(power)?, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<String, String> {
        decimal(&mut serde_json::Deserializer::from_str(json)).map(|d| d.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_digit_of_a_string_or_a_number_is_kept() {
        for (json, kept) in [
            ("\"25000.00\"", "25000.00"),
            ("25000.00", "25000.00"),
            ("0.1", "0.1"),
            ("-7", "-7"),
            ("12345678901234567890.12345678", "12345678901234567890.12345678"),
            ("2.5E+4", "25000"),
            ("25e-3", "0.025"),
        ] {
            assert_eq!(read(json), Ok(kept.to_owned()), "{json}");
        }
    }

    #[test]
    fn an_id_is_text_or_a_whole_number() {
        let read = |json| text(&mut serde_json::Deserializer::from_str(json)).ok();
        assert_eq!(read("\"7\"").as_deref(), Some("7"));
        assert_eq!(read("18446744073709551615").as_deref(), Some("18446744073709551615"));
        assert_eq!(read("-7").as_deref(), Some("-7"));
        assert_eq!([read("7.5"), read("null"), read("[]")], [None, None, None]);
    }

    #[test]
    fn what_would_be_rounded_or_is_no_number_is_an_error() {
        for json in ["\"\"", "\"1_000\"", "\"x\"", "null", "{}", "\"1e\"", "1e40", "\"--1\"", "1e-99", "true"] {
            assert!(read(json).is_err(), "{json}");
        }
        let long = "0.12345678901234567890123456789012";
        assert!(read(long).is_err_and(|error| error.contains("not a decimal number")));
    }
}
