//! `tidemill restore`: a data folder from a backup, whole or not at all.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::backup::{tell, teller};
use crate::backup;
use crate::host;

/// `tidemill restore`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The backup.
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// The data folder that it is to become: one that is empty, or not there yet.
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// Where the handlers folder goes, which is left out without this: one that is empty, or not there yet.
    #[arg(long, value_name = "FOLDER")]
    handlers: Option<PathBuf>,
    /// Print what was restored as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the backup, and restores it.
///
/// # Errors
/// The backup is not whole, or a folder is not empty; nothing was restored.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    host::survive_large_files();
    let handlers = arguments.handlers.as_deref();
    let manifest = backup::restore(&arguments.backup, &arguments.data, handlers, &mut teller())?;
    tell(&manifest, arguments.json, &format!("{} is restored", arguments.data.display()))
}
