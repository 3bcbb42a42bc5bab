//! Notices that a file of a project was saved.
//!
//! It looks again and again, as the handlers folder's watch does: a project has few files, and every file system and
//! editor is understood. What was built, and what has a hidden name, is not looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_millis(100);

/// The state of all files, to tell it from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<(PathBuf, u64, Option<SystemTime>)>);

impl Sources {
    /// The files as they are now. One that cannot be read is one that is not there.
    pub fn look(folder: &Path) -> Self {
        let mut files = Vec::new();
        find(folder, true, &mut files);
        files.sort();
        Self(files)
    }

    /// Waits until they are other ones than these; `None` once `stop` is set.
    pub fn wait(&self, folder: &Path, stop: &AtomicBool) -> Option<Self> {
        while !stop.load(Ordering::Relaxed) {
            let now = Self::look(folder);
            if now != *self {
                return Some(now);
            }
            std::thread::sleep(EVERY);
        }
        None
    }
}

fn find(folder: &Path, top: bool, files: &mut Vec<(PathBuf, u64, Option<SystemTime>)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') || (top && name == "target") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            find(&entry.path(), false, files);
        } else {
            files.push((entry.path(), metadata.len(), metadata.modified().ok()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_saved_added_or_removed_is_noticed_and_what_is_built_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = temp.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("src/lib.rs", "a");
        let mut before = Sources::look(temp.path());
        for file in ["target/x.wasm", ".tidemill/dev/x", ".git/index", "src/.lib.rs.swp"] {
            write(file, "b");
        }
        assert_eq!(Sources::look(temp.path()), before);
        let mut changed = |what: &str| {
            let now = Sources::look(temp.path());
            assert_ne!(now, before, "{what}");
            before = now;
        };
        write("src/lib.rs", "ab");
        changed("saved");
        write("migrations/0002.sql", "");
        changed("added");
        write("src/target/mod.rs", "");
        changed("a module of that name");
        fs::remove_file(temp.path().join("migrations/0002.sql")).unwrap();
        changed("removed");
    }

    #[test]
    fn a_wait_ends_when_it_is_told_to() {
        let temp = tempfile::tempdir().unwrap();
        let before = Sources::look(temp.path());
        assert_eq!(before.wait(temp.path(), &AtomicBool::new(true)), None);
    }
}
