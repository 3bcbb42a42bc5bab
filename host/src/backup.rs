//! Backups of a data folder: each store at one moment, and the files without which it is of no use.
//!
//! Its invariant: a folder is a backup once `backup.json` is in it, which names every file with its size and hash and is
//! written last; a data folder is restored whole, or a daemon refuses it. Stores are read by connections of its own, so it makes no
//! difference whether a daemon runs on them, and no handler waits. Where records, topics and settings are, it does not go.

mod files;
mod restore;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::restore::restore;
use crate::deploy::{audit, versions};
use crate::http::admin::tokens;
use crate::http::secret;
use crate::settings::units;
use crate::store::Connection;

/// The file that makes a folder a backup.
pub const MANIFEST: &str = "backup.json";
/// The same while the backup is being written.
const PARTIAL: &str = "backup.json.partial";
/// Where the handlers folder is in a backup.
const HANDLERS: &str = "handlers";
/// Where stores are, in a backup and in a data folder.
const STORES: &str = "stores";
/// The version of the layout.
const FORMAT: u32 = 1;
/// The data folder's own files that are kept.
const OWN: [&str; 5] = ["id", secret::FILE, secret::ADMIN_FILE, tokens::FILE, audit::FILE];

/// What a backup says of itself: `backup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BackupManifest")]
pub struct Manifest {
    /// The version of the layout.
    pub format: u32,
    /// The version of Tidemill that wrote it.
    pub tidemill: String,
    /// When it was begun, in RFC 3339: no store is older.
    pub began: String,
    /// When it was whole.
    pub ended: String,
    /// The data folder.
    pub data: String,
    /// The file of the settings, which is not in the backup.
    pub settings: Option<String>,
    /// Every file, in the order of their paths.
    pub files: Vec<Entry>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BackupEntry")]
pub struct Entry {
    /// From the backup's folder, with `/` between the parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, in hexadecimal.
    pub sha256: String,
}

/// What is to be backed up.
#[derive(Clone, Debug)]
pub struct Source {
    /// The data folder.
    pub data: PathBuf,
    /// The handlers folder.
    pub handlers: PathBuf,
    /// The file of the settings, to be named.
    pub settings: Option<PathBuf>,
}

/// How far it is with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BackupProgress")]
pub struct Progress {
    /// `copy`, `check` or `restore`.
    pub doing: String,
    /// The file, from the backup's folder.
    pub file: String,
    /// Bytes of it that are done.
    pub done: u64,
    /// Its bytes in all.
    pub of: u64,
    /// Which it is of those with which this is done, from 1.
    pub number: usize,
    /// How many those are: of `copy` the stores, else all files.
    pub files: usize,
}

/// Told how far it is. `false` gives it up, and nothing of it is left.
pub type Tell<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// Files with which the same is done, and the one at hand.
#[derive(Clone, Copy)]
struct Round<'a> {
    doing: &'a str,
    number: usize,
    files: usize,
}

impl Round<'_> {
    fn at(self, file: &str, done: u64, of: u64) -> Progress {
        let Self { doing, number, files } = self;
        Progress { doing: doing.to_owned(), file: file.to_owned(), done, of, number, files }
    }
}

/// As [`Tell`] has asked for.
fn given_up() -> Error {
    anyhow!("it was given up, since the daemon stops: nothing of it is left. Take it again")
}

impl Manifest {
    /// The stores' names.
    pub fn stores(&self) -> Vec<&str> {
        self.files.iter().filter_map(Entry::store).collect()
    }

    /// The size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// That of a backup, with no look at its files.
    pub(crate) fn read(backup: &Path) -> Result<Self> {
        let file = backup.join(MANIFEST);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{} is no backup: {MANIFEST}, which is written last, is not in it. It was cut off, or is another folder",
                backup.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let broken = || format!("{} is damaged: take another backup", file.display());
        let Format { format } = serde_json::from_slice(&text).with_context(broken)?;
        if format != FORMAT {
            bail!(
                "{} has the layout {format}, and this Tidemill knows {FORMAT}: use the version that wrote it",
                file.display()
            );
        }
        let manifest: Self = serde_json::from_slice(&text).with_context(broken)?;
        if let Some(wrong) = manifest.files.iter().find(|file| !file.is_inside()) {
            bail!("{} names {:?}, which is outside of the backup: do not trust it", file.display(), wrong.path);
        }
        Ok(manifest)
    }
}

