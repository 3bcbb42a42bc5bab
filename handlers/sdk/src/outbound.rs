//! HTTP calls to services outside: ask first, then write.
//!
//! A delivery may call only before it has written or enqueued anything. At a call the host sets the delivery aside, lets others
//! pass, and runs it again from its start once the answer is there; then the same call returns at once. So keep what comes before a
//! call free of effects, which is what a handler's rules ask for anyway. Where may be called stands in the manifest:
//!
//! ```toml
//! [grant]
//! http = ["https://payments.example.com"]
//! ```
//!
//! ```
//! # tidemill_sdk::test::example::run(|| {
//! use tidemill_sdk::{outbound::Request, params, sql};
//!
//! let charge = Request::post("https://payments.example.com/charges").json(&serde_json::json!({ "order": 7 }));
//! charge.send()?.success()?;
//! sql::execute("UPDATE orders SET status = 'PAID' WHERE id = 7", params![])?;
//! # Ok(()) });
//! ```

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, host};

/// A request to a service.
///
/// ```
/// use tidemill_sdk::{Failure, delivery, outbound::Request, params, sql};
///
/// #[derive(serde::Deserialize)]
/// struct Receipt {
///     number: String,
/// }
///
/// fn pay(order: i64) -> Result<(), Failure> {
///     let charge = Request::post("https://payments.example.com/charges").json(&serde_json::json!({ "order": order }));
///     let receipt: Receipt = charge.send()?.success()?.json()?;
///     sql::execute(
///         "INSERT INTO payments SELECT ?1, id, total, ?2 FROM orders WHERE id = ?3",
///         params![receipt.number, delivery::now(), order],
///     )?;
///     Ok(())
/// }
/// # tidemill_sdk::test::example::run(|| pay(7));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a request goes nowhere until it is sent"]
pub struct Request {
    /// In upper case.
    pub method: String,
    /// Absolute, with a scheme.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long one try may take, if less than the manifest's `outbound.timeout`.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A request without headers and body.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::Request;
    /// let answer = Request::new("DELETE", "https://payments.example.com/cards/3").send()?;
    /// assert_eq!(answer.status, 404);
    /// # Ok(()) });
    /// ```
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// `GET`
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::Request;
    /// let answer = Request::get("https://payments.example.com/charges").header("accept", "application/json").send()?;
    /// assert_eq!(answer.status, 200);
    /// # Ok(()) });
    /// ```
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// `POST`
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::Request;
    /// let answer = Request::post("https://payments.example.com/charges").body("order=7").send()?;
    /// assert_eq!(answer.status, 200);
    /// # Ok(()) });
    /// ```
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// One more header.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::{config, outbound::Request};
    /// let key = config::secret("payment-key")?;
    /// let request = Request::post("https://payments.example.com/charges");
    /// request.header("authorization", format!("Bearer {}", key.expose())).send()?.success()?;
    /// # Ok(()) });
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body.
    ///
    /// ```
    /// # use tidemill_sdk::outbound::Request;
    /// let form = Request::post("https://payments.example.com/charges")
    ///     .header("content-type", "application/x-www-form-urlencoded")
    ///     .body("order=7&amount=25.00");
    /// assert_eq!(form.body.len(), 20);
    /// ```
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The body, as JSON.
    ///
    /// ```
    /// # use tidemill_sdk::outbound::Request;
    /// let request = Request::post("https://payments.example.com/charges").json(&[7, 8]);
    /// assert_eq!(request.body, b"[7,8]");
    /// assert_eq!(request.headers[0].1, b"application/json");
    /// ```
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        // What serde_json cannot write, a map with keys that are no text, is sent as nothing and refused there.
        let body = serde_json::to_vec(value).unwrap_or_default();
        self.header("content-type", "application/json").body(body)
    }

    /// How long one try may take.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::Request;
    /// use std::time::Duration;
    ///
    /// Request::get("https://payments.example.com/charges").timeout(Duration::from_millis(800)).send()?.success()?;
    /// # Ok(()) });
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls, and returns the answer, whatever its status.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::{ErrorKind, Request};
    /// let refused = Request::get("https://elsewhere.example.com/").send().unwrap_err();
    /// assert_eq!(refused.kind, ErrorKind::Denied); // [grant] does not name it
    /// # Ok(()) });
    /// ```
    pub fn send(self) -> Result<Response, Error> {
        host::call(self)
    }
}

