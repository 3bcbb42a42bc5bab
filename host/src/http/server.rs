//! The listener, its connections, and the life of one request.
//!
//! Everything here is bounded: connections, requests under way, the size of heads and bodies, and the time for each.
//! A request that was handed on keeps its seat and its idempotency key until its answer arrives or is dropped, even
//! when its client has been answered 504 or has gone: what runs is what is counted.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::inflight::{InFlight, Key};
use crate::http::jwt::Verifier;
use crate::http::problem::Problem;
use crate::http::routes::{Found, Routes, is_reserved};
use crate::http::{request, response};
use crate::record::Refusal;
use crate::settings::Http;

/// Bytes of a request's head at most; more is answered 431.
const HEAD_MAX: usize = 64 * 1024;
/// A deadline that can always be added to the present time.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Connections beyond one for each request under way: idle ones, and those about to be refused.
const SPARE_CONNECTIONS: usize = 256;
/// The pause after the system refused to accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When stopping: how long a connection without a request under way may take to finish.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

type Reply = Response<Full<Bytes>>;

/// A listener that answers nobody yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    local_addr: SocketAddr,
    settings: Http,
}

/// What all connections share.
pub struct Front {
    routes: Arc<Routes>,
    verifier: Verifier,
    settings: Http,
    waiting: Arc<Semaphore>,
    in_flight: Arc<InFlight>,
    cancel: CancellationToken,
}

/// Take the address that the settings name.
///
/// # Errors
/// The address cannot be had; the error says why and what to do.
pub fn bind(settings: &Http) -> anyhow::Result<Bound> {
    let address = settings.listen;
    let listener = TcpListener::bind(address).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => "another process has this port; stop it, or set http.listen to another port",
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege; set http.listen to a higher port",
            ErrorKind::AddrNotAvailable => "this machine has no such address; set http.listen to one it has",
            _ => "set http.listen to an address and port of this machine",
        };
        anyhow!("listen on {address} (http.listen): {advice} ({error})")
    })?;
    listener.set_nonblocking(true).context("set up the listener")?;
    let local_addr = listener.local_addr().context("read the listener's address")?;
    let mut settings = settings.clone();
    settings.deadline = settings.deadline.min(DEADLINE_MAX);
    Ok(Bound { listener, local_addr, settings })
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
    pub async fn serve(self, routes: Arc<Routes>, verifier: Verifier, cancel: CancellationToken) -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener).context("register the listener")?;
        let deadline = self.settings.deadline;
        let front = Arc::new(Front::new(routes, verifier, self.settings, cancel.clone()));
        let seats = Arc::new(Semaphore::new(front.waiting.available_permits() + SPARE_CONNECTIONS));
        let connections = TaskTracker::new();
        let accept = async {
            loop {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let front = Arc::clone(&front);
                        prepare(&stream, deadline);
                        connections.spawn(async move {
                            connection(front, stream).await;
                            drop(seat);
                        });
                    }
                    // The client went away before it was its turn.
                    Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept a connection; trying again");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = accept => {}
        }
        drop(listener);
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

/// Serve one connection to its end.
pub async fn connection(front: Arc<Front>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let busy = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (front, busy) = (Arc::clone(&front), Arc::clone(&busy));
        async move {
            busy.store(true, Ordering::Relaxed);
            let reply = answer(&front, request).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(reply)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.settings.deadline)
        .max_header_size(HEAD_MAX)
        .max_buf_size(2 * HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    tokio::select! {
        // An error here is the client's doing: it went away, was too slow, or spoke no HTTP.
        ended = served.as_mut() => return trace(ended),
        () = front.cancel.cancelled() => served.as_mut().graceful_shutdown(),
    }
    loop {
        tokio::select! {
            ended = served.as_mut() => return trace(ended),
            () = sleep(CLOSE_GRACE) => if !busy.load(Ordering::Relaxed) { return },
        }
    }
}

fn trace(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke off");
    }
}

/// Answers are small: send them at once, and do not wait longer than the deadline for a client that takes none.
fn prepare(stream: &TcpStream, deadline: Duration) {
    let nodelay = stream.set_nodelay(true);
    let millis = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
    #[cfg(target_os = "linux")]
    let timeout = rustix::net::sockopt::set_tcp_user_timeout(stream, millis).map_err(std::io::Error::from);
    #[cfg(not(target_os = "linux"))]
    let timeout: std::io::Result<()> = Ok(drop(millis));
    if let Err(error) = nodelay.and(timeout) {
        // The client has gone, or the system lacks the option; either way there is nothing to mend.
        tracing::trace!(%error, "set a connection's options");
    }
}

/// Answer one request.
async fn answer(front: &Front, request: hyper::Request<Incoming>) -> Reply {
    let deadline = Instant::now() + front.settings.deadline;
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let mut reply = match front.handle(&parts, &mut body, deadline).await {
        Ok(reply) => reply,
        Err(problem) => problem.into_response(),
    };
    // Answered before the body was read: this connection is of no further use.
    if let Some(rest) = body.filter(|body| !body.is_end_stream()) {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        // A client that asked first (`Expect: 100-continue`) sends no body once it has been refused.
        if !parts.headers.contains_key(EXPECT) {
            tokio::spawn(request::drain(rest));
        }
    }
    reply
}

impl Front {
    /// With no connection yet.
    pub fn new(routes: Arc<Routes>, verifier: Verifier, settings: Http, cancel: CancellationToken) -> Self {
        let waiting = settings.max_waiting.clamp(1, Semaphore::MAX_PERMITS - SPARE_CONNECTIONS);
        let waiting = Arc::new(Semaphore::new(waiting));
        Self { routes, verifier, settings, waiting, in_flight: Arc::default(), cancel }
    }

    /// `body` is taken once it was read to its end.
    async fn handle(&self, parts: &Parts, body: &mut Option<Incoming>, deadline: Instant) -> Result<Reply, Problem> {
        request::check_host(parts)?;
        let path = parts.uri.path();
        if is_reserved(path) {
            return own(parts);
        }
        if self.cancel.is_cancelled() {
            return Err(Refusal::Stopping.into());
        }
        let found = self.routes.find(parts.method.as_str(), path)?;
        let Ok(seat) = Arc::clone(&self.waiting).try_acquire_owned() else { return Err(Refusal::Busy.into()) };
        let route = &found.target.route;
        let user = match route.jwt {
            true => Some(self.verifier.verify(request::authorization(&parts.headers)?)?),
            false => None,
        };
        // A request that only reads can be repeated anyway.
        let key = request::idempotency_key(&parts.headers)?.filter(|_| !route.reads());
        let whole = match body {
            Some(incoming) => tokio::select! {
                read = request::read(&parts.headers, incoming, self.settings.body_limit, deadline) => read?,
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
            Ok(Ok(Ok(Err(refusal)))) => Err(refusal.into()),
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
