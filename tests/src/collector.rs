//! A collector of traces: takes OTLP over HTTP on a free port, decodes what it is sent, and keeps it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;

use crate::wait::{LONG, eventually_some};

/// A span that was told.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace's id, in hexadecimal.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Its parent's; empty if it has none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// From when to when, nanoseconds since the Unix epoch.
    pub time: (u64, u64),
    /// What it says, as text; those of its resource too.
    pub tags: BTreeMap<String, String>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Span {
    /// What it says under this key; empty if nothing.
    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct State {
    /// Whether it forgets what it takes.
    forgets: bool,
    taken: u64,
    spans: Vec<Span>,
    /// The headers of each batch.
    batches: Vec<Vec<(String, String)>>,
}

/// A running collector.
pub struct Collector {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Collector {
    /// Starts one.
    pub fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// Starts one that counts what it is told, and keeps none of it.
    pub fn forgetful() -> Self {
        Self::with("127.0.0.1:0", State { forgets: true, ..State::default() })
    }

    /// Starts one at this address.
    pub fn at(address: &str) -> Self {
        Self::with(address, State::default())
    }

    fn with(address: &str, state: State) -> Self {
        let listener = TcpListener::bind(address).expect("bind a collector");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { url, state }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.state.lock().unwrap().spans.clone()
    }

    /// How many spans it was told so far, whether it keeps them or not.
    pub fn taken(&self) -> u64 {
        self.state.lock().unwrap().taken
    }

    /// The headers of all batches so far.
    pub fn batches(&self) -> Vec<Vec<(String, String)>> {
        self.state.lock().unwrap().batches.clone()
    }

    /// Waits for a span.
    pub fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        eventually_some(LONG, &format!("a span is told: {what}"), || self.spans().into_iter().find(&wanted))
    }
}

fn serve(stream: &TcpStream, shared: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some((line, headers, body)) = read(&mut reader) {
        assert!(line.starts_with("POST /v1/traces "), "{line}");
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
        let mut state = shared.lock().unwrap();
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        state.taken += scopes.map(|scope| scope.spans.len() as u64).sum::<u64>();
        let kept = if state.forgets { Vec::new() } else { request.resource_spans };
        let headers = (!state.forgets).then_some(headers);
        state.batches.extend(headers);
        for resource in kept {
            let of_resource = tags(resource.resource.unwrap_or_default().attributes);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let mut all = of_resource.clone();
                all.extend(tags(span.attributes));
                let status = span.status.unwrap_or_default();
                state.spans.push(Span {
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    time: (span.start_time_unix_nano, span.end_time_unix_nano),
                    tags: all,
                    error: (status.code == 2).then_some(status.message),
                });
            }
        }
        drop(state);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if (&mut &*stream).write_all(answer).is_err() {
            return;
        }
    }
}

type Request = (String, Vec<(String, String)>, Vec<u8>);

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let line = |reader: &mut BufReader<&TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line(reader)?;
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let header = line(reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().unwrap();
        }
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first, headers, body))
}

fn tags(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|tag| (tag.key, tag.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        Some(Any::DoubleValue(number)) => number.to_string(),
        Some(Any::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
