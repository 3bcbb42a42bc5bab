//! `tidemill man`: the manual's pages, one for each command, made of what `--help` says.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::say;

/// `tidemill man`
#[derive(Debug, Args)]
pub struct Arguments {
    /// A folder that gets a page for each command; without it the page of the program is printed.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Prints the page, or writes all of them.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Some(folder) = &arguments.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(super::command()).render(&mut page).context("write the page")?;
        return say(String::from_utf8_lossy(&page).trim_end());
    };
    let write = || format!("write the pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(write)?;
    clap_mangen::generate_to(super::command(), folder).with_context(write)?;
    say(&format!("the pages are in {}: read one with `man {}`", folder.display(), folder.join("tidemill.1").display()))
}
