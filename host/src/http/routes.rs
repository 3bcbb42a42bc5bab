//! The live table of routes: which handler answers which method and path.
//!
//! A table is never changed: each change builds a new one and puts it in the old one's place at once, so a request
//! sees all routes of a handler or none, and a lookup never waits for a change to be built. No two handlers are
//! ever in the table with the same method and overlapping paths. Paths are matched as the client sent them; only
//! the values of parameters are percent-decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use matchit::{InsertError, Router};
use percent_encoding::percent_decode_str;
use tokio::sync::oneshot;

use crate::deploy::manifest::Route;
use crate::deploy::manifest::names::PARAMS_MAX;
use crate::metrics::meters;
use crate::record::{Answer, Request};
use crate::settings::Rates;

/// The first segments of paths that the host keeps for itself.
const RESERVED: [&str; 4] = ["admin", "livez", "metrics", "readyz"];

/// Hands a request on, and gives back where its answer will arrive. It must not block. A receiver whose sender is
/// dropped without an answer counts as a failure.
pub type Dispatch = Arc<dyn Fn(Request) -> oneshot::Receiver<Answer> + Send + Sync>;

/// One route of a handler, and the way to the handler.
#[derive(Clone)]
pub struct Target {
    /// As in the manifest.
    pub route: Route,
    /// How often one client may call the handler, whatever the route.
    pub rates: Rates,
    /// The handler's name.
    pub handler: Arc<str>,
    /// To the store executor for a route that writes, to the readers for one that reads.
    pub send: Dispatch,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("route", &self.route).field("handler", &self.handler).finish_non_exhaustive()
    }
}

/// Why a handler's routes cannot go live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another handler answers there already.
    #[error(
        "route {method} {path} of handler `{handler}` overlaps {method} {other_path} of handler `{other}`: \
         change one of the two paths, or remove handler `{other}`"
    )]
    Taken {
        /// The handler whose routes were to change.
        handler: String,
        /// The method of both.
        method: String,
        /// The new path.
        path: String,
        /// The handler that has the path; the same one when its manifest overlaps with itself.
        other: String,
        /// The path that is there.
        other_path: String,
    },
    /// The host's own paths.
    #[error(
        "route {method} {path} of handler `{handler}`: the host keeps /admin, /livez, /metrics and /readyz for \
         itself; choose another path"
    )]
    Reserved {
        /// The handler.
        handler: String,
        /// The route's method.
        method: String,
        /// The route's path.
        path: String,
    },
    /// The path is no pattern.
    #[error("route {method} {path} of handler `{handler}`: {problem}")]
    Pattern {
        /// The handler.
        handler: String,
        /// The route's method.
        method: String,
        /// The route's path.
        path: String,
        /// What is wrong, and what to write instead.
        problem: &'static str,
    },
}

/// The route of a request.
#[derive(Clone, Debug)]
pub struct Found {
    /// The route. For a `HEAD` it may be a `GET` route.
    pub target: Arc<Target>,
    /// Values of the path's parameters, percent-decoded, in the order of the path.
    pub params: Vec<(String, String)>,
    /// Counts the route's answers.
    pub meter: Arc<meters::Route>,
}

/// A route in the table, with what its answers have come to: that goes on where its handler gets another version.
#[derive(Clone, Debug)]
struct Entry {
    target: Arc<Target>,
    meter: Arc<meters::Route>,
}

/// Why a request has no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// 404
    Path,
    /// 405: the methods that the path has, for the `Allow` header.
    Method {
        /// Comma-separated.
        allow: String,
    },
    /// 400: a parameter's value is not percent-encoded UTF-8.
    Encoding {
        /// The parameter.
        name: String,
    },
}

/// The live table.
#[derive(Debug, Default)]
pub struct Routes {
    live: RwLock<Arc<Table>>,
    /// Held while a change is being built, so that no change is lost.
    change: Mutex<()>,
    /// Counts the answers to requests without a route.
    unrouted: Arc<meters::Route>,
    /// Counts those that came too often.
    limited: Arc<meters::Limited>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    handlers: BTreeMap<String, Vec<Entry>>,
    methods: BTreeMap<String, Router<Entry>>,
}

