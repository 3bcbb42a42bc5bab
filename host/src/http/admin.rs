//! The admin API, `/admin/v1`: what runs, and changes of it, for who knows the token.
//!
//! It has a listener of its own, so that opening the handlers' routes to the world does not open this. Nothing is read
//! of a body, and nothing is told, before the token is known to be good; a browser that was led here from another
//! page is refused. It decides nothing: the deployer does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::deploy::artifact;
use crate::deploy::audit::Caller;
use crate::deploy::command::Denied;
use crate::deploy::groups::Reset;
use crate::deploy::smoke::MAX as SMOKE_MAX;
use crate::deploy::{Deployer, may_pass};
use crate::guest::engine::COMPONENT_MAX;
use crate::http::connection::{self, Reply, Service};
use crate::http::events;
use crate::http::problem::Problem;
use crate::http::request;
use crate::http::token::Token;
use crate::ledger::deployment::Migration;
use crate::record::{Event, Header, Refusal};

/// What all paths begin with.
pub const BASE: &str = "/admin/v1";
/// The header in which a command says which user and machine it was called by.
pub const CLAIMED: &str = "tidemill-caller";
/// Characters of that at most.
const CLAIMED_MAX: usize = 128;
/// How long a request, its body included, may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a body at most: the largest component in base64, and some.
const BODY_MAX: usize = COMPONENT_MAX as usize / 10 * 14;
/// The last part of the path at which a handler's events are published.
pub const EVENTS: &str = "events";
/// Events of one request at most, and bytes of its body.
pub const EVENTS_MAX: usize = 1_000;
const EVENTS_BODY_MAX: usize = 8 << 20;
/// Connections at once.
pub const SEATS: usize = 32;
/// Bodies that are held at once.
const BODIES: usize = 2;

/// The API, and what it acts on.
pub struct Admin {
    deployer: Arc<Deployer>,
    token: Token,
    bodies: Semaphore,
    cancel: CancellationToken,
}

/// A version with what stands beside it, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// The component in base64.
    pub wasm: String,
    /// In place of the manifest inside.
    pub manifest: Option<String>,
    /// In place of the migrations inside.
    pub migrations: Option<Vec<UploadedMigration>>,
}

/// A migration that stands beside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadedMigration {
    /// Its file's name.
    pub name: String,
    /// The statements.
    pub sql: String,
}

impl Upload {
    /// What it is made of.
    pub fn of(parts: &artifact::Parts) -> Self {
        let migration = |m: &Migration| UploadedMigration { name: m.name.clone(), sql: m.sql.clone() };
        Self {
            wasm: STANDARD.encode(&parts.wasm),
            manifest: parts.manifest.clone(),
            migrations: parts.migrations.as_ref().map(|all| all.iter().map(migration).collect()),
        }
    }

    fn parts(self) -> Result<artifact::Parts, Problem> {
        let wasm = STANDARD.decode(self.wasm);
        let wasm = wasm.map_err(|error| Problem::bad_request(format!("`wasm` is not base64: {error}")))?;
        let mut migrations = self.migrations;
        for migration in migrations.iter_mut().flatten() {
            let name = &migration.name;
            let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']) && name.len() <= 255;
            if !plain || !name.ends_with(".sql") {
                return Err(Problem::bad_request(format!(
                    "{name:?} is no name of a migration; write it like \"0001_tables.sql\""
                )));
            }
        }
        let migrations =
            migrations.map(|all| all.into_iter().map(|m| Migration { name: m.name, sql: m.sql }).collect());
        Ok(artifact::Parts { wasm, manifest: self.manifest, migrations })
    }
}

/// What `POST handlers/{name}/rollback` may say.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The number of the version; without it the one before.
    pub version: Option<i64>,
}

