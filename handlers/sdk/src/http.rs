//! Requests and answers.
//!
//! A route's function takes a [`Request`] and returns a [`Response`] or a [`Problem`]; with a problem, as with every
//! status of 400 or more, the host drops what the delivery wrote. A `GET` sees the store read-only.
//!
//! ```
//! use tidemill_sdk::http::{Problem, Request, Response};
//! use tidemill_sdk::{params, sql};
//!
//! /// `"GET /api/orders/{id}" => show`
//! fn show(request: &Request) -> tidemill_sdk::http::Result {
//!     let id: i64 = request.param("id")?;
//!     let status: Option<String> = sql::query_optional("SELECT status FROM orders WHERE id = ?1", params![id])?;
//!     let status = status.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))?;
//!     Ok(Response::ok(&serde_json::json!({ "id": id, "status": status })))
//! }
//! ```

mod problem;

use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Answer;
pub use problem::Problem;

/// What the function of a route returns.
///
/// ```
/// use tidemill_sdk::http::{Request, Response};
///
/// fn whoami(request: &Request) -> tidemill_sdk::http::Result {
///     Ok(Response::ok(request.user()?))
/// }
/// assert!(whoami(&Request::default()).is_err());
/// ```
pub type Result = std::result::Result<Response, Problem>;

/// One request, already checked: its route exists, its token is valid where the route asks for one, and its body is
/// complete.
///
/// ```
/// use tidemill_sdk::http::Request;
///
/// // A handler is given requests; a test of one function may write its own.
/// let request = Request {
///     method: "GET".into(),
///     path: "/api/orders/7".into(),
///     route: "/api/orders/{id}".into(),
///     params: vec![("id".into(), "7".into())],
///     ..Request::default()
/// };
/// assert_eq!(request.param::<i64>("id"), Ok(7));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ... in upper case.
    pub method: String,
    /// The path as sent, without the query.
    pub path: String,
    /// The route's path as the manifest writes it, for example `/api/orders/{id}`.
    pub route: String,
    /// Names and percent-decoded values of the route's parameters.
    pub params: Vec<(String, String)>,
    /// The query without `?`, as sent.
    pub query: Option<String>,
    /// Names are lower case and may repeat.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// The subject of the bearer token, when the route asks for one.
    pub user: Option<String>,
}

