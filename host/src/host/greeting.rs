//! What a start prints once everything runs: one line with the addresses, and commands to try.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;

use crate::broker::Embedded;
use crate::cli::say as print;
use crate::deploy::manifest::{Route, Spec};
use crate::kafka::config::Connection;
use crate::settings::{JwtKey, Settings};

/// Commands that are printed at most.
const COMMANDS: usize = 8;

pub(super) fn say(
    settings: &Settings,
    address: SocketAddr,
    kafka: &Connection,
    embedded: Option<&Embedded>,
    specs: &[Spec],
) -> Result<()> {
    let broker = match embedded {
        Some(e) if e.found() => format!("{} (embedded, found running)", kafka.bootstrap),
        Some(_) => format!("{} (embedded: it forgets its records when it stops)", kafka.bootstrap),
        None => kafka.bootstrap.clone(),
    };
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let handlers = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
    print(&format!(
        "ready: {}://{address}  kafka {broker}  data {}  handlers {} ({handlers})",
        scheme(settings),
        settings.data.display(),
        settings.handlers.display()
    ))?;
    let mut lines = commands(settings, address, specs);
    if lines.is_empty() {
        lines = format!("drop a handler's .wasm into {} to run it\n", settings.handlers.display());
    }
    print(lines.trim_end())
}

fn scheme(settings: &Settings) -> &'static str {
    if settings.http.tls.is_some() { "https" } else { "http" }
}

fn commands(settings: &Settings, address: SocketAddr, specs: &[Spec]) -> String {
    let mut out = String::new();
    let mut routes: Vec<&Route> =
        specs.iter().flat_map(|spec| &spec.routes).filter(|r| r.example.is_some() || plain_read(r)).collect();
    routes.sort_by_key(|route| route.reads());
    if routes.iter().any(|route| route.jwt)
        && matches!(settings.http.jwt.key, JwtKey::Generated | JwtKey::Secret(_) | JwtKey::SecretFile(_))
    {
        let binary = std::env::current_exe().map_or("tidemill".into(), |path| path.display().to_string());
        let data = std::path::absolute(&settings.data).unwrap_or_else(|_| settings.data.clone());
        let _ = writeln!(out, "  TOKEN=$(TIDEMILL_DATA={} {binary} token --user 7)", data.display());
    }
    for route in routes.into_iter().take(COMMANDS) {
        let auth = if route.jwt { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
        let method = if route.method == "GET" { String::new() } else { format!(" -X {}", route.method) };
        let body = route.example.as_ref().map_or(String::new(), |example| format!(" -d '{example}'"));
        let _ = writeln!(out, "  curl -i{method} {}://{address}{}{auth}{body}", scheme(settings), route.path);
    }
    out
}

/// A route that can be called as it stands.
fn plain_read(route: &Route) -> bool {
    route.method == "GET" && !route.path.contains('{')
}
