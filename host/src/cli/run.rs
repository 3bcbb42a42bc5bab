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
    let settings = arguments.config.load()?;
    telemetry::init(&settings.log)?;
    host::run(settings, arguments.standby)
}
