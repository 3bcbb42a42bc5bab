//! As much of `handler.toml` as a bench needs: settings, destinations, routes, schedules and where the event id is.
//!
//! The host checks the rest, and knows every key; here unknown keys are passed over.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::Record;
use crate::http::Request;

/// What was read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Manifest {
    event_id: Option<String>,
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
        match self.event_id.as_deref().unwrap_or("offset") {
            "offset" => Some(format!("{}-{}-{}", record.topic, record.partition, record.offset)),
            pointer if pointer.starts_with('/') => {
                let value: serde_json::Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
                let id = value.pointer(pointer)?;
                id.as_str().map(str::to_owned).or_else(|| id.is_number().then(|| id.to_string()))
            }
            "key" => record.key_str().map(str::to_owned),
            header => record.header_str(header.strip_prefix("header:").unwrap_or(header)).map(str::to_owned),
        }
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
