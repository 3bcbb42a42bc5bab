//! `tidemill deploy`: sends a handler's file to the daemon.
//!
//! What can be said of the file without a daemon is said before one is asked.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;

use super::progress::Progress;
use super::remote::{Remote, print_json};
use super::say;
use crate::deploy::artifact::{Artifact, Parts};
use crate::deploy::report::Done;
use crate::deploy::smoke::MAX;
use crate::http::admin::body::Upload;
use crate::id::short;

/// `tidemill deploy`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The handler's file; `NAME.toml` and `NAME.migrations` that stand beside it go with it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Let the daemon check it, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Let it first run the last N records of the handler's topics on a copy of its store, and refuse it where it traps.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=MAX as u64))]
    smoke: Option<u64>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Deploys.
///
/// # Errors
/// The file was refused, here or by the daemon; nothing was changed.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let parts = Parts::read(&arguments.file)?;
    Artifact::from_parts(parts.clone(), &arguments.file).with_context(|| arguments.file.display().to_string())?;
    let daemon = arguments.remote.daemon()?;
    let body = match &parts {
        Parts { manifest: None, migrations: None, .. } => ("application/wasm", parts.wasm),
        parts => ("application/json", serde_json::to_vec(&Upload::of(parts)).context("write JSON")?),
    };
    let smoke = arguments.smoke.map(|count| format!("&smoke={count}")).unwrap_or_default();
    let path = format!("handlers?dry-run={}{smoke}", arguments.dry_run);
    let progress = Progress::begin("the daemon compiles it and tries it on a copy of its store");
    let done: Done = daemon.ask(Method::POST, &path, Some(body))?;
    drop(progress);
    if arguments.json {
        return print_json(&done);
    }
    let (name, artifact) = (&done.handler, short(&done.artifact));
    if arguments.dry_run {
        let migrations = match done.migrations.as_slice() {
            [] => "no migration would run".to_owned(),
            migrations => format!("migrations would run: {}{}", migrations.join(", "), took(&done)),
        };
        let what = if done.changed { "would go live" } else { "runs already" };
        let smoke = done.smoke.as_ref().map(|smoke| format!("; the last {smoke}")).unwrap_or_default();
        return say(&format!("{artifact} of handler {name} {what} as {}; {migrations}{smoke}", done.file));
    }
    told(&done, if done.changed { "is live" } else { "was live already" })
}

fn took(done: &Done) -> String {
    done.migrations_ms.map_or(String::new(), |ms| format!(" (which took {ms} ms on a copy of the store)"))
}

/// One line for people, and one to standard error for what went wrong afterwards.
pub(super) fn told(done: &Done, what: &str) -> anyhow::Result<()> {
    let number = done.version.map_or(String::new(), |number| format!("version {number} of "));
    let held = match &done.instead_of {
        Some(held) => format!(" in place of {} in {}, which is held back until it changes", short(held), done.file),
        None => format!(", from {}", done.file),
    };
    if let Some(smoke) = &done.smoke {
        say(&format!("smoke test on a copy of the store: {smoke}"))?;
    }
    if let Some(warning) = &done.warning {
        eprintln!("warning: {warning}");
    }
    say(&format!("{number}handler {} ({}) {what}{held}", done.handler, short(&done.artifact)))
}
