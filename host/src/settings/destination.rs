//! `[[destination]]`: whether events for a topic go to Kafka or, by HTTP, to a service.
//!
//! A handler's code and manifest are the same in both cases. The first destination that fits a topic counts; what none
//! fits goes to Kafka.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::reader::Section;
use super::value::Value;
use crate::deploy::manifest::read;
use crate::deploy::secrets::{Secret, Source};
use crate::kafka::template::Template;
use crate::policy::Backoff;
use crate::relay::post;

const SECOND: Duration = Duration::from_secs(1);

/// `[[destination]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// `topic`: events for which topics it takes.
    pub topic: Template,
    /// `type = "http"`: where to. `None` is `"kafka"`.
    pub http: Option<Post>,
}

/// How events go to a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    /// `url`: no user and no password stands in it.
    pub url: Url,
    /// `method`. Default `POST`.
    pub method: Method,
    /// `headers`, for each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `secret-headers`: others, whose values are read when the daemon starts.
    pub secret_headers: Vec<(HeaderName, Secret)>,
    /// `timeout`: how long one try may take. Default 10 s.
    pub timeout: Duration,
    /// `concurrency`: requests under way at once. Default 16.
    pub concurrency: usize,
    /// `retry-status`: answers below 500 that are not about the event, which is sent again.
    pub retry_status: Vec<u16>,
    /// `backoff`: the wait between two tries, of one event and of the destination.
    pub backoff: Backoff,
}

/// All of them, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Destinations(pub Vec<Destination>);

impl Destinations {
    /// The same, with the values of secret headers.
    ///
    /// # Errors
    /// Which one is missing, or cannot be sent.
    pub fn with_secrets(mut self) -> Result<Self> {
        for Destination { topic, http } in &mut self.0 {
            for (name, secret) in http.iter_mut().flat_map(|post| &mut post.secret_headers) {
                let read = secret.read().and_then(|()| match HeaderValue::from_str(secret.expose()) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(format!("is in {}, and is no text that a header can carry", secret.source())),
                });
                read.map_err(|wrong| anyhow!("destination {topic}: the secret header `{name}` {wrong}"))?;
            }
        }
        Ok(self)
    }

    /// Which one takes events for this topic by HTTP, by its position; `None` if they go to Kafka.
    pub fn http(&self, topic: &str) -> Option<usize> {
        let position = self.0.iter().position(|destination| destination.topic.matches(topic))?;
        self.0.get(position).is_some_and(|destination| destination.http.is_some()).then_some(position)
    }
}

/// Reads them. Relative paths are in the folder `base`.
pub(super) fn destinations(root: &Section<'_>, base: &Path) -> Destinations {
    let mut all: Vec<Destination> = Vec::new();
    for section in root.sections("destination").unwrap_or_default() {
        let topic = section.require("topic", |v| Template::parse(v.text()?));
        let http = section.require("type", |v| v.choice(&[("kafka", false), ("http", true)]));
        let url = section.take("url", url);
        let method = section
            .take("method", |v| v.choice(&[("POST", Method::POST), ("PUT", Method::PUT), ("PATCH", Method::PATCH)]));
        let headers = headers(&section.section("headers"));
        let secret_headers = secret_headers(&section, base);
        let timeout = section.take("timeout", |v| v.duration(SECOND / 1_000..=3_600 * SECOND));
        let concurrency = section.take("concurrency", |v| v.whole(1..=1_000));
        let retry_status = section.list("retry-status", |v| v.whole(400..=499));
        let backoff = read::backoff(&section.section("backoff"));
        let set = [
            ("url", url.is_some()),
            ("method", method.is_some()),
            ("headers", !headers.is_empty()),
            ("secret-headers", !secret_headers.is_empty()),
            ("timeout", timeout.is_some()),
            ("concurrency", concurrency.is_some()),
            ("retry-status", retry_status.is_some()),
            ("backoff", backoff.is_some()),
        ];
        for (key, _) in set.iter().filter(|(_, set)| *set && http == Some(false)) {
            section.problem(key, "goes with `type = \"http\"` only");
        }
        if http == Some(true) && !section.has("url") {
            section.problem("url", "is missing; say where events go, like \"https://feed.example.com/api/activity\"");
        }
        let Some(topic) = topic else { continue };
        if all.iter().any(|other| other.topic == topic) {
            section.problem("topic", &format!("\"{topic}\" is listed above already"));
            continue;
        }
        let http = url.filter(|_| http == Some(true)).map(|url| Post {
            url,
            method: method.unwrap_or(Method::POST),
            headers,
            secret_headers,
            timeout: timeout.unwrap_or(10 * SECOND),
            concurrency: concurrency.unwrap_or(16),
            // Who may send, and where to, is the operator's to mend; the rest passes by itself.
            retry_status: retry_status.unwrap_or_else(|| vec![401, 403, 404, 405, 407, 408, 425, 429]),
            backoff: backoff.unwrap_or(Backoff { interval: SECOND, factor: 2.0, max: 30 * SECOND, jitter: 0.2 }),
        });
        all.push(Destination { topic, http });
    }
    Destinations(all)
}

pub(super) fn url(value: Value<'_>) -> Result<Url, String> {
    let text = value.text()?;
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url =
        url.ok_or_else(|| format!("\"{text}\" is not a URL; write it like \"https://feed.example.com/api/activity\""))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or a password in it, which logs would show; set the header `authorization` under `secret-headers`".into());
    }
    Ok(url)
}

/// A header's name that is not one of those that the host sets.
fn name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("\"{text}\" is not a header's name"))?;
    match post::is_reserved(name.as_str()) {
        true => Err(format!("the header `{name}` is set by the host")),
        false => Ok(name),
    }
}

pub(super) fn headers(section: &Section<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for entry in section.entries() {
        let value = Value::File(entry.value)
            .text()
            .and_then(|text| HeaderValue::from_str(text).map_err(|_| "is not text that a header can carry".to_owned()));
        match name(entry.name).and_then(|name| Ok((name, value?))) {
            Ok(header) => headers.push(header),
            Err(wrong) => section.problem(entry.name, &wrong),
        }
    }
    headers
}

pub(super) fn secret_headers(section: &Section<'_>, base: &Path) -> Vec<(HeaderName, Secret)> {
    let sources: BTreeMap<String, Source> = read::sources(section, "secret-headers", base);
    let mut headers = Vec::new();
    for (text, source) in sources {
        match name(&text) {
            Ok(name) => headers.push((name, Secret::of(source))),
            Err(wrong) => section.problem("secret-headers", &wrong),
        }
    }
    headers
}
