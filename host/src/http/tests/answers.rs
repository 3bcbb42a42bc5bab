//! What each kind of request is answered, and what its handler gets to see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::record::{Fault, Refusal, Unpublished};

#[test]
fn a_handler_gets_the_request_and_the_client_its_response() {
    let server = Server::start(&settings());
    let waiting = server.waiting("order", &["jwt POST /api/orders/{id}"]);
    let mut client = server.client();
    let token = token("7");
    let head = format!(
        "POST /api/orders/%EC%A3%BC?a=1&b=%20\nAuthorization: Bearer {token}\nX-A: 1\nx-a: 2\nConnection: keep-alive\n\
         Idempotency-Key: k1"
    );
    client.request(&head, "{\"n\":1}");
    let (request, answer) = waiting.recv_timeout(PATIENCE).unwrap();
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/api/orders/%EC%A3%BC");
    assert_eq!(request.route, "/api/orders/{id}");
    assert_eq!(request.params, [("id".to_owned(), "주".to_owned())]);
    assert_eq!(request.query.as_deref(), Some("a=1&b=%20"));
    assert_eq!(request.body, "{\"n\":1}");
    assert_eq!(request.user.as_deref(), Some("7"));
    assert_eq!(request.idempotency_key.as_deref(), Some("k1"));
    let headers: Vec<_> = request.headers.iter().map(|(n, v)| (n.as_str(), std::str::from_utf8(v).unwrap())).collect();
    assert_eq!(
        headers,
        [("host", "test"), ("x-a", "1"), ("x-a", "2"), ("idempotency-key", "k1"), ("content-length", "7")]
    );
    let response = Response {
        status: 201,
        headers: vec![("location".to_owned(), Bytes::from("/api/orders/1"))],
        body: Bytes::from("made"),
    };
    answer.send(Ok(response)).unwrap();
    let received = client.receive();
    assert_eq!((received.status, received.body.as_str()), (201, "made"));
    assert_eq!(received.header("location"), Some("/api/orders/1"));
    assert_eq!(received.header("content-type"), Some("application/octet-stream"));
    server.stop();
}

#[test]
fn chunked_bodies_and_open_routes_and_reused_connections_work() {
    let server = Server::start(&settings()).answering("echo", &["POST /e", "GET /e"], |request| {
        ok(&format!("{:?} {:?} {}", request.user, request.query, String::from_utf8_lossy(&request.body)))
    });
    let mut client = server.client();
    client.write(
        "POST /e HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n",
    );
    assert_eq!(client.receive().body, "None None abcde");
    client.request("GET /e?", "");
    assert_eq!(client.receive().body, "None Some(\"\") ");
    // HTTP/1.0 needs no Host.
    client.write("GET /e HTTP/1.0\r\n\r\n");
    assert_eq!(client.receive().body, "None None ");
    assert!(client.is_closed());
    server.stop();
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::start(&settings()).answering("echo", &["GET /e"], |request| ok(&request.method));
    let mut client = server.client();
    client.request("HEAD /e", "");
    let head = client.receive_head();
    assert!(head.starts_with("HTTP/1.1 200") && header(&head, "content-length") == Some("3"), "{head}");
    client.request("GET /e", "");
    assert_eq!(client.receive().body, "GET");
    server.stop();
}

