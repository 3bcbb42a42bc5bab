//! From a backup to a data folder.
//!
//! All of it, or nothing that a daemon would take: the folder is held while it is written, and marked until it is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Entry, HANDLERS, Manifest, Round, Tell, files, verify};
use crate::host::folder::{RESTORING, hold_empty};

/// Checks a backup, and makes a data folder of it; and a handlers folder, where one is named. Both are empty, or not there yet.
///
/// # Errors
/// The backup is not whole; a folder is not empty, or a daemon holds it; or something cannot be written, of which nothing is left.
pub fn restore(backup: &Path, data: &Path, handlers: Option<&Path>, told: Tell<'_>) -> Result<Manifest> {
    let manifest = verify(backup, told)?;
    if let Some(handlers) = handlers
        && !files::names(handlers)?.is_empty()
    {
        bail!("{} is not empty: name a folder that is empty, or not there yet", handlers.display());
    }
    let made = !data.exists();
    let lock = hold_empty(data)?;
    let mut restored = Restored { folders: vec![(data.to_owned(), made)], whole: false };
    if let Some(handlers) = handlers {
        restored.folders.push((handlers.to_owned(), !handlers.exists()));
    }
    files::create(&data.join(RESTORING))?;
    files::sync_folders(data)?;
    for (n, entry) in manifest.files.iter().enumerate() {
        let place = match entry.path.strip_prefix(HANDLERS).and_then(|path| path.strip_prefix('/')) {
            None => files::place(data, &entry.path)?,
            Some(path) => match handlers {
                Some(handlers) => files::place(handlers, path)?,
                None => continue,
            },
        };
        let round = Round { doing: "restore", number: n + 1, files: manifest.files.len() };
        copy(backup, entry, &place, |done| told(round.at(&entry.path, done, entry.bytes)))?;
    }
    restored.finish()?;
    drop(lock);
    Ok(manifest)
}

fn copy(backup: &Path, entry: &Entry, place: &Path, step: impl FnMut(u64) -> bool) -> Result<()> {
    let from = backup.join(&entry.path);
    let mut source = File::open(&from).with_context(|| format!("read {}", from.display()))?;
    let hash = files::pieces(&mut source, &from, place, step)?;
    if hash != entry.sha256 {
        bail!("{} has changed since it was checked: nothing was restored", from.display());
    }
    Ok(())
}

/// What was restored. It goes with this value, unless it is whole.
struct Restored {
    /// The data folder first; and whether each was made.
    folders: Vec<(PathBuf, bool)>,
    whole: bool,
}

impl Restored {
    fn finish(&mut self) -> Result<()> {
        self.folders
            .iter()
            .filter(|(folder, _)| folder.exists())
            .try_for_each(|(folder, _)| files::sync_folders(folder))?;
        if let Some((data, _)) = self.folders.first() {
            let ended = fs::remove_file(data.join(RESTORING)).and_then(|()| File::open(data)?.sync_all());
            ended.map_err(|error| anyhow!("write {}: {error}", data.display()))?;
        }
        self.whole = true;
        Ok(())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if !self.whole {
            // A daemon refuses the data folder for as long as something of it is left.
            self.folders.iter().rev().for_each(|(folder, made)| files::clear(folder, *made, RESTORING));
        }
    }
}
