//! A service outside, as handlers call it: HTTP on a free port, with answers that a test chooses, and a gate that holds them back.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// A request that the service got.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method and path.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The status that it was answered with; none where the connection was closed without an answer.
    pub status: Option<u16>,
}

impl Asked {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// What a service answers by itself: a status line with headers, and a body.
type Respond = dyn Fn(&Asked) -> (String, String) + Send + Sync;

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// Answers to be given before the usual one: status line, headers and body.
    answers: VecDeque<(String, String)>,
    /// The usual answer, where it is not `200` with the request's body.
    usual: Option<(String, String)>,
    closed: bool,
    waiting: usize,
    most_waiting: usize,
}

/// A running service. It answers `200` with the request's body, unless told otherwise.
pub struct Service {
    url: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Service {
    /// Starts one.
    pub fn start() -> Self {
        Self::answering(|asked| ("200 OK".into(), asked.body.clone()))
    }

    /// One that answers so, unless told otherwise.
    pub fn answering(respond: impl Fn(&Asked) -> (String, String) + Send + Sync + 'static) -> Self {
        let respond: Arc<Respond> = Arc::new(respond);
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a service");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, respond) = (shared.clone(), respond.clone());
                thread::spawn(move || serve(&stream, &shared, &*respond));
            }
        });
        Self { url, state }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next answer, before the usual ones: `200 OK\r\nheader: value` and a body. An empty head closes the connection instead.
    pub fn answer(&self, head: &str, body: &str) {
        self.state.0.lock().unwrap().answers.push_back((head.to_owned(), body.to_owned()));
    }

    /// The answer from now on, but for those that were given before; without one it is well again.
    pub fn usually(&self, answer: Option<(&str, &str)>) {
        self.state.0.lock().unwrap().usual = answer.map(|(head, body)| (head.to_owned(), body.to_owned()));
    }

    /// Lets requests in, and no answer out.
    pub fn close(&self) {
        self.state.0.lock().unwrap().closed = true;
    }

    /// Lets answers out.
    pub fn open(&self) {
        self.state.0.lock().unwrap().closed = false;
        self.state.1.notify_all();
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.0.lock().unwrap().asked.clone()
    }

    /// Requests that wait for their answers now, and the most that ever did.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.state.0.lock().unwrap();
        (state.waiting, state.most_waiting)
    }
}

/// Serves one connection until its client is gone.
fn serve(stream: &TcpStream, shared: &(Mutex<State>, Condvar), respond: &Respond) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read(&mut reader) {
        let mut state = shared.0.lock().unwrap();
        let next = state.answers.pop_front().or_else(|| state.usual.clone());
        let (head, body) = next.unwrap_or_else(|| respond(&asked));
        state.asked.push(Asked { status: head.get(..3).map(|status| status.parse().unwrap()), ..asked });
        state.waiting += 1;
        state.most_waiting = state.most_waiting.max(state.waiting);
        while state.closed {
            state = shared.1.wait(state).unwrap();
        }
        state.waiting -= 1;
        drop(state);
        if head.is_empty() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let line = |reader: &mut BufReader<&TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line(reader)?;
    let mut headers = Vec::new();
    loop {
        let header = line(reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let asked =
        Asked { line: first.trim_end_matches(" HTTP/1.1").to_owned(), headers, body: String::new(), status: None };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { body: String::from_utf8(body).unwrap(), ..asked })
}
