//! A backup that somebody elsewhere asks for: it is written on the daemon's own machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Deployer;
use super::audit::{Act, Caller};
use super::command::Denied;
use super::manifest::names;
use crate::backup::{self, Manifest, Source};

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

/// A backup that is whole.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackedUp {
    /// Where it is, on the daemon's machine.
    pub folder: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

impl Deployer {
    /// Writes a backup into `backups/NAME` of the data folder. No handler waits for it, and it waits for no deployment.
    ///
    /// # Errors
    /// The name is none, or taken; or the backup cannot be written, of which nothing is left then.
    pub fn back_up(&self, wanted: &Wanted, caller: &Caller) -> Result<BackedUp> {
        let name = names::plain(&wanted.name).map_err(Denied::Conflict)?;
        let (settings, audit) = (&self.around.settings, &self.around.audit);
        audit.check().context("nothing was done, since it could not be noted")?;
        let source = Source { data: settings.data.clone(), handlers: settings.handlers.clone(), settings: None };
        let folder = settings.data.join(FOLDER).join(name);
        let taken = backup::take(&source, &folder, &mut |_| {});
        let (error, detail) = (taken.as_ref().err().map(|error| format!("{error:#}")), folder.display().to_string());
        let (error, detail) = (error.as_deref(), Some(detail.as_str()));
        let noted = audit.write(caller, Act { action: "backup", ok: error.is_none(), error, detail, ..Act::default() });
        let manifest = taken?;
        noted.with_context(|| format!("the backup {} is whole, and that could not be noted", folder.display()))?;
        Ok(BackedUp { folder, manifest })
    }
}
