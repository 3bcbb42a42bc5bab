//! `tidemill check`: reads settings and handlers as `run` would, says what it found, and starts nothing.
//!
//! It leaves no file behind: not even the token secret that `run` would make.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use jsonwebtoken::DecodingKey;

use super::{Config, inspect, say};
use crate::deploy;
use crate::deploy::artifact::Artifact;
use crate::deploy::manifest::{Route, Spec};
use crate::deploy::report::Description;
use crate::guest::Engine;
use crate::http::jwt::Verifier;
use crate::http::routes::{Dispatch, Routes, Target};
use crate::http::secret;
use crate::scratch::Scratch;
use crate::settings::{Bootstrap, JwtKey, Problem, Problems, Settings};

/// `tidemill check`
#[derive(Debug, Args)]
pub struct Arguments {
    /// Check this file, under the settings that are there for it, and say what it asks for and what it is given.
    file: Option<PathBuf>,
    #[command(flatten)]
    config: Config,
}

/// Checks everything, or the one file, and prints a summary.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load()?;
    if let Some(file) = &arguments.file {
        return one(&settings, file);
    }
    let files = handlers(&settings.handlers)?;
    key(&settings)?;
    let mut problems = Problems::default();
    let specs = specs(&settings, &files, &mut problems);
    let overrides = settings.overrides.keys().filter(|name| !specs.iter().any(|(_, spec)| spec.name == **name));
    for name in overrides {
        problems.extend(Problems::one("settings", format!("[handler.{name}] overrides a handler that is not there")));
    }
    problems.or(())?;
    say(summary(&settings, &specs).trim_end())
}

/// Checks a file that need not lie in the handlers folder.
fn one(settings: &Settings, file: &Path) -> anyhow::Result<()> {
    let artifact = Artifact::read(file).with_context(|| file.display().to_string())?;
    let (spec, _) = artifact.lay_out(settings)?;
    let description = Description::of(&artifact, &spec).with_context(|| file.display().to_string())?;
    say(&inspect::text(&description))?;
    let mut problems = Problems::default();
    specs(settings, &[file.to_owned()], &mut problems);
    Ok(problems.or(())?)
}

/// What `run` would make live: each file is read, compiled and held against the others.
fn specs(settings: &Settings, files: &[PathBuf], problems: &mut Problems) -> Vec<(PathBuf, Spec)> {
    let routes = Routes::default();
    let mut specs: Vec<(PathBuf, Spec)> = Vec::new();
    let scratch = Scratch::new();
    let engine = scratch.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(|scratch| Engine::new(scratch.path()));
    for file in files {
        let read = || -> anyhow::Result<Spec> {
            let artifact = Artifact::read(file)?;
            let spec = artifact.resolve(settings)?;
            deploy::compile(engine.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?, &artifact, &spec)?;
            deploy::check_against(&spec, specs.iter().map(|(file, spec)| (&**file, spec)))?;
            routes.check(&spec.name, &spec.served())?;
            Ok(spec)
        };
        match read() {
            Ok(spec) => {
                let send: Dispatch = Arc::new(|_| tokio::sync::oneshot::channel().1);
                let handler: Arc<str> = spec.name.as_str().into();
                let target = |route: &Route| Target {
                    route: route.clone(),
                    rates: spec.rates,
                    handler: handler.clone(),
                    send: send.clone(),
                };
                // Just checked; it only makes the next handler's check see these routes.
                let _ = routes.set(&spec.name, spec.served().iter().map(target).collect());
                specs.push((file.clone(), spec));
            }
            Err(error) => match error.downcast::<Problems>() {
                Ok(found) => problems.extend(found),
                Err(error) => problems.extend(Problems::one(file.display().to_string(), format!("{error:#}"))),
            },
        }
    }
    specs
}

