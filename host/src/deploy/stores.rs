//! The stores of a data folder: one executor for each, opened once and kept.
//!
//! Stores that no handler names any more are opened too, since their outboxes may hold events that were committed
//! and not published. This file also remembers in which store and group each handler was last live.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};

use super::manifest::Spec;
use crate::executor::{self, Handle, Outside};
use crate::ledger::deployment::{self, Status};
use crate::relay;
use crate::settings::Settings;
use crate::store::Connection;

/// Where they are in the data folder.
const FOLDER: &str = "stores";
/// More stores than this would need more instances than the pool has.
const MAX: usize = 400;

struct Open {
    handle: Handle,
    path: Arc<Path>,
    thread: JoinHandle<()>,
}

/// The open stores.
pub struct Stores {
    folder: PathBuf,
    settings: Settings,
    relay: relay::Handle,
    outside: Outside,
    open: Mutex<BTreeMap<String, Open>>,
    /// Those that are open, for who must not wait while another is being opened.
    listed: Mutex<Vec<(Handle, Arc<Path>)>>,
    last_seen: Mutex<HashMap<String, Seen>>,
}

/// Where a handler was last live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its store.
    pub store: String,
    /// Its consumer group.
    pub group: String,
    /// What runs in the place of the file in the handlers folder.
    pub pin: Option<Pin>,
}

/// A version that runs in the place of the file in the handlers folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its artifact's version.
    pub artifact: String,
    /// That of the file.
    pub instead_of: String,
}

/// The stores of a data folder: their names, by which they are sorted, and their files.
///
/// # Errors
/// It has no folder of stores, or that cannot be read.
pub fn files(data: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = data.join(FOLDER);
    let read = || format!("read {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.extension().is_some_and(|extension| extension == "db")
            && let Some(stem) = path.file_stem()
        {
            found.push((stem.to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

impl Stores {
    /// Opens all stores of the data folder.
    pub fn open_all(settings: &Settings, relay: relay::Handle, outside: Outside) -> Result<Self> {
        let folder = settings.data.join(FOLDER);
        std::fs::create_dir_all(&folder).with_context(|| format!("read {}", folder.display()))?;
        let files = files(&settings.data)?;
        let (open, listed, last_seen) = (Mutex::default(), Mutex::default(), Mutex::default());
        let stores = Self { folder, settings: settings.clone(), relay, outside, open, listed, last_seen };
        for (name, _) in files {
            let (_, path) = stores.open(&name)?;
            let known = deployment::last_live(&Connection::open_reader(&path)?)?;
            let mut seen = stores.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
            for last in known {
                let pin = last.artifact.zip(last.instead_of).filter(|_| last.status == Status::Live);
                let pin = pin.map(|(artifact, instead_of)| Pin { artifact, instead_of });
                if let Some(other) =
                    seen.insert(last.handler.clone(), Seen { store: name.clone(), group: last.group, pin })
                {
                    bail!(
                        "handler {} was live in two stores, {} and {name}: take one of them out of {}",
                        last.handler,
                        other.store,
                        stores.folder.display()
                    );
                }
            }
        }
        Ok(stores)
    }

    /// The executor of a store, and its file.
    pub fn open(&self, name: &str) -> Result<(Handle, Arc<Path>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(name) {
            return Ok((store.handle.clone(), store.path.clone()));
        }
        if open.len() >= MAX {
            bail!("{MAX} stores are open, and one daemon keeps no more: let handlers share a `store`");
        }
        let path: Arc<Path> = self.folder.join(format!("{name}.db")).into();
        let waker = self.relay.waker(name);
        let wake = waker.clone();
        let (handle, thread) = executor::spawn(
            name,
            &path,
            &self.settings.store,
            &self.settings.outbox,
            executor::Keep { inbox: self.settings.inbox.keep, answers: self.settings.http.idempotency_keep },
            Box::new(move || wake.wake()),
            self.outside.clone(),
        )?;
        self.relay.add(&waker, path.to_path_buf(), handle.clone());
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).push((handle.clone(), path.clone()));
        open.insert(name.to_owned(), Open { handle: handle.clone(), path: path.clone(), thread });
        Ok((handle, path))
    }

    /// The executor of a store, if the store is open.
    pub fn handle(&self, name: &str) -> Option<Handle> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(|store| store.handle.clone())
    }

    /// The relay, which publishes what is in them.
    pub fn relay(&self) -> &relay::Handle {
        &self.relay
    }

    /// The open stores, each with its file. Never waits for one that is being opened.
    pub fn listed(&self) -> Vec<(Handle, Arc<Path>)> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A store's file, if the store is open.
    pub fn path(&self, name: &str) -> Option<Arc<Path>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(|store| store.path.clone())
    }

    /// The names of all handlers that were ever live.
    pub fn known(&self) -> Vec<String> {
        let mut known: Vec<String> =
            self.last_seen.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        known.sort();
        known
    }

    /// Where a handler was last live.
    pub fn last_seen(&self, handler: &str) -> Option<Seen> {
        self.last_seen.lock().unwrap_or_else(PoisonError::into_inner).get(handler).cloned()
    }

    /// A handler has gone live.
    pub fn remember(&self, spec: &Spec, pin: Option<Pin>) {
        let mut seen = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(spec.name.clone(), Seen { store: spec.store.clone(), group: spec.group.clone(), pin });
    }

    /// What runs of a handler is its file's version again, or nothing.
    pub fn unpin(&self, handler: &str) {
        if let Some(seen) = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner).get_mut(handler) {
            seen.pin = None;
        }
    }

    /// Ends all executors, and waits for them.
    pub fn stop(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.values().for_each(|store| store.handle.stop());
        for (name, store) in open {
            if store.thread.join().is_err() {
                tracing::error!(store = name, "an executor thread has panicked: this is a bug in Tidemill");
            }
        }
        self.outside.sender.stop();
    }
}
