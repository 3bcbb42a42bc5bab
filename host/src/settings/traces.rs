//! `[traces]`: to which collector spans are told, and of how many traces.

use std::path::Path;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::destination::{headers, secret_headers, url};
use super::reader::Section;
use crate::deploy::secrets::Secret;

const SECOND: Duration = Duration::from_secs(1);
/// Where a collector takes traces, as the OTLP specification has it.
const PATH: &str = "/v1/traces";

/// `[traces]`
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// `endpoint`: where batches are sent. Default none, and nothing is told.
    pub endpoint: Option<Url>,
    /// `headers`, for each batch.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `secret-headers`: others, whose values are read when the daemon starts.
    pub secret_headers: Vec<(HeaderName, Secret)>,
    /// `ratio` and `parent-based`
    pub sampling: Sampling,
    /// `service-name`. Default `tidemill`.
    pub service_name: String,
    /// `timeout`: how long a batch may take. Default 10 s.
    pub timeout: Duration,
    /// `queue-size`: spans that may wait. Default 8,192.
    pub queue: usize,
    /// `batch-size`: spans of a batch at most. Default 512.
    pub batch: usize,
    /// `batch-interval`: how long a span waits for others. Default 1 s.
    pub interval: Duration,
}

/// Which traces are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// `ratio`: the part of traces, from 0 to 1. Default 1.
    pub ratio: f64,
    /// `parent-based`: whether the flag of a context that came with an input counts instead. Default true.
    pub parent_based: bool,
}

/// Reads it. Relative paths are in the folder `base`.
pub(super) fn traces(section: &Section<'_>, base: &Path) -> Traces {
    let endpoint = section.take("endpoint", |v| {
        let mut url = url(v)?;
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Ok(url)
    });
    let queue = section.take("queue-size", |v| v.whole(1..=1_000_000)).unwrap_or(8_192);
    let batch = section.take("batch-size", |v| v.whole(1..=10_000)).unwrap_or(512);
    Traces {
        endpoint,
        headers: headers(&section.section("headers")),
        secret_headers: secret_headers(section, base),
        sampling: Sampling {
            ratio: section.take("ratio", |v| v.number(0.0..=1.0)).unwrap_or(1.0),
            parent_based: section.take("parent-based", |v| v.boolean()).unwrap_or(true),
        },
        service_name: section.take("service-name", |v| v.text().map(str::to_owned)).unwrap_or("tidemill".into()),
        timeout: section.take("timeout", |v| v.duration(SECOND / 1_000..=600 * SECOND)).unwrap_or(10 * SECOND),
        queue,
        batch,
        interval: section.take("batch-interval", |v| v.duration(SECOND / 1_000..=600 * SECOND)).unwrap_or(SECOND),
    }
}
