//! The handlers' listener, and the life of one request.
//!
//! Everything here is bounded: requests of one client where the operator says so, requests under way, the size of bodies, and the time for each.
//! A request that was handed on keeps its seat and its idempotency key until its answer arrives or is dropped, even
//! when its client has been answered 504 or has gone: what runs is what is counted.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::http::connection::{self, Reply, Service};
use crate::http::inflight::{InFlight, Key};
use crate::http::jwt::{Unauthorized, Verifier};
use crate::http::problem::Problem;
use crate::http::rate::Gate;
use crate::http::routes::{Found, Routes, Target, is_reserved};
use crate::http::tls::Tls;
use crate::http::{request, response, traced};
use crate::metrics::meters;
use crate::record::Refusal;
use crate::settings::Http;
use crate::trace::Tracer;

/// A deadline that can always be added to the present time.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Connections beyond one for each request under way: idle ones, and those about to be refused.
const SPARE_CONNECTIONS: usize = 256;

/// A listener that answers nobody yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Option<Tls>,
    settings: Http,
}

/// What all connections share.
pub struct Front {
    routes: Arc<Routes>,
    verifier: Verifier,
    settings: Http,
    gate: Gate,
    waiting: Arc<Semaphore>,
    in_flight: Arc<InFlight>,
    tracer: Tracer,
    cancel: CancellationToken,
}

/// What is known of a request while it is being answered.
struct Asked {
    /// The route's, once that is known.
    meter: Arc<meters::Route>,
    target: Option<Arc<Target>>,
    /// A handler has it, and its executor tells what becomes of it.
    given: bool,
}

/// Take the address that the settings name, and read the certificate.
///
/// # Errors
/// The address cannot be had, or the certificate cannot be used; the error says why and what to do.
pub fn bind(settings: &Http) -> anyhow::Result<Bound> {
    let tls = settings.tls.as_ref().map(Tls::read).transpose()?;
    let (listener, local_addr) = connection::listen(settings.listen, "http.listen")?;
    let mut settings = settings.clone();
    settings.deadline = settings.deadline.min(DEADLINE_MAX);
    Ok(Bound { listener, local_addr, tls, settings })
}

impl Bound {
    /// Where it listens: the port that was taken if the settings ask for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answer requests until `cancel`; then take no more, and return once those under way were answered, which the
    /// deadline bounds.
    ///
    /// # Errors
    /// The listener cannot be used at all.
    pub async fn serve(
        self,
        routes: Arc<Routes>,
        verifier: Verifier,
        tracer: Tracer,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let front = Arc::new(Front::new(routes, verifier, self.settings, tracer, cancel));
        let seats = front.waiting.available_permits() + SPARE_CONNECTIONS;
        connection::serve(self.listener, self.tls, front, seats).await
    }
}

impl Service for Front {
    fn patience(&self) -> Duration {
        self.settings.deadline
    }

    fn stopping(&self) -> &CancellationToken {
        &self.cancel
    }

    async fn answer(&self, request: hyper::Request<Incoming>, peer: Option<SocketAddr>) -> Reply {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut asked = Asked { meter: self.routes.unrouted().clone(), target: None, given: false };
        let address = self.gate.client(peer.map(|peer| peer.ip()), &parts.headers);
        let reply = self.handle(&parts, address, &mut body, &mut asked, began + self.settings.deadline).await;
        if let (Err(problem), false) = (&reply, asked.given) {
            let scheme = if self.settings.tls.is_some() { "https" } else { "http" };
            let route = (asked.target.as_deref(), scheme);
            traced::refused(&self.tracer, &parts, route, problem.status.as_u16(), began.into_std());
        }
        let reply = connection::finish(&parts, body, reply);
        asked.meter.answered(reply.status().as_u16(), began.elapsed());
        reply
    }
}

impl Front {
    /// With no connection yet.
    pub fn new(
        routes: Arc<Routes>,
        verifier: Verifier,
        settings: Http,
        tracer: Tracer,
        cancel: CancellationToken,
    ) -> Self {
        let waiting = settings.max_waiting.clamp(1, Semaphore::MAX_PERMITS - SPARE_CONNECTIONS);
        let waiting = Arc::new(Semaphore::new(waiting));
        let gate = Gate::new(&settings, routes.limited().clone());
        Self { routes, verifier, settings, gate, waiting, in_flight: Arc::default(), tracer, cancel }
    }

