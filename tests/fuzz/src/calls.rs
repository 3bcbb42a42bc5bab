//! Calls to the outside: where they may go, as the client that makes them reads their URLs.

use ::http::Uri;
use arbitrary::Arbitrary;
use tidemill::outbound::{Call, CallErrorKind, Origin, Request, Settings};

use crate::input;

const GRANTED: [(&str, &str, u16); 3] =
    [("https", "a.example", 443), ("http", "b.example", 8080), ("http", "[::1]", 80)];

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// What a handler asks for.
    Call { method: &'a str, url: &'a str, headers: Vec<(String, Vec<u8>)> },
    /// The same, with a granted origin before the URL.
    Begun { origin: u8, rest: &'a str },
    /// What a manifest grants.
    Grant(&'a str),
}

/// A call goes to a granted origin, also by the reading of the client that makes it; what is granted can be called.
pub(crate) fn calls(bytes: &[u8]) {
    match input::read(bytes) {
        None => {}
        Some(Input::Call { method, url, headers }) => call(method, url.to_owned(), headers),
        Some(Input::Begun { origin, rest }) => {
            let (scheme, host, port) = GRANTED[usize::from(origin) % GRANTED.len()];
            call("GET", format!("{scheme}://{host}:{port}{rest}"), Vec::new());
        }
        Some(Input::Grant(text)) => grant(text),
    }
}

fn call(method: &str, url: String, headers: Vec<(String, Vec<u8>)>) {
    let origins =
        GRANTED.iter().map(|(scheme, host, port)| Origin::parse(&format!("{scheme}://{host}:{port}")).unwrap());
    let settings = Settings { origins: origins.collect(), ..Settings::default() };
    let request = Request { method: method.to_owned(), url, headers, body: Vec::new(), timeout: None };
    match Call::new(&settings, request, |_| "k".to_owned()) {
        Ok(call) => {
            // The client turns the URL into this; what it cannot turn it does not send.
            let Ok(uri) = call.url().parse::<Uri>() else { return };
            let scheme = uri.scheme_str().unwrap();
            let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
            assert!(GRANTED.contains(&(scheme, uri.host().unwrap(), port)), "{uri}");
        }
        Err(error) => {
            assert!(matches!(error.kind, CallErrorKind::Request | CallErrorKind::Denied));
            assert!(!error.message.is_empty());
        }
    }
}

fn grant(text: &str) {
    match Origin::parse(text) {
        Ok(origin) => {
            assert!(!text.contains(['@', '?', '#', '*']), "{text}");
            let settings = Settings { origins: vec![origin.clone()], ..Settings::default() };
            let url = text.to_owned();
            let request = Request { method: "GET".into(), url, headers: Vec::new(), body: Vec::new(), timeout: None };
            let call = Call::new(&settings, request, |_| "k".to_owned()).unwrap();
            assert_eq!(Origin::parse(call.url()), Ok(origin));
        }
        Err(wrong) => assert!(wrong.contains(text), "{wrong}"),
    }
}
