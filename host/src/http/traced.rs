//! What is told of requests that were refused before a handler was given them, where their trace is recorded.
//!
//! Of one that a handler was given its executor tells. Source: OpenTelemetry's semantic conventions for HTTP servers: the span has the
//! route where one was found, and is an error where the host is at fault (5xx) and not where the client is.

use std::time::Instant;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::http::request::Parts;
use opentelemetry::trace::SpanKind;
use uuid::Uuid;

use crate::http::routes::Target;
use crate::id::{InputId, Seed};
use crate::trace::span::{self, tag};
use crate::trace::{Incoming, Origin, PARENT, STATE, Tracer};

/// Methods that a span names; others are as many as clients think of.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Tells of a request that came at `since` and is answered with this status. `route` is whose it would have been.
pub(super) fn refused(
    tracer: &Tracer,
    parts: &Parts,
    (route, scheme): (Option<&Target>, &'static str),
    status: u16,
    since: Instant,
) {
    if !tracer.tells() {
        return;
    }
    // Nothing repeats it, so its span's id need not be found again.
    let key = Uuid::new_v4().to_string();
    let seed = Seed::derive(&[], "", &InputId::Request { route: String::new(), user: String::new(), key });
    let place = tracer.place(Incoming::of_request(&context(&parts.headers)), Origin::of(&seed));
    let Some((own, parent)) = place.recorded() else { return };
    let sent = parts.method.as_str();
    let known = METHODS.contains(&sent);
    let mut attributes = vec![
        tag("http.request.method", if known { sent.to_owned() } else { "_OTHER".to_owned() }),
        tag("url.path", span::shorten(parts.uri.path()).to_owned()),
        tag("url.scheme", scheme),
        tag("http.response.status_code", i64::from(status)),
    ];
    let mut name = if known { sent.to_owned() } else { "HTTP".to_owned() };
    if let Some(target) = route {
        attributes.extend([
            tag("http.route", target.route.path.clone()),
            tag("tidemill.handler", target.handler.to_string()),
        ]);
        name = format!("{name} {}", target.route.path);
    }
    let error = (status >= 500).then(|| status.to_string());
    let span = span::begin(own, parent, SpanKind::Server, name, since, attributes);
    tracer.tell(span::end(span, Instant::now(), error.as_deref().map(|status| (status, ""))));
}

/// What the headers say of a trace.
fn context(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let of = |name: &'static str| {
        let values = headers.get_all(name).iter();
        values.map(move |value| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
    };
    of(PARENT).chain(of(STATE)).collect()
}
