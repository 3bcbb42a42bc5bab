//! Files on their way into a backup and out of it: copied, hashed, and made last.
//!
//! What is written is its owner's alone: files have the mode 0600, folders 0700. Nothing is ever written over.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, anyhow};
use sha2::{Digest, Sha256};

/// Bytes that are read at once.
const PIECE: usize = 1 << 16;

/// The names of what is in a folder, in order; none where there is no folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let read = || format!("read {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(read)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(read)?.file_name();
        names.push(name.into_string().map_err(|name| anyhow!("{} is no name in UTF-8: rename it", name.display()))?);
    }
    names.sort();
    Ok(names)
}

/// A folder with all above it.
pub(super) fn make_folder(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A file's place in a folder, which is made with the folders in between.
pub(super) fn place(folder: &Path, path: &str) -> Result<PathBuf> {
    let place = folder.join(path);
    if let Some(parent) = place.parent() {
        make_folder(parent).map_err(|error| advise(&anyhow!("write {}: {error}", parent.display())))?;
    }
    Ok(place)
}

/// A new file.
pub(super) fn create(file: &Path) -> Result<File> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    created.with_context(|| format!("write {}", file.display()))
}

/// Copies a file to its path in a folder, on disk when this returns. One that is not there, or not any more, is passed over.
pub(super) fn copy(from: &Path, to: &Path, path: &str) -> Result<Option<String>> {
    let read = || format!("read {}", from.display());
    let source = match File::open(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        source => source.with_context(read)?,
    };
    let meta = source.metadata().with_context(read)?;
    if !meta.is_file() {
        return Ok(None);
    }
    // What is appended meanwhile comes with the next backup.
    pieces(&mut source.take(meta.len()), from, &place(to, path)?, |_| true)?;
    Ok(Some(path.to_owned()))
}

/// Copies a folder of handlers' files, with the migrations beside them. Hidden ones are unfinished, or a tool's own.
pub(super) fn copy_all(from: &Path, to: &Path, path: &str) -> Result<Vec<String>> {
    let mut copied = Vec::new();
    for name in names(from)?.into_iter().filter(|name| !name.starts_with('.')) {
        let (from, path) = (from.join(&name), format!("{path}/{name}"));
        match from.extension().and_then(|extension| extension.to_str()) {
            Some("migrations") if from.is_dir() => copied.extend(copy_all(&from, to, &path)?),
            Some("wasm" | "toml" | "sql") => copied.extend(copy(&from, to, &path)?),
            _ => {}
        }
    }
    Ok(copied)
}

/// Copies the rest of an open file into a new one, on disk when this returns; the hash of it, in hexadecimal.
pub(super) fn pieces(
    source: &mut impl std::io::Read,
    from: &Path,
    to: &Path,
    mut step: impl FnMut(u64) -> bool,
) -> Result<String> {
    let mut target = create(to)?;
    let write = |error: std::io::Error| advise(&anyhow!("write {}: {error}", to.display()));
    let mut hash = Sha256::new();
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    loop {
        let length = source.read(&mut piece).with_context(|| format!("read {}", from.display()))?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
        target.write_all(read).map_err(write)?;
        done += length as u64;
        if !step(done) {
            return Err(super::given_up());
        }
    }
    target.sync_all().map_err(write)?;
    Ok(crate::id::hex(&hash.finalize()))
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn hash(file: &Path, mut step: impl FnMut(u64) -> bool) -> Result<String> {
    let read = || format!("read {}", file.display());
    let mut source = File::open(file).with_context(read)?;
    let mut hash = Sha256::new();
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    loop {
        let length = source.read(&mut piece).with_context(read)?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
        done += length as u64;
        if !step(done) {
            return Err(super::given_up());
        }
    }
    Ok(crate::id::hex(&hash.finalize()))
}

/// Makes the names of what was written last, in a folder and those in it.
pub(super) fn sync_folders(folder: &Path) -> Result<()> {
    for name in names(folder)? {
        let inner = folder.join(name);
        if inner.is_dir() {
            sync_folders(&inner)?;
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("write {}", folder.display()))
}

/// Removes all that is in a folder that was empty, the file `last` after the rest; the folder too, if it was `made`.
pub(super) fn clear(folder: &Path, made: bool, last: &str) {
    let mut names = names(folder).unwrap_or_default();
    names.sort_by_key(|name| name == last);
    for name in names {
        let inner = folder.join(name);
        let _ = if inner.is_dir() { fs::remove_dir_all(&inner) } else { fs::remove_file(&inner) };
    }
    if made {
        let _ = fs::remove_dir(folder);
    }
}

/// A write that failed, with what to do.
pub(super) fn advise(error: &Error) -> Error {
    anyhow!("{error:#}: nothing of it is left. Free disk space, or name a folder on another disk, and try again")
}
