//! Answers that the host gives by itself: `application/problem+json` (RFC 9457).
//!
//! A problem says what is wrong and what the client can do; it never tells about keys, files or other users.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use crate::http::jwt::Unauthorized;
use crate::http::rate::{By, TooOften};
use crate::http::routes::Missing;
use crate::record::{Fault, Refusal};

/// What a problem is written as.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// A problem as it is written (RFC 9457, 3.1).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Body<'p> {
    /// `about:blank`: the title says no more than the status.
    #[serde(rename = "type")]
    kind: Cow<'p, str>,
    /// The status in words.
    title: Cow<'p, str>,
    /// The status.
    status: u16,
    /// What is wrong, and what to do.
    detail: Cow<'p, str>,
    /// The path that was asked for, where the request could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<Cow<'p, str>>,
}

/// Why a request is not answered by a handler.
#[derive(Debug)]
pub(super) struct Problem {
    /// 400 to 599.
    pub(super) status: StatusCode,
    detail: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with its status and a sentence for the client.
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), header: None }
    }

    /// 400 with a sentence for the client.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 422: it could be read, and cannot be done.
    pub(super) fn unprocessable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 405: `allow` is the value of the header of that name.
    pub(super) fn method_not_allowed(allow: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allow}")).with(ALLOW, allow)
    }

    /// 403: the token is good, and not for this (RFC 6750, 3.1). `scope` is what it lacks, in plain ASCII without `"`.
    pub(super) fn insufficient_scope(scope: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        let challenge = format!(r#"Bearer realm="tidemill", error="insufficient_scope", scope="{scope}""#);
        Self::new(StatusCode::FORBIDDEN, detail).with(WWW_AUTHENTICATE, &challenge)
    }

    /// The problem as the response to a request for this path.
    pub(super) fn into_response(self, path: &str) -> Response<Full<Bytes>> {
        let status = self.status;
        let (headers, body) = self.written(Some(path));
        let mut response = Response::new(Full::new(Bytes::from(body)));
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        response
    }

    /// Its headers and its body. The path is that of the request, if one was read.
    pub(super) fn written(self, path: Option<&str>) -> (HeaderMap, Vec<u8>) {
        let body = Body {
            kind: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            detail: self.detail,
            instance: path.map(Cow::Borrowed),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.extend(self.header);
        (headers, serde_json::to_vec(&body).unwrap_or_default())
    }

    /// The same with one header; a value that no header can hold is left out.
    fn with(self, name: HeaderName, value: &str) -> Self {
        Self { header: HeaderValue::from_str(value).ok().map(|value| (name, value)), ..self }
    }
}

impl From<Missing> for Problem {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Path => Self::new(StatusCode::NOT_FOUND, "no handler has a route for this path"),
            Missing::Method { allow } => Self::method_not_allowed(&allow),
            Missing::Encoding { name } => {
                Self::bad_request(format!("the value of `{name}` in the path is not percent-encoded UTF-8"))
            }
        }
    }
}

impl From<TooOften> for Problem {
    fn from(too_often: TooOften) -> Self {
        let detail = match too_often.by {
            By::Address => "too many requests come from this address",
            By::User => "this user makes too many requests",
            By::Logins => "this address has sent too many tokens that are not good",
        };
        // A part of a second is waited for as a whole one.
        let seconds = too_often.wait.as_millis().div_ceil(1_000).max(1);
        let detail = format!("{detail}: come again in {seconds} s");
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail).with(RETRY_AFTER, &seconds.to_string())
    }
}

impl From<Unauthorized> for Problem {
    fn from(unauthorized: Unauthorized) -> Self {
        let challenge = match unauthorized {
            Unauthorized::NoKeys => {
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, unauthorized.to_string());
                return problem.with(RETRY_AFTER, "5");
            }
            // RFC 6750, 3.1: no error code where the client sent no token at all.
            Unauthorized::NoToken => r#"Bearer realm="tidemill""#.to_owned(),
            Unauthorized::Invalid(why) => {
                format!(r#"Bearer realm="tidemill", error="invalid_token", error_description="{why}""#)
            }
        };
        Self::new(StatusCode::UNAUTHORIZED, unauthorized.to_string()).with(WWW_AUTHENTICATE, &challenge)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, retry_after) = match &refusal {
            Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, None),
            Refusal::Unpublished(unpublished) => (unpublished_status(unpublished.fault), None),
            Refusal::Gone => (StatusCode::NOT_FOUND, None),
            Refusal::StillRunning => (StatusCode::CONFLICT, None),
            Refusal::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, None),
            Refusal::Failed => (StatusCode::INTERNAL_SERVER_ERROR, None),
            Refusal::Busy | Refusal::Resting => (StatusCode::SERVICE_UNAVAILABLE, Some("1")),
            Refusal::OutboxFull | Refusal::NotSent | Refusal::StoreUnavailable | Refusal::Stopping => {
                (StatusCode::SERVICE_UNAVAILABLE, Some("5"))
            }
            Refusal::Expired => (StatusCode::GATEWAY_TIMEOUT, None),
        };
        let problem = Self::new(status, refusal.to_string());
        match retry_after {
            Some(seconds) => problem.with(RETRY_AFTER, seconds),
            None => problem,
        }
    }
}

fn unpublished_status(fault: Fault) -> StatusCode {
    match fault {
        Fault::Destination => StatusCode::NOT_FOUND,
        Fault::Duplicate => StatusCode::CONFLICT,
        Fault::Size => StatusCode::PAYLOAD_TOO_LARGE,
        Fault::Envelope | Fault::Id | Fault::Due => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
