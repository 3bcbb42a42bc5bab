//! A record as a CloudEvent.
//!
//! The header `content-type` tells the mode: one that begins with `application/cloudevents` is the structured mode, everything
//! else the binary one.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::CloudEvent;
use crate::{Failure, Record};

type Raw = CloudEvent<Option<Vec<u8>>>;

impl Record {
    /// The record as a CloudEvent, in either mode, with its data read as JSON. An event without data fits a `T` that fits `null`,
    /// such as `()` or an `Option`. What is no CloudEvent, or does not fit `T`, is [`Failure::undecodable`].
    ///
    /// ```
    /// # use tidemill_sdk::{CloudEvent, Failure, test::record};
    /// let record = record("orders").with_header("content-type", "application/cloudevents+json; charset=UTF-8").with_value(
    ///     r#"{"specversion":"1.0","id":"e-1","source":"/shop","type":"com.example.order.paid","data":{"orderId":7}}"#,
    /// );
    /// let event: CloudEvent<serde_json::Value> = record.cloud_event()?;
    /// assert_eq!((event.id.as_str(), &event.data["orderId"]), ("e-1", &7.into()));
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn cloud_event<T: DeserializeOwned>(&self) -> Result<CloudEvent<T>, Failure> {
        let event = self.cloud_event_raw()?;
        if let (Some(other), Some(_)) = (event.data_content_type.as_deref().filter(|kind| !is_json(kind)), &event.data)
        {
            return Err(Failure::undecodable(format!("the event's data is {other}, and not JSON")));
        }
        let data = match &event.data {
            Some(data) => serde_json::from_slice(data)
                .map_err(|error| format!("the event's data is not the JSON that is expected: {error}")),
            None => serde_json::from_value(Value::Null).map_err(|_| "the event has no data".to_owned()),
        };
        Ok(event.with_data(data.map_err(Failure::undecodable)?))
    }

    /// The record as a CloudEvent with its data as bytes, whatever their type, or `None` if it has none.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::record};
    /// let record = record("sensors")
    ///     .with_header("ce_specversion", "1.0")
    ///     .with_header("ce_id", "s-1")
    ///     .with_header("ce_source", "/roof")
    ///     .with_header("ce_type", "com.example.measured")
    ///     .with_header("content-type", "application/octet-stream")
    ///     .with_value([0x01, 0x7f]);
    /// let event = record.cloud_event_raw()?;
    /// assert_eq!((event.data_content_type.as_deref(), event.data), (Some("application/octet-stream"), Some(vec![0x01, 0x7f])));
    /// # Ok::<(), Failure>(())
    /// ```
    pub fn cloud_event_raw(&self) -> Result<CloudEvent<Option<Vec<u8>>>, Failure> {
        let content_type = self.header_str("content-type").unwrap_or_default().to_ascii_lowercase();
        let event = match content_type.strip_prefix("application/cloudevents") {
            None => binary(self),
            Some(format) if format.split(';').next().map(str::trim) == Some("+json") => {
                structured(self.value.as_deref().unwrap_or_default())
            }
            Some(_) => Err(format!("its content-type is {content_type}: of the structured formats only JSON is known")),
        };
        event.map_err(|why| Failure::undecodable(format!("the record is no CloudEvent: {why}")))
    }
}

impl Raw {
    fn with_data<T>(self, data: T) -> CloudEvent<T> {
        let Self { id, source, event_type, subject, time, data_content_type, data_schema, extensions, .. } = self;
        CloudEvent { id, source, event_type, subject, time, data_content_type, data_schema, extensions, data }
    }
}

fn binary(record: &Record) -> Result<Raw, String> {
    let mut attributes = BTreeMap::new();
    for header in &record.headers {
        let name = match header.name.strip_prefix("ce_") {
            // The data's type has a header of its own.
            Some("datacontenttype") => continue,
            Some(name) => name,
            None if header.name == "content-type" => "datacontenttype",
            None => continue,
        };
        let Some(value) = &header.value else { continue };
        let value = std::str::from_utf8(value).map_err(|_| format!("the header `{}` is not UTF-8", header.name))?;
        attributes.insert(name.to_owned(), value.to_owned());
    }
    event(attributes, record.value.clone(), "the header `ce_")
}

fn structured(value: &[u8]) -> Result<Raw, String> {
    let members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(value).map_err(|error| format!("its value is no JSON object: {error}"))?;
    let mut attributes = BTreeMap::new();
    let (mut data, mut base64) = (None, None);
    for (name, member) in members {
        let value = match name.as_str() {
            "data" => {
                data = (member.get() != "null").then_some(member);
                continue;
            }
            _ => serde_json::from_str(member.get()).map_err(|error| format!("`{name}`: {error}"))?,
        };
        match value {
            Value::Null => {}
            Value::String(text) if name == "data_base64" => base64 = Some(text),
            Value::String(text) => drop(attributes.insert(name, text)),
            Value::Bool(value) => drop(attributes.insert(name, value.to_string())),
            Value::Number(number) if number.is_i64() => drop(attributes.insert(name, number.to_string())),
            _ => return Err(format!("`{name}` is neither text, a whole number, true nor false")),
        }
    }
    let json = attributes.get("datacontenttype").is_none_or(|kind| is_json(kind));
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err("it has both `data` and `data_base64`".to_owned()),
        (None, Some(text)) => Some(decode(&text).ok_or("`data_base64` is no Base64")?),
        // Data of another type is written as the text that it is.
        (Some(data), None) if !json && data.get().starts_with('"') => {
            Some(serde_json::from_str::<String>(data.get()).map_err(|error| format!("`data`: {error}"))?.into_bytes())
        }
        (data, None) => data.map(|data| data.get().as_bytes().to_vec()),
    };
    event(attributes, data, "`")
}

/// `before` is what stands before an attribute's name where it is missing.
fn event(mut attributes: BTreeMap<String, String>, data: Option<Vec<u8>>, before: &str) -> Result<Raw, String> {
    let mut required = |name: &str| {
        attributes.remove(name).filter(|value| !value.is_empty()).ok_or(format!("{before}{name}` is missing or empty"))
    };
    let version = required("specversion")?;
    if version != "1.0" {
        return Err(format!("its specversion is `{version}`, and not 1.0"));
    }
    let (id, source, event_type) = (required("id")?, required("source")?, required("type")?);
    let time = attributes.remove("time").map(|time| time.parse().map_err(|error| format!("its time: {error}")));
    Ok(CloudEvent {
        id,
        source,
        event_type,
        subject: attributes.remove("subject"),
        time: time.transpose()?,
        data_content_type: attributes.remove("datacontenttype"),
        data_schema: attributes.remove("dataschema"),
        extensions: attributes,
        data,
    })
}

/// Whether this media type is one of JSON, such as `application/json` and `application/problem+json`.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// Base64 (RFC 4648), with its padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}
