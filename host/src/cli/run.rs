//! `tidemill run`: the daemon.

use clap::Args;

use super::Config;
use crate::{host, telemetry};

/// How to run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Wait while another daemon holds the data folder, and take over when it ends.
    #[arg(long)]
    standby: bool,
    #[command(flatten)]
    config: Config,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// The daemon cannot start; or the HTTP server fails.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (settings, text) = arguments.config.load_with_text()?;
    let levels = telemetry::init(&settings.log)?;
    let config = arguments.config.clone();
    let read = Box::new(move || config.load_with_text());
    host::run(host::Start { settings, text, read, levels, standby: arguments.standby })
}
