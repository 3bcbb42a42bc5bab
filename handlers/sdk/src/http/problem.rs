//! Answers that say what is wrong, as `application/problem+json` (RFC 9457).
//!
//! What a client may know is in the problem; what only the operator may know is in the log.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Response;
use crate::log::{self, Level};
use crate::{Failure, publisher, sql};

/// Why a request was not answered as asked. The host drops what the delivery wrote.
///
/// `?` makes one of other errors: a constraint of the store is a 409, a [`Failure`] a 422 if it rejects and a 503
/// otherwise, and everything else a 500 whose cause goes to the log only.
///
/// ```
/// use tidemill_sdk::http::{Problem, Request, Response};
/// use tidemill_sdk::{params, sql};
///
/// fn place(request: &Request) -> tidemill_sdk::http::Result {
///     let (id, total): (i64, u64) = request.json()?; // 400
///     if total == 0 {
///         return Err(Problem::unprocessable("an order has to cost something"));
///     }
///     sql::execute("INSERT INTO orders (id, user_id, total) VALUES (?1, ?2, ?3)", params![id, request.user()?, total.to_string()])?; // 409
///     Ok(Response::new(201))
/// }
/// # tidemill_sdk::test::example::run(|| {
/// # let mut request = Request { body: b"[7,1]".to_vec(), user: Some("ann".into()), ..Request::default() };
/// # assert_eq!(place(&request).map_err(Response::from).map_err(|response| response.status), Err(409));
/// # request.body = b"[8,1]".to_vec();
/// # assert!(place(&request).is_ok());
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Parts>);

/// In a box, so that a `Result` stays small where nothing is wrong.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    status: u16,
    title: String,
    detail: Option<String>,
    members: Map<String, Value>,
    headers: Vec<(String, String)>,
    /// For the operator's log.
    cause: Option<String>,
}

impl Problem {
    /// A status of 400 or more and a title, which is the same for every problem of its kind.
    ///
    /// ```
    /// # use tidemill_sdk::http::{Problem, Response};
    /// let sold_out = Problem::new(410, "Sold out").detail("the last one went at noon");
    /// assert_eq!(Response::from(sold_out).status, 410);
    /// ```
    pub fn new(status: u16, title: impl Into<String>) -> Self {
        let title = title.into();
        let (members, headers) = (Map::new(), Vec::new());
        Self(Box::new(Parts { status, title, detail: None, members, headers, cause: None }))
    }

    /// What is wrong this time.
    ///
    /// ```
    /// # use tidemill_sdk::http::{Problem, Response};
    /// let response = Response::from(Problem::new(402, "Payment Required").detail("the card has expired"));
    /// assert_eq!(response.body_json::<serde_json::Value>()["detail"], "the card has expired");
    /// ```
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// One more member of the JSON object.
    ///
    /// ```
    /// # use tidemill_sdk::http::{Problem, Response};
    /// let problem = Problem::unprocessable("two fields are wrong").with("fields", &["email", "total"]);
    /// assert_eq!(Response::from(problem).body_json::<serde_json::Value>()["fields"][1], "total");
    /// ```
    #[must_use]
    pub fn with<T: Serialize>(mut self, name: impl Into<String>, value: &T) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.0.members.insert(name.into(), value);
            }
            Err(error) => self.0.cause = Some(format!("a member of the problem is no JSON: {error}")),
        }
        self
    }

    /// 400
    ///
    /// ```
    /// # use tidemill_sdk::http::Problem;
    /// fn page(text: &str) -> Result<u32, Problem> {
    ///     text.parse().map_err(|error| Problem::bad_request(format!("page: {error}")))
    /// }
    /// assert!(page("three").is_err());
    /// ```
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "Bad Request").detail(detail)
    }

    /// 401
    ///
    /// ```
    /// # use tidemill_sdk::http::{Problem, Response};
    /// let response = Response::from(Problem::unauthorized("the webhook's signature does not fit"));
    /// assert_eq!((response.status, response.header_str("www-authenticate")), (401, Some("Bearer")));
    /// ```
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(401, "Unauthorized").detail(detail).header("www-authenticate", "Bearer")
    }

    /// 404
    ///
    /// ```
    /// # use tidemill_sdk::http::Problem;
    /// fn found(row: Option<String>, id: i64) -> Result<String, Problem> {
    ///     row.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))
    /// }
    /// assert!(found(None, 7).is_err());
    /// ```
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "Not Found").detail(detail)
    }

    /// 409
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::{http::{Problem, Response}, params, sql};
    /// let cancelled = sql::execute("UPDATE orders SET status = 'CANCELLED' WHERE id = 7 AND status = 'PAID'", params![])?;
    /// let answer = match cancelled {
    ///     0 => Problem::conflict("only a paid order can be cancelled").into(),
    ///     _ => Response::new(204),
    /// };
    /// assert_eq!(answer.status, 409);
    /// # Ok(()) });
    /// ```
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "Conflict").detail(detail)
    }

    /// 422
    ///
    /// ```
    /// # use tidemill_sdk::http::{Problem, Response};
    /// let refused = Problem::unprocessable("a coupon covers 100 % at most").with("percent", &120);
    /// assert_eq!(Response::from(refused).status, 422);
    /// ```
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(422, "Unprocessable Content").detail(detail)
    }

    /// 500. The cause is for the log; the client only learns that it was not its fault.
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::http::{Problem, Response};
    /// let response = Response::from(Problem::internal("order 7 has no user"));
    /// assert_eq!(response.status, 500);
    /// assert!(!String::from_utf8_lossy(&response.body).contains("order 7"));
    /// # Ok(()) });
    /// ```
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::new(500, "Internal Server Error").cause(cause)
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.headers.push((name.to_owned(), value.into()));
        self
    }

    fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }
}

impl From<Problem> for Response {
    fn from(Problem(problem): Problem) -> Self {
        if let Some(cause) = &problem.cause {
            log::write(Level::Error, cause);
        }
        let mut body = problem.members;
        body.insert("title".into(), problem.title.into());
        body.insert("status".into(), problem.status.into());
        body.extend(problem.detail.map(|detail| ("detail".to_owned(), Value::String(detail))));
        let response =
            Self { status: problem.status, headers: Vec::new(), body: Value::Object(body).to_string().into_bytes() };
        let response = response.header("content-type", "application/problem+json");
        problem.headers.into_iter().fold(response, |response, (name, value)| response.header(name, value))
    }
}

impl From<sql::Error> for Problem {
    fn from(error: sql::Error) -> Self {
        match error.kind {
            sql::ErrorKind::Constraint => {
                Self::conflict("what is stored already does not allow this").cause(error.message)
            }
            _ => Self::internal(error.message),
        }
    }
}

impl From<publisher::Error> for Problem {
    fn from(error: publisher::Error) -> Self {
        Self::internal(error.message)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Reject(why) => Self::unprocessable(why),
            Failure::Retry { message, after } | Failure::Unavailable { message, after } => {
                let problem = Self::new(503, "Service Unavailable").cause(message);
                match after {
                    // The header counts whole seconds; rounding up keeps the promise.
                    Some(after) => problem.header("retry-after", after.as_millis().div_ceil(1000).to_string()),
                    None => problem,
                }
            }
        }
    }
}
