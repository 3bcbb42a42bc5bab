//! `tidemill reload`: a daemon reads its settings again.

use clap::Args;
use reqwest::Method;

use super::remote::{Remote, print_json};
use super::say;
use crate::deploy::Reloaded;

/// `tidemill reload`
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Asks for it, and says what came of it.
///
/// # Errors
/// No daemon answers; or something is wrong with the settings, and nothing has changed.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let body = Some(("application/json", Vec::new()));
    let reloaded: Reloaded = arguments.remote.daemon()?.ask(Method::POST, "reload", body)?;
    match arguments.json {
        true => print_json(&reloaded),
        false => say(&reloaded.lines().join("\n")),
    }
}
