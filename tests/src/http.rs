//! A small HTTP/1.1 client: one request for each connection, read to its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    address: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Lower-case names, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Sends one request and returns the answer.
pub fn http(method: &str, url: &str, token: Option<&str>, body: Option<&str>) -> Reply {
    let mut call = Call::new(method, url);
    if let Some(token) = token {
        call = call.token(token);
    }
    if let Some(body) = body {
        call = call.body(body);
    }
    call.send()
}

impl Call {
    /// A request without a body.
    pub fn new(method: &str, url: &str) -> Self {
        let rest = url.strip_prefix("http://").expect("a URL that begins with http://");
        let (address, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        Self {
            method: method.to_owned(),
            address: address.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With a bearer token.
    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body of JSON.
    pub fn body(mut self, body: &str) -> Self {
        self.body = body.as_bytes().to_vec();
        self.header("Content-Type", "application/json")
    }

    /// With a body of another kind.
    pub fn bytes(mut self, kind: &str, body: Vec<u8>) -> Self {
        self.body = body;
        self.header("Content-Type", kind)
    }

    /// Sends it. Fails the test when there is no answer.
    pub fn send(&self) -> Reply {
        self.try_send().unwrap_or_else(|error| panic!("{} {}{}: {error}", self.method, self.address, self.path))
    }

    /// Sends it.
    pub fn try_send(&self) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.method, self.path, self.address);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        // A server may answer and close before it has read a body that is too large.
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&self.body));
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => return Err(error),
            _ => {}
        }
        if answer.is_empty() {
            sent?;
        }
        Reply::parse(&answer)
    }
}

impl Reply {
    fn parse(answer: &[u8]) -> std::io::Result<Self> {
        let odd = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| odd("no end of the headers"))?;
        let head = String::from_utf8_lossy(&answer[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply =
            Self { status: status.ok_or_else(|| odd("no status"))?, headers, body: answer[end + 4..].to_vec() };
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = dechunked(&reply.body).ok_or_else(|| odd("the body is cut off"))?;
        }
        match reply.header("content-length").and_then(|length| length.parse().ok()) {
            Some(length) if reply.body.len() < length => Err(odd("the body is cut off")),
            _ => Ok(reply),
        }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// Fails the test, with the body, unless the status is this one.
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A body that came in chunks (RFC 9112, 7.1).
fn dechunked(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = chunks.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..line]).ok()?.split(';').next()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend(chunks.get(line + 2..line + 2 + size)?);
        chunks = chunks.get(line + 4 + size..)?;
    }
}
