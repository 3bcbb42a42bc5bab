//! Backups that somebody elsewhere asks for: they are written on the daemon's own machine, one at a time.
//!
//! Its invariant: what was begun is whole in the end, or nothing of it is left, whatever becomes of who asked; and the audit log has it
//! before anybody is told. Nobody's question waits for a backup.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Deployer;
use super::audit::{Act, Action, Audit, Caller};
use super::command::Denied;
use super::manifest::names;
use crate::backup::{self, Begun, Manifest, Progress, Source};

/// The folder in the data folder.
const FOLDER: &str = "backups";

/// What `POST backup` says.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BackupWanted")]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The name of its folder.
    pub name: String,
}

/// A backup on the daemon's machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Backup {
    /// Its name.
    pub name: String,
    /// Where it is, on the daemon's machine.
    pub folder: PathBuf,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
}

/// How a backup is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BackupState")]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It is being written.
    Running {
        /// How far it is; nothing is known at its very beginning.
        progress: Option<Progress>,
    },
    /// It is there.
    Whole {
        /// What is in it.
        manifest: Manifest,
    },
    /// Nothing of it is left.
    Failed {
        /// Why.
        error: String,
    },
}

/// The backup that is being written, or was the last.
#[derive(Default)]
pub(super) struct Desk {
    latest: Arc<Mutex<Option<Backup>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the daemon stops.
    stopping: Arc<AtomicBool>,
}

impl Deployer {
    /// Begins to write a backup into `backups/NAME` of the data folder. No handler waits for it, and it waits for no deployment.
    ///
    /// # Errors
    /// The name is none, or taken; another one is being written; or nothing can be written there.
    pub fn back_up(&self, wanted: &Wanted, caller: &Caller) -> Result<Backup> {
        let name = names::plain(&wanted.name).map_err(Denied::Conflict)?;
        let (settings, audit) = (&self.around.settings, &self.around.audit);
        audit.check().context("nothing was done, since it could not be noted")?;
        let source = Source { data: settings.data.clone(), handlers: settings.handlers.clone(), settings: None };
        let folder = settings.data.join(FOLDER).join(&name);
        let mut latest = lock(&self.backups.latest);
        let begun = match latest.as_ref().filter(|backup| backup.is_running()) {
            None => backup::begin(source, &folder),
            Some(Backup { name, .. }) => {
                let why = format!("the backup {name} is being written, and one is at a time: wait until it is whole");
                Err(Denied::Conflict(why).into())
            }
        };
        let begun = match begun {
            Ok(begun) => begun,
            Err(error) => {
                note(audit, caller, &folder, Some(&error));
                return Err(error);
            }
        };
        let backup = Backup { name, folder, state: State::Running { progress: None } };
        let of = (self.backups.latest.clone(), self.backups.stopping.clone());
        let (audit, caller, backup_of) = (audit.clone(), caller.clone(), backup.clone());
        let thread = crate::thread::spawn("backup", move || write(begun, backup_of, &of.0, &of.1, &audit, &caller));
        *lock(&self.backups.thread) = Some(thread.context("start a thread")?);
        *latest = Some(backup.clone());
        Ok(backup)
    }

    /// How a backup is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn backup(&self, name: &str) -> Result<Backup> {
        let name = names::plain(name).map_err(Denied::Unknown)?;
        if let Some(backup) = lock(&self.backups.latest).as_ref().filter(|backup| backup.name == name) {
            return Ok(backup.clone());
        }
        let folder = self.around.settings.data.join(FOLDER).join(&name);
        let manifest = Manifest::read(&folder).map_err(|error| Denied::Unknown(format!("{error:#}")))?;
        Ok(Backup { name, folder, state: State::Whole { manifest } })
    }

    /// Gives up what is not whole yet, and waits until nothing of it is left.
    pub fn stop_backup(&self) {
        self.backups.stopping.store(true, Ordering::Relaxed);
        if let Some(backup) = lock(&self.backups.latest).as_ref().filter(|backup| backup.is_running()) {
            tracing::warn!(name = backup.name, "stopping: the backup that is being written is given up");
        }
        if let Some(thread) = lock(&self.backups.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Backup {
    /// Whether it is being written.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// Writes a backup to its end, and then says how it ended.
fn write(
    begun: Begun,
    backup: Backup,
    latest: &Mutex<Option<Backup>>,
    stopping: &AtomicBool,
    audit: &Audit,
    caller: &Caller,
) {
    let tell = |state| *lock(latest) = Some(Backup { state, ..backup.clone() });
    let taken = begun.finish(&mut |progress| {
        tell(State::Running { progress: Some(progress) });
        !stopping.load(Ordering::Relaxed)
    });
    note(audit, caller, &backup.folder, taken.as_ref().err());
    tell(match taken {
        Ok(manifest) => State::Whole { manifest },
        Err(error) => State::Failed { error: format!("{error:#}") },
    });
}

fn note(audit: &Audit, caller: &Caller, folder: &Path, error: Option<&anyhow::Error>) {
    let (by, folder, error) = (caller.name(), folder.display().to_string(), error.map(|error| format!("{error:#}")));
    match &error {
        None => tracing::info!(by, folder, "backup"),
        Some(error) => tracing::warn!(by, folder, error, "backup refused"),
    }
    let (ok, error, detail) = (error.is_none(), error.as_deref(), Some(folder.as_str()));
    if let Err(error) = audit.write(caller, Act { ok, error, detail, ..Act::of(Action::Backup) }) {
        tracing::error!(by, folder, error = format!("{error:#}"), "a backup is not in the audit log");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
