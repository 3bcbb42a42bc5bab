//! Records and requests for a bench, written in one expression.

use serde::Serialize;

use crate::Record;
use crate::http::Request;
use crate::record::Header;

/// A record of this topic: partition 0, offset 0, no timestamp, no key, no value, no headers.
pub fn record(topic: impl Into<String>) -> Record {
    Record { topic: topic.into(), ..Record::default() }
}

impl Record {
    /// Where it lies, for [`test::record`](record).
    #[must_use]
    pub fn at(mut self, partition: i32, offset: i64) -> Self {
        (self.partition, self.offset) = (partition, offset);
        self
    }

    /// Its key, for [`test::record`](record).
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Its value, for [`test::record`](record).
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Its value as JSON, for [`test::record`](record). Ends the test if that cannot be written.
    #[must_use]
    #[track_caller]
    pub fn with_json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.with_value(json(value))
    }

    /// One more header, for [`test::record`](record).
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(Header { name: name.into(), value: Some(value.into()) });
        self
    }
}

/// A request for [`Bench::call`](super::Bench::call).
#[derive(Clone, Debug)]
#[must_use = "a request goes nowhere until a bench is called with it"]
pub struct Call(Request);

/// A `GET` of this path, which may have a query.
pub fn get(path: &str) -> Call {
    request("GET", path)
}

/// A `POST` to this path, which may have a query.
pub fn post(path: &str) -> Call {
    request("POST", path)
}

/// A request of any method.
pub fn request(method: &str, path: &str) -> Call {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_owned())));
    Call(Request { method: method.to_owned(), path: path.to_owned(), query, ..Request::default() })
}

impl Call {
    /// With a valid bearer token of this user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.0.user = Some(user.into());
        self
    }

    /// With this header; the name in lower case.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// With this body, as JSON. Ends the test if that cannot be written.
    #[track_caller]
    pub fn json<T: Serialize + ?Sized>(self, body: &T) -> Self {
        self.header("content-type", "application/json").body(json(body))
    }

    /// As a handler would get it, were it routed.
    #[doc(hidden)]
    pub fn into_request(self) -> Request {
        self.0
    }
}

#[track_caller]
#[allow(clippy::panic, reason = "a test with such an input cannot go on")]
fn json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| panic!("no JSON can be made of the value: {error}"))
}
