//! Holds a handler's file up to the contract, as a daemon would before it goes live, and tells what it is and asks for.
//!
//! It starts nothing and leaves nothing behind.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::deploy;
use crate::deploy::artifact::Artifact;
use crate::deploy::manifest::Spec;
use crate::deploy::report::{self, Ask};
use crate::guest::Engine;
use crate::scratch::Scratch;
use crate::settings::Settings;

/// What a handler's file is and asks for.
#[derive(Debug)]
pub struct Report {
    size: usize,
    spec: Spec,
    asks: Vec<Ask>,
    migrations: Vec<String>,
    exports: Vec<String>,
    imports: Vec<String>,
}

/// Checks the file; `origin` names its manifest in what is said of it.
///
/// # Errors
/// Why no daemon would take it.
pub fn check(bytes: Vec<u8>, origin: &str, settings: &Settings) -> Result<Report> {
    let size = bytes.len();
    let artifact = Artifact::read_alone(bytes, origin)?;
    // What it asks for is the business of whoever deploys it.
    let (spec, _) = artifact.lay_out(settings)?;
    let asks = report::asks(&artifact, &spec);
    let scratch = Scratch::new()?;
    let component = Engine::new(scratch.path()).and_then(|engine| deploy::compile(&engine, &artifact, &spec));
    let component = component.context("no daemon would take it")?;
    let (exports, imports) = (component.exports(), component.imports());
    let migrations = artifact.migrations.into_iter().map(|migration| migration.name).collect();
    Ok(Report { size, spec, asks, migrations, exports, imports })
}

impl Report {
    /// As lines for people.
    pub fn lines(&self) -> String {
        let spec = &self.spec;
        let mut out = String::new();
        // Writing to a string cannot fail.
        let mut all = |label: &str, values: Vec<String>| {
            if !values.is_empty() {
                let _ = writeln!(out, "{label:<10} {}", values.join(", "));
            }
        };
        all("handler", vec![spec.name.clone()]);
        all("size", vec![format!("{:.1} KiB", self.size as f64 / 1024.0)]);
        all("exports", self.exports.iter().map(|name| short(name)).collect());
        let (system, own): (Vec<_>, Vec<_>) = self.imports.iter().partition(|name| name.starts_with("wasi:"));
        all("imports", own.into_iter().map(|name| short(name)).collect());
        all("wasi", system.into_iter().map(|name| name.trim_start_matches("wasi:").to_owned()).collect());
        all("reads", spec.topics.iter().chain(&spec.pattern).cloned().collect());
        let route = |route: &deploy::manifest::Route| {
            format!("{} {}{}", route.method, route.path, if route.jwt { " (bearer token)" } else { "" })
        };
        all("serves", spec.routes.iter().map(route).collect());
        all("publishes", spec.publish.iter().map(|(name, topic)| format!("{name} -> {topic}")).collect());
        all("calls", spec.outbound.origins.iter().map(|origin| origin.as_str().to_owned()).collect());
        all("settings", spec.settings.keys().cloned().collect());
        all("asks for", self.asks.iter().map(|ask| ask.what.clone()).collect());
        all("migrations", self.migrations.clone());
        out
    }
}

/// An interface of the contract without its package, which is the same for all.
fn short(name: &str) -> String {
    name.strip_prefix("tidemill:handler/").unwrap_or(name).to_owned()
}
