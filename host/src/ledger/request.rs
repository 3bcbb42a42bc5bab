//! `tm_request`: answers to HTTP requests that carried an `Idempotency-Key`.
//!
//! The answer commits with the request's effects, so that a client that asks again gets the same answer and no
//! second effect. Answers of 400 and more are not kept: nothing was done, and the client may try again. How old an
//! answer is, is told by the store's age, as it was noted last.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::encoding;
use crate::record::{Event, Request, Response};
use crate::store::{Connection, Error, Value};

/// What makes two requests the same: method, path, query and body, and what their headers say of the events that they publish.
pub fn fingerprint(request: &Request, events: &[Event]) -> String {
    let mut hash = Sha256::new();
    let mut part = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    let query = request.query.as_deref().unwrap_or_default();
    [request.method.as_bytes(), request.path.as_bytes(), query.as_bytes(), &request.body]
        .into_iter()
        .for_each(&mut part);
    for event in events {
        let due = event.due.map(|due| format!("{due:?}"));
        let said = [event.id.as_deref(), Some(&event.event_type), due.as_deref()].map(|text| text.map(str::as_bytes));
        let headers = event.headers.iter().flat_map(|header| [Some(header.name.as_bytes()), header.value.as_deref()]);
        said.into_iter().chain([event.key.as_deref()]).chain(headers).for_each(|said| {
            part(&[u8::from(said.is_some())]);
            part(said.unwrap_or_default());
        });
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
    fingerprint: String,
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
        fingerprint.into(),
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::record::{Due, Header};

    fn request(body: &'static str) -> Request {
        Request {
            method: "POST".into(),
            path: "/a".into(),
            route: "/a".into(),
            params: Vec::new(),
            query: Some("b=c".into()),
            headers: Vec::new(),
            body: Bytes::from_static(body.as_bytes()),
            user: None,
            idempotency_key: None,
            id: uuid::Uuid::nil(),
            deadline: Instant::now(),
        }
    }

    /// Answers are kept for a day or for ever, and asked for by another version of the host too.
    #[test]
    fn the_fingerprint_of_a_request_stays_what_it_was() {
        let known = "ad6c34cdf5a9e41b3869e8bc626d758f9910ac0ac3808a4a172654e7f61df969";
        assert_eq!(fingerprint(&request("body"), &[]), known);
        assert_ne!(fingerprint(&request("other"), &[]), known);
    }

    #[test]
    fn s1_3_whatever_is_said_of_an_event_makes_it_another() {
        let header = |name: &str, value| Header { name: name.into(), value };
        let plain = Event { event_type: "A".into(), ..Event::default() };
        let events = [
            plain.clone(),
            Event { event_type: "B".into(), ..plain.clone() },
            Event { id: Some("A".into()), ..plain.clone() },
            Event { key: Some(Bytes::new()), ..plain.clone() },
            Event { key: Some(Bytes::from("k")), ..plain.clone() },
            Event { headers: vec![header("k", None)], ..plain.clone() },
            Event { headers: vec![header("k", Some(Bytes::new()))], ..plain.clone() },
            Event { due: Some(Due::At(1)), ..plain.clone() },
            Event { due: Some(Due::After(1)), ..plain.clone() },
        ];
        let mut all: Vec<String> =
            events.iter().map(|event| fingerprint(&request("body"), std::slice::from_ref(event))).collect();
        all.push(fingerprint(&request("body"), &[]));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), events.len() + 1);
    }
}
