//! The stores: whether each is whole, and what it says of handlers and offsets.
//!
//! Each is read by a connection that writes nothing, whether a daemon has it open or not. To look at a large one takes a while, and
//! keeps its log from becoming shorter meanwhile.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Findings;
use crate::ledger::deployment::{self, Deployment};
use crate::ledger::offset::{self, Stored};
use crate::ledger::{clock, schema};
use crate::settings::Settings;
use crate::settings::units::show_time;
use crate::store::Connection;

const CHECK: &str = "stores";
const DAMAGED: &str = "stop the daemon, keep the files, and restore a backup: what was written since is lost otherwise";

/// What all stores know.
#[derive(Default)]
pub(super) struct Read {
    /// The last version of each handler that was live.
    pub(super) deployments: Vec<Deployment>,
    /// Where each handler goes on.
    pub(super) offsets: Vec<(String, String, i32, Stored)>,
}

pub(super) fn check(settings: &Settings, found: &mut Findings) -> Read {
    let folder = settings.data.join("stores");
    let mut read = Read::default();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "db"));
    files.sort_unstable();
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        match look(file, &name, found) {
            Ok(Read { deployments, offsets }) => {
                read.deployments.extend(deployments);
                read.offsets.extend(offsets);
            }
            Err(error) => found.bad(CHECK, format!("store {name} cannot be read: {error:#}"), DAMAGED),
        }
    }
    found.else_ok(CHECK, format!("{} stores are whole, and no foreign key of theirs leads nowhere", files.len()));
    read
}

fn look(file: &Path, name: &str, found: &mut Findings) -> Result<Read> {
    let connection = Connection::open_reader(file)?;
    let taken = connection.first("PRAGMA user_version", &[], |row| row.integer(0))?.unwrap_or(0);
    if taken > schema::LATEST {
        let saw =
            format!("store {name} was written by a newer Tidemill (ledger {taken}, this one knows {})", schema::LATEST);
        found.bad(CHECK, saw, "run that version, or restore an older backup");
        return Ok(Read::default());
    }
    let told = connection.query("PRAGMA quick_check(3)", &[], |row| row.text(0)).context("look at its pages")?;
    if told != ["ok"] {
        found.bad(CHECK, format!("store {name} is damaged: {}", told.join("; ")), DAMAGED);
    }
    let broken = connection.query("PRAGMA foreign_key_check", &[], |row| row.text(0)).context("look at its keys")?;
    if let Some(table) = broken.first() {
        let saw = format!("store {name}: {} rows refer to what is not there, the first in table {table}", broken.len());
        found.bad(
            CHECK,
            saw,
            "look at them with `PRAGMA foreign_key_check` in sqlite3; a handler or a person has left them",
        );
    }
    if let Some(latest) = clock::latest(&connection)?
        && latest > crate::clock::now()
    {
        let saw = format!(
            "store {name} holds what was written at {}, which is to come by this machine's clock",
            show_time(latest)
        );
        found.bad("clock", saw, "set the clock right: what waits there is done once its time has come");
    }
    let deployments = deployment::last_live(&connection)?;
    let mut offsets = Vec::new();
    for Deployment { handler, .. } in &deployments {
        let of_handler = |(topic, partition, stored)| (handler.clone(), topic, partition, stored);
        offsets.extend(offset::all(&connection, handler)?.into_iter().map(of_handler));
    }
    Ok(Read { deployments, offsets })
}
