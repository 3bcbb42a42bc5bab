//! The front over real sockets: a server, clients that write bytes, and handlers that answer when a test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod limits;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::deploy::manifest::Route;
use crate::http::jwt::Verifier;
use crate::http::routes::{Dispatch, Routes, Target};
use crate::http::server;
use crate::record::{Answer, Request, Response};
use crate::settings::{Forwarded, Http, HttpRate, Jwt, JwtKey, Rates};
use crate::trace::Tracer;

const SECRET: &[u8] = b"a secret of thirty-two bytes ...";
/// Nothing in these tests takes that long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

fn settings() -> Http {
    Http {
        listen: "127.0.0.1:0".parse().unwrap(),
        body_limit: 1000,
        deadline: PATIENCE,
        max_waiting: 8,
        idempotency_keep: None,
        trusted_proxies: Vec::new(),
        forwarded: Forwarded::default(),
        tls: None,
        jwt: jwt(),
        rate: HttpRate { all: Rates::default(), failed_logins: None, clients: 64 },
    }
}

fn jwt() -> Jwt {
    Jwt { key: JwtKey::Generated, issuer: None, audience: None, leeway: Duration::from_secs(30) }
}

fn token(user: &str) -> String {
    let claims = serde_json::json!({"sub": user, "exp": crate::clock::now() / 1000 + 600});
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn ok(body: &str) -> Answer {
    Ok(Response { status: 200, headers: vec![], body: Bytes::copy_from_slice(body.as_bytes()) })
}

/// A request that waits for the test's answer.
type Waiting = (Request, oneshot::Sender<Answer>);

struct Server {
    address: SocketAddr,
    routes: Arc<Routes>,
    cancel: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    runtime: Runtime,
}

impl Server {
    fn start(settings: &Http) -> Self {
        let runtime = Runtime::new().unwrap();
        let bound = server::bind(settings).unwrap();
        let address = bound.local_addr();
        let (routes, cancel) = (Arc::new(Routes::default()), CancellationToken::new());
        let verifier = Verifier::with_key(Algorithm::HS256, DecodingKey::from_secret(SECRET), &settings.jwt);
        let served = runtime.spawn(bound.serve(Arc::clone(&routes), verifier, Tracer::default(), cancel.clone()));
        Self { address, routes, cancel, served, runtime }
    }

    /// Routes whose requests are answered at once by a function.
    fn answering(
        self,
        handler: &str,
        routes: &[&str],
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.set(
            handler,
            routes,
            Arc::new(move |request| {
                let (sender, receiver) = oneshot::channel();
                let _ = sender.send(answer(&request));
                receiver
            }),
        );
        self
    }

    /// Routes whose requests wait for the test.
    fn waiting(&self, handler: &str, routes: &[&str]) -> Receiver<Waiting> {
        let (sender, receiver): (Sender<Waiting>, _) = channel();
        let sender = Mutex::new(sender);
        self.set(
            handler,
            routes,
            Arc::new(move |request| {
                let (answer, answered) = oneshot::channel();
                sender.lock().unwrap().send((request, answer)).unwrap();
                answered
            }),
        );
        receiver
    }

    /// `GET /path` without a token, `jwt GET /path` with one.
    fn set(&self, handler: &str, routes: &[&str], send: Dispatch) {
        let target = |line: &&str| {
            let (jwt, line) = line.strip_prefix("jwt ").map_or((false, *line), |line| (true, line));
            let (method, path) = line.split_once(' ').unwrap();
            let route = Route { method: method.to_owned(), path: path.to_owned(), jwt, ..Route::default() };
            Target { route, rates: Rates::default(), handler: handler.into(), send: Arc::clone(&send) }
        };
        self.routes.set(handler, routes.iter().map(target).collect()).unwrap();
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, read: vec![] }
    }

    /// One request on a connection of its own: a head without its last line, and a body.
    fn ask(&self, head: &str, body: &str) -> Received {
        let mut client = self.client();
        client.request(head, body);
        client.receive()
    }

    /// Stop, and wait until the server has ended.
    fn stop(self) {
        self.cancel.cancel();
        let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.served).await });
        ended.expect("the server stops").unwrap().unwrap();
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer as it came over the wire.
#[derive(Debug)]
struct Received {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// A request with `Host`, and `Content-Length` if there is a body.
    fn request(&mut self, head: &str, body: &str) {
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let mut text = format!("{line} HTTP/1.1\r\nHost: test\r\n");
        for header in headers.lines() {
            text.push_str(&format!("{header}\r\n"));
        }
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.write(format!("{text}\r\n{body}"));
    }

    fn receive(&mut self) -> Received {
        let head = self.receive_head();
        let length = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
        while self.read.len() < length {
            assert!(self.more(), "the answer ends early: {head}");
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Received { status, head, body }
    }

    fn receive_head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|part| part == b"\r\n\r\n") {
                return String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
            }
            assert!(self.more(), "no answer, only {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Whether the server has closed the connection, and sent nothing before that.
    fn is_closed(&mut self) -> bool {
        !self.more() && self.read.is_empty()
    }

    fn more(&mut self) -> bool {
        let mut part = [0; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => false,
            Ok(read) => {
                self.read.extend_from_slice(&part[..read]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The status, once the answer is known to be a well-formed problem with a reason that contains `detail`.
    fn problem(&self, detail: &str) -> u16 {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["status"], self.status);
        assert_eq!(body["type"], "about:blank");
        assert!(body["title"].is_string());
        assert!(body["instance"].as_str().is_none_or(|path| path.starts_with(['/', '*'])), "{body}");
        assert!(body["detail"].as_str().unwrap().contains(detail), "{detail:?} is not in {body}");
        self.status
    }
}

/// Try until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}
