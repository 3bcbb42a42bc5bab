//! A CloudEvent as an event to be published.
//!
//! What the specification does not allow is said when the event is enqueued or sent, so that it is built in one expression.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::CloudEvent;
use crate::publisher::Event;

const JSON: &str = "application/json";

impl<'a> Event<'a> {
    /// A CloudEvent in binary mode: the attributes are headers, and the value is the data, as JSON. Data that is `null` in JSON,
    /// as `()` is, is none. An event that has an id keeps it.
    ///
    /// ```
    /// # use tidemill_sdk::{CloudEvent, publisher::Event};
    /// # tidemill_sdk::test::example::run(|| {
    /// let paid = CloudEvent::new("com.example.order.paid", "/shop", serde_json::json!({ "orderId": 7 }));
    /// Event::cloud_event("orders", paid).key(7).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn cloud_event<T: Serialize>(destination: impl Into<String>, event: CloudEvent<T>) -> Self {
        let data = to_raw_value(&event.data).map(|data| (data.get() != "null").then_some(data));
        let content_type = event.data_content_type.as_deref().or(matches!(data, Ok(Some(_))).then_some(JSON));
        let mut published = begin(destination, &event);
        for (name, value) in attributes(&event) {
            published = published.header(format!("ce_{name}"), value);
        }
        if let Some(content_type) = content_type {
            published = published.header("content-type", content_type);
        }
        published.written(data.map(|data| data.map(|data| data.get().as_bytes().to_vec()))).with_id_in_header("ce_id")
    }

    /// A CloudEvent in structured mode: attributes and data are one JSON document.
    ///
    /// ```
    /// # use tidemill_sdk::{CloudEvent, publisher::Event};
    /// # tidemill_sdk::test::example::run(|| {
    /// let paid = CloudEvent::new("com.example.order.paid", "/shop", serde_json::json!({ "orderId": 7 }));
    /// Event::cloud_event_structured("orders", paid).key(7).enqueue()?;
    /// # Ok(()) });
    /// ```
    pub fn cloud_event_structured<T: Serialize + 'a>(destination: impl Into<String>, event: CloudEvent<T>) -> Self {
        let published =
            begin(destination, &event).header("content-type", "application/cloudevents+json; charset=UTF-8");
        published.written_with_id(move |id| {
            let mut members: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
            let attributes = attributes(&event);
            for (name, value) in &attributes {
                members.insert(name, to_raw_value(value)?);
            }
            members.insert("id", to_raw_value(id)?);
            if let Some(content_type) = &event.data_content_type {
                members.insert("datacontenttype", to_raw_value(content_type)?);
            }
            let data = to_raw_value(&event.data)?;
            if data.get() != "null" {
                members.insert("data", data);
            }
            serde_json::to_vec(&members).map(Some)
        })
    }
}

fn begin<'a, T>(destination: impl Into<String>, event: &CloudEvent<T>) -> Event<'a> {
    let published = Event::new(destination, event.event_type.clone());
    let published = if event.id.is_empty() { published } else { published.id(event.id.clone()) };
    match refusal(event) {
        Some(why) => published.refused(why),
        None => published,
    }
}

/// What the specification does not allow.
fn refusal<T>(event: &CloudEvent<T>) -> Option<String> {
    const TAKEN: [&str; 10] = [
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        "data_base64",
    ];
    if event.event_type.is_empty() || event.source.is_empty() {
        return Some("a CloudEvent needs a type and a source".to_owned());
    }
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let wrong = |name: &&String| name.is_empty() || !plain(name) || TAKEN.contains(&name.as_str());
    let name = event.extensions.keys().find(wrong)?;
    Some(format!("`{name}` is no name of an extension: it has only a-z and 0-9, and is no other attribute's"))
}

/// The attributes, without the id and the data's type, which the modes write in their own ways.
fn attributes<T>(event: &CloudEvent<T>) -> Vec<(&str, String)> {
    let mut attributes =
        vec![("specversion", "1.0".to_owned()), ("type", event.event_type.clone()), ("source", event.source.clone())];
    attributes.extend(event.subject.clone().map(|subject| ("subject", subject)));
    attributes.extend(event.time.map(|time| ("time", time.to_string())));
    attributes.extend(event.data_schema.clone().map(|schema| ("dataschema", schema)));
    attributes.extend(event.extensions.iter().map(|(name, value)| (name.as_str(), value.clone())));
    attributes
}