/// The `.wasm` files of the folder, sorted; none if it does not exist.
pub(super) fn handlers(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.try_exists()? {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    let read = || format!("read the handlers folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the key that tokens are checked with, if there should be one already.
fn key(settings: &Settings) -> Result<(), Problems> {
    let wrong = |key: &str, error: &dyn std::fmt::Display| {
        let message = format!("`http.jwt.{key}`: {error}");
        let mut problems = Problems::default();
        problems.push(Problem { origin: "settings".into(), line: None, message });
        problems
    };
    let pem = |path: &Path, parse: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>| {
        let read = fs::read(path).map_err(anyhow::Error::from);
        let parsed = read.and_then(|pem| parse(&pem).context("is not such a public key in PEM"));
        parsed.map(drop).map_err(|error| wrong("public-key-file", &format!("{}: {error:#}", path.display())))
    };
    match &settings.http.jwt.key {
        JwtKey::Rs256(path) => pem(path, DecodingKey::from_rsa_pem),
        JwtKey::Es256(path) => pem(path, DecodingKey::from_ec_pem),
        JwtKey::SecretFile(_) => {
            secret::load_or_create(settings).map(drop).map_err(|error| wrong("secret-file", &format!("{error:#}")))
        }
        JwtKey::JwksFile(_) => {
            Verifier::new(settings).map(drop).map_err(|error| wrong("jwks-file", &format!("{error:#}")))
        }
        JwtKey::Secret(_) | JwtKey::Generated | JwtKey::JwksUrl { .. } => Ok(()),
    }
}

fn summary(settings: &Settings, specs: &[(PathBuf, Spec)]) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<9} {text}");
    };
    line("data", &settings.data.display().to_string());
    match &settings.kafka.bootstrap {
        Bootstrap::Embedded { keep: false } => line("kafka", "embedded"),
        Bootstrap::Embedded { keep: true } => line("kafka", "embedded, kept when the daemon stops"),
        Bootstrap::Servers(servers) => line("kafka", servers),
    }
    for topic in &settings.topics {
        line("topic", &format!("{} ({} partitions, {} replicas)", topic.name, topic.partitions, topic.replicas));
    }
    for destination in &settings.destinations.0 {
        let way = destination.http.as_ref().map_or("kafka", |post| post.url.as_str());
        line("sends", &format!("{} to {way}", destination.topic));
    }
    line("http", &settings.http.listen.to_string());
    line(
        "tokens",
        match &settings.http.jwt.key {
            JwtKey::Generated => "HS256, secret made in the data folder",
            JwtKey::Secret(_) => "HS256, secret from the settings",
            JwtKey::SecretFile(_) => "HS256, secret from a file",
            JwtKey::Rs256(_) => "RS256",
            JwtKey::Es256(_) => "ES256",
            JwtKey::JwksFile(_) => "a key set from a file",
            JwtKey::JwksUrl { .. } => "a key set from its issuer",
        },
    );
    let missing = if settings.handlers.exists() { "" } else { " (does not exist)" };
    line("handlers", &format!("{}{missing}", settings.handlers.display()));
    for (file, spec) in specs {
        let reads = spec.topics.iter().chain(&spec.pattern).map(String::as_str).collect::<Vec<_>>().join(", ");
        let reads = if reads.is_empty() { "no topic" } else { &reads };
        line("handler", &format!("{} ({}): reads {reads}, {} routes", spec.name, file.display(), spec.routes.len()));
        for schedule in &spec.schedules {
            line("schedule", &format!("{}, {schedule}", spec.name));
        }
        if let Some(route) = spec.events.route(&spec.name) {
            let auth = if route.jwt { " with a token" } else { "" };
            line(
                "events",
                &format!("{} {}{auth}, for {}", route.method, route.path, spec.events.destinations.join(", ")),
            );
        }
        for (name, secret) in &spec.secrets {
            line("secret", &format!("{name} of {}, from {}", spec.name, secret.source()));
        }
        if !spec.tables.is_empty() {
            line("grant", &format!("{}: tables {}", spec.name, spec.tables));
        }
    }
    for name in settings.overrides.keys() {
        line("override", name);
    }
    out
}
