//! A listener and its connections, whatever is asked over them.
//!
//! Connections, heads and the time that a client may take are bounded. What is asked, and who may ask it, is the
//! [`Service`]'s to know.

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::problem::Problem;
use crate::http::request;
use crate::http::tls::Tls;
use crate::http::unread::Unread;

/// Bytes of a request's head at most; more is answered 431.
const HEAD_MAX: usize = 64 * 1024;
/// The pause after the system refused to accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When stopping: how long a connection without a request under way may take to finish.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// An answer.
pub type Reply = Response<Full<Bytes>>;

/// What answers the requests of a listener.
pub trait Service: Send + Sync + 'static {
    /// How long a head may take to arrive, and a client to take its answer.
    fn patience(&self) -> Duration;
    /// Ends the listener.
    fn stopping(&self) -> &CancellationToken;
    /// Answers one request.
    fn answer(&self, request: hyper::Request<Incoming>, peer: Option<SocketAddr>)
    -> impl Future<Output = Reply> + Send;
}

/// Take an address, which the setting `key` names, and answer nobody yet. Tells which one was taken, where the setting leaves the
/// port open.
///
/// # Errors
/// The address cannot be had; the error says why and what to do.
pub fn listen(address: SocketAddr, key: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => format!("another process has this port; stop it, or set {key} to another port"),
            ErrorKind::PermissionDenied => format!("ports below 1024 need a privilege; set {key} to a higher port"),
            ErrorKind::AddrNotAvailable => format!("this machine has no such address; set {key} to one it has"),
            _ => format!("set {key} to an address and port of this machine"),
        };
        anyhow!("listen on {address} ({key}): {advice} ({error})")
    })?;
    listener.set_nonblocking(true).context("set up the listener")?;
    let local_addr = listener.local_addr().context("read the listener's address")?;
    Ok((listener, local_addr))
}

/// Answer requests until the service is stopping; then take no more, and return once those under way were answered. With `tls`
/// nothing else is spoken.
/// `seats` is how many connections there may be at once.
///
/// # Errors
/// The listener cannot be used at all.
pub async fn serve<S: Service>(
    listener: TcpListener,
    tls: Option<Tls>,
    service: Arc<S>,
    seats: usize,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).context("register the listener")?;
    let seats = Arc::new(Semaphore::new(seats));
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let service = Arc::clone(&service);
                    prepare(&stream, service.patience());
                    let acceptor = tls.as_ref().map(Tls::acceptor);
                    connections.spawn(async move {
                        match acceptor {
                            None => connection(service, stream, Some(peer)).await,
                            Some(acceptor) => encrypted(service, acceptor, stream, peer).await,
                        }
                        drop(seat);
                    });
                }
                // The client went away before it was its turn.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept a connection; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = service.stopping().cancelled() => {}
        () = accept => {}
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Agree on keys, and serve the connection to its end. A client that speaks no TLS, or is too slow, is left.
async fn encrypted<S: Service>(service: Arc<S>, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    let agreed = tokio::select! {
        agreed = timeout(service.patience(), acceptor.accept(stream)) => agreed,
        () = service.stopping().cancelled() => return,
    };
    match agreed {
        Ok(Ok(stream)) => connection(service, stream, Some(peer)).await,
        Ok(Err(error)) => tracing::trace!(%error, %peer, "a connection did not come to TLS"),
        Err(_) => tracing::trace!(%peer, "a connection did not come to TLS in time"),
    }
}

/// Serve one connection to its end.
pub async fn connection<S: Service>(
    service: Arc<S>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Option<SocketAddr>,
) {
    let (busy, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let answering = service_fn(|request| {
        read.store(true, Ordering::Relaxed);
        let (service, busy) = (Arc::clone(&service), Arc::clone(&busy));
        async move {
            busy.store(true, Ordering::Relaxed);
            let reply = service.answer(request, peer).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(reply)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(service.patience())
        .max_header_size(HEAD_MAX)
        .max_buf_size(2 * HEAD_MAX)
        .serve_connection(TokioIo::new(Unread::new(stream, Arc::clone(&read))), answering);
    let mut served = pin!(served);
    tokio::select! {
        // An error here is the client's doing: it went away, was too slow, or spoke no HTTP.
        ended = served.as_mut() => return trace(ended),
        () = service.stopping().cancelled() => served.as_mut().graceful_shutdown(),
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

/// The answer to a request of which `body` was left unread, if it was.
pub(super) fn finish(parts: &Parts, body: Option<Incoming>, reply: Result<Reply, Problem>) -> Reply {
    let mut reply = reply.unwrap_or_else(|problem| problem.into_response(parts.uri.path()));
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