/// What `POST handlers/{name}/events` says: events that are published together, or not at all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// From one to [`EVENTS_MAX`], in their order.
    pub events: Vec<NewEvent>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    /// The name under `[publish]`.
    pub destination: String,
    /// The value, as it is.
    pub value: String,
    /// The key.
    #[serde(default)]
    pub key: Option<String>,
    /// For example `ORDER_CREATED`.
    #[serde(default)]
    pub event_type: String,
    /// The version of its schema.
    #[serde(default)]
    pub event_version: Option<String>,
    /// Its id, if it has one already.
    #[serde(default)]
    pub event_id: Option<String>,
    /// Names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// A duration like `30s`, before which it is not published.
    #[serde(default)]
    pub delay: Option<String>,
    /// Or a time, like `2026-01-31T12:00:00Z`.
    #[serde(default)]
    pub at: Option<String>,
}

impl NewEvent {
    fn event(self) -> Result<Event, Problem> {
        let due = events::due(self.delay.as_deref(), self.at.as_deref()).map_err(Problem::bad_request)?;
        let headers = self.headers.into_iter().chain(self.event_version.map(|v| (events::VERSION.to_owned(), v)));
        Ok(Event {
            destination: self.destination,
            id: self.event_id,
            event_type: self.event_type,
            key: self.key.map(Bytes::from),
            value: Some(self.value.into()),
            headers: headers.map(|(name, value)| Header { name, value: Some(value.into()) }).collect(),
            due,
        })
    }
}

impl Service for Admin {
    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn stopping(&self) -> &CancellationToken {
        &self.cancel
    }

    async fn answer(&self, request: hyper::Request<Incoming>, peer: Option<SocketAddr>) -> Reply {
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let reply = self.handle(&parts, &mut body, peer).await;
        connection::finish(&parts, body, reply)
    }
}

impl Admin {
    /// With the token that callers must know.
    pub fn new(deployer: Arc<Deployer>, token: &[u8], cancel: CancellationToken) -> Self {
        let token = Token::new(token, "this is not the token of the admin API");
        Self { deployer, token, bodies: Semaphore::new(BODIES), cancel }
    }

    async fn handle(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        peer: Option<SocketAddr>,
    ) -> Result<Reply, Problem> {
        request::check_host(parts)?;
        same_origin(&parts.headers)?;
        self.token.check(&parts.headers)?;
        if self.cancel.is_cancelled() {
            return Err(Refusal::Stopping.into());
        }
        let path = parts.uri.path().strip_prefix(BASE).and_then(|path| path.strip_prefix('/'));
        let path: Vec<&str> = path.map(|path| path.split('/').collect()).unwrap_or_default();
        let caller = Caller { who: "token", claimed: claimed(&parts.headers), peer };
        match (path.as_slice(), &parts.method) {
            (["handlers"], &Method::GET) => self.ask(|deployer| deployer.list()).await,
            (["handlers"], &Method::POST) => self.deploy(parts, body, caller).await,
            (["handlers"], _) => Err(Problem::method_not_allowed("GET, POST")),
            ([_, name, rest @ ..], method) if path.first() == Some(&"handlers") => {
                let name = (*name).to_owned();
                match (rest, method) {
                    ([], &Method::GET) => self.ask(move |deployer| deployer.report(&name)).await,
                    ([], &Method::DELETE) => self.ask(move |deployer| deployer.undeploy(&name, &caller)).await,
                    ([], _) => Err(Problem::method_not_allowed("GET, DELETE")),
                    (["versions"], &Method::GET) => self.ask(move |deployer| deployer.history(&name)).await,
                    (["versions"], _) => Err(Problem::method_not_allowed("GET")),
                    (["rollback"], &Method::POST) => self.rollback(parts, body, name, caller).await,
                    (["rollback"], _) => Err(Problem::method_not_allowed("POST")),
                    ([EVENTS], &Method::POST) => self.publish(parts, body, name, caller).await,
                    ([EVENTS], _) => Err(Problem::method_not_allowed("POST")),
                    _ => Err(nothing()),
                }
            }
            (["groups"], &Method::GET) => self.ask(|deployer| deployer.groups()).await,
            (["groups"], _) => Err(Problem::method_not_allowed("GET")),
            (["groups", name, rest @ ..], method) => {
                let decoded = percent_decode_str(name).decode_utf8().map_err(|_| nothing())?;
                let name = decoded.into_owned();
                match (rest, method) {
                    ([], &Method::GET) => self.ask(move |deployer| deployer.group(&name)).await,
                    ([], _) => Err(Problem::method_not_allowed("GET")),
                    (["reset"], &Method::POST) => self.reset(parts, body, name, caller).await,
                    (["reset"], _) => Err(Problem::method_not_allowed("POST")),
                    _ => Err(nothing()),
                }
            }
            _ => Err(nothing()),
        }
    }

