//! `tm_request`: answers to HTTP requests that carried an `Idempotency-Key`.
//!
//! The answer commits with the request's effects, so that a client that asks again gets the same answer and no
//! second effect. Answers of 400 and more are not kept: nothing was done, and the client may try again. How old an
//! answer is, is told by the store's age, as it was noted last.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::encoding;
use crate::record::{Request, Response};
use crate::store::{Connection, Error, Value};

/// What makes two requests the same: method, path, query and body.
pub fn fingerprint(request: &Request) -> String {
    let mut hash = Sha256::new();
    let query = request.query.as_deref().unwrap_or_default();
    for part in [request.method.as_bytes(), request.path.as_bytes(), query.as_bytes(), &request.body] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    crate::id::hex(&hash.finalize())
}

/// The stored answer to a request with this key, and the fingerprint it was given for.
pub fn find(
    connection: &Connection,
    handler: &str,
    request: &Request,
    key: &str,
) -> Result<Option<(String, Response)>, Error> {
    let sql = "SELECT fingerprint, status, headers, body FROM main.tm_request
               WHERE handler = ?1 AND route = ?2 AND user = ?3 AND key = ?4";
    connection.first(sql, &scope(handler, request, key), |row| {
        let headers = encoding::read_headers(&row.text(2)?)?;
        let response = Response {
            status: u16::try_from(row.integer(1)?).unwrap_or(500),
            headers: headers.into_iter().map(|h| (h.name, h.value.unwrap_or_default())).collect(),
            body: row.opt_bytes(3)?.map(Bytes::from).unwrap_or_default(),
        };
        Ok((row.text(0)?, response))
    })
}

/// Keeps an answer.
pub fn insert(
    connection: &Connection,
    handler: &str,
    request: &Request,
    key: &str,
    response: &Response,
    now: i64,
) -> Result<(), Error> {
    let sql =
        "INSERT INTO main.tm_request (handler, route, user, key, fingerprint, status, headers, body, done_at, age)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,
                       coalesce((SELECT CAST(value AS INTEGER) FROM main.tm_meta WHERE key = 'age'), 0))";
    let headers = response.headers.iter().map(|(name, value)| (name.as_str(), Some(&value[..])));
    let mut params = Vec::from(scope(handler, request, key));
    params.extend([
        fingerprint(request).into(),
        i64::from(response.status).into(),
        encoding::write_pairs(headers).into(),
        Value::readable(&response.body),
        now.into(),
    ]);
    connection.execute(sql, &params).map(drop)
}

/// Removes up to `limit` answers that were given before the store was `age` old, the oldest first. `false` means that
/// there was none.
pub fn purge(connection: &Connection, age: i64, limit: i64) -> Result<bool, Error> {
    let sql = "DELETE FROM main.tm_request WHERE (handler, route, user, key) IN
               (SELECT handler, route, user, key FROM main.tm_request WHERE age < ?1 ORDER BY age LIMIT ?2)";
    Ok(connection.execute(sql, &[age.into(), limit.into()])? > 0)
}

fn scope(handler: &str, request: &Request, key: &str) -> [Value; 4] {
    let route = format!("{} {}", request.method, request.route);
    [handler.into(), route.into(), request.user.as_deref().unwrap_or_default().into(), key.into()]
}
