//! Bytes, headers and numbers in the lines that go to a rig and come from it.
//!
//! Bytes are a string where they are UTF-8, else `{"hex": "00ff"}`.

use serde_json::{Value as Json, json};
use tidemill_sdk::record::Header;
use tidemill_sdk::sql::Value;

pub(crate) fn text(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

pub(crate) fn opt_text(bytes: Option<&[u8]>) -> Json {
    bytes.map_or(Json::Null, text)
}

/// The bytes, or `None` for null.
pub(crate) fn bytes(json: &Json) -> Option<Vec<u8>> {
    match json {
        Json::String(text) => Some(text.clone().into_bytes()),
        other => unhex(other.get("hex")?.as_str()?),
    }
}

pub(crate) fn pairs(json: &Json) -> Vec<(String, Vec<u8>)> {
    headers(json).into_iter().map(|header| (header.name, header.value.unwrap_or_default())).collect()
}

pub(crate) fn headers(json: &Json) -> Vec<Header> {
    let header = |pair: &Json| Some(Header { name: pair.get(0)?.as_str()?.to_owned(), value: bytes(pair.get(1)?) });
    json.as_array().into_iter().flatten().filter_map(header).collect()
}

pub(crate) fn string(json: &Json, key: &str) -> String {
    json.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn number(json: &Json, key: &str) -> i64 {
    json.get(key).and_then(Json::as_i64).unwrap_or_default()
}

/// A parameter of a query.
pub(crate) fn param(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(whole) => whole.into(),
        Value::Real(real) => json!(real),
        Value::Text(text) => text.into(),
        Value::Blob(blob) => json!({ "hex": hex(&blob) }),
    }
}

/// A cell of a row.
pub(crate) fn cell(json: &Json) -> Value {
    match json {
        Json::Null | Json::Bool(_) | Json::Array(_) => Value::Null,
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Integer(whole),
            None => Value::Real(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Object(_) => bytes(json).map_or(Value::Null, Value::Blob),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    digits?.chunks(2).map(|pair| u8::try_from(pair.iter().fold(0, |byte, digit| byte << 4 | digit)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were() {
        for given in [b"".as_slice(), b"text", "주문".as_bytes(), &[0, 255, 128, 1]] {
            assert_eq!(bytes(&text(given)).as_deref(), Some(given));
        }
        assert_eq!(bytes(&opt_text(None)), None);
        for given in
            [Value::Null, Value::Integer(-3), Value::Real(2.0), Value::Text("x".into()), Value::Blob(vec![255])]
        {
            assert_eq!(cell(&param(given.clone())), given);
        }
    }
}
