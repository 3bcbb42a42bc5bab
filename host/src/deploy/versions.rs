//! The versions that went live, kept in the data folder under the hash of their content.
//!
//! Its invariant: a version is there whole or not at all, and what is read back is exactly what was kept. It knows
//! no handler that runs; which versions may go is decided by whom it belongs to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::artifact::{Artifact, Parts};
use super::going_back::last_good;
use crate::ledger::deployment::{Deployment, Status};

/// The folder in the data folder.
pub const FOLDER: &str = "versions";
/// What the names of unfinished copies end with.
const PARTIAL: &str = "partial";

/// The kept versions of a data folder.
pub struct Versions {
    folder: PathBuf,
    keep: usize,
}

impl Versions {
    /// Those of a data folder; `keep` is how many of each handler stay. Unfinished copies are thrown away.
    pub fn open(data: &Path, keep: usize) -> Result<Self> {
        let folder = data.join(FOLDER);
        let made = || format!("make the folder of versions {}", folder.display());
        fs::create_dir_all(&folder).with_context(made)?;
        for entry in fs::read_dir(&folder).with_context(made)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == PARTIAL) {
                let _ = remove(&entry.path());
            }
        }
        Ok(Self { folder, keep })
    }

    /// Those of a data folder that may be another process's: to be read, with nothing thrown away.
    pub fn of(data: &Path) -> Self {
        Self { folder: data.join(FOLDER), keep: usize::MAX }
    }

    /// The file of a version; what belongs to it stands beside it, as in a handlers folder.
    pub fn path(&self, version: &str) -> PathBuf {
        self.folder.join(format!("{version}.wasm"))
    }

    /// Keeps a version, on disk when this returns. One that is there and whole is left alone.
    pub fn keep(&self, artifact: &Artifact) -> Result<()> {
        if self.read(&artifact.version).is_ok() {
            return Ok(());
        }
        let path = self.path(&artifact.version);
        let kept = || format!("keep the version in {}", path.display());
        // The component comes last: where it is, the rest is too.
        put(&path, &artifact.parts()).with_context(kept)
    }

    /// A version as it was kept.
    ///
    /// # Errors
    /// It is not there, or not as it was kept.
    pub fn read(&self, version: &str) -> Result<Artifact> {
        let path = self.path(version);
        if !path.exists() {
            bail!("its copy {} is gone: deploy its file again", path.display());
        }
        let artifact = Artifact::read(&path)?;
        if artifact.version != version {
            bail!("its copy {} is damaged: deploy its file again", path.display());
        }
        Ok(artifact)
    }

    /// Whether a version is there.
    pub fn has(&self, version: &str) -> bool {
        self.path(version).exists()
    }

    /// Throws away what a handler with this history (the newest first) does not need: neither among the last ones that
    /// were live, nor the live one, nor the one that it holds back, nor the one to which the host would go back by itself.
    pub fn prune(&self, history: &[Deployment]) -> Result<()> {
        let live = history.iter().find(|row| row.status == Status::Live);
        let mut needed: BTreeSet<&str> =
            live.into_iter().flat_map(|row| row.artifact.iter().chain(&row.instead_of)).map(String::as_str).collect();
        let before = live.and_then(|row| last_good(history, row.artifact.as_deref()?));
        needed.extend(before.and_then(|row| row.artifact.as_deref()));
        let mut last: BTreeSet<&str> = BTreeSet::new();
        for row in history.iter().filter(|row| row.status != Status::Failed) {
            if last.len() < self.keep {
                last.extend(row.artifact.as_deref());
            }
        }
        needed.extend(last);
        let known: BTreeSet<&str> = history.iter().filter_map(|row| row.artifact.as_deref()).collect();
        for version in known.difference(&needed) {
            let path = self.path(version);
            // The component goes first: without it the rest is nothing.
            for path in [&path, &path.with_extension("toml"), &path.with_extension("migrations")] {
                remove(path).with_context(|| format!("throw away {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Writes `NAME.wasm` and what belongs beside it, each whole and on disk before it has its name, the component last.
/// Nothing else is left beside it.
pub(super) fn put(file: &Path, parts: &Parts) -> Result<()> {
    Staged::write(file, parts)?.commit()
}

/// Files that are on disk under names that nobody looks at. They go unless they are committed.
pub(super) struct Staged {
    /// From, and to; without the first, what is there goes.
    moves: Vec<(Option<PathBuf>, PathBuf)>,
}

impl Staged {
    /// Writes the files beside their places.
    pub(super) fn write(file: &Path, parts: &Parts) -> Result<Self> {
        let mut staged = Self { moves: Vec::new() };
        let folder = file.with_extension("migrations");
        let migrations = match &parts.migrations {
            Some(migrations) => {
                let aside = staged.aside(&folder);
                remove(&aside)?;
                fs::create_dir(&aside).with_context(|| format!("write {}", aside.display()))?;
                for migration in migrations {
                    write(&aside.join(&migration.name), migration.sql.as_bytes())?;
                }
                sync(&aside)?;
                Some(aside)
            }
            None => None,
        };
        staged.moves.push((migrations, folder));
        let toml = file.with_extension("toml");
        let manifest = match &parts.manifest {
            Some(text) => {
                let aside = staged.aside(&toml);
                write(&aside, text.as_bytes())?;
                Some(aside)
            }
            None => None,
        };
        staged.moves.push((manifest, toml));
        let aside = staged.aside(file);
        write(&aside, &parts.wasm)?;
        staged.moves.push((Some(aside), file.to_owned()));
        Ok(staged)
    }

    fn aside(&mut self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = path.with_file_name(format!(".{name}.{PARTIAL}"));
        // Also one that is only half written goes with the rest.
        self.moves.insert(0, (Some(aside.clone()), aside.clone()));
        aside
    }

    /// Puts the files in their places.
    pub(super) fn commit(mut self) -> Result<()> {
        self.moves.retain(|(from, to)| from.as_ref() != Some(to));
        for (from, to) in &self.moves {
            let moved = || format!("put {} in its place", to.display());
            // A folder takes no other's place.
            if from.is_none() || to.is_dir() {
                remove(to).with_context(moved)?;
            }
            if let Some(from) = from {
                fs::rename(from, to).with_context(moved)?;
            }
        }
        let folder = self.moves.last().and_then(|(_, file)| file.parent()).map(Path::to_owned);
        folder.map_or(Ok(()), |folder| sync(&folder))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for from in self.moves.iter().filter_map(|(from, _)| from.as_ref()) {
            let _ = remove(from);
        }
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.with_context(|| format!("write {}", path.display()))
}

/// Makes what was renamed and removed in a folder last.
pub(super) fn sync(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("write {}", folder.display()))
}

/// Removes a file or a folder; one that is not there is no error.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::ledger::deployment::Migration;

    /// The smallest component, with a custom section that makes it another one.
    fn component(name: u8) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend([0, 2, 1, name]);
        bytes
    }

    fn artifact(name: u8, migrations: Option<&[(&str, &str)]>) -> Artifact {
        let migration = |(name, sql): &(&str, &str)| Migration { name: (*name).into(), sql: (*sql).into() };
        let manifest = Some("name = \"h\"\ntopics = [\"t\"]\n".to_owned());
        let migrations = migrations.map(|all| all.iter().map(migration).collect());
        Artifact::from_parts(Parts { wasm: component(name), manifest, migrations }, Path::new("h.wasm")).unwrap()
    }

    fn row(version: i64, artifact: &str, status: Status) -> Deployment {
        let text = String::new;
        let (artifact, instead_of, who, error) = (Some(artifact.to_owned()), None, None, None);
        let (handler, group, sha256, source) = (text(), text(), text(), text());
        Deployment { handler, group, version, sha256, artifact, instead_of, who, source, deployed_at: 0, status, error }
    }

    #[test]
    fn h2_what_was_kept_is_read_back_and_what_is_damaged_is_kept_anew() {
        let data = tempfile::tempdir().unwrap();
        let versions = Versions::open(data.path(), 10).unwrap();
        for artifact in
            [artifact(b'a', None), artifact(b'a', Some(&[])), artifact(b'b', Some(&[("2.sql", "y"), ("1.sql", "x")]))]
        {
            assert!(!versions.has(&artifact.version) || artifact.migrations.is_empty());
            versions.keep(&artifact).unwrap();
            versions.keep(&artifact).unwrap();
            let read = versions.read(&artifact.version).unwrap();
            assert_eq!(
                (&read.bytes, &read.manifest_text, &read.migrations),
                (&artifact.bytes, &artifact.manifest_text, &artifact.migrations)
            );
            let path = versions.path(&artifact.version);
            fs::write(path.with_extension("toml"), "name = \"other\"\ntopics = [\"t\"]\n").unwrap();
            assert!(format!("{:#}", versions.read(&artifact.version).unwrap_err()).contains("damaged"));
            versions.keep(&artifact).unwrap();
            versions.read(&artifact.version).unwrap();
        }
        let error = versions.read("nothing").unwrap_err().to_string();
        assert!(error.contains("is gone: deploy its file again"), "{error}");
    }

    #[test]
    fn h2_a_copy_that_was_cut_off_is_no_version_and_goes_at_the_next_start() {
        let data = tempfile::tempdir().unwrap();
        let versions = Versions::open(data.path(), 10).unwrap();
        let artifact = artifact(b'a', Some(&[("1.sql", "x")]));
        let staged = Staged::write(&versions.path(&artifact.version), &artifact.parts()).unwrap();
        assert!(!versions.has(&artifact.version));
        // As a process leaves them that is killed there.
        std::mem::forget(staged);
        assert_eq!(fs::read_dir(data.path().join(FOLDER)).unwrap().count(), 3);
        Versions::open(data.path(), 10).unwrap();
        assert_eq!(fs::read_dir(data.path().join(FOLDER)).unwrap().count(), 0);
        drop(Staged::write(&versions.path(&artifact.version), &artifact.parts()).unwrap());
        assert_eq!(fs::read_dir(data.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn h2_the_last_versions_stay_with_the_live_one_and_the_one_held_back() {
        let data = tempfile::tempdir().unwrap();
        let versions = Versions::open(data.path(), 2).unwrap();
        let artifacts: Vec<Artifact> = (b'a'..=b'g').map(|name| artifact(name, Some(&[("1.sql", "x")]))).collect();
        artifacts.iter().for_each(|artifact| versions.keep(artifact).unwrap());
        let id = |n: usize| artifacts[n].version.as_str();
        // The oldest one is live again, in place of the second.
        let mut history = vec![
            Deployment { instead_of: Some(id(1).into()), ..row(8, id(0), Status::Live) },
            row(7, id(6), Status::Failed),
            row(6, id(5), Status::Removed),
            row(5, id(4), Status::Replaced),
            row(4, id(3), Status::RolledBack),
            row(3, id(1), Status::Replaced),
            row(2, id(0), Status::Replaced),
        ];
        versions.prune(&history).unwrap();
        // One that made way is kept beyond that, for as long as it is what the host would go back to.
        let left = || artifacts.iter().map(|artifact| versions.has(&artifact.version)).collect::<Vec<_>>();
        // The third is in nobody's history, and so not this handler's.
        assert_eq!(left(), [true, true, true, false, true, true, false]);
        history[0].instead_of = None;
        versions.prune(&history).unwrap();
        assert_eq!(left(), [true, false, true, false, true, true, false]);
        assert_eq!(fs::read_dir(data.path().join(FOLDER)).unwrap().count(), 12, "nothing is left of those that went");
    }
}