impl Routes {
    /// Replace all routes of one handler at once, or change nothing.
    ///
    /// # Errors
    /// The first route that is invalid or that another handler has.
    pub fn set(&self, handler: &str, targets: Vec<Target>) -> Result<(), Conflict> {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.live().with(handler, targets)?;
        self.publish(table);
        Ok(())
    }

    /// Whether [`Routes::set`] would succeed at present.
    ///
    /// # Errors
    /// As [`Routes::set`].
    pub fn check(&self, handler: &str, routes: &[Route]) -> Result<(), Conflict> {
        let nowhere: Dispatch = Arc::new(|_| oneshot::channel().1);
        let name: Arc<str> = handler.into();
        let targets = routes
            .iter()
            .map(|route| Target {
                route: route.clone(),
                rates: Rates::default(),
                handler: Arc::clone(&name),
                send: Arc::clone(&nowhere),
            })
            .collect();
        self.live().with(handler, targets).map(drop)
    }

    /// Take all routes of a handler out. A handler without routes is left as it is.
    pub fn remove(&self, handler: &str) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(self.live().without(handler));
    }

    /// The route that answers a request; `path` as sent, without the query.
    ///
    /// # Errors
    /// [`Missing`] says what the client is answered.
    pub fn find(&self, method: &str, path: &str) -> Result<Found, Missing> {
        if is_reserved(path) {
            return Err(Missing::Path);
        }
        let table = self.live();
        let wanted = if method == "HEAD" { ["HEAD", "GET"].as_slice() } else { &[method] };
        for method in wanted {
            let Some(found) = table.methods.get(*method).and_then(|router| router.at(path).ok()) else { continue };
            let params = found
                .params
                .iter()
                .map(|(name, raw)| match decode(raw) {
                    Some(value) => Ok((name.to_owned(), value)),
                    None => Err(Missing::Encoding { name: name.to_owned() }),
                })
                .collect::<Result<_, _>>()?;
            let Entry { target, meter } = found.value.clone();
            return Ok(Found { target, params, meter });
        }
        let mut allow: BTreeSet<&str> =
            table.methods.iter().filter(|(_, router)| router.at(path).is_ok()).map(|(method, _)| &**method).collect();
        if allow.is_empty() {
            return Err(Missing::Path);
        }
        if allow.contains("GET") {
            allow.insert("HEAD");
        }
        Err(Missing::Method { allow: allow.into_iter().collect::<Vec<_>>().join(", ") })
    }

    /// What became of requests without a route.
    pub fn unrouted(&self) -> &Arc<meters::Route> {
        &self.unrouted
    }

    /// Requests that came too often.
    pub fn limited(&self) -> &Arc<meters::Limited> {
        &self.limited
    }

    /// All routes, each with its answers.
    pub fn meters(&self) -> Vec<(Arc<Target>, Arc<meters::Route>)> {
        self.live().handlers.values().flatten().map(|entry| (entry.target.clone(), entry.meter.clone())).collect()
    }

    fn live(&self) -> Arc<Table> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, table: Table) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

impl Table {
    /// This table with a handler's routes replaced.
    fn with(&self, handler: &str, targets: Vec<Target>) -> Result<Table, Conflict> {
        let mut table = self.without(handler);
        let before = self.handlers.get(handler).map(Vec::as_slice).unwrap_or_default();
        for target in targets {
            table.check(handler, &target.route)?;
            let same = |entry: &&Entry| {
                let Route { method, path, .. } = &entry.target.route;
                (method, path) == (&target.route.method, &target.route.path)
            };
            let meter = before.iter().find(same).map(|entry| entry.meter.clone()).unwrap_or_default();
            table.insert(handler, Entry { target: Arc::new(target), meter })?;
        }
        Ok(table)
    }

