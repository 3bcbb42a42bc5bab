//! A handler's response on its way to the client.
//!
//! The body and the headers go out as the handler gave them, in its order, without those that only the host can
//! set: `content-length` and what concerns the connection. A body without `content-type` is
//! `application/octet-stream`: the host never guesses from the content. A response that HTTP cannot carry becomes a
//! 500, and a line for the operator.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::http::is_hop_by_hop;
use crate::http::problem::Problem;
use crate::http::routes::Target;
use crate::record::{self, Refusal};

/// Whether HTTP can carry a response. Whoever commits a delivery asks this first, so that a delivery whose response
/// cannot be sent fails as a whole.
///
/// # Errors
/// What is wrong, to follow "the handler's response has".
pub fn check(response: &record::Response) -> Result<(), String> {
    build(response.clone()).map(drop)
}

/// Turn a handler's response into what is sent.
pub(super) fn from_record(response: record::Response, target: &Target) -> Result<Response<Full<Bytes>>, Problem> {
    build(response).map_err(|what| {
        tracing::warn!(
            handler = %target.handler,
            method = target.route.method,
            route = target.route.path,
            "answered 500, because the handler's response has {what}"
        );
        Problem::from(Refusal::Failed)
    })
}

fn build(response: record::Response) -> Result<Response<Full<Bytes>>, String> {
    let status = match StatusCode::from_u16(response.status) {
        // An interim status cannot be the last word.
        Ok(status) if (200..=599).contains(&response.status) => status,
        _ => return Err(format!("the status {}, which is not one of 200 to 599", response.status)),
    };
    let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if empty { Bytes::new() } else { response.body };
    let mut built = Response::new(Full::new(body.clone()));
    *built.status_mut() = status;
    let headers = built.headers_mut();
    for (name, value) in response.headers {
        let parsed =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("the invalid header name {name:?}"))?;
        if parsed == CONTENT_LENGTH || is_hop_by_hop(parsed.as_str()) {
            continue;
        }
        let value =
            HeaderValue::from_maybe_shared(value).map_err(|_| format!("an invalid value of header {name:?}"))?;
        headers.try_append(parsed, value).map_err(|_| "too many headers".to_owned())?;
    }
    if !body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: &'static str) -> record::Response {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), Bytes::copy_from_slice(v.as_bytes()))).collect();
        record::Response { status, headers, body: Bytes::from(body) }
    }

    #[test]
    fn what_concerns_the_connection_is_left_out() {
        let headers = [
            ("set-cookie", "a=1"),
            ("Connection", "close"),
            ("content-length", "999"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "b=2"),
            ("content-type", "application/json"),
        ];
        let built = build(response(201, &headers, "{}")).unwrap();
        let left: Vec<_> = built.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(left, [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "application/json")]);
        assert_eq!(built.status(), 201);
    }

    #[test]
    fn a_body_without_a_type_is_bytes() {
        let built = build(response(200, &[], "{}")).unwrap();
        assert_eq!(built.headers()[CONTENT_TYPE], "application/octet-stream");
        assert!(build(response(200, &[], "")).unwrap().headers().is_empty());
        assert!(build(response(204, &[], "ignored")).unwrap().headers().is_empty());
    }

    #[test]
    fn what_http_cannot_carry_is_refused() {
        for (status, header, reason) in [
            (0, ("a", "b"), "status 0"),
            (99, ("a", "b"), "status 99"),
            (101, ("a", "b"), "status 101"),
            (600, ("a", "b"), "status 600"),
            (200, ("", "b"), "header name"),
            (200, ("a b", "b"), "header name"),
            (200, ("a\r\nx", "b"), "header name"),
            (200, ("x-a", "b\r\nx: y"), "value of header \"x-a\""),
            (200, ("x-a", "\0"), "value of header"),
        ] {
            let error = build(response(status, &[header], "")).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
