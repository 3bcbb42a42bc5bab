//! An event as an HTTP request, and what the answer to it means.
//!
//! Pure. An answer is about the event, or about the destination; only the first gives an event up.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use opentelemetry_sdk::trace::SpanData;
use reqwest::header::HeaderName;

use crate::http::is_hop_by_hop;
use crate::ledger::outbox::{EventKind, Waiting};
use crate::outbound::{self, Answer, Call, Origin, Request};
use crate::policy::WAIT_MAX;
use crate::settings::Post;
use crate::trace::span::tag;
use crate::trace::{self, Context};

/// How much of an answer's body is read, and how much of that is kept as a row's last error, in bytes.
pub(super) const BODY: usize = 64 << 10;
const EXCERPT: usize = 200;
/// The longest `Idempotency-Key` that a Tidemill route takes, in bytes.
const KEY_MAX: usize = 255;

/// Whether a header is one that the host sets, or that concerns one connection only. The name in lower case.
pub(crate) fn is_reserved(name: &str) -> bool {
    // The version of an event's schema is a header of the event's own.
    let of_event = name.starts_with("event-") && name != "event-version";
    matches!(name, "host" | "content-length" | "idempotency-key") || of_event || is_hop_by_hop(name)
}

/// The request that carries a row.
///
/// # Errors
/// What HTTP cannot carry.
pub(super) fn call(post: &Post, row: &Waiting) -> Result<Call, String> {
    let event = &row.event;
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for header in &event.headers {
        let name = header.name.to_ascii_lowercase();
        if HeaderName::from_bytes(name.as_bytes()).is_ok() && !is_reserved(&name) {
            headers.push(field(&name, header.value.as_deref().unwrap_or_default()));
        }
    }
    let own = post.headers.iter().map(|(name, value)| (name, value.as_bytes()));
    let secret = post.secret_headers.iter().map(|(name, secret)| (name, secret.expose().as_bytes()));
    for (name, value) in own.chain(secret) {
        headers.retain(|(other, _)| other != name.as_str());
        headers.push((name.as_str().to_owned(), value.to_vec()));
    }
    if let Some(value) = &event.value
        && !headers.iter().any(|(name, _)| name == "content-type")
    {
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok();
        let kind = if json { "application/json" } else { "application/octet-stream" };
        headers.push(("content-type".into(), kind.into()));
    }
    if event.kind == EventKind::Event {
        headers.push(field("event-id", event.event_id.as_bytes()));
        headers.push(field("event-type", event.event_type.as_bytes()));
    }
    headers.extend(event.key.as_deref().map(|key| field("event-key", key)));
    headers.push(field("event-topic", event.topic.as_bytes()));
    let origin = Origin::parse(&post.url.origin().ascii_serialization())?;
    let settings = outbound::Settings { timeout: post.timeout, origins: vec![origin], ..Default::default() };
    let request = Request {
        method: post.method.as_str().to_owned(),
        url: post.url.as_str().to_owned(),
        headers,
        body: event.value.as_deref().unwrap_or_default().to_vec(),
        timeout: None,
    };
    Call::new(&settings, request, |_| idempotency_key(&event.event_id)).map_err(|error| error.message)
}

/// The span of one try.
pub(super) fn span(of: Context, call: &Call, row: &Waiting, since: Instant, answer: &Answer) -> SpanData {
    // Each try has a span of its own.
    let name = format!("{} {:?}", row.event.event_id, crate::clock::wall(since));
    let mut span = trace::span::call(of.child(name.as_bytes()), of, call, since, answer);
    span.attributes.extend([
        tag("messaging.destination.name", row.event.topic.clone()),
        tag("messaging.message.id", row.event.event_id.clone()),
        tag("tidemill.handler", row.handler.clone()),
    ]);
    span
}

/// The event's id, or its hash where that is no key that everybody takes.
fn idempotency_key(id: &str) -> String {
    match (1..=KEY_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        true => id.to_owned(),
        false => format!("sha256:{}", crate::id::sha256_hex(id.as_bytes())),
    }
}

/// A header whose value is text as it is, or else in base64 under its name with `-bin`, as gRPC does.
fn field(name: &str, value: &[u8]) -> (String, Vec<u8>) {
    let blank = |byte: Option<&u8>| byte == Some(&b' ');
    let text = value.iter().all(|byte| (b' '..=b'~').contains(byte)) && !blank(value.first()) && !blank(value.last());
    match text {
        true => (name.to_owned(), value.to_vec()),
        false => (format!("{name}-bin"), BASE64_STANDARD.encode(value).into_bytes()),
    }
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The destination has the event.
    Taken,
    /// It is sent again.
    Later {
        /// For people.
        error: String,
        /// Not before this long, as the destination says (`Retry-After`, RFC 9110, 10.2.3).
        after: Option<Duration>,
        /// Whether it was too much for the destination (429), and not this event more than another.
        busy: bool,
    },
    /// The destination will not have this event.
    Refused(String),
}

/// What is said by the answer to a request, at this time (milliseconds since the Unix epoch).
pub(super) fn judge(post: &Post, answer: &Answer, now: i64) -> Verdict {
    let response = match answer {
        Ok(response) => response,
        Err(error) => return Verdict::Later { error: error.message.clone(), after: None, busy: false },
    };
    let status = response.status;
    let said = String::from_utf8_lossy(&response.body);
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT).collect();
    let colon = if said.is_empty() { "" } else { ": " };
    let error = format!("{} answers {status}{colon}{said}", post.url);
    match status {
        200..=299 => Verdict::Taken,
        400..=499 if !post.retry_status.contains(&status) => Verdict::Refused(error),
        _ => {
            let after = response.headers.iter().find(|(name, _)| name == "retry-after");
            let after = after.and_then(|(_, value)| retry_after(value, now)).map(|after| after.min(WAIT_MAX));
            Verdict::Later { error, after, busy: status == 429 }
        }
    }
}

