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
    pub fn new(status: u16, title: impl Into<String>) -> Self {
        let title = title.into();
        let (members, headers) = (Map::new(), Vec::new());
        Self(Box::new(Parts { status, title, detail: None, members, headers, cause: None }))
    }

    /// What is wrong this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// One more member of the JSON object.
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
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "Bad Request").detail(detail)
    }

    /// 401
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(401, "Unauthorized").detail(detail).header("www-authenticate", "Bearer")
    }

    /// 404
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "Not Found").detail(detail)
    }

    /// 409
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "Conflict").detail(detail)
    }

    /// 422
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(422, "Unprocessable Content").detail(detail)
    }

    /// 500. The cause is for the log; the client only learns that it was not its fault.
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
