//! One thing that the admin API can be asked: what names it, who may ask it, what it takes, what runs.
//!
//! A call reaches what runs only when all of that is found to be so. Nothing here acts on anything.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::openapi::Shape;
use crate::deploy::audit::Caller;
use crate::deploy::command::Denied;
use crate::deploy::page::{self, Window};
use crate::deploy::{Deployer, may_pass};
use crate::http::monitor::Told;
use crate::http::problem::Problem;
use crate::record::Refusal;

/// What a caller may do; each may also do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Read,
    /// Change what becomes of records: publish, move groups, replay.
    Operate,
    /// Change what runs.
    Deploy,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Deploy];
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Deploy => "deploy",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is no role; write `read`, `operate` or `deploy`"))
    }
}

/// One method of one path.
pub struct Operation {
    /// Its method.
    pub method: Method,
    /// Below [`super::BASE`]. What stands in braces is a parameter: one part of the path, percent-encoded.
    pub path: &'static str,
    /// Who may ask for it.
    pub role: Role,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What may stand in the query.
    pub query: &'static [Parameter],
    /// What it takes as a body.
    pub body: Option<Body>,
    /// What it answers.
    pub answer: Shape,
    pub(super) run: fn(&Deployer, Call) -> Result<Vec<u8>, Problem>,
}

/// In the query of a listing: entries at most, and behind which to go on.
pub const LIMIT: &str = "limit";
/// See [`LIMIT`].
pub const CURSOR: &str = "cursor";

/// A name that may stand in a query.
pub struct Parameter {
    /// The name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// What it may be.
    pub shape: Shape,
}

/// What a body may be.
pub struct Body {
    /// Bytes at most.
    pub most: usize,
    /// Whether it is so large that only a few are held at once.
    pub large: bool,
    /// Its media types. Where there is one, it need not be said.
    pub media_types: &'static [&'static str],
    /// Whether there has to be one.
    pub required: bool,
    /// What it is as JSON.
    pub shape: Shape,
}

/// A call of an operation.
pub(super) struct Call {
    pub(super) params: Vec<(&'static str, String)>,
    pub(super) query: Vec<(String, String)>,
    pub(super) media_type: &'static str,
    pub(super) body: Bytes,
    pub(super) caller: Caller,
    /// Knows the numbers of a daemon that runs.
    pub(super) monitor: Arc<Told>,
}

impl Operation {
    /// The parameters in a path, if it is this operation's.
    pub(super) fn params(&self, path: &str) -> Option<Vec<(&'static str, String)>> {
        let (mut pattern, mut path) = (self.path.split('/'), path.split('/'));
        let mut params = Vec::new();
        loop {
            let (expected, part) = match (pattern.next(), path.next()) {
                (None, None) => return Some(params),
                (expected, part) => (expected?, part?),
            };
            match expected.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => params.push((name, percent_decode_str(part).decode_utf8().ok()?.into_owned())),
                None if expected == part => {}
                None => return None,
            }
        }
    }

    /// The names and values of a query.
    pub(super) fn query(&self, query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()).map(owned) {
            if !self.query.iter().any(|known| known.name == name) {
                let known: Vec<&str> = self.query.iter().map(|known| known.name).collect();
                let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
                return Err(Problem::bad_request(format!("`{name}` is not known in this query, which takes {known}")));
            }
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Problem::bad_request(format!("`{name}` stands in the query twice")));
            }
            found.push((name, value));
        }
        Ok(found)
    }
}

fn owned((name, value): (Cow<'_, str>, Cow<'_, str>)) -> (String, String) {
    (name.into_owned(), value.into_owned())
}

impl Body {
    /// Which of its media types is sent.
    pub(super) fn media_type(&self, headers: &HeaderMap) -> Result<&'static str, Problem> {
        let named = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let named = named.map(|value| value.split(';').next().unwrap_or_default().trim());
        let alone = self.media_types.len() == 1;
        let is = |known: &&&str| named.map_or(alone, |named| named.eq_ignore_ascii_case(known));
        let found = self.media_types.iter().find(is);
        found.copied().ok_or_else(|| {
            let why = format!(
                "the body's content-type is not one that is taken here; send {}",
                self.media_types.join(" or ")
            );
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
        })
    }
}

impl Call {
    /// A parameter of the path; empty where the path has none of that name.
    pub(super) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| value)
    }

    /// What the query says.
    pub(super) fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether the query says `true`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.asked(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Problem::bad_request(format!("`{name}` is true or false, not {other:?}"))),
        }
    }

    /// A number that the query gives.
    pub(super) fn number(&self, name: &str, most: usize) -> Result<Option<usize>, Problem> {
        let Some(text) = self.asked(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number <= most);
        let wrong = || Problem::bad_request(format!("`{name}` is a number up to {most}, not {text:?}"));
        number.map(Some).ok_or_else(wrong)
    }

    /// How many entries of a listing the query asks for.
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        page::limit_of(self.asked(LIMIT)).map_err(Problem::bad_request)
    }

    /// Where the query lets a listing of this name go on.
    pub(super) fn cursor(&self, listing: &str) -> Result<Option<String>, Problem> {
        let Some(cursor) = self.asked(CURSOR) else { return Ok(None) };
        page::key::<String>(listing, cursor).map_err(|foreign| Problem::bad_request(foreign.to_string()))?;
        Ok(Some(cursor.to_owned()))
    }

    /// Which part of a listing the query asks for, by [`LIMIT`] and [`CURSOR`]. The listing's name tells its cursors from others'.
    pub(super) fn window<K: FromStr + Display>(&self, listing: &'static str) -> Result<Window<K>, Problem> {
        Window::read(listing, self.asked(LIMIT), self.asked(CURSOR)).map_err(Problem::bad_request)
    }

    /// What the body says.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        // Serde takes an array for a struct, by the order of its fields, which is nobody's business.
        if !self.body.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::bad_request("the body is not what belongs here: send a JSON object"));
        }
        let malformed = |error| Problem::bad_request(format!("the body is not what belongs here: {error}"));
        serde_json::from_slice(&self.body).map_err(malformed)
    }
}

/// The answer of what changes something.
pub(super) fn told(told: anyhow::Result<impl Serialize>) -> Result<Vec<u8>, Problem> {
    answer(told, StatusCode::UNPROCESSABLE_ENTITY)
}

/// The answer of what only looks: where that fails it is not the caller's fault.
pub(super) fn seen(seen: anyhow::Result<impl Serialize>) -> Result<Vec<u8>, Problem> {
    answer(seen, StatusCode::INTERNAL_SERVER_ERROR)
}

fn answer(told: anyhow::Result<impl Serialize>, otherwise: StatusCode) -> Result<Vec<u8>, Problem> {
    let written = told.and_then(|told| serde_json::to_vec(&told).context("write the answer"));
    written.map_err(|error| refused(&error, otherwise))
}

/// A refusal as its status.
fn refused(error: &anyhow::Error, otherwise: StatusCode) -> Problem {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.clone().into();
    }
    let status = match error.downcast_ref::<Denied>() {
        Some(Denied::Unknown(_)) => StatusCode::NOT_FOUND,
        Some(Denied::Conflict(_)) => StatusCode::CONFLICT,
        None if may_pass(error) => StatusCode::SERVICE_UNAVAILABLE,
        None if error.downcast_ref::<std::io::Error>().is_some() => StatusCode::INTERNAL_SERVER_ERROR,
        None => otherwise,
    };
    Problem::new(status, format!("{error:#}"))
}
