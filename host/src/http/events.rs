//! `POST /events/HANDLER/DESTINATION`: an event that a service publishes in a handler's name.
//!
//! The body is its value, byte for byte; the rest is said by the query or by headers, under the names that an event has where it
//! leaves by HTTP. What cannot be understood is refused: an event without its key is another one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::deploy::manifest::Endpoint;
use crate::http::routes::decode;
use crate::ledger::outbox;
use crate::record::{Due, Event, Fault, Header, Refusal, Request, Response, Unpublished};
use crate::settings::units;

/// What can be said of an event: by the query, or by the header of the same name behind `event-`.
const NAMES: [&str; 6] = ["key", "type", "version", "id", "delay", "at"];
const PREFIX: &str = "event-";
/// What stands behind that in the name of a header that the event itself is to have.
const OWN: &str = "header-";
/// Ends the name of a header whose value is in base64.
const BINARY: &str = "-bin";
/// The header of an event with the version of its schema.
pub(super) const VERSION: &str = "event-version";

/// Reads the event of a request to an endpoint, of which these destinations are open.
///
/// # Errors
/// The destination is not open; or what the request says of the event cannot be read.
pub fn read(request: &Request, open: &[String]) -> Result<Event, Refusal> {
    let asked = request.params.iter().find(|(name, _)| name == Endpoint::DESTINATION);
    let destination = asked.map(|(_, value)| value.clone()).unwrap_or_default();
    if !open.contains(&destination) {
        let message = format!("there is no destination `{destination}` here; there is {}", open.join(", "));
        return Err(Unpublished { fault: Fault::Destination, message }.into());
    }
    let (mut said, mut headers) = said(request)?;
    let mut text = |name: &str| match said.remove(name).map(|value| String::from_utf8(value.into())) {
        Some(Err(_)) => Err(malformed(format!("the event's {name} is not UTF-8"))),
        Some(Ok(text)) => Ok(Some(text)),
        None => Ok(None),
    };
    let (id, event_type, version) = (text("id")?, text("type")?.unwrap_or_default(), text("version")?);
    let due = due(text("delay")?.as_deref(), text("at")?.as_deref()).map_err(malformed)?;
    headers.extend(version.map(|version| Header { name: VERSION.to_owned(), value: Some(version.into()) }));
    let (key, value) = (said.remove("key"), Some(request.body.clone()));
    Ok(Event { destination, id, event_type, key, value, headers, due })
}

/// When an event is due, by a delay like `30s` or a time like `2026-01-31T12:00:00Z`.
///
/// # Errors
/// What is wrong, for people.
pub fn due(delay: Option<&str>, at: Option<&str>) -> Result<Option<Due>, String> {
    match (delay, at) {
        (None, None) => Ok(None),
        (Some(delay), None) => {
            let delay = units::duration(delay).map_err(|wrong| format!("the event's delay: {wrong}"))?;
            Ok(Some(Due::After(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))))
        }
        (None, Some(at)) => match units::time(at) {
            Some(time) => Ok(Some(Due::At(time))),
            None => Err(format!("the event's time {at:?} is none; write it like \"2026-01-31T12:00:00Z\"")),
        },
        (Some(_), Some(_)) => Err("an event has a delay or a time, and not both".to_owned()),
    }
}

/// The answer once the event is in the outbox.
pub fn accepted(events: &[outbox::Event]) -> Response {
    let body = serde_json::json!({ "eventId": events.first().map(|event| &event.event_id) });
    let json = ("content-type".to_owned(), Bytes::from_static(b"application/json"));
    Response { status: 202, headers: vec![json], body: body.to_string().into() }
}

fn malformed(what: String) -> Refusal {
    Refusal::Malformed(what)
}

