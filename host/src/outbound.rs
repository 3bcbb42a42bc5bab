//! HTTP calls that handlers make to services outside, while nothing of theirs runs and no transaction is open.
//!
//! Its invariant: a call goes to an origin that the handler was granted and to no other, so redirects are answers; it ends within
//! its tries and their time limits, and its answer is no larger than the limit. It knows nothing of deliveries.

pub mod recorded;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use sha2::{Digest, Sha256};

use crate::policy::Backoff;
use crate::record::Response;
use crate::trace::{self, Place};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// `[outbound]` of a handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `timeout`: how long one try may take.
    pub timeout: Duration,
    /// `max-attempts`: how often a call is tried in all.
    pub max_attempts: u32,
    /// `backoff`: the wait between two tries.
    pub backoff: Backoff,
    /// `retry-status`: answers that are asked for again.
    pub retry_status: Vec<u16>,
    /// `body-limit`: the largest body of an answer, in bytes.
    pub body_limit: usize,
    /// `max-calls`: calls that one delivery may make.
    pub max_calls: usize,
    /// `[grant] http`: where calls may go.
    pub origins: Vec<Origin>,
}

impl Default for Settings {
    fn default() -> Self {
        let interval = Duration::from_millis(200);
        Self {
            timeout: Duration::from_secs(10),
            max_attempts: 3,
            backoff: Backoff { interval, factor: 2.0, max: Duration::from_secs(5), jitter: 0.2 },
            retry_status: vec![429, 502, 503, 504],
            body_limit: 1 << 20,
            max_calls: 16,
            origins: Vec::new(),
        }
    }
}

/// Scheme, host and port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Reads `http://host`, `https://host:8443`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad =
            || format!("\"{text}\" is not an origin; write it like \"https://payments.example.com\", without a path");
        let url = Url::parse(text).map_err(|_| bad())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && !text.contains('@');
        // A star is a host's name like any other, and would be taken for more.
        let http = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.contains('*'));
        if bare && http { Ok(Self(url.origin().ascii_serialization())) } else { Err(bad()) }
    }

    /// As it is written: `https://host:8443`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One call, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
    /// Tells it from another call: the same for the same request.
    pub fingerprint: [u8; 32],
    /// Its own span and the one above it, where its trace is recorded.
    pub span: Option<(trace::Context, trace::Context)>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// What kind of reason.
    pub kind: CallErrorKind,
    /// For people.
    pub message: String,
}

/// What kind of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// The request cannot be sent.
    Request,
    /// Its origin was not granted.
    Denied,
    /// The answer is too large.
    Limit,
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
}

/// What became of a call.
pub type Answer = Result<Response, CallError>;

/// A request as the handler makes it.
pub struct Request {
    /// In upper case.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long one try may take.
    pub timeout: Option<Duration>,
}

impl Call {
    /// Checks a request. `idempotency_key` is sent along, made of the request's fingerprint, unless the request names one.
    ///
    /// # Errors
    /// What is wrong with it, or that its origin was not granted.
    pub fn new(
        settings: &Settings,
        request: Request,
        idempotency_key: impl FnOnce(&[u8; 32]) -> String,
    ) -> Result<Self, CallError> {
        let refuse = |message: String| CallError { kind: CallErrorKind::Request, message };
        let url = Url::parse(&request.url).map_err(|error| refuse(format!("{} is not a URL: {error}", request.url)))?;
        let origin = Origin(url.origin().ascii_serialization());
        if !settings.origins.contains(&origin) {
            let message = format!("{} is not granted: add it to `http` under [grant]", origin.0);
            return Err(CallError { kind: CallErrorKind::Denied, message });
        }
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| refuse(format!("\"{}\" is not a method", request.method)))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let pair = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_bytes(value).ok());
            let (name, value) =
                pair.ok_or_else(|| refuse(format!("\"{name}\" is not a header that HTTP can carry")))?;
            headers.append(name, value);
        }
        let fingerprint = fingerprint(&request);
        if !headers.contains_key("idempotency-key")
            && let Ok(key) = HeaderValue::from_str(&idempotency_key(&fingerprint))
        {
            headers.insert("idempotency-key", key);
        }
        let timeout = request.timeout.unwrap_or(settings.timeout).min(settings.timeout);
        Ok(Self { method, url, headers, body: request.body.into(), timeout, fingerprint, span: None })
    }

    /// Goes out as a part of the delivery's trace, unless it names one itself. That is no part of its fingerprint.
    pub fn carry(mut self, place: &Place) -> Self {
        let Some(current) = place.current() else { return self };
        self.span = place.recorded().map(|(own, _)| (own.child(&self.fingerprint), own));
        if !self.headers.contains_key(trace::PARENT) {
            for (name, value) in place.headers(self.span.map_or(current, |(span, _)| span)) {
                if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                    self.headers.insert(name, value);
                }
            }
        }
        self
    }

    /// The host that it goes to.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// Where it goes.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// In upper case.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Names in lower case and values, those of the host's own included.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

