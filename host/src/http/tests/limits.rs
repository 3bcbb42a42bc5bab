//! Bounds: size, time, number; clients that are slow, gone or hostile; the orderly stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_body_over_the_limit_is_413() {
    let server = Server::start(&settings()).answering("a", &["POST /w"], |request| ok(&request.body.len().to_string()));
    assert_eq!(server.ask("POST /w", &"x".repeat(1000)).body, "1000");
    // Announced: refused before any of it has come.
    for length in ["1001", "9000000000000000000"] {
        let mut client = server.client();
        client.write(format!("POST /w HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"));
        assert_eq!(client.receive().problem("larger than 1000 bytes"), 413);
    }
    // Not announced: refused where it goes over, and never ended by the client.
    let mut client = server.client();
    client.write("POST /w HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write(format!("3e8\r\n{}\r\n1\r\nx\r\n", "x".repeat(1000)));
    let received = client.receive();
    assert_eq!(received.problem("http.body-limit"), 413);
    assert_eq!(received.header("connection"), Some("close"));
    server.stop();
}

#[test]
fn a_client_that_sends_before_it_reads_gets_its_413() {
    let server = Server::start(&settings()).answering("a", &["POST /w"], |_| ok(""));
    for path in ["/w", "/none"] {
        let mut client = server.client();
        // More than the buffers of both sides hold.
        client.request(&format!("POST {path}"), &"x".repeat(20 << 20));
        assert!([413, 404].contains(&client.receive().status));
        assert!(client.is_closed());
    }
    server.stop();
}

#[test]
fn a_client_that_asks_first_is_told() {
    let server = Server::start(&settings()).answering("a", &["POST /w"], |request| ok(&request.body.len().to_string()));
    let mut client = server.client();
    client.write("POST /w HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n");
    assert_eq!(client.receive().status, 413, "and not 100");
    assert!(client.is_closed());
    let mut client = server.client();
    client.write("POST /w HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert!(client.receive_head().starts_with("HTTP/1.1 100 "));
    client.write("xy");
    assert_eq!(client.receive().body, "2");
    server.stop();
}

#[test]
fn a_request_that_is_not_answered_in_time_is_504() {
    let server = Server::start(&Http { deadline: SHORT, max_waiting: 1, ..settings() });
    let waiting = server.waiting("a", &["POST /w", "GET /r"]);
    let sent = Instant::now();
    let mut client = server.client();
    client.request("POST /w\nIdempotency-Key: k", "");
    let (request, answer) = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(request.deadline > sent && request.deadline <= Instant::now() + SHORT);
    assert_eq!(client.receive().problem("Idempotency-Key to learn"), 504);
    assert!(sent.elapsed() >= SHORT);
    // It may still run: its seat stays taken until it has ended.
    assert_eq!(server.ask("GET /r", "").problem("too many"), 503);
    answer.send(ok("late")).unwrap();
    client.request("GET /livez", "");
    assert_eq!(client.receive().body, "ok\n", "the connection goes on");
    until("the seat is free", || {
        let mut client = server.client();
        client.request("GET /r", "");
        match waiting.recv_timeout(SHORT / 10) {
            Ok((_, answer)) => answer.send(ok("now")).is_ok() && client.receive().body == "now",
            Err(_) => false,
        }
    });
    server.stop();
}

#[test]
fn more_requests_than_may_wait_are_503() {
    let server = Server::start(&Http { max_waiting: 2, ..settings() });
    let waiting = server.waiting("a", &["POST /w"]);
    let mut clients: Vec<_> = (0..2).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.request("POST /w", "x"));
    let answers: Vec<_> = (0..2).map(|_| waiting.recv_timeout(PATIENCE).unwrap().1).collect();
    let refused = server.ask("POST /w", "x");
    assert_eq!(refused.problem("too many requests"), 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.ask("GET /livez", "").status, 200);
    answers.into_iter().for_each(|answer| answer.send(ok("x")).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.receive().status, 200));
    // An answered request has given its seat back before its client knows.
    clients[0].request("POST /w", "x");
    waiting.recv_timeout(PATIENCE).unwrap().1.send(ok("y")).unwrap();
    assert_eq!(clients[0].receive().body, "y");
    server.stop();
}

#[test]
fn one_request_of_a_key_is_under_way_at_a_time() {
    let server = Server::start(&settings());
    let waiting = server.waiting("a", &["jwt POST /w", "jwt PUT /w", "jwt POST /v"]);
    let head = |route: &str, user: &str, key: &str| {
        format!("{route}\nAuthorization: Bearer {}\nIdempotency-Key: {key}", token(user))
    };
    let same = head("POST /w", "7", "k");
    let mut first = server.client();
    first.request(&same, "x");
    let (_, answer) = waiting.recv_timeout(PATIENCE).unwrap();
    assert_eq!(server.ask(&same, "x").problem("still running"), 409);
    assert_eq!(server.ask(&same, "another body").status, 409);
    assert_eq!(server.ask(&head("PUT /w", "7", "k"), "x").status, 409);
    for other in [head("POST /w", "8", "k"), head("POST /v", "7", "k"), head("POST /w", "7", "l")] {
        let mut client = server.client();
        client.request(&other, "x");
        waiting.recv_timeout(PATIENCE).unwrap().1.send(ok("other")).unwrap();
        assert_eq!(client.receive().body, "other");
    }
    answer.send(ok("first")).unwrap();
    assert_eq!(first.receive().body, "first");

    // The next one with the key goes through at once; its client goes away, and the key stays taken.
    first.request(&same, "x");
    let (_, answer) = waiting.recv_timeout(PATIENCE).unwrap();
    drop(first);
    for _ in 0..20 {
        assert_eq!(server.ask(&same, "x").status, 409);
    }
    // A request that is dropped without an answer frees its key too.
    drop(answer);
    let mut client = server.client();
    until("the key is free", || {
        client.request(&same, "x");
        match waiting.recv_timeout(SHORT) {
            Ok((_, answer)) => {
                drop(answer);
                true
            }
            Err(_) => client.receive().status != 409,
        }
    });
    assert_eq!(client.receive().problem("the handler failed"), 500);
    server.stop();
}