#[test]
fn what_cannot_be_handed_on_is_a_problem() {
    let server = Server::start(&settings()).answering("a", &["POST /w", "GET /r/{x}", "jwt GET /mine"], |_| ok("done"));
    let long_key = format!("POST /w\nIdempotency-Key: {}", "k".repeat(256));
    for (head, status, detail) in [
        ("GET /none", 404, "no handler has a route"),
        ("GET /r/%ff", 400, "`x`"),
        ("PUT /w", 405, "POST"),
        ("GET /mine", 401, "Authorization: Bearer"),
        ("GET /mine\nAuthorization: Basic dTpw", 401, "Authorization: Bearer"),
        ("GET /mine\nAuthorization: Bearer a.b.c", 401, "malformed"),
        ("GET /mine\nAuthorization: Bearer a\nAuthorization: Bearer b", 400, "more than one Authorization"),
        ("GET /r/1\nHost: again", 400, "exactly one Host"),
        ("POST /w\nIdempotency-Key: a\nIdempotency-Key: b", 400, "more than one Idempotency-Key"),
        ("POST /w\nIdempotency-Key:", 400, "visible ASCII"),
        ("POST /w\nIdempotency-Key: a b", 400, "visible ASCII"),
        ("POST /w\nIdempotency-Key: é", 400, "visible ASCII"),
        (&long_key, 400, "visible ASCII"),
        ("GET /readyz", 404, "the host's own"),
        ("POST /livez", 405, "GET, HEAD"),
        ("OPTIONS *", 404, "no handler"),
    ] {
        assert_eq!(server.ask(head, "").problem(detail), status, "{head}");
    }
    assert_eq!(server.ask("POST /w", "x").body, "done");
    assert_eq!(server.ask(&format!("POST /w\nIdempotency-Key: {}", "k".repeat(255)), "x").body, "done");
    assert_eq!(server.ask("PUT /r/1", "").header("allow"), Some("GET, HEAD"));
    assert_eq!(server.ask("GET /livez", "").body, "ok\n");
    let challenge = |head: &str| server.ask(head, "").header("www-authenticate").unwrap().to_owned();
    assert_eq!(challenge("GET /mine"), r#"Bearer realm="tidemill""#);
    assert_eq!(
        challenge("GET /mine\nAuthorization: Bearer a.b.c"),
        r#"Bearer realm="tidemill", error="invalid_token", error_description="the token is malformed""#
    );
    server.stop();
}

#[test]
fn a_key_on_a_reading_route_is_checked_and_left_aside() {
    let server =
        Server::start(&settings()).answering("a", &["GET /r"], |request| ok(&format!("{:?}", request.idempotency_key)));
    assert_eq!(server.ask("GET /r\nIdempotency-Key: k", "").body, "None");
    assert_eq!(server.ask("GET /r\nIdempotency-Key: k k", "").status, 400);
    server.stop();
}

#[test]
fn each_refusal_has_its_status() {
    let unpublished = |fault| Refusal::Unpublished(Unpublished { fault, message: "no".into() });
    let all = [
        (Refusal::Malformed("what".into()), 400, None),
        (unpublished(Fault::Destination), 404, None),
        (unpublished(Fault::Envelope), 422, None),
        (unpublished(Fault::Id), 422, None),
        (unpublished(Fault::Duplicate), 409, None),
        (unpublished(Fault::Size), 413, None),
        (unpublished(Fault::Due), 422, None),
        (Refusal::Gone, 404, None),
        (Refusal::StillRunning, 409, None),
        (Refusal::KeyReused, 422, None),
        (Refusal::Failed, 500, None),
        (Refusal::Busy, 503, Some("1")),
        (Refusal::Resting, 503, Some("1")),
        (Refusal::NotSent, 503, Some("5")),
        (Refusal::StoreUnavailable, 503, Some("5")),
        (Refusal::Stopping, 503, Some("5")),
        (Refusal::Expired, 504, None),
    ];
    let refusals: Vec<_> = all.iter().map(|(refusal, ..)| refusal.clone()).collect();
    let server = Server::start(&settings()).answering("a", &["POST /{n}"], move |request| {
        Err(refusals[request.params[0].1.parse::<usize>().unwrap()].clone())
    });
    for (n, (refusal, status, retry_after)) in all.iter().enumerate() {
        let received = server.ask(&format!("POST /{n}"), "");
        assert_eq!(received.problem(&refusal.to_string()), *status);
        assert_eq!(received.header("retry-after"), *retry_after);
    }
    server.stop();
}

#[test]
fn a_response_that_http_cannot_carry_is_a_500() {
    let server = Server::start(&settings()).answering("a", &["POST /status", "POST /header", "POST /ok"], |request| {
        let header = |value: &'static str| vec![("x-a".to_owned(), Bytes::from(value))];
        Ok(match request.path.as_str() {
            "/status" => Response { status: 100, headers: vec![], body: Bytes::new() },
            "/header" => Response { status: 200, headers: header("a\r\nb: c"), body: Bytes::new() },
            _ => Response { status: 409, headers: header("fine"), body: Bytes::from("own") },
        })
    });
    assert_eq!(server.ask("POST /status", "").problem("handler failed"), 500);
    assert_eq!(server.ask("POST /header", "").problem("handler failed"), 500);
    let own = server.ask("POST /ok", "");
    assert_eq!((own.status, own.body.as_str(), own.header("x-a")), (409, "own", Some("fine")));
    server.stop();
}

#[test]
fn routes_change_between_two_requests_of_a_connection() {
    let server = Server::start(&settings()).answering("a", &["GET /x"], |_| ok("one"));
    let mut client = server.client();
    client.request("GET /x", "");
    assert_eq!(client.receive().body, "one");
    let server = server.answering("a", &["GET /x"], |_| ok("two"));
    client.request("GET /x", "");
    assert_eq!(client.receive().body, "two");
    server.routes.remove("a");
    client.request("GET /x", "");
    assert_eq!(client.receive().status, 404);
    server.stop();
}

#[test]
fn an_address_that_cannot_be_had_is_explained() {
    let server = Server::start(&settings());
    let taken = Http { listen: server.address, ..settings() };
    let error = server::bind(&taken).unwrap_err().to_string();
    for part in [&server.address.to_string(), "http.listen", "another process has this port"] {
        assert!(error.contains(part), "{error}");
    }
    let elsewhere = Http { listen: "192.0.2.1:1".parse().unwrap(), ..settings() };
    let error = server::bind(&elsewhere).unwrap_err().to_string();
    assert!(error.contains("192.0.2.1:1") && error.contains("no such address"), "{error}");
    server.stop();
}