fn fingerprint(request: &Request) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(request.method.as_bytes());
    part(request.url.as_bytes());
    part(&request.body);
    for (name, value) in &request.headers {
        part(name.as_bytes());
        part(value);
    }
    hash.finalize().into()
}

/// Stands for all services: what becomes of one try of a call.
pub type Script = Arc<dyn Fn(&Call) -> Answer + Send + Sync>;

/// Makes calls. A clone shares connections with the others.
#[derive(Clone)]
pub struct Outbound {
    way: Way,
}

#[derive(Clone)]
enum Way {
    Http { client: Client, runtime: tokio::runtime::Handle },
    Script(Script),
}

impl Outbound {
    /// Calls are made on this runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> Result<Self> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("set up the HTTP client")?;
        Ok(Self { way: Way::Http { client, runtime } })
    }

    /// No call leaves the process, and none waits between its tries: for a rig.
    pub fn scripted(script: Script) -> Self {
        Self { way: Way::Script(script) }
    }

    /// Makes a call beside everything else; `then` is given what became of it. `dice`, from 0 to 1, is for jitter.
    pub fn call(&self, call: Call, settings: Settings, dice: f64, then: impl FnOnce(Answer) + Send + 'static) {
        let (client, runtime) = match &self.way {
            Way::Http { client, runtime } => (client.clone(), runtime),
            Way::Script(script) => {
                let mut tries = (1..=settings.max_attempts).map(|attempt| (attempt, limited(script, &call, &settings)));
                if let Some((_, answer)) = tries.find(|(attempt, answer)| !settings.tries_again(*attempt, answer)) {
                    then(answer);
                }
                return;
            }
        };
        runtime.spawn(async move {
            let mut attempt = 1;
            let answer = loop {
                let answer = once(&client, &call, settings.body_limit).await;
                if !settings.tries_again(attempt, &answer) {
                    break answer;
                }
                tokio::time::sleep(settings.backoff.wait(attempt, dice)).await;
                attempt += 1;
            };
            then(answer);
        });
    }
}

impl Outbound {
    /// Makes one try of a call. Of the answer's body no more than `most` bytes are looked at; what is wrong with it does not change
    /// what the answer's status says.
    pub fn once(&self, call: Call, most: usize, then: impl FnOnce(Answer) + Send + 'static) {
        match &self.way {
            Way::Script(script) => then(script(&call)),
            Way::Http { client, runtime } => {
                let client = client.clone();
                runtime.spawn(async move {
                    then(match send(&client, &call).await {
                        Ok(mut response) => {
                            let mut body = BytesMut::new();
                            while body.len() < most
                                && let Ok(Some(chunk)) = response.chunk().await
                            {
                                body.extend_from_slice(&chunk);
                            }
                            body.truncate(most);
                            Ok(answer(&response, body))
                        }
                        Err(error) => Err(failed(&call, &error)),
                    });
                });
            }
        }
    }
}