#[test]
fn slow_clients_are_cut_off_at_the_deadline() {
    let server = Server::start(&Http { deadline: SHORT, ..settings() }).answering("a", &["POST /w"], |_| ok(""));
    let begun = Instant::now();
    let (mut silent, mut head, mut body) = (server.client(), server.client(), server.client());
    head.write("POST /w HTTP/1.1\r\nHost: t\r\n");
    body.write("POST /w HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf");
    let received = body.receive();
    assert_eq!(received.problem("did not arrive within the deadline"), 408);
    assert_eq!(received.header("connection"), Some("close"));
    assert!(head.is_closed());
    assert!(silent.is_closed());
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < PATIENCE / 2);
    server.stop();
}

#[test]
fn a_client_that_goes_away_breaks_nothing() {
    let server = Server::start(&Http { max_waiting: 4, ..settings() });
    let waiting = server.waiting("a", &["POST /w"]);
    for _ in 0..3 {
        let mut client = server.client();
        client.request("POST /w", "x");
        let (_, answer) = waiting.recv_timeout(PATIENCE).unwrap();
        drop(client);
        answer.send(ok(&"x".repeat(100_000))).unwrap();
        let mut client = server.client();
        client.write("POST /w HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf");
    }
    until("all seats are free", || {
        let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
        clients.iter_mut().for_each(|client| client.request("POST /w", "x"));
        let answers: Vec<_> = (0..4).map_while(|_| waiting.recv_timeout(SHORT).ok()).collect();
        let free = answers.len() == 4;
        answers.into_iter().for_each(|(_, answer)| answer.send(ok("")).unwrap());
        free
    });
    server.stop();
}

#[test]
fn malformed_requests_are_refused_and_the_server_goes_on() {
    let server = Server::start(&settings()).answering("a", &["POST /w"], |_| ok("fine"));
    let too_long = format!("POST /w HTTP/1.1\r\nHost: t\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let too_many = format!("POST /w HTTP/1.1\r\nHost: t\r\n{}\r\n", "x: y\r\n".repeat(200));
    let cases: [(&[u8], u16); 13] = [
        (b"\r\n\r\n\x00\x01\x02\x03\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /w\r\n\r\n", 400),
        (b"GET /w HTTP/9.9\r\nHost: t\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST /w HTTP/1.1\r\n\r\n", 400),
        (b"POST /w HTTP/1.1\r\nHost : t\r\n\r\n", 400),
        (b"POST /w HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /w HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (b"POST /w HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /w HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (too_long.as_bytes(), 431),
        (too_many.as_bytes(), 431),
    ];
    for (bytes, status) in cases {
        let mut client = server.client();
        // The server may close before it has read everything.
        let _ = client.stream.write_all(bytes);
        let received = client.receive();
        assert_eq!(
            received.status,
            status,
            "{:?}: {received:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
        received.problem(if status == 431 { "too many headers" } else { "" });
    }
    let mut client = server.client();
    client.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(client.is_closed(), "HTTP/2 is not spoken");
    assert_eq!(server.ask("POST /w", "").body, "fine");
    server.stop();
}

#[test]
fn a_panic_on_the_way_to_a_handler_frees_seat_and_key() {
    let server = Server::start(&Http { max_waiting: 1, ..settings() });
    server.set("a", &["POST /w"], Arc::new(|_| panic!("for the test")));
    for _ in 0..3 {
        let mut client = server.client();
        client.request("POST /w\nIdempotency-Key: k", "");
        assert!(client.is_closed());
    }
    let server = server.answering("a", &["POST /w"], |_| ok("fine"));
    assert_eq!(server.ask("POST /w\nIdempotency-Key: k", "").body, "fine");
    server.stop();
}

#[test]
fn a_stop_answers_what_is_under_way_and_takes_nothing_new() {
    let server = Server::start(&settings()).answering("fast", &["GET /fast"], |_| ok("fast"));
    let waiting = server.waiting("a", &["POST /w"]);
    let (mut idle, mut fresh, mut half) = (server.client(), server.client(), server.client());
    idle.request("GET /fast", "");
    assert_eq!(idle.receive().status, 200);
    let mut first = server.client();
    first.request("POST /w", "x");
    let (_, answer) = waiting.recv_timeout(PATIENCE).unwrap();
    // Being asked for the body shows that the head has arrived.
    half.write("POST /w HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    assert!(half.receive_head().starts_with("HTTP/1.1 100 "));

    server.cancel.cancel();
    assert!(idle.is_closed());
    assert!(fresh.is_closed());
    assert_eq!(half.receive().problem("stopping"), 503);
    until("nothing listens", || TcpStream::connect(server.address).is_err());
    assert!(!server.served.is_finished(), "it waits for the request under way");
    answer.send(ok("first")).unwrap();
    let received = first.receive();
    assert_eq!((received.status, received.body.as_str()), (200, "first"));
    assert_eq!(received.header("connection"), Some("close"));
    assert!(first.is_closed());
    server.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_head_that_never_ends() {
    let server = Server::start(&settings());
    let (mut first, mut second) = (server.client(), server.client());
    first.write("GET /livez HTT");
    second.request("GET /livez", "");
    assert_eq!(second.receive().status, 200);
    second.write("GET /livez HTT");
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < PATIENCE / 2);
}
