//! `/metrics`, `/livez` and `/readyz`: how the daemon is, for who watches over it.
//!
//! It has a listener of its own, since who scrapes must know nothing that deploys. It answers while the daemon waits as a standby, starts and
//! stops; one scrape is made at a time, and none holds anything up but itself. Nothing can be changed here.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http::connection::{self, Reply, Service};
use crate::http::problem::Problem;
use crate::http::request;
use crate::http::token::Token;
use crate::metrics::Format;
use crate::metrics::gather::{self, Gatherer};
use crate::metrics::health::{self, Liveness, Now};
use crate::record::Refusal;

/// How long a head may take to arrive, and a client to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a scrape may wait for the one before, and then take.
const SCRAPE_WITHIN: Duration = Duration::from_secs(8);
/// Connections at once.
pub const SEATS: usize = 64;

/// What the daemon tells, as far as it has come.
#[derive(Default)]
pub struct Told {
    /// What it is at.
    pub now: Now,
    /// Gathers the numbers of a daemon that runs.
    pub gatherer: OnceLock<Gatherer>,
}

/// The service.
pub struct Monitor {
    told: Arc<Told>,
    token: Option<Token>,
    scrape: Arc<Semaphore>,
    cancel: CancellationToken,
}

impl Monitor {
    /// With the token that scrapers must know, if there is one. Who asks for `/livez` and `/readyz` needs none.
    pub fn new(told: Arc<Told>, token: Option<&[u8]>, cancel: CancellationToken) -> Self {
        let token = token.map(|token| Token::new(token, "this is not the token for /metrics"));
        Self { told, token, scrape: Arc::new(Semaphore::new(1)), cancel }
    }

    async fn handle(&self, parts: &Parts) -> Result<Reply, Problem> {
        request::check_host(parts)?;
        let path = parts.uri.path();
        if !matches!(path, "/metrics" | "/livez" | "/readyz") {
            return Err(Problem::new(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz"));
        }
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed("GET, HEAD"));
        }
        match path {
            "/livez" => {
                let alive = Liveness { alive: true, reasons: Vec::new() };
                let state = self.told.gatherer.get().map_or(alive, Gatherer::liveness);
                Ok(json(state.alive, &state))
            }
            "/readyz" => {
                let (now, gatherer) = (self.told.now.get(), self.told.gatherer.get());
                let state = match gatherer {
                    Some(gatherer) => gatherer.readiness(now, gatherer.kafka()),
                    None => health::readiness(now, &[], &[], None),
                };
                Ok(json(state.ready, &state))
            }
            _ => self.page(&parts.headers).await,
        }
    }

    async fn page(&self, headers: &HeaderMap) -> Result<Reply, Problem> {
        if let Some(token) = &self.token {
            token.check(headers)?;
        }
        let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let format = Format::of_accept(&accept.join(","));
        let told = Arc::clone(&self.told);
        let scraped = async {
            let seat = Arc::clone(&self.scrape).acquire_owned().await;
            // It reads files, and goes on to its end whatever becomes of the client.
            tokio::task::spawn_blocking(move || {
                let _seat = seat;
                match told.gatherer.get() {
                    Some(gatherer) => gatherer.page(told.now.get(), format),
                    None => gather::standby(told.now.get(), format),
                }
            })
            .await
        };
        match timeout(SCRAPE_WITHIN, scraped).await {
            Ok(Ok(text)) => {
                let mut reply = Response::new(Full::new(Bytes::from(text)));
                reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
                Ok(reply)
            }
            Ok(Err(_)) => Err(Refusal::Failed.into()),
            Err(_) => Err(Refusal::Busy.into()),
        }
    }
}

impl Service for Monitor {
    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn stopping(&self) -> &CancellationToken {
        &self.cancel
    }

    async fn answer(&self, request: hyper::Request<Incoming>, _peer: Option<SocketAddr>) -> Reply {
        let (parts, body) = request.into_parts();
        let reply = self.handle(&parts).await;
        connection::finish(&parts, Some(body), reply)
    }
}

/// 200 with what is well, 503 with what is not.
fn json(well: bool, state: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(state).unwrap_or_default();
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
