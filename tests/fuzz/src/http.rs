//! The HTTP front: whole connections, tokens, and handlers' responses.

use std::sync::{Arc, LazyLock, Mutex};

use arbitrary::Arbitrary;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey};
use tidemill::deploy::manifest::Route;
use tidemill::http::connection::connection;
use tidemill::http::jwt::{Unauthorized, Verifier};
use tidemill::http::response;
use tidemill::http::routes::{Dispatch, Routes, Target};
use tidemill::http::server::Front;
use tidemill::record::{Request, Response};
use tidemill::settings::{Rates, Settings};
use tidemill::trace::Tracer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::input;

const SECRET: &str = "a secret of thirty-two bytes ...";
const BODY_LIMIT: usize = 64;

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let text = format!("[http]\nbody-limit = {BODY_LIMIT}\nmax-waiting = 4\n[http.jwt]\nsecret = \"{SECRET}\"");
    Settings::parse(&text, "tidemill.toml").unwrap()
});
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(&SETTINGS).unwrap());

/// A token is good only if it was signed, names a subject and has not expired. The first byte says whether this one is
/// signed: then the header and the claims follow, with a zero byte between them.
pub(crate) fn tokens(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    if first % 2 == 0 {
        return assert!(VERIFIER.verify(Some(rest)).is_err());
    }
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let (Some(header), Some(claims)) = (parts.next(), parts.next()) else { return };
    let signed = format!("{}.{}", base64(header), base64(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    match VERIFIER.verify(Some(format!("Bearer {signed}.{signature}").as_bytes())) {
        Ok(user) => {
            let json = |bytes: &[u8]| serde_json::from_str::<serde_json::Value>(&String::from_utf8_lossy(bytes));
            // What nobody asks for may hold any text, and numbers that no type here can.
            let (Ok(header), Ok(claims)) = (json(header), json(claims)) else { return };
            assert_eq!(header["alg"], "HS256");
            assert!(header["crit"].is_null());
            assert_eq!(claims["sub"].as_str().map_or_else(|| claims["sub"].to_string(), str::to_owned), user);
            assert!(!user.is_empty());
            // These tests are newer than the year 2025.
            assert!(claims["exp"].as_f64().unwrap() > 1_760_000_000.0);
            assert!(claims["nbf"].is_null() || claims["nbf"].is_number());
        }
        Err(Unauthorized::NoToken) => panic!("there is a token"),
        Err(Unauthorized::NoKeys) => panic!("there is a key"),
        // It goes into a header.
        Err(Unauthorized::Invalid(why)) => {
            assert!(why.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\'));
        }
    }
}

/// RFC 4648, 5, without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().chain([0, 0].iter()).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        (0..=chunk.len()).map(move |i| char::from(ALPHABET[bits >> (18 - 6 * i) & 63])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// What only the host says.
const NOT_SENT: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Arbitrary, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// A handler's response is refused if, and only if, RFC 9110 has no way to send it.
pub(crate) fn responses(bytes: &[u8]) {
    let Some(Answer { status, headers, body }) = input::read(bytes) else { return };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let value = |b: u8| b == b'\t' || b >= b' ' && b != 0x7f;
    let left_out = |name: &str| NOT_SENT.contains(&name.to_ascii_lowercase().as_str());
    let good = |(name, bytes): &(String, Vec<u8>)| {
        !name.is_empty() && name.bytes().all(token) && (left_out(name) || bytes.iter().all(|b| value(*b)))
    };
    let good = (200..=599).contains(&status) && headers.iter().all(good);
    let headers = headers.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
    let checked = response::check(&Response { status, headers, body: body.into() });
    assert_eq!(checked.is_ok(), good, "{checked:?}");
}

thread_local! {
    /// Its clock stands still while there is something to do, and jumps to the next timer otherwise.
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
}

/// Whatever a client sends, the connection comes to its end, each request that reaches a handler is one that a handler
/// may get, and each is answered.
pub(crate) fn connections(bytes: &[u8]) {
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let routes = Arc::new(Routes::default());
    routes.set("echo", targets(&seen)).unwrap();
    RUNTIME.with(|runtime| {
        let answers = runtime.block_on(async {
            let verifier = Verifier::new(&SETTINGS).unwrap();
            let front =
                Front::new(routes, verifier, SETTINGS.http.clone(), Tracer::default(), CancellationToken::new());
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let server = tokio::spawn(connection(Arc::new(front), server, None));
            client.write_all(bytes).await.unwrap();
            // Nothing more is sent, so what is not complete runs into its time limit.
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.unwrap();
            server.await.unwrap();
            answers
        });
        judge(&seen.lock().unwrap(), &answers);
    });
}

fn targets(seen: &Arc<Mutex<Vec<Request>>>) -> Vec<Target> {
    let seen = Arc::clone(seen);
    let send: Dispatch = Arc::new(move |request| {
        seen.lock().unwrap().push(request);
        let (answer, receiver) = oneshot::channel();
        let _ = answer.send(Ok(Response { status: 299, headers: Vec::new(), body: Bytes::new() }));
        receiver
    });
    [("GET", "/a/{id}", false), ("POST", "/b", false), ("GET", "/c", true), ("PUT", "/d/{x}/{y}", false)]
        .into_iter()
        .map(|(method, path, jwt)| {
            let route = Route { method: method.to_owned(), path: path.to_owned(), jwt, ..Route::default() };
            Target { route, rates: Rates::default(), handler: "echo".into(), send: Arc::clone(&send) }
        })
        .collect()
}

fn judge(seen: &[Request], answers: &[u8]) {
    let text = String::from_utf8_lossy(answers);
    assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text}");
    let status = |code: &str| {
        text.matches(&format!("HTTP/1.1 {code} ")).count() + text.matches(&format!("HTTP/1.0 {code} ")).count()
    };
    assert_eq!(status("299"), seen.len(), "{text}");
    assert_eq!(status("500") + status("503") + status("504"), 0, "{text}");
    for request in seen {
        assert!(request.body.len() <= BODY_LIMIT);
        assert!(request.path.starts_with('/') && !request.path.contains('?'), "{request:?}");
        assert_eq!(request.user.is_some(), request.route == "/c");
        for (name, _) in &request.headers {
            assert!(name.bytes().all(|b| !b.is_ascii_uppercase()), "{name}");
            assert!(!["connection", "transfer-encoding", "te", "upgrade"].contains(&name.as_str()), "{name}");
            assert!(name != "authorization" || request.route != "/c");
        }
        if let Some(key) = &request.idempotency_key {
            assert!((1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()), "{key}");
            assert!(request.method != "GET");
        }
        let names = request.route.matches('{').count();
        assert_eq!(request.params.len(), names);
    }
}
