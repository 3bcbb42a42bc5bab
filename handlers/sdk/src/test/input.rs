//! Records and requests for a bench, written in one expression.

use serde::Serialize;

use crate::Record;
use crate::http::Request;
use crate::record::Header;

/// A record of this topic: partition 0, offset 0, no timestamp, no key, no value, no headers.
///
/// ```
/// use tidemill_sdk::test::record;
///
/// let payment = record("payments").at(2, 41).with_key("7").with_json(&25);
/// assert_eq!((payment.topic.as_str(), payment.partition, payment.offset), ("payments", 2, 41));
/// ```
pub fn record(topic: impl Into<String>) -> Record {
    Record { topic: topic.into(), ..Record::default() }
}

impl Record {
    /// Where it lies, for [`test::record`](record).
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// let second = record("payments").at(0, 1);
    /// assert_eq!(second.offset, 1);
    /// ```
    #[must_use]
    pub fn at(mut self, partition: i32, offset: i64) -> Self {
        (self.partition, self.offset) = (partition, offset);
        self
    }

    /// Its key, for [`test::record`](record).
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// assert_eq!(record("payments").with_key("order-7").key_str(), Some("order-7"));
    /// ```
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Its value, for [`test::record`](record).
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// let broken = record("payments").with_value("{\"orderId\":");
    /// assert!(broken.json::<serde_json::Value>().is_err());
    /// ```
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Its value as JSON, for [`test::record`](record). Ends the test if that cannot be written.
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// let payment = record("payments").with_json(&serde_json::json!({ "orderId": 7 }));
    /// assert_eq!(payment.value.as_deref(), Some(br#"{"orderId":7}"#.as_slice()));
    /// ```
    #[must_use]
    #[track_caller]
    pub fn with_json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.with_value(json(value))
    }

    /// One more header, for [`test::record`](record).
    ///
    /// ```
    /// # use tidemill_sdk::test::record;
    /// assert_eq!(record("payments").with_header("tenant", "eu").header_str("tenant"), Some("eu"));
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(Header { name: name.into(), value: Some(value.into()) });
        self
    }
}

/// A request for [`Bench::call`](super::Bench::call).
///
/// ```
/// use tidemill_sdk::test::{Call, post};
///
/// /// What all tests of one file order.
/// fn order(user: &str, total: &str) -> Call {
///     post("/api/orders").user(user).json(&serde_json::json!({ "total": total }))
/// }
/// # use tidemill_sdk::test::{Bench, example::HANDLER};
/// assert_eq!(Bench::new(&HANDLER).call(order("ann", "25.00")).status, 201);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request goes nowhere until a bench is called with it"]
pub struct Call(Request);

/// A `GET` of this path, which may have a query.
///
/// ```
/// # use tidemill_sdk::test::{Bench, example::HANDLER, get};
/// assert_eq!(Bench::new(&HANDLER).call(get("/api/orders/404?verbose")).status, 404);
/// ```
pub fn get(path: &str) -> Call {
    request("GET", path)
}

/// A `POST` to this path, which may have a query.
///
/// ```
/// # use tidemill_sdk::test::{Bench, example::HANDLER, post};
/// assert_eq!(Bench::new(&HANDLER).call(post("/api/orders").json(&1)).status, 401);
/// ```
pub fn post(path: &str) -> Call {
    request("POST", path)
}

/// A request of any method.
///
/// ```
/// # use tidemill_sdk::test::{Bench, example::HANDLER, request};
/// assert_eq!(Bench::new(&HANDLER).call(request("DELETE", "/api/orders/7")).status, 405);
/// ```
pub fn request(method: &str, path: &str) -> Call {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_owned())));
    Call(Request { method: method.to_owned(), path: path.to_owned(), query, ..Request::default() })
}

impl Call {
    /// With a valid bearer token of this user.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, post};
    /// let anonymous = post("/api/orders").body(r#"{"total":"1.00"}"#);
    /// let mut bench = Bench::new(&HANDLER);
    /// assert_eq!(bench.call(anonymous.clone()).status, 401);
    /// assert_eq!(bench.call(anonymous.user("ann")).status, 201);
    /// ```
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.0.user = Some(user.into());
        self
    }

    /// With this header; the name in lower case.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, get};
    /// let call = get("/api/orders/7").header("accept-language", "ko");
    /// assert_eq!(Bench::new(&HANDLER).call(call).status, 404);
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, post};
    /// let call = post("/api/orders").user("ann").body("not JSON");
    /// assert_eq!(Bench::new(&HANDLER).call(call).status, 400);
    /// ```
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// With this body, as JSON. Ends the test if that cannot be written.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, post};
    /// let call = post("/api/orders").user("ann").json(&serde_json::json!({ "total": 25.00 }));
    /// assert_eq!(Bench::new(&HANDLER).call(call).status, 201);
    /// ```
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