impl Entry {
    fn store(&self) -> Option<&str> {
        self.path.strip_prefix(STORES)?.strip_prefix('/')?.strip_suffix(".db")
    }

    fn is_inside(&self) -> bool {
        let path = Path::new(&self.path);
        path.components().all(|part| matches!(part, Component::Normal(_))) && path.components().next().is_some()
    }
}

/// A backup that has its folder to itself, and nothing in it yet.
pub struct Begun {
    source: Source,
    target: Target,
    began: String,
}

/// Takes a folder for a backup that is empty or not there yet.
///
/// # Errors
/// There is no data folder; or the folder has something in it, or cannot be written.
pub fn begin(source: Source, to: &Path) -> Result<Begun> {
    if !source.data.join(STORES).is_dir() {
        bail!(
            "{} is no data folder of Tidemill (`data`): it has no folder {STORES}. Name the settings with --config, or set TIDEMILL_DATA",
            source.data.display()
        );
    }
    let target = Target::claim(to)?;
    Ok(Begun { source, target, began: units::show_time(crate::clock::now()) })
}

impl Begun {
    /// Writes it, and says how far it is.
    ///
    /// # Errors
    /// A file cannot be read, or not be written; or it was given up. Nothing of it is left then.
    pub fn finish(self, told: Tell<'_>) -> Result<Manifest> {
        let Self { source, mut target, began } = self;
        let files = write(&source, &target.folder, told)?;
        let manifest = Manifest {
            format: FORMAT,
            tidemill: env!("CARGO_PKG_VERSION").to_owned(),
            began,
            ended: units::show_time(crate::clock::now()),
            data: absolute(&source.data),
            settings: source.settings.as_deref().map(absolute),
            files,
        };
        target.finish(&manifest)?;
        Ok(manifest)
    }
}

fn absolute(path: &Path) -> String {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn write(source: &Source, to: &Path, told: Tell<'_>) -> Result<Vec<Entry>> {
    // Stores come first: of a version that is live in one, the file is there.
    let from = source.data.join(STORES);
    let mut stores = files::names(&from)?;
    stores.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "db"));
    let mut paths = Vec::new();
    for (n, name) in stores.iter().enumerate() {
        let (path, round) = (format!("{STORES}/{name}"), Round { doing: "copy", number: n + 1, files: stores.len() });
        copy_store(&from.join(name), &files::place(to, &path)?, |done, of| told(round.at(&path, done, of)))?;
        paths.push(path);
    }
    for name in OWN {
        paths.extend(files::copy(&source.data.join(name), to, name)?);
    }
    paths.extend(files::copy_all(&source.data.join(versions::FOLDER), to, versions::FOLDER)?);
    paths.extend(files::copy_all(&source.handlers, to, HANDLERS)?);
    paths.sort();
    let (mut entries, files) = (Vec::new(), paths.len());
    for (n, path) in paths.into_iter().enumerate() {
        let (file, round) = (to.join(&path), Round { doing: "check", number: n + 1, files });
        let bytes = fs::metadata(&file).with_context(|| format!("read {}", file.display()))?.len();
        let sha256 = files::hash(&file, |done| told(round.at(&path, done, bytes)))?;
        entries.push(Entry { path, bytes, sha256 });
    }
    files::sync_folders(to)?;
    Ok(entries)
}

/// A store as it is at one moment, in one file that needs no other.
fn copy_store(from: &Path, to: &Path, step: impl FnMut(u64, u64) -> bool) -> Result<()> {
    let reader = Connection::open_reader(from).with_context(|| format!("read store {}", from.display()))?;
    files::create(to)?;
    let copied = Connection::open_copy(to).and_then(|mut copy| {
        let whole = reader.copy_in_steps(&mut copy, step)?;
        // A copy keeps the log of changes that its original has beside it; without one it can be read where nothing can be written.
        copy.batch("PRAGMA journal_mode = DELETE").map(|()| whole)
    });
    let copied = copied.map_err(|error| anyhow!("copy store {} to {}: {error}", from.display(), to.display()));
    if !copied.map_err(|error| files::advise(&error))? {
        return Err(given_up());
    }
    File::open(to).and_then(|file| file.sync_all()).with_context(|| format!("write {}", to.display()))
}