    async fn deploy(&self, parts: &Parts, body: &mut Option<Incoming>, caller: Caller) -> Result<Reply, Problem> {
        let (mut rehearsal, mut smoke) = (false, None);
        for part in parts.uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("dry-run", "true")) => rehearsal = true,
                Some(("dry-run", "false")) => rehearsal = false,
                Some(("smoke", count)) => {
                    let count = count.parse().ok().filter(|count| *count <= SMOKE_MAX);
                    let wrong = || Problem::bad_request(format!("`smoke` is a number of records, up to {SMOKE_MAX}"));
                    smoke = Some(count.ok_or_else(wrong)?);
                }
                _ => {
                    let known = "the query is not known here; write `?dry-run=true`, `?smoke=100` or both, with `&`";
                    return Err(Problem::bad_request(known));
                }
            }
        }
        let json = match media_type(&parts.headers) {
            Some("application/wasm") => false,
            Some("application/json") => true,
            _ => {
                return Err(Problem::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "send a component as application/wasm, or application/json with `wasm` in base64, `manifest` and `migrations`",
                ));
            }
        };
        let Ok(_held) = self.bodies.try_acquire() else { return Err(Refusal::Busy.into()) };
        let whole = self.read(parts, body, BODY_MAX).await?;
        let sent = match json {
            true => serde_json::from_slice::<Upload>(&whole).map_err(malformed)?.parts()?,
            false => artifact::Parts { wasm: whole.into(), ..artifact::Parts::default() },
        };
        let act = move |deployer: &Deployer| match rehearsal {
            true => deployer.rehearse(sent, smoke),
            false => deployer.upload(sent, smoke, &caller),
        };
        self.ask(act).await
    }

    async fn rollback(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        name: String,
        caller: Caller,
    ) -> Result<Reply, Problem> {
        let Ok(_held) = self.bodies.try_acquire() else { return Err(Refusal::Busy.into()) };
        let whole = self.read(parts, body, BODY_MAX).await?;
        let to: Rollback = match whole.is_empty() {
            true => Rollback::default(),
            false => serde_json::from_slice(&whole).map_err(malformed)?,
        };
        self.ask(move |deployer| deployer.rollback(&name, to.version, &caller)).await
    }

    async fn reset(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        group: String,
        caller: Caller,
    ) -> Result<Reply, Problem> {
        let Ok(_held) = self.bodies.try_acquire() else { return Err(Refusal::Busy.into()) };
        let whole = self.read(parts, body, BODY_MAX).await?;
        let reset: Reset = serde_json::from_slice(&whole).map_err(malformed)?;
        self.ask(move |deployer| deployer.reset(&group, &reset, &caller)).await
    }

    async fn publish(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        name: String,
        caller: Caller,
    ) -> Result<Reply, Problem> {
        let whole = self.read(parts, body, EVENTS_BODY_MAX).await?;
        let Publish { events } = serde_json::from_slice(&whole).map_err(malformed)?;
        if !(1..=EVENTS_MAX).contains(&events.len()) {
            return Err(Problem::bad_request(format!("a request publishes from 1 to {EVENTS_MAX} events")));
        }
        let events = events.into_iter().map(NewEvent::event).collect::<Result<_, _>>()?;
        self.ask(move |deployer| deployer.publish(&name, events, &caller)).await
    }

    async fn read(&self, parts: &Parts, body: &mut Option<Incoming>, most: usize) -> Result<Bytes, Problem> {
        let Some(incoming) = body else { return Ok(Bytes::new()) };
        let read = request::read(&parts.headers, incoming, most, Instant::now() + PATIENCE);
        let whole = tokio::select! {
            read = read => read.map_err(|problem| match problem.status {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(problem.status, format!("the body is larger than {most} bytes")),
                StatusCode::REQUEST_TIMEOUT => Problem::new(problem.status, "the body did not arrive in time; nothing was done"),
                _ => problem,
            })?,
            () = self.cancel.cancelled() => return Err(Refusal::Stopping.into()),
        };
        *body = None;
        Ok(whole)
    }

    /// Asks the deployer, on a thread that may wait. Once begun, it is done to its end, whatever becomes of the client.
    async fn ask<T: Serialize + Send + 'static>(
        &self,
        act: impl FnOnce(&Deployer) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<Reply, Problem> {
        let deployer = Arc::clone(&self.deployer);
        let told = tokio::task::spawn_blocking(move || {
            let told = act(&deployer)?;
            serde_json::to_vec(&told).context("write the answer")
        });
        let told = told.await.map_err(|_| Problem::from(Refusal::Failed))?.map_err(|error| refused(&error))?;
        let mut reply = Response::new(Full::new(told.into()));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(reply)
    }
}