impl Request {
    /// The body, read as JSON; what does not fit `T` is a 400.
    ///
    /// ```
    /// # use tidemill_sdk::http::{Request, Response};
    /// #[derive(serde::Deserialize)]
    /// struct Draft {
    ///     title: String,
    /// }
    ///
    /// let request = Request { body: br#"{"title":"Lamp"}"#.to_vec(), ..Request::default() };
    /// assert_eq!(request.json::<Draft>()?.title, "Lamp");
    /// let problem = Request::default().json::<Draft>().map_err(Response::from);
    /// assert!(problem.is_err_and(|response| response.status == 400));
    /// # Ok::<(), tidemill_sdk::http::Problem>(())
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> std::result::Result<T, Problem> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::bad_request(format!("the body is not the JSON that is expected: {error}")))
    }

    /// Who sends the request; 401 if the route asks for no token.
    ///
    /// ```
    /// # use tidemill_sdk::http::Request;
    /// let request = Request { user: Some("ann".into()), ..Request::default() };
    /// assert_eq!(request.user(), Ok("ann"));
    /// assert!(Request::default().user().is_err());
    /// ```
    pub fn user(&self) -> std::result::Result<&str, Problem> {
        self.user.as_deref().ok_or_else(|| Problem::unauthorized("this needs a bearer token"))
    }

    /// A parameter of the path as a `T`. What does not parse names nothing that exists: 404.
    ///
    /// ```
    /// # use tidemill_sdk::http::Request;
    /// let request = Request { params: vec![("id".into(), "7".into()), ("line".into(), "x".into())], ..Request::default() };
    /// assert_eq!(request.param::<i64>("id"), Ok(7));
    /// assert!(request.param::<u8>("line").is_err()); // 404: there is no line `x`
    /// ```
    pub fn param<T: FromStr>(&self, name: &str) -> std::result::Result<T, Problem> {
        let value = self.params.iter().find(|(param, _)| param == name).map(|(_, value)| value.as_str());
        let value =
            value.ok_or_else(|| Problem::internal(format!("route {} has no parameter `{name}`", self.route)))?;
        value.parse().map_err(|_| Problem::not_found(format!("there is no {name} `{value}`")))
    }

    /// The first value of a parameter of the query, decoded.
    ///
    /// ```
    /// # use tidemill_sdk::http::Request;
    /// let request = Request { query: Some("q=blue+lamp&tag=a%26b".into()), ..Request::default() };
    /// assert_eq!(request.query_param("q").as_deref(), Some("blue lamp"));
    /// assert_eq!(request.query_param("tag").as_deref(), Some("a&b"));
    /// ```
    pub fn query_param(&self, name: &str) -> Option<String> {
        let pairs = self.query.as_deref()?.split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| form_decode(key) == name).map(|(_, value)| form_decode(value))
    }

    /// A parameter of the query as a `T`, if it is there; 400 if it does not parse.
    ///
    /// ```
    /// # use tidemill_sdk::http::{Problem, Request};
    /// fn page(request: &Request) -> Result<u32, Problem> {
    ///     Ok(request.parse_query_param("page")?.unwrap_or(1))
    /// }
    /// let with = |query: &str| Request { query: Some(query.into()), ..Request::default() };
    /// assert_eq!((page(&with("page=3")), page(&with("size=9"))), (Ok(3), Ok(1)));
    /// assert!(page(&with("page=last")).is_err());
    /// ```
    pub fn parse_query_param<T: FromStr>(&self, name: &str) -> std::result::Result<Option<T>, Problem> {
        let value = self.query_param(name);
        let parsed = value.as_deref().map(T::from_str).transpose();
        parsed.map_err(|_| {
            Problem::bad_request(format!(
                "`{}` is no value for the query parameter `{name}`",
                value.unwrap_or_default()
            ))
        })
    }

    /// The first header of this name (in lower case), if it is text.
    ///
    /// ```
    /// # use tidemill_sdk::http::Request;
    /// let request = Request { headers: vec![("accept-language".into(), b"ko".to_vec())], ..Request::default() };
    /// assert_eq!(request.header("accept-language").unwrap_or("en"), "ko");
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// An answer.
///
/// ```
/// use tidemill_sdk::http::Response;
///
/// let csv = Response { body: b"id,total\n7,25.00\n".to_vec(), ..Response::new(200) };
/// assert_eq!(csv.header("content-type", "text/csv").headers.len(), 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 100 to 599.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A status, and nothing else.
    ///
    /// ```
    /// # use tidemill_sdk::http::Response;
    /// let deleted = Response::new(204);
    /// assert!(deleted.headers.is_empty() && deleted.body.is_empty());
    /// ```
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A body of `application/json`.
    ///
    /// ```
    /// # use tidemill_sdk::http::Response;
    /// let accepted = Response::json(202, &serde_json::json!({ "job": 41 }));
    /// assert_eq!((accepted.status, accepted.body.as_slice()), (202, br#"{"job":41}"#.as_slice()));
    /// ```
    pub fn json<T: Serialize + ?Sized>(status: u16, body: &T) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self { body, ..Self::new(status).header("content-type", "application/json") },
            Err(error) => Problem::internal(format!("the answer is no JSON: {error}")).into(),
        }
    }

    /// 200 with a body of `application/json`.
    ///
    /// ```
    /// # use tidemill_sdk::http::Response;
    /// #[derive(serde::Serialize)]
    /// struct Order {
    ///     id: i64,
    ///     status: &'static str,
    /// }
    ///
    /// let response = Response::ok(&[Order { id: 7, status: "PAID" }]);
    /// assert_eq!(response.body, br#"[{"id":7,"status":"PAID"}]"#);
    /// ```
    pub fn ok<T: Serialize + ?Sized>(body: &T) -> Self {
        Self::json(200, body)
    }

    /// 201 with the path of what was created and a body of `application/json`.
    ///
    /// ```
    /// # use tidemill_sdk::http::Response;
    /// let response = Response::created("/api/orders/8", &serde_json::json!({ "id": 8 }));
    /// assert_eq!((response.status, response.header_str("location")), (201, Some("/api/orders/8")));
    /// ```
    pub fn created<T: Serialize + ?Sized>(location: impl Into<String>, body: &T) -> Self {
        Self::json(201, body).header("location", location)
    }

    /// One more header; the name in lower case.
    ///
    /// ```
    /// # use tidemill_sdk::http::Response;
    /// let response = Response::ok("12 in stock").header("cache-control", "max-age=5");
    /// assert_eq!(response.header_str("cache-control"), Some("max-age=5"));
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into().into_bytes()));
        self
    }
}

/// Runs the function of the request's route.
pub(crate) fn answer(routes: &[(&str, Answer)], request: &Request) -> Response {
    let answer = routes.iter().find(|(route, _)| route.split_once(' ') == Some((&request.method, &request.route)));
    match answer {
        Some((_, answer)) => answer(request).unwrap_or_else(Response::from),
        None => Problem::internal(format!(
            "the manifest has the route `{} {}`, but handler! does not name it",
            request.method, request.route
        ))
        .into(),
    }
}

/// Decodes `application/x-www-form-urlencoded`; what is not well encoded stays as it is.
fn form_decode(text: &str) -> String {
    let mut bytes = text.as_bytes().iter();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match hex(bytes.as_slice()) {
                Some(byte) => {
                    bytes.nth(1);
                    byte
                }
                None => b'%',
            },
            byte => byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The byte that the first two digits stand for.
fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_decoded() {
        let request = Request { query: Some("a=1&name=%EC%A3%BC+%26&a=2&flag&%zz=%4".into()), ..Request::default() };
        let param = |name| request.query_param(name);
        assert_eq!(param("a").as_deref(), Some("1"));
        assert_eq!(param("name").as_deref(), Some("주 &"));
        assert_eq!(param("flag").as_deref(), Some(""));
        assert_eq!(param("%zz").as_deref(), Some("%4"));
        assert_eq!(param("b"), None);
        assert_eq!(request.parse_query_param::<u8>("a"), Ok(Some(1)));
        assert_eq!(request.parse_query_param::<u8>("b"), Ok(None));
        assert!(request.parse_query_param::<u8>("flag").is_err());
    }
}
