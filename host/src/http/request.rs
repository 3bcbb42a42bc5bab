//! What a client sent: checked, read to its end, and turned into the host's own [`Request`].
//!
//! No more of a body is ever held than the limit, and nothing is waited for beyond the deadline.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{StatusCode, Version};
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use crate::deploy::manifest::Route;
use crate::http::problem::Problem;
use crate::http::routes::Found;
use crate::record::Request;
use crate::settings::Http;

/// Characters of an `Idempotency-Key` at most.
const KEY_MAX: usize = 255;
/// Room for a body before any of it has come.
const BODY_START: usize = 16 * 1024;
/// How long the rest of a body is read and thrown away, so that its sender can read the answer. A connection closed
/// over unread bytes is reset, and the answer may be lost with it.
const LINGER: Duration = Duration::from_secs(2);

/// RFC 9112, 3.2: HTTP/1.1 requests have exactly one `Host`.
pub(super) fn check_host(parts: &Parts) -> Result<(), Problem> {
    let hosts = parts.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && parts.version == Version::HTTP_11) {
        return Err(Problem::bad_request("a request has exactly one Host header"));
    }
    Ok(())
}

/// The value of `Authorization`, if there is one.
pub(super) fn authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::bad_request("there is more than one Authorization header"));
    }
    Ok(first.map(|value| value.as_bytes()))
}

/// The value of `Idempotency-Key`, if there is one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HeaderName::from_static("idempotency-key")).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request("there is more than one Idempotency-Key header"));
    }
    match value.to_str() {
        Ok(key) if (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Some(key.to_owned()))
        }
        _ => Err(Problem::bad_request("an Idempotency-Key has 1 to 255 visible ASCII characters and no blanks")),
    }
}

/// The largest body that a route takes, in bytes, and the setting that says so: its own limit where that is less than the operator's.
pub(super) fn body_limit(route: &Route, settings: &Http) -> (usize, &'static str) {
    match route.body_limit {
        Some(own) if own < settings.body_limit => (own, "body-limit of its route"),
        _ => (settings.body_limit, "http.body-limit"),
    }
}

/// Read a body to its end, which has a limit and a setting that says so. An error leaves the rest unread.
pub(super) async fn read(
    headers: &HeaderMap,
    body: &mut Incoming,
    (limit, key): (usize, &'static str),
    deadline: Instant,
) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes ({key})"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| usize::try_from(bytes).is_ok_and(|bytes| bytes > limit)) {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let mut whole = BytesMut::with_capacity(BODY_START.min(limit));
    loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Err(_) => {
                return Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not arrive within the deadline (http.deadline); nothing was done",
                ));
            }
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(_))) => return Err(Problem::bad_request("the body is malformed or incomplete")),
            Ok(Some(Ok(frame))) => frame,
        };
        // What is no data is a trailer, and nobody asked for one.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - whole.len() {
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
}

/// Throw away what still comes of a body, for a short while.
pub(super) async fn drain(mut body: Incoming) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whoever still sends then is cut off.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// The request as handlers get it.
///
/// Left out are the headers that concern only this connection (RFC 9110, 7.6.1) and, once the host has checked it,
/// the token: a handler that could keep it could act as its user elsewhere. A `HEAD` that a `GET` route answers
/// looks like a `GET`.
pub(super) fn into_record(
    parts: &Parts,
    found: &Found,
    body: Bytes,
    user: Option<String>,
    idempotency_key: Option<String>,
    deadline: Instant,
) -> Request {
    let route = &found.target.route;
    let kept_back = |name: &HeaderName| is_hop_by_hop(name.as_str()) || (route.jwt && *name == AUTHORIZATION);
    Request {
        method: route.method.clone(),
        path: parts.uri.path().to_owned(),
        route: route.path.clone(),
        params: found.params.clone(),
        query: parts.uri.query().map(str::to_owned),
        headers: parts
            .headers
            .iter()
            .filter(|(name, _)| !kept_back(name))
            .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        body,
        user,
        idempotency_key,
        id: Uuid::new_v4(),
        deadline: deadline.into_std(),
    }
}

/// Whether a header concerns one connection only. The name in lower case.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}
