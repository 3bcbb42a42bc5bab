//! The data folder: made if it is missing, held by one daemon at a time, and known by an id of its own.
//!
//! The lock lives as long as the process does, however it ends: the kernel gives it up, and whoever waits for it has
//! it. There is no file whose presence means anything.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use uuid::Uuid;

/// The file whose lock holds the folder.
const LOCK: &str = "lock";
/// The file that is there while a backup is restored into the folder: what is beside it is not whole.
pub const RESTORING: &str = "restoring";

/// The folder, held.
pub struct Folder {
    id: String,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, and takes hold of it.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = lock_file(path)?;
        if !try_lock(&lock, path)? {
            bail!(
                "data folder {} is held by another daemon: stop that one, set `data` to another folder, or wait for it with --standby",
                path.display()
            );
        }
        Self::held(path, lock)
    }

    /// The same; a folder that another daemon holds is waited for. Says whether it was.
    pub fn wait(path: &Path) -> Result<(Self, bool)> {
        let mut waited = false;
        loop {
            let lock = lock_file(path)?;
            if !try_lock(&lock, path)? {
                if !waited {
                    tracing::info!(
                        data = %path.display(),
                        "waiting as a standby: another daemon holds the data folder, and this one takes over when it ends"
                    );
                }
                waited = true;
                while let Err(error) = flock(&lock, FlockOperation::LockExclusive) {
                    if error != Errno::INTR {
                        return Err(advise(path, error.into(), "wait for the lock"));
                    }
                }
            }
            // The folder may have been deleted meanwhile, and made anew by another daemon: that one's lock counts.
            if is_at(&lock, &path.join(LOCK)) {
                return Ok((Self::held(path, lock)?, waited));
            }
        }
    }

    fn held(path: &Path, lock: File) -> Result<Self> {
        if path.join(RESTORING).exists() {
            bail!(
                "a restore into data folder {} was cut off: remove that folder, and run `tidemill restore` again",
                path.display()
            );
        }
        Ok(Self { id: id(path).map_err(|error| advise(path, error, "write"))?, _lock: lock })
    }

    /// Names the folder for good: part of the `group.instance.id` of its consumers.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Takes hold of a folder that has nothing in it, which is made if need be, for as long as the file is open.
///
/// # Errors
/// It is not empty, or a daemon holds it.
pub fn hold_empty(path: &Path) -> Result<File> {
    let others = |names: fs::ReadDir| names.flatten().any(|entry| entry.file_name() != LOCK);
    let used = fs::read_dir(path).is_ok_and(others);
    // Nothing is made in a folder that is somebody else's.
    if used && !path.join(LOCK).exists() {
        bail!("{} is not empty: name a folder that is empty, or not there yet", path.display());
    }
    let lock = lock_file(path)?;
    if !try_lock(&lock, path)? {
        bail!("a daemon runs on data folder {}: stop it, and name a folder that is empty", path.display());
    }
    if fs::read_dir(path).is_ok_and(others) {
        bail!("data folder {} is not empty: move it away, or name another folder", path.display());
    }
    Ok(lock)
}

/// Opens the file that is locked, in a folder that is made if need be.
fn lock_file(path: &Path) -> Result<File> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| advise(path, error, "create it or write"))?;
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK));
    opened.map_err(|error| advise(path, error, "write"))
}

/// Whether the lock is ours now.
fn try_lock(lock: &File, path: &Path) -> Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(advise(path, error.into(), "lock a file")),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let place = |data: fs::Metadata| (data.dev(), data.ino());
    file.metadata().ok().map(place) == fs::metadata(path).ok().map(place)
}

fn advise(path: &Path, error: std::io::Error, what: &str) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => "let this user write there, or set `data` to another folder",
        ErrorKind::StorageFull => "free disk space, or set `data` to a folder on another disk",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "a file is in its way; set `data` to a folder",
        ErrorKind::ReadOnlyFilesystem => "the disk is read-only; set `data` to a folder that can be written",
        _ => "set `data` to a folder that this user can write",
    };
    anyhow!("{what} in data folder {} (`data`): {advice} ({error})", path.display())
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
    fn who_waits_has_the_folder_that_is_there_when_the_wait_ends() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let free = Folder::wait(&path).unwrap();
        assert!(!free.1);
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Folder::wait(&path).unwrap()
        });
        // Two have the lock's file open once the other one waits.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|fd| leads_to(fd, &path)).count() < 2 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        fs::remove_dir_all(&path).unwrap();
        let anew = Folder::open(&path).unwrap();
        let id = anew.id().to_owned();
        drop(free);
        assert!(!waiting.is_finished());
        drop(anew);
        let (held, waited) = waiting.join().unwrap();
        assert_eq!((held.id(), waited), (id.as_str(), true));
        assert!(Folder::open(&path).is_err());
    }

    fn leads_to(fd: &fs::DirEntry, path: &Path) -> bool {
        fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(path))
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
