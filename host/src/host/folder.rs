//! The data folder: made if it is missing, held by one daemon at a time, and known by an id of its own.
//!
//! The lock lives as long as the process does, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

/// The folder, held.
pub struct Folder {
    id: String,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, and takes hold of it.
    pub fn open(path: &Path) -> Result<Self> {
        let advise = |error: std::io::Error, what: &str| {
            let advice = match error.kind() {
                ErrorKind::PermissionDenied => "let this user write there, or set `data` to another folder",
                ErrorKind::StorageFull => "free disk space, or set `data` to a folder on another disk",
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "a file is in its way; set `data` to a folder",
                ErrorKind::ReadOnlyFilesystem => "the disk is read-only; set `data` to a folder that can be written",
                _ => "set `data` to a folder that this user can write",
            };
            anyhow!("{what} in data folder {} (`data`): {advice} ({error})", path.display())
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| advise(e, "create it or write"))?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(|e| advise(e, "write"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "data folder {} is held by another daemon: stop that one, or set `data` to another folder",
                path.display()
            );
        }
        Ok(Self { id: id(path).map_err(|e| advise(e, "write"))?, _lock: lock })
    }

    /// Names the folder for good: part of the `group.instance.id` of its consumers.
    pub fn id(&self) -> &str {
        &self.id
    }
}

fn id(path: &Path) -> std::io::Result<String> {
    let file = path.join("id");
    match fs::read_to_string(&file) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let id = Uuid::new_v4().simple().to_string();
    let partial = path.join("id.partial");
    fs::write(&partial, format!("{id}\n"))?;
    fs::rename(&partial, &file)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_daemon_holds_a_folder_and_its_id_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let first = Folder::open(&path).unwrap();
        let error = Folder::open(&path).err().unwrap().to_string();
        assert!(error.contains("held by another daemon"), "{error}");
        let id = first.id().to_owned();
        drop(first);
        assert_eq!(Folder::open(&path).unwrap().id(), id);
    }

    #[test]
    fn a_file_in_the_way_is_said() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        fs::write(&path, "x").unwrap();
        let error = Folder::open(&path).err().unwrap().to_string();
        assert!(error.contains("set `data` to a folder"), "{error}");
    }
}