/// What the request says under each of the names, and the event's own headers.
fn said(request: &Request) -> Result<(BTreeMap<&'static str, Bytes>, Vec<Header>), Refusal> {
    let (mut said, mut headers) = (BTreeMap::new(), Vec::new());
    let known = |name: &str| NAMES.into_iter().find(|known| *known == name);
    let mut say = |name: &'static str, value: Bytes| match said.insert(name, value) {
        Some(_) => Err(malformed(format!("the event's {name} is said twice, by the query or a header"))),
        None => Ok(()),
    };
    for part in request.query.as_deref().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = known(name)
            .ok_or_else(|| malformed(format!("`{name}` is not known in the query; it takes {}", NAMES.join(", "))))?;
        // Forms write a blank so.
        let value = decode(&value.replace('+', " "))
            .ok_or_else(|| malformed(format!("the value of `{name}` in the query is not percent-encoded UTF-8")))?;
        say(name, value.into())?;
    }
    for (header, value) in &request.headers {
        let Some(name) = header.strip_prefix(PREFIX) else { continue };
        let (name, value) = match name.strip_suffix(BINARY) {
            Some(name) => {
                let decoded = BASE64.decode(value).map_err(|_| malformed(format!("{header} is not base64")))?;
                (name, Bytes::from(decoded))
            }
            None => (name, value.clone()),
        };
        if let Some(name) = name.strip_prefix(OWN) {
            headers.push(Header { name: name.to_owned(), value: Some(value) });
        } else if let Some(name) = known(name) {
            say(name, value)?;
        }
    }
    Ok((said, headers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(query: &str, headers: &[(&str, &str)]) -> Result<Event, String> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let request = Request {
            method: "POST".into(),
            path: "/events/shop/orders".into(),
            route: "/events/shop/{destination}".into(),
            params: vec![("destination".into(), "orders".into())],
            query: Some(query.into()),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), bytes(value))).collect(),
            body: bytes("{}"),
            user: None,
            idempotency_key: None,
            id: uuid::Uuid::nil(),
            deadline: std::time::Instant::now(),
        };
        super::read(&request, &["orders".to_owned()]).map_err(|refusal| refusal.to_string())
    }

    fn header(name: &str, value: &str) -> Header {
        Header { name: name.into(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
    }

    #[test]
    fn s1_3_an_event_is_said_by_the_query_or_by_headers() {
        let expected = Event {
            destination: "orders".into(),
            id: Some("e 1".into()),
            event_type: "주문".into(),
            key: Some(Bytes::from("k+1")),
            value: Some(Bytes::from("{}")),
            headers: vec![header("trace", "00-a"), header("event-version", "2")],
            due: Some(Due::After(30_000)),
        };
        let trace = ("event-header-trace", "00-a");
        let by_query = read("key=k%2B1&type=%EC%A3%BC%EB%AC%B8&&version=2&id=e+1&delay=30s", &[trace]);
        assert_eq!(by_query, Ok(expected.clone()));
        // As an event leaves by HTTP.
        let by_headers = [
            ("event-key-bin", "aysx"),
            ("event-type-bin", "7KO866y4"),
            ("event-version", "2"),
            ("event-id", "e 1"),
            ("event-delay", "30s"),
            ("event-topic", "order-events"),
            ("content-type", "application/json"),
            trace,
        ];
        assert_eq!(read("", &by_headers), Ok(expected));
        let at = read("at=2026-01-31T10:10:00.123Z", &[]).unwrap();
        assert_eq!((at.due, at.key, at.id), (Some(Due::At(1_769_854_200_123)), None, None));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for (query, headers, says) in [
            ("typ=A", &[][..], "`typ` is not known in the query; it takes key, type, version, id, delay, at"),
            ("key=%FF", &[], "not percent-encoded UTF-8"),
            ("key=%2", &[], "not percent-encoded UTF-8"),
            ("key=1&key=2", &[], "the event's key is said twice"),
            ("key=1", &[("event-key", "1")], "the event's key is said twice"),
            ("", &[("event-key-bin", "*")], "event-key-bin is not base64"),
            ("", &[("event-type-bin", "/w==")], "the event's type is not UTF-8"),
            ("delay=30", &[], "the event's delay"),
            ("at=tomorrow", &[], "\"tomorrow\" is none"),
            ("delay=1s&at=2026-01-31T12:00:00Z", &[], "not both"),
        ] {
            let refused = read(query, headers).unwrap_err();
            assert!(refused.contains(says), "{query} {headers:?}: {refused}");
        }
    }
}
