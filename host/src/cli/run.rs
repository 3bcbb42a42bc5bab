//! `tidemill run`: the daemon.

use super::Config;
use crate::{host, telemetry};

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// The daemon cannot start; or the HTTP server fails.
pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    let settings = config.load()?;
    telemetry::init(&settings.log)?;
    host::run(settings)
}