    /// This table without a handler's routes.
    fn without(&self, handler: &str) -> Table {
        let mut table = Table::default();
        for (name, entries) in self.handlers.iter().filter(|(name, _)| *name != handler) {
            for entry in entries {
                // Each was checked against each other one, so that part of a table is a table.
                if let Err(conflict) = table.insert(name, entry.clone()) {
                    tracing::error!(%conflict, "a live route was lost; deploy its handler again");
                }
            }
        }
        table
    }

    /// Whether a route can stand in this table.
    fn check(&self, handler: &str, route: &Route) -> Result<(), Conflict> {
        let (handler, method, path) = (handler.to_owned(), route.method.clone(), route.path.clone());
        if is_reserved(&path) {
            return Err(Conflict::Reserved { handler, method, path });
        }
        let problem = malformed(&method, &path).or_else(|| match Router::new().insert(path.as_str(), ()) {
            Ok(()) => None,
            Err(InsertError::InvalidParamSegment) => Some("only one parameter can stand between two slashes"),
            Err(InsertError::InvalidCatchAll) => Some("a parameter like `{*rest}` can only stand at the end"),
            Err(_) => Some("parameters are written `{name}`, literal braces `{{` and `}}`"),
        });
        if let Some(problem) = problem {
            return Err(Conflict::Pattern { handler, method, path, problem });
        }
        // One pair after the other and both ways round, since `matchit` takes some pairs in one order only.
        let stand = |first: &str, second: &str| {
            let mut pair = Router::new();
            pair.insert(first, ()).and_then(|()| pair.insert(second, ())).is_ok()
        };
        let others = self.handlers.values().flatten().map(|entry| &entry.target);
        for there in others.filter(|there| there.route.method == method) {
            let other_path = &there.route.path;
            if !stand(other_path, &path) || !stand(&path, other_path) {
                let (other, other_path) = (there.handler.to_string(), other_path.clone());
                return Err(Conflict::Taken { handler, method, path, other, other_path });
            }
        }
        Ok(())
    }

    /// Put a route in that was checked.
    fn insert(&mut self, handler: &str, entry: Entry) -> Result<(), Conflict> {
        let Route { method, path, .. } = &entry.target.route;
        let router = self.methods.entry(method.clone()).or_default();
        router.insert(path.as_str(), entry.clone()).map_err(|_| Conflict::Pattern {
            handler: handler.to_owned(),
            method: method.clone(),
            path: path.clone(),
            problem: "it cannot stand beside the live routes; choose another path",
        })?;
        self.handlers.entry(handler.to_owned()).or_default().push(entry);
        Ok(())
    }
}

/// Whether a path, or a pattern, is the host's own.
pub(super) fn is_reserved(path: &str) -> bool {
    let first = path.strip_prefix('/').and_then(|rest| rest.split('/').next());
    first.is_some_and(|first| RESERVED.contains(&first))
}

/// What is wrong with a method or pattern, before `matchit` looks at it.
fn malformed(method: &str, path: &str) -> Option<&'static str> {
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        return Some("a method is written in capital letters, such as GET");
    }
    if !path.starts_with('/') {
        return Some("a path starts with `/`");
    }
    // A path is matched as it comes over the wire, where nothing else can stand; `matchit` counts in bytes.
    if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        return Some("a path is plain ASCII without blanks, `?` and `#`; write other characters percent-encoded");
    }
    if path.matches('{').count() > PARAMS_MAX {
        return Some("a path has at most 25 parameters");
    }
    None
}

/// Percent-decode a value in the path or the query; `None` for a broken escape or invalid UTF-8.
pub(super) fn decode(raw: &str) -> Option<String> {
    for escape in raw.split('%').skip(1) {
        if escape.bytes().take(2).filter(u8::is_ascii_hexdigit).count() < 2 {
            return None;
        }
    }
    percent_decode_str(raw).decode_utf8().ok().map(|value| value.into_owned())
}

#[cfg(test)]
mod tests;
