//! `tidemill backup`: a copy of a data folder from which a daemon can go on, of a daemon that runs or of one that does not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;

use super::remote::{Remote, print_json};
use super::say;
use crate::backup::{self, Manifest, Progress, Source};
use crate::deploy::backup::{Backup, State, Wanted};
use crate::host;

/// How often a file that takes its time says how far it is.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// How long a daemon is left, at most, until it is asked again how far it is.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Questions without an answer, one after the other, after which it is not asked again.
const QUESTIONS: u32 = 10;

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
    let what = format!("a backup of {} is in {}", source.data.display(), folder.display());
    let manifest = backup::begin(source, &folder)?.finish(&mut teller())?;
    tell(&manifest, arguments.json, &what)
}

/// Lets a daemon elsewhere take one, and waits until it is whole: by short questions, so that nobody's time-out ends it.
fn ask(arguments: &Arguments, name: &str) -> Result<()> {
    let body = serde_json::to_vec(&Wanted { name: name.to_owned() }).context("write JSON")?;
    let daemon = arguments.remote.daemon()?;
    let mut backup: Backup = daemon.ask(Method::POST, "backup", Some(("application/json", body)))?;
    let (mut told, mut shown, mut unanswered, mut wait) = (teller(), None, 0, ASK_AGAIN / 10);
    loop {
        match backup.state {
            State::Running { progress } => {
                if let Some(progress) = progress.filter(|progress| shown.as_ref() != Some(progress)) {
                    told(progress.clone());
                    shown = Some(progress);
                }
            }
            State::Failed { error } => bail!("{error}"),
            State::Whole { manifest } => {
                let what = format!("a backup is in {} on the daemon's machine", backup.folder.display());
                return tell(&manifest, arguments.json, &what);
            }
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(ASK_AGAIN);
        backup = match daemon.ask(Method::GET, &format!("backup/{name}"), None) {
            Ok(backup) => {
                unanswered = 0;
                backup
            }
            Err(error) => {
                unanswered += 1;
                if unanswered >= QUESTIONS {
                    let folder = backup.folder.display();
                    return Err(error.context(format!(
                        "the backup goes on if the daemon does, and is whole once backup.json is in {folder}"
                    )));
                }
                Backup { state: State::Running { progress: None }, ..backup }
            }
        };
    }
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
pub(super) fn teller() -> impl FnMut(Progress) -> bool {
    let mut said = Instant::now();
    move |progress: Progress| {
        let Progress { doing, file, done, of, number, files } = progress;
        let ends = done == of && doing != "check" && file.ends_with(".db");
        if ends || said.elapsed() >= SAY_AFTER {
            said = Instant::now();
            eprintln!("{doing} {file}: {done} of {of} bytes (file {number} of {files})");
        }
        true
    }
}