/// Seconds, or a date.
fn retry_after(value: &[u8], now: i64) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at: Timestamp = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::from_millis(u64::try_from(at.as_millisecond().saturating_sub(now)).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::ledger::outbox::Event;
    use crate::outbound::{CallError, CallErrorKind};
    use crate::record::{Header, Response};
    use crate::settings::Settings;

    fn post(more: &str) -> Post {
        let text = format!("[[destination]]\ntopic = \"t\"\ntype = \"http\"\nurl = \"http://a.example/in\"\n{more}");
        Settings::parse(&text, "tidemill.toml").unwrap().destinations.0.remove(0).http.unwrap()
    }

    fn row(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> Waiting {
        let bytes = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let header = |(name, value): &(&str, Option<&[u8]>)| Header { name: (*name).into(), value: bytes(*value) };
        let event = Event {
            event_id: "e-1".into(),
            event_type: "POST_CREATED".into(),
            topic: "t".into(),
            partition: None,
            key: bytes(key),
            value: bytes(value),
            headers: headers.iter().map(header).collect(),
            kind: EventKind::Event,
            not_before: None,
        };
        Waiting { id: 1, event, handler: "h".into(), created_at: 0 }
    }

    fn sent(post: &Post, row: &Waiting) -> Vec<String> {
        let call = call(post, row).unwrap();
        let mut lines: Vec<String> =
            call.headers().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
        lines.sort();
        lines
    }

    #[test]
    fn s4_6_an_event_is_a_request_with_its_id_type_key_and_headers() {
        let post = post("headers = { x-from = \"feed\" }");
        let headers = [
            ("Trace", Some(&b"00-a b"[..])),
            ("not a name", Some(b"x")),
            ("Connection", Some(b"close")),
            ("event-id", Some(b"another")),
            ("event-version", Some(b"2")),
            ("x-from", Some(b"event")),
            ("raw", Some(&[0, 255])),
            ("none", None),
        ];
        let expected = [
            "content-type: application/json",
            "event-id: e-1",
            "event-key: k",
            "event-topic: t",
            "event-type: POST_CREATED",
            "event-version: 2",
            "idempotency-key: e-1",
            "none: ",
            "raw-bin: AP8=",
            "trace: 00-a b",
            "x-from: feed",
        ];
        assert_eq!(sent(&post, &row(Some(b"k"), Some(b"{\"a\":1}"), &headers)), expected);
        let typed = [("content-type", Some(&b"application/cloudevents+json"[..]))];
        let lines = sent(&post, &row(Some("열쇠".as_bytes()), Some(b"{}"), &typed));
        assert!(lines.contains(&"content-type: application/cloudevents+json".to_owned()), "{lines:?}");
        assert!(lines.contains(&"event-key-bin: 7Je07Ieg".to_owned()), "{lines:?}");
        let lines = sent(&post, &row(None, Some(b"no json"), &[]));
        assert!(lines.contains(&"content-type: application/octet-stream".to_owned()), "{lines:?}");
        let lines = sent(&post, &row(None, None, &[]));
        assert!(
            !lines.iter().any(|line| line.starts_with("content-type") || line.starts_with("event-key")),
            "{lines:?}"
        );
    }

    #[test]
    fn an_id_that_is_no_key_is_hashed() {
        for id in ["a b", "주문", &"x".repeat(256)] {
            let key = idempotency_key(id);
            assert!(key.starts_with("sha256:") && key.len() < KEY_MAX, "{key}");
        }
        assert_eq!(idempotency_key("0190-a"), "0190-a");
    }

    #[test]
    fn s4_6_an_answer_is_about_the_event_or_about_the_destination() {
        let judged = |post: &Post, status, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned())));
            judge(post, &Ok(Response { status, headers: headers.collect(), body: Bytes::from("no\n luck") }), 0)
        };
        let usual = post("");
        let later = |status, after, busy| Verdict::Later {
            error: format!("http://a.example/in answers {status}: no luck"),
            after,
            busy,
        };
        for status in [200, 201, 204, 299] {
            assert_eq!(judged(&usual, status, &[]), Verdict::Taken);
        }
        for status in [301, 401, 403, 404, 408, 425, 500, 503, 599] {
            assert_eq!(judged(&usual, status, &[]), later(status, None, false));
        }
        for status in [400, 409, 410, 422] {
            assert!(matches!(judged(&usual, status, &[]), Verdict::Refused(error) if error.contains("no luck")));
        }
        let narrow = post("retry-status = [429]");
        assert!(matches!(judged(&narrow, 404, &[]), Verdict::Refused(_)));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(judged(&usual, 429, &[("retry-after", "7")]), later(429, seconds(7), true));
        let date = [("retry-after", "Thu, 01 Jan 1970 00:01:00 GMT")];
        assert_eq!(judged(&usual, 503, &date), later(503, seconds(60), false));
        assert_eq!(judged(&usual, 503, &[("retry-after", "soon")]), later(503, None, false));
        assert_eq!(judged(&usual, 503, &[("retry-after", "99999999999")]), later(503, Some(WAIT_MAX), false));
        let error = CallError { kind: CallErrorKind::Timeout, message: "no answer".into() };
        let answer = judge(&usual, &Err(error), 0);
        assert_eq!(answer, Verdict::Later { error: "no answer".into(), after: None, busy: false });
    }
}