    /// `body` is taken once it was read to its end.
    async fn handle(
        &self,
        parts: &Parts,
        address: Option<IpAddr>,
        body: &mut Option<Incoming>,
        asked: &mut Asked,
        deadline: Instant,
    ) -> Result<Reply, Problem> {
        request::check_host(parts)?;
        let path = parts.uri.path();
        if is_reserved(path) {
            return own(parts);
        }
        if self.cancel.is_cancelled() {
            return Err(Refusal::Stopping.into());
        }
        let found = self.routes.find(parts.method.as_str(), path)?;
        (asked.meter, asked.target) = (found.meter.clone(), Some(found.target.clone()));
        self.gate.enter(address, &found.target)?;
        let Ok(seat) = Arc::clone(&self.waiting).try_acquire_owned() else { return Err(Refusal::Busy.into()) };
        let route = &found.target.route;
        let user = match route.jwt {
            true => Some(self.log_in(parts, address)?),
            false => None,
        };
        if let Some(user) = &user {
            self.gate.enter_as(user, &found.target)?;
        }
        // A request that only reads can be repeated anyway.
        let key = request::idempotency_key(&parts.headers)?.filter(|_| !route.reads());
        let whole = match body {
            Some(incoming) => tokio::select! {
                read = request::read(&parts.headers, incoming, request::body_limit(route, &self.settings), deadline) => read?,
                // Its handler has not seen it, so nothing is lost.
                () = self.cancel.cancelled() => return Err(Refusal::Stopping.into()),
            },
            None => Bytes::new(),
        };
        *body = None;
        let guard = match &key {
            Some(key) => Some(self.enter(&found, &user, key)?),
            None => None,
        };

        asked.given = true;
        let answer = (found.target.send)(request::into_record(parts, &found, whole, user, key, deadline));
        // A task of its own, since a client that goes away drops this one.
        let waiting = tokio::spawn(async move {
            let answer = answer.await;
            drop(guard);
            drop(seat);
            answer
        });
        match timeout_at(deadline, waiting).await {
            Ok(Ok(Ok(Ok(answered)))) => response::from_record(answered, &found.target),
            Ok(Ok(Ok(Err(refusal)))) => {
                // Of the others no delivery came that would be told of.
                asked.given = matches!(refusal, Refusal::Failed | Refusal::NotSent | Refusal::Expired);
                Err(refusal.into())
            }
            Ok(Ok(Err(_)) | Err(_)) if self.cancel.is_cancelled() => Err(Refusal::Stopping.into()),
            Ok(Ok(Err(_)) | Err(_)) => {
                tracing::error!(
                    handler = %found.target.handler,
                    method = route.method,
                    route = route.path,
                    "answered 500, because a request was dropped without an answer; its store may have stopped, see above"
                );
                Err(Refusal::Failed.into())
            }
            Err(_) => Err(late(route.reads())),
        }
    }

    /// The subject of the request's token.
    fn log_in(&self, parts: &Parts, address: Option<IpAddr>) -> Result<String, Problem> {
        self.gate.may_log_in(address)?;
        let verified = self.verifier.verify(request::authorization(&parts.headers)?);
        if let Err(Unauthorized::Invalid(_)) = verified {
            self.gate.failed(address);
        }
        Ok(verified?)
    }

    fn enter(&self, found: &Found, user: &Option<String>, key: &str) -> Result<crate::http::inflight::Guard, Problem> {
        let key = Key {
            handler: Arc::clone(&found.target.handler),
            route: found.target.route.path.clone(),
            user: user.clone(),
            key: key.to_owned(),
        };
        self.in_flight.enter(key).ok_or_else(|| Refusal::StillRunning.into())
    }
}

/// 504 for a request that may be running.
fn late(reads: bool) -> Problem {
    let detail = match reads {
        true => "the answer did not come within the deadline (http.deadline)",
        false => {
            "the answer did not come within the deadline (http.deadline); if the request had been begun it may still \
             be done: repeat it with the same Idempotency-Key to learn"
        }
    };
    Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)
}

/// The host's own paths. `/livez` says that the daemon answers, and nothing more.
fn own(parts: &Parts) -> Result<Reply, Problem> {
    match (parts.uri.path(), &parts.method) {
        ("/livez", &Method::GET | &Method::HEAD) => {
            let mut reply = Response::new(Full::new(Bytes::from_static(b"ok\n")));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Ok(reply)
        }
        ("/livez", _) => Err(Problem::method_not_allowed("GET, HEAD")),
        _ => Err(Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path of the host's own")),
    }
}