/// A refusal as its status.
fn refused(error: &anyhow::Error) -> Problem {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.clone().into();
    }
    let status = match error.downcast_ref::<Denied>() {
        Some(Denied::Unknown(_)) => StatusCode::NOT_FOUND,
        Some(Denied::Conflict(_)) => StatusCode::CONFLICT,
        None if may_pass(error) => StatusCode::SERVICE_UNAVAILABLE,
        None if error.downcast_ref::<std::io::Error>().is_some() => StatusCode::INTERNAL_SERVER_ERROR,
        None => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(status, format!("{error:#}"))
}

fn nothing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path of the admin API")
}

fn malformed(error: serde_json::Error) -> Problem {
    Problem::bad_request(format!("the body is not what belongs here: {error}"))
}

/// A page of another origin sends these; a command sends neither.
fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let ours = |origin: &HeaderValue| {
        let rest = origin.as_bytes().strip_prefix(b"http://").or_else(|| origin.as_bytes().strip_prefix(b"https://"));
        rest.is_some() && rest == host
    };
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let same_site = site.is_none_or(|site| matches!(site, b"same-origin" | b"none"));
    if same_site && headers.get_all(ORIGIN).iter().all(ours) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "the admin API answers no page of another origin"))
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    Some(headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim())
}

fn claimed(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CLAIMED)?.to_str().ok()?.trim();
    Some(text.chars().take(CLAIMED_MAX).collect()).filter(|text: &String| !text.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let allowed = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:7070"));
            lines
                .iter()
                .for_each(|(name, value)| assert!(!headers.append(*name, value.parse().unwrap()) || *name == "origin"));
            same_origin(&headers).is_ok()
        };
        assert!(allowed(&[]) && allowed(&[("origin", "http://127.0.0.1:7070"), ("sec-fetch-site", "same-origin")]));
        for origin in ["null", "http://127.0.0.1:7071", "http://evil.example", "127.0.0.1:7070"] {
            assert!(!allowed(&[("origin", origin)]), "{origin}");
        }
        assert!(!allowed(&[("origin", "http://127.0.0.1:7070"), ("origin", "null")]));
        assert!(!allowed(&[("sec-fetch-site", "cross-site")]) && !allowed(&[("sec-fetch-site", "same-site")]));
    }

    #[test]
    fn a_migration_that_is_sent_has_the_name_of_a_file() {
        let parts = |name: &str| {
            let migrations = Some(vec![UploadedMigration { name: name.into(), sql: String::new() }]);
            Upload { wasm: STANDARD.encode(b"x"), manifest: None, migrations }.parts()
        };
        assert_eq!(parts("0001_a.sql").unwrap().wasm, b"x");
        for name in ["", "../a.sql", "a/b.sql", ".a.sql", "a.txt", "a\0.sql", "\\a.sql"] {
            assert!(parts(name).is_err(), "{name:?}");
        }
        assert!(Upload { wasm: "!".into(), manifest: None, migrations: None }.parts().is_err());
    }
}
