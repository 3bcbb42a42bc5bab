//! `tidemill backup`: a copy of a data folder from which a daemon can go on, of a daemon that runs or of one that does not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use reqwest::Method;

use super::remote::{Remote, print_json};
use super::say;
use crate::backup::{self, Manifest, Progress, Source};
use crate::deploy::backup::{BackedUp, Wanted};
use crate::host;

/// How often a file that takes its time says how far it is.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// `tidemill backup`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Where to: a folder that is empty, or not there yet. With --daemon a name, under which it is in `backups` of that daemon's data
    /// folder.
    #[arg(value_name = "DIR", required = true)]
    folder: Option<PathBuf>,
    /// Print what is in it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check that a backup is whole: sizes, hashes, and SQLite's own check of each store.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// The backup.
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// Print what is in it as JSON.
    #[arg(long)]
    json: bool,
}

/// Takes a backup, or checks one.
///
/// # Errors
/// It cannot be read or written, or is not whole.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    host::survive_large_files();
    if let Some(What::Verify(verify)) = &arguments.what {
        let manifest = backup::verify(&verify.backup, &mut teller())?;
        return tell(&manifest, verify.json, &format!("{} is whole", verify.backup.display()));
    }
    let folder = arguments.folder.clone().unwrap_or_default();
    if arguments.remote.is_named() {
        return ask(arguments, &folder.to_string_lossy());
    }
    let config = &arguments.remote.config;
    let settings = config.load()?;
    let file = config.config.clone().unwrap_or_else(|| "tidemill.toml".into());
    let source =
        Source { data: settings.data, handlers: settings.handlers, settings: Some(file).filter(|file| file.exists()) };
    let manifest = backup::take(&source, &folder, &mut teller())?;
    tell(&manifest, arguments.json, &format!("a backup of {} is in {}", source.data.display(), folder.display()))
}

/// Lets a daemon elsewhere take one.
fn ask(arguments: &Arguments, name: &str) -> Result<()> {
    let body = serde_json::to_vec(&Wanted { name: name.to_owned() }).context("write JSON")?;
    let taken: BackedUp = arguments.remote.daemon()?.ask(Method::POST, "backup", Some(("application/json", body)))?;
    let what = format!("a backup is in {} on the daemon's machine", taken.folder.display());
    tell(&taken.manifest, arguments.json, &what)
}

/// Says what a backup holds.
pub(super) fn tell(manifest: &Manifest, json: bool, what: &str) -> Result<()> {
    if json {
        return print_json(manifest);
    }
    let stores = manifest.stores();
    say(&format!(
        "{what}: {} stores ({}), {} files, {} bytes, begun {}",
        stores.len(),
        stores.join(", "),
        manifest.files.len(),
        manifest.bytes(),
        manifest.began
    ))
}

/// Says on standard error how far it is: once for each store, and each second of a file that takes longer.
pub(super) fn teller() -> impl FnMut(Progress<'_>) {
    let mut said = Instant::now();
    move |progress: Progress<'_>| {
        let Progress { doing, file, done, of } = progress;
        let ends = done == of && doing != "check" && file.ends_with(".db");
        if ends || said.elapsed() >= SAY_AFTER {
            said = Instant::now();
            eprintln!("{doing} {file}: {done} of {of} bytes");
        }
    }
}
