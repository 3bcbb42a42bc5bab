//! The table of routes, against a matcher that goes through all routes segment by segment.

use std::sync::Arc;

use arbitrary::Arbitrary;
use tidemill::deploy::manifest::Route;
use tidemill::http::routes::{Conflict, Dispatch, Missing, Routes, Target};
use tidemill::settings::Rates;
use tokio::sync::oneshot;

use crate::input;

const HANDLERS: [&str; 3] = ["a", "b", "c"];
const METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

#[derive(Arbitrary, Debug)]
struct Table<'a> {
    routes: Vec<(u8, u8, Vec<Part<'a>>)>,
    requests: Vec<(u8, Vec<&'a str>)>,
}

/// A segment of a route's path: text, or a parameter with text around it.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Part<'a> {
    Short(u8),
    Text(&'a str),
    Param(u8, u8),
    Free(&'a str),
}

impl Part<'_> {
    fn text(&self) -> String {
        let letter = |n: u8| ["", "a", "b", "ab", "."][usize::from(n % 5)];
        match self {
            Self::Short(n) => letter(*n).to_owned(),
            Self::Text(text) => text.replace(['{', '}'], ""),
            Self::Param(before, after) => format!("{}{{p{}}}{}", letter(*before), before % 3, letter(*after)),
            Self::Free(text) => (*text).to_owned(),
        }
    }
}

/// A table takes a handler's routes as `check` has said, whatever is removed and in which order; what it finds is
/// what a plain matcher finds.
pub(crate) fn routes(bytes: &[u8]) {
    let Some(Table { routes, requests }) = input::read(bytes) else { return };
    let mut of: [Vec<Route>; 3] = Default::default();
    for (handler, method, parts) in routes.into_iter().take(12) {
        let path: String = parts.iter().map(|part| format!("/{}", part.text())).collect();
        // A manifest takes no others.
        if !path.split('/').all(|segment| segment.matches(['{', '}']).count() == 0 || halves(segment).is_some()) {
            continue;
        }
        let method = METHODS[usize::from(method % 3)].to_owned();
        of[usize::from(handler % 3)].push(Route { method, path, ..Route::default() });
    }
    let table = Routes::default();
    let mut live: Vec<(&str, &Route)> = Vec::new();
    for (name, routes) in HANDLERS.into_iter().zip(&of).rev() {
        let checked = table.check(name, routes);
        let set = table.set(name, targets(name, routes));
        assert_eq!(checked, set);
        match set {
            Ok(()) => live.extend(routes.iter().map(|route| (name, route))),
            Err(Conflict::Taken { .. } | Conflict::Reserved { .. } | Conflict::Pattern { .. }) => {}
        }
    }
    let requests: Vec<(&str, String)> = requests
        .into_iter()
        .take(8)
        .map(|(method, parts)| {
            (METHODS[usize::from(method % 3)], parts.iter().map(|part| format!("/{part}")).collect())
        })
        .collect();
    check(&table, &live, &requests);
    table.remove(HANDLERS[1]);
    live.retain(|(name, _)| *name != HANDLERS[1]);
    check(&table, &live, &requests);
}

fn targets(name: &str, routes: &[Route]) -> Vec<Target> {
    let send: Dispatch = Arc::new(|_| oneshot::channel().1);
    let target = |route: &Route| Target {
        route: route.clone(),
        rates: Rates::default(),
        handler: name.into(),
        send: Arc::clone(&send),
    };
    routes.iter().map(target).collect()
}

fn check(table: &Routes, live: &[(&str, &Route)], requests: &[(&str, String)]) {
    // Each route is found at a path of its own, too.
    let own = live.iter().map(|(_, route)| (route.method.as_str(), filled(&route.path)));
    for (method, path) in requests.iter().map(|(method, path)| (*method, path.clone())).chain(own) {
        let matching = |method: &str| {
            let same = move |route: &&(&str, &Route)| route.1.method == method;
            live.iter()
                .filter(same)
                .filter_map(|(name, route)| Some((*name, *route, params(&route.path, &path)?)))
                .collect::<Vec<_>>()
        };
        let mut expected = matching(method);
        if method == "HEAD" && expected.is_empty() {
            expected = matching("GET");
        }
        match table.find(method, &path) {
            Ok(found) => {
                let (_, _, params) = expected
                    .iter()
                    .find(|(name, route, _)| (*name, *route) == (&*found.target.handler, &found.target.route))
                    .unwrap_or_else(|| panic!("{method} {path} went to {:?}, not {expected:?}", found.target));
                let raw = |(name, raw): &(String, String)| Some((name.clone(), decoded(raw)?));
                assert_eq!(Some(found.params), params.iter().map(raw).collect(), "{method} {path}");
            }
            Err(Missing::Encoding { .. }) => {
                let broken = |params: &[(String, String)]| params.iter().any(|(_, raw)| decoded(raw).is_none());
                assert!(expected.iter().any(|(_, _, params)| broken(params)), "{method} {path}");
            }
            Err(missing) => {
                assert!(expected.is_empty() || reserved(&path), "{method} {path} is {missing:?}, not {expected:?}");
                let others = METHODS.into_iter().any(|method| !matching(method).is_empty());
                assert_eq!(matches!(missing, Missing::Method { .. }), others && !reserved(&path), "{method} {path}");
            }
        }
    }
}

fn reserved(path: &str) -> bool {
    ["admin", "livez", "metrics", "readyz"].contains(&path.split('/').nth(1).unwrap_or_default())
}

/// A path that the route matches.
fn filled(pattern: &str) -> String {
    let fill = |segment: &str| match halves(segment) {
        Some((before, _, after)) => format!("{before}~{after}"),
        None => segment.to_owned(),
    };
    pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
}

/// What stands before a segment's parameter, its name, and what stands behind it.
fn halves(segment: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = segment.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (word && !before.contains('}') && !after.contains(['{', '}'])).then_some((before, name, after))
}

/// The parameters of a path as it was sent, if the pattern matches it.
fn params(pattern: &str, path: &str) -> Option<Vec<(String, String)>> {
    if pattern.matches('/').count() != path.matches('/').count() {
        return None;
    }
    let mut params = Vec::new();
    for (pattern, segment) in pattern.split('/').zip(path.split('/')) {
        match halves(pattern) {
            None if pattern == segment => {}
            None => return None,
            Some((before, name, after)) => {
                let value = segment.strip_prefix(before)?.strip_suffix(after).filter(|value| !value.is_empty())?;
                params.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Some(params)
}

/// Percent-decoded, byte by byte.
fn decoded(raw: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || Some(char::from(rest.next()?).to_digit(16)? as u8);
        bytes.push(if byte == b'%' { digit()? * 16 + digit()? } else { byte });
    }
    String::from_utf8(bytes).ok()
}
