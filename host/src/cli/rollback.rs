//! `tidemill rollback`: an earlier version goes live again.

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;

use super::deploy::told;
use super::remote::{Remote, name, print_json};
use crate::deploy::report::Done;
use crate::http::admin::body::Rollback;

/// `tidemill rollback`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The handler.
    #[arg(value_parser = name)]
    name: String,
    /// The number of the version, as `tidemill versions` lists it; without it the one before.
    version: Option<i64>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Goes back.
///
/// # Errors
/// There is no such version, or it cannot go live; nothing was changed.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&Rollback { version: arguments.version }).context("write JSON")?;
    let path = format!("handlers/{}/rollback", arguments.name);
    let done: Done = arguments.remote.daemon()?.ask(Method::POST, &path, Some(("application/json", body)))?;
    if arguments.json { print_json(&done) } else { told(&done, "is live") }
}
