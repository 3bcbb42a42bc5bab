//! Watches the handlers folder: new and changed files are deployed, and the handlers of files that went are removed.
//!
//! A file is looked at once it has stood still for a moment, and a version is tried once: a broken file is refused
//! with its reason, and looked at again only when it changes. It deploys nothing by itself; the deployer does, and is
//! reminded as often of versions that are to be gone back from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};

use super::{Deployer, Live, may_pass};

/// How often the folder is looked at. A file must be the same in two looks.
const EVERY: Duration = Duration::from_millis(200);

/// How long a deployment that failed for no fault of its file waits.
pub(super) const AGAIN: Duration = Duration::from_secs(2);

/// What tells one state of a file, and of what stands beside it, from another.
type Stamp = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// The folder's watch.
pub struct Watch {
    folder: PathBuf,
    deployer: Arc<Deployer>,
    seen: BTreeMap<PathBuf, Stamp>,
    tried: BTreeMap<PathBuf, Stamp>,
    /// Files that are tried again though they did not change, and when.
    again: BTreeMap<PathBuf, Instant>,
    unreadable: bool,
}

impl Watch {
    /// Deploys all that is in the folder now. A handler that is refused does not keep the others from running.
    pub fn begin(folder: &Path, deployer: Arc<Deployer>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create the handlers folder {}", folder.display()))?;
        let (seen, tried, again) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut watch = Self { folder: folder.to_owned(), deployer, seen, tried, again, unreadable: false };
        watch.seen = scan(folder)?;
        watch.look();
        watch.deployer.go_back_from_failed();
        Ok(watch)
    }

    /// Goes on looking, on a thread of its own, until `stop`.
    pub fn start(mut self, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                self.look();
                self.deployer.go_back_from_failed();
            }
        };
        Ok(crate::thread::spawn("watch", run)?)
    }

    fn look(&mut self) {
        let found = match scan(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                if !self.unreadable {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the handlers folder cannot be read: handlers go on as they are"
                    );
                }
                self.unreadable = true;
                return;
            }
        };
        self.unreadable = false;
        let gone: BTreeSet<PathBuf> = self.tried.keys().filter(|file| !found.contains_key(*file)).cloned().collect();
        for file in gone {
            self.tried.remove(&file);
            match self.deployer.remove(&file) {
                Ok(Some(handler)) => {
                    tracing::info!(handler, file = %file.display(), "handler removed: its file is gone")
                }
                Ok(None) => {}
                Err(error) => tracing::error!(file = %file.display(), error = format!("{error:#}"), "remove a handler"),
            }
        }
        let now = Instant::now();
        // What a command has made live may lack what the folder's files get by being tried again.
        for file in self.deployer.unfinished() {
            self.again.entry(file).or_insert(now + AGAIN);
        }
        for (file, _) in self.again.iter().filter(|(_, at)| **at <= now) {
            self.tried.remove(file);
        }
        for (file, stamp) in &found {
            if self.tried.get(file) == Some(stamp) || self.seen.get(file) != Some(stamp) {
                continue;
            }
            self.tried.insert(file.clone(), stamp.clone());
            let deployed = self.deployer.deploy(file);
            if !deployed.as_ref().is_err_and(may_pass) {
                self.again.remove(file);
            }
            match deployed {
                Ok(Some(Live { handler, version, .. })) => {
                    tracing::info!(handler, version, file = %file.display(), "handler is live");
                }
                Ok(None) => {}
                Err(error) if may_pass(&error) => {
                    // Not the file's fault: it is tried again as if it had just come.
                    if self.again.insert(file.clone(), Instant::now() + AGAIN).is_none() {
                        tracing::error!(file = %file.display(), "handler cannot be deployed yet, and what ran before goes on; it is tried again: {error:#}");
                    }
                }
                Err(error) => {
                    // A manifest may have several problems, each with its place.
                    for problem in format!("{error:#}").lines() {
                        tracing::error!(file = %file.display(), "handler refused, and what ran before goes on: {problem}");
                    }
                }
            }
        }
        self.seen = found;
    }
}

/// The `.wasm` files of the folder; names that begin with a dot are somebody's unfinished copies.
fn scan(folder: &Path) -> Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "wasm") {
            let mut stamp = Stamp::new();
            push(&mut stamp, &path);
            push(&mut stamp, &path.with_extension("toml"));
            if let Ok(migrations) = fs::read_dir(path.with_extension("migrations")) {
                migrations.flatten().for_each(|entry| push(&mut stamp, &entry.path()));
            }
            stamp.sort();
            found.insert(path, stamp);
        }
    }
    Ok(found)
}

fn push(stamp: &mut Stamp, path: &Path) {
    if let Ok(metadata) = fs::metadata(path) {
        stamp.push((path.to_owned(), metadata.len(), metadata.modified().ok()));
    }
}