/// Checks a backup: that every file is there as it was written, and that SQLite finds nothing wrong with the stores.
///
/// # Errors
/// It is no backup, or what is wrong with it: a line for each file.
pub fn verify(backup: &Path, told: Tell<'_>) -> Result<Manifest> {
    let manifest = Manifest::read(backup)?;
    let mut wrong = Vec::new();
    for (n, entry) in manifest.files.iter().enumerate() {
        let (file, round) =
            (backup.join(&entry.path), Round { doing: "check", number: n + 1, files: manifest.files.len() });
        match files::hash(&file, |done| told(round.at(&entry.path, done, entry.bytes))) {
            Err(error) => wrong.push(format!("{error:#}")),
            Ok(hash) if hash != entry.sha256 => {
                wrong.push(format!("{} is not as it was written: its SHA-256 is {hash}", file.display()));
            }
            Ok(_) if entry.store().is_some() => {
                let damage = Connection::open_reader(&file).and_then(|store| store.damage());
                match damage.map_err(|error| error.to_string()) {
                    Ok(None) => {}
                    Ok(Some(damage)) | Err(damage) => {
                        wrong.push(format!("{} is damaged: {}", file.display(), damage.replace('\n', " ")));
                    }
                }
            }
            Ok(_) => {}
        }
    }
    match wrong.is_empty() {
        true => Ok(manifest),
        false => bail!("{}", wrong.join("\n")),
    }
}

/// The folder of a backup that is being written. What is in it goes with this value, unless the backup is whole.
struct Target {
    folder: PathBuf,
    /// Whether the folder was not there.
    made: bool,
    whole: bool,
}

impl Target {
    fn claim(folder: &Path) -> Result<Self> {
        let write = || format!("write {}", folder.display());
        let made = !folder.exists();
        files::make_folder(folder).with_context(write)?;
        let claimed = files::create(&folder.join(PARTIAL));
        if let Err(error) = claimed {
            let taken = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if taken == Some(std::io::ErrorKind::AlreadyExists) {
                bail!(
                    "a backup is being written into {}, or was cut off there: name another folder, or remove this one",
                    folder.display()
                );
            }
            return Err(error);
        }
        if files::names(folder)?.iter().any(|name| name != PARTIAL) {
            let _ = fs::remove_file(folder.join(PARTIAL));
            bail!("{} is not empty: name a folder that is empty, or not there yet", folder.display());
        }
        Ok(Self { folder: folder.to_owned(), made, whole: false })
    }

    fn finish(&mut self, manifest: &Manifest) -> Result<()> {
        let partial = self.folder.join(PARTIAL);
        let text = serde_json::to_string_pretty(manifest).context("write JSON")? + "\n";
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, self.folder.join(MANIFEST))?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| files::advise(&anyhow!("write {}: {error}", partial.display())))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.whole {
            files::clear(&self.folder, self.made, PARTIAL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn h2_a_copy_is_of_one_moment_whatever_is_written_between_its_steps() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from.db", "to.db"].map(|name| folder.path().join(name));
        let writer = Connection::open_writer(&from, false).unwrap();
        let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)";
        writer.batch(&format!("CREATE TABLE t (x); {rows} INSERT INTO t SELECT zeroblob(1000) FROM n")).unwrap();
        let (mut steps, mut last) = (0, 0);
        copy_store(&from, &to, |done, of| {
            assert!(done > last && done <= of, "it goes on: {last}, {done} of {of}");
            (steps, last) = (steps + 1, done);
            writer.batch("BEGIN; UPDATE t SET x = 'changed'; INSERT INTO t VALUES ('more'); COMMIT").unwrap();
            true
        })
        .unwrap();
        assert!(steps > 10, "{steps}");
        let copy = Connection::open_reader(&to).unwrap();
        let count = |sql| copy.first(sql, &[], |row| row.integer(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM t"), Some(1_000));
        assert_eq!(count("SELECT count(*) FROM t WHERE x = 'changed'"), Some(0));
        assert_eq!(copy.damage(), Ok(None));
        let beside: Vec<String> = files::names(folder.path()).unwrap();
        assert!(!beside.iter().any(|name| name.starts_with("to.db-")), "{beside:?}");
    }
}
