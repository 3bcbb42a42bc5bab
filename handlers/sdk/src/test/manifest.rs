//! As much of `handler.toml` as a bench needs: settings, destinations, routes, schedules and where the event id is.
//!
//! The host checks the rest, and knows every key; here unknown keys are passed over.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::Request;
use crate::{Failure, Record};

/// What was read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Manifest {
    event_id: Option<String>,
    event_type: Option<String>,
    event_version: Option<String>,
    #[serde(default)]
    envelope: Envelope,
    #[serde(default, rename = "route")]
    pub(super) routes: Vec<Route>,
    #[serde(default, rename = "schedule")]
    pub(super) schedules: Vec<Schedule>,
    #[serde(default)]
    pub(super) publish: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) grant: Grant,
    /// The names of those that it asks for.
    #[serde(default)]
    pub(super) secrets: Vec<String>,
    #[serde(skip)]
    pub(super) settings: BTreeMap<String, String>,
}

/// `envelope`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Envelope {
    #[default]
    None,
    Payload,
    Flat,
    Cloudevents,
    CloudeventsStructured,
    Debezium,
}

impl Envelope {
    /// Where id, type and version are; `ce:` is an attribute of a CloudEvent.
    fn places(self) -> [&'static str; 3] {
        match self {
            Self::None => ["offset", "header:event-type", "header:event-version"],
            Self::Payload | Self::Flat => ["/eventId", "/eventType", "/eventVersion"],
            Self::Cloudevents | Self::CloudeventsStructured => ["ce:id", "ce:type", "ce:dataversion"],
            Self::Debezium => ["header:id", "header:eventType", "header:event-version"],
        }
    }
}

/// What stands at a place of a record.
fn find(place: &str, record: &Record) -> Option<String> {
    if let Some(attribute) = place.strip_prefix("ce:") {
        return match is_structured(record) {
            true => find(&format!("/{attribute}"), record),
            false => find(&format!("header:ce_{attribute}"), record),
        };
    }
    if !place.starts_with('/') {
        return record.header_str(place.strip_prefix("header:").unwrap_or(place)).map(str::to_owned);
    }
    let value: serde_json::Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
    let found = value.pointer(place)?;
    found.as_str().map(str::to_owned).or_else(|| found.is_number().then(|| found.to_string()))
}

fn is_structured(record: &Record) -> bool {
    record.header_str("content-type").is_some_and(|media_type| media_type.starts_with("application/cloudevents+json"))
}

/// A member of a JSON object, as it was written.
fn member(value: &[u8], name: &str) -> Result<Vec<u8>, Failure> {
    let why =
        |error: String| Failure::reject(format!("the record's value is not in the envelope of the manifest: {error}"));
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(value).map_err(|e| why(e.to_string()))?;
    let found = members.get(name).ok_or_else(|| why(format!("missing field `{name}`")))?;
    Ok(found.get().as_bytes().to_vec())
}

/// `[grant]`
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Grant {
    #[serde(default)]
    http: Vec<String>,
}

impl Grant {
    /// Whether this URL may be called.
    pub(super) fn covers(&self, url: &str) -> bool {
        let origins = self.http.iter().map(|origin| origin.trim_end_matches('/'));
        origins
            .filter_map(|origin| url.strip_prefix(origin))
            .any(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }
}

/// One `[[route]]`.
#[derive(Debug, Deserialize)]
pub(super) struct Route {
    method: String,
    path: String,
    auth: Option<String>,
}

/// One `[[schedule]]`.
#[derive(Debug, Deserialize)]
pub(super) struct Schedule {
    pub(super) name: String,
}

/// What a request leads to.
pub(super) enum Match {
    /// This route, its parameters filled in.
    Route { jwt: bool, request: Request },
    /// Only routes of other methods.
    OtherMethod,
    /// Nothing.
    None,
}

impl Manifest {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let settings = table.get("settings").and_then(toml::Value::as_table).into_iter().flatten();
        let settings = settings
            .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        let manifest: Self = table.try_into().map_err(|error: toml::de::Error| error.to_string())?;
        Ok(Self { settings, ..manifest })
    }

    /// The id by which the inbox would know this record.
    pub(super) fn event_id(&self, record: &Record) -> Option<String> {
        let [id, ..] = self.envelope.places();
        match self.event_id.as_deref().unwrap_or(id) {
            "offset" => Some(format!("{}-{}-{}", record.topic, record.partition, record.offset)),
            "key" => record.key_str().map(str::to_owned),
            place => find(place, record),
        }
    }

    /// The type and the version of the record's event.
    pub(super) fn event(&self, record: &Record) -> (Option<String>, Option<String>) {
        let [_, event_type, version] = self.envelope.places();
        let at = |own: &Option<String>, place| find(own.as_deref().unwrap_or(place), record);
        (at(&self.event_type, event_type), at(&self.event_version, version))
    }

    /// The record with its payload for a value.
    pub(super) fn open(&self, record: &Record) -> Result<Record, Failure> {
        let inner = match (self.envelope, &record.value) {
            (Envelope::Payload, Some(value)) => member(value, "payload")?,
            (Envelope::Cloudevents | Envelope::CloudeventsStructured, Some(value)) if is_structured(record) => {
                member(value, "data")?
            }
            _ => return Ok(record.clone()),
        };
        Ok(Record { value: Some(inner), ..record.clone() })
    }

    /// Finds the route; a path without parameters goes first, as on the host.
    pub(super) fn find(&self, mut request: Request) -> Match {
        let here = self.routes.iter().filter_map(|route| route.params(&request.path).map(|params| (route, params)));
        let mut here: Vec<_> = here.collect();
        here.sort_by_key(|(_, params)| params.len());
        let other = if here.is_empty() { Match::None } else { Match::OtherMethod };
        let Some((route, params)) = here.into_iter().find(|(route, _)| route.method == request.method) else {
            return other;
        };
        request.params = params;
        request.route.clone_from(&route.path);
        Match::Route { jwt: route.auth.as_deref() == Some("jwt"), request }
    }
}

impl Route {
    /// The parameters' values, if the path is this route's.
    fn params(&self, path: &str) -> Option<Vec<(String, String)>> {
        let mut params = Vec::new();
        let mut segments = path.split('/');
        for expected in self.path.split('/') {
            let segment = segments.next()?;
            match expected.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(_) if segment.is_empty() => return None,
                Some(name) => params.push((name.to_owned(), segment.to_owned())),
                None if segment != expected => return None,
                None => {}
            }
        }
        segments.next().is_none().then_some(params)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