impl Settings {
    fn tries_again(&self, attempt: u32, answer: &Answer) -> bool {
        let passes = match answer {
            Ok(response) => !self.retry_status.contains(&response.status),
            Err(error) => !matches!(error.kind, CallErrorKind::Timeout | CallErrorKind::Unreachable),
        };
        !passes && attempt < self.max_attempts
    }
}

/// What a script answers, unless that is too large.
fn limited(script: &Script, call: &Call, settings: &Settings) -> Answer {
    script(call).and_then(|response| match response.body.len() > settings.body_limit {
        true => Err(too_large(call, settings.body_limit)),
        false => Ok(response),
    })
}

fn too_large(call: &Call, body_limit: usize) -> CallError {
    let message =
        format!("{} {}: the answer has more than {body_limit} bytes (outbound.body-limit)", call.method, call.url);
    CallError { kind: CallErrorKind::Limit, message }
}

async fn once(client: &Client, call: &Call, body_limit: usize) -> Answer {
    let failed = |error| failed(call, &error);
    let mut response = send(client, call).await.map_err(failed)?;
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > body_limit {
            return Err(too_large(call, body_limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(answer(&response, body))
}

async fn send(client: &Client, call: &Call) -> reqwest::Result<reqwest::Response> {
    let request = client
        .request(call.method.clone(), call.url.clone())
        .headers(call.headers.clone())
        .body(call.body.clone())
        .timeout(call.timeout);
    request.send().await
}

fn failed(call: &Call, error: &reqwest::Error) -> CallError {
    let kind = if error.is_timeout() { CallErrorKind::Timeout } else { CallErrorKind::Unreachable };
    let timeout = call.timeout;
    let reason = if error.is_timeout() { format!("no answer within {timeout:?}") } else { causes(error) };
    CallError { kind, message: format!("{} {}: {reason}", call.method, call.url) }
}

fn answer(response: &reqwest::Response, body: BytesMut) -> Response {
    let headers = response.headers().iter();
    Response {
        status: response.status().as_u16(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        body: body.freeze(),
    }
}

/// An error's innermost cause: the outer ones only say that the request was sent.
fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(origins: &[&str], method: &str, url: &str, header: &str) -> Result<Call, CallErrorKind> {
        let origins = origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect();
        let settings = Settings { origins, ..Settings::default() };
        let headers = vec![(header.to_owned(), b"v".to_vec())];
        let request = Request {
            method: method.into(),
            url: url.into(),
            headers,
            body: vec![],
            timeout: Some(Duration::from_secs(99)),
        };
        Call::new(&settings, request, |_| "k".into()).map_err(|error| error.kind)
    }

    #[test]
    fn h5_a_call_goes_where_it_was_granted_and_nowhere_else() {
        let granted = ["https://a.example", "http://b.example:8080"];
        for good in ["https://a.example/x?y", "https://A.EXAMPLE:443/", "http://b.example:8080/z"] {
            assert!(call(&granted, "POST", good, "h").is_ok(), "{good}");
        }
        for bad in [
            "http://a.example/",
            "https://a.example:444/",
            "https://b.example:8080/",
            "http://b.example/",
            "https://x.a.example/",
            "https://a.example.evil/",
            "https://a.example@evil/",
            "file:///etc/passwd",
            "data:,x",
        ] {
            assert_eq!(call(&granted, "GET", bad, "h"), Err(CallErrorKind::Denied), "{bad}");
        }
        assert_eq!(call(&granted, "GET", "a.example", "h"), Err(CallErrorKind::Request));
        assert_eq!(call(&granted, "G T", "https://a.example", "h"), Err(CallErrorKind::Request));
        assert_eq!(call(&granted, "GET", "https://a.example", "h h"), Err(CallErrorKind::Request));
        assert_eq!(call(&granted, "GET", "https://a.example", "h").unwrap().timeout, Settings::default().timeout);
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        for good in ["https://a.example", "http://127.0.0.1:80", "https://[::1]:8443/"] {
            assert!(Origin::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a.example",
            "ftp://a.example",
            "https://a.example/path",
            "https://u@a.example",
            "https://:p@a.example",
            "https://@a.example",
            "https://a.example?q",
            "https://*",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }
}