/// What a service answered.
///
/// ```
/// use tidemill_sdk::outbound::Response;
///
/// // A service that stands in a test.
/// let busy = Response { status: 503, body: b"later".to_vec(), ..Response::default() };
/// assert!(busy.success().is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Redirects are answers too, and are not followed.
    pub status: u16,
    /// Lower-case names, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name (in lower case), as text.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::Request;
    /// let answer = Request::get("https://payments.example.com/charges").send()?;
    /// assert_eq!(answer.header("content-type"), Some("application/json"));
    /// # Ok(()) });
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The body, read as JSON.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::outbound::Request;
    /// #[derive(serde::Deserialize)]
    /// struct Receipt {
    ///     number: String,
    /// }
    ///
    /// let receipt: Receipt = Request::get("https://payments.example.com/charges").send()?.success()?.json()?;
    /// assert_eq!(receipt.number, "r-1");
    /// # Ok(()) });
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::retry(format!("the service's answer is not the JSON that is expected: {error}")))
    }

    /// The answer, if its status is 2xx. What the service is not able to do now (408, 425, 429 and 5xx) is
    /// [`Failure::Unavailable`], and everything else [`Failure::Reject`].
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, outbound::Response};
    /// let answered = |status| Response { status, ..Response::default() }.success();
    /// assert!(answered(201).is_ok());
    /// assert!(matches!(answered(429), Err(Failure::Unavailable { .. })));
    /// assert!(matches!(answered(403), Err(Failure::Reject(_))));
    /// ```
    pub fn success(self) -> Result<Self, Failure> {
        let said = || format!("the service answered {}: {}", self.status, String::from_utf8_lossy(&self.body));
        match self.status {
            200..=299 => Ok(self),
            408 | 425 | 429 | 500..=599 => Err(Failure::unavailable(said())),
            _ => Err(Failure::reject(said())),
        }
    }
}

/// Why there is no answer.
///
/// ```
/// # use tidemill_sdk::{Failure, outbound::{Error, ErrorKind}};
/// let lost = Error { kind: ErrorKind::Unreachable, message: "connection refused".into() };
/// assert_eq!(Failure::from(lost), Failure::unavailable("connection refused"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of reason.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// What kind of reason.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{outbound::{ErrorKind, Request}, params, sql};
/// sql::execute("UPDATE orders SET status = 'CHARGING' WHERE id = 7", params![])?;
/// let late = Request::post("https://payments.example.com/charges").send();
/// assert!(late.is_err_and(|error| error.kind == ErrorKind::Late)); // call first, then write
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request cannot be sent: its method, URL or headers are not right.
    Request,
    /// The manifest's `[grant]` does not name this host.
    Denied,
    /// The delivery has written or enqueued something already.
    Late,
    /// A request that only reads cannot call.
    ReadOnly,
    /// Too many calls, or an answer that is too large.
    Limit,
    /// No answer in time, after all tries.
    Timeout,
    /// No connection, or one that broke, after all tries.
    Unreachable,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Failure {
    /// A service that cannot be reached is [`Failure::Unavailable`]; what would fail again is rejected.
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::Timeout | ErrorKind::Unreachable => Self::unavailable(error),
            ErrorKind::Limit => Self::retry(error),
            ErrorKind::Request | ErrorKind::Denied | ErrorKind::Late | ErrorKind::ReadOnly => Self::reject(error),
        }
    }
}
