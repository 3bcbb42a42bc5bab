//! The admin API, `/admin/v1`: what runs, and changes of it, for who knows the token.
//!
//! It has a listener of its own, so that opening the handlers' routes to the world does not open this. Nothing is read
//! of a body, and nothing is told, before the token is known to be good; a browser that was led here from another
//! page is refused. It decides nothing: the deployer does.

pub mod body;
pub mod openapi;
pub mod operation;
pub mod operations;
mod running;
pub mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::deploy::Deployer;
use crate::deploy::audit::Caller;
use crate::http::connection::{self, Reply, Service};
use crate::http::monitor::Told;
use crate::http::problem::Problem;
use crate::http::request;
use crate::record::Refusal;
use operation::{Call, Operation};
use operations::OPERATIONS;
use tokens::Tokens;

/// What all paths begin with.
pub const BASE: &str = "/admin/v1";
/// The header in which a command says which user and machine it was called by.
pub const CLAIMED: &str = "tidemill-caller";
/// Characters of that at most.
const CLAIMED_MAX: usize = 128;
/// How long a request, its body included, may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections at once.
pub const SEATS: usize = 32;
/// Bodies that are held at once.
const BODIES: usize = 2;

/// The API, and what it acts on.
pub struct Admin {
    deployer: Arc<Deployer>,
    monitor: Arc<Told>,
    tokens: Tokens,
    bodies: Semaphore,
    cancel: CancellationToken,
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
    /// With the tokens of which callers must know one.
    pub fn new(deployer: Arc<Deployer>, monitor: Arc<Told>, tokens: Tokens, cancel: CancellationToken) -> Self {
        Self { deployer, monitor, tokens, bodies: Semaphore::new(BODIES), cancel }
    }

    async fn handle(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        peer: Option<SocketAddr>,
    ) -> Result<Reply, Problem> {
        request::check_host(parts)?;
        same_origin(&parts.headers)?;
        let known = self.tokens.check(&parts.headers)?;
        if self.cancel.is_cancelled() {
            return Err(Refusal::Stopping.into());
        }
        let path = parts.uri.path().strip_prefix(BASE).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
        let mut here: Vec<(&Operation, Vec<_>)> =
            OPERATIONS.iter().filter_map(|o| Some((o, o.params(path)?))).collect();
        // A path that is written out goes before one with a parameter in its place (OpenAPI 3.1, 4.8.8).
        let fewest = here.iter().map(|(_, params)| params.len()).min();
        here.retain(|(_, params)| Some(params.len()) == fewest);
        let allowed: Vec<&str> = here.iter().map(|(operation, _)| operation.method.as_str()).collect();
        let allowed = allowed.join(", ");
        let Some((operation, params)) = here.into_iter().find(|(operation, _)| operation.method == parts.method) else {
            return Err(if allowed.is_empty() { nothing() } else { Problem::method_not_allowed(&allowed) });
        };
        if known.role < operation.role {
            let (name, has, wants) = (&known.name, known.role, operation.role);
            tracing::warn!(token = &**name, role = %has, method = %parts.method, path, "answered 403, because that is not in the token's role");
            return Err(Problem::insufficient_scope(
                &wants.to_string(),
                format!("this wants the role `{wants}`, and the token `{name}` has `{has}`"),
            ));
        }
        let query = operation.query(parts.uri.query())?;
        let (mut sent, mut media_type, mut _held) = (Bytes::new(), "", None);
        if let Some(expected) = &operation.body {
            media_type = expected.media_type(&parts.headers)?;
            if expected.large {
                _held = Some(self.bodies.try_acquire().map_err(|_| Refusal::Busy)?);
            }
            sent = self.read(parts, body, expected.most).await?;
        }
        let caller = Caller { who: known.name, claimed: claimed(&parts.headers), peer };
        let monitor = self.monitor.clone();
        self.ask(operation, Call { params, query, media_type, body: sent, caller, monitor }).await
    }

    async fn read(&self, parts: &Parts, body: &mut Option<Incoming>, most: usize) -> Result<Bytes, Problem> {
        let Some(incoming) = body else { return Ok(Bytes::new()) };
        let read = request::read(&parts.headers, incoming, (most, "the admin API"), Instant::now() + PATIENCE);
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
    async fn ask(&self, operation: &'static Operation, call: Call) -> Result<Reply, Problem> {
        let deployer = Arc::clone(&self.deployer);
        let told = tokio::task::spawn_blocking(move || (operation.run)(&deployer, call));
        let told = told.await.map_err(|_| Problem::from(Refusal::Failed))??;
        let mut reply = Response::new(Full::new(told.into()));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(reply)
    }
}

fn nothing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path of the admin API")
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
}
