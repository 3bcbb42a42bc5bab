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
use crate::ledger::deployment;
use crate::relay;
use crate::settings::Settings;
use crate::store::Connection;

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
    last_seen: Mutex<HashMap<String, (String, String)>>,
}

impl Stores {
    /// Opens all stores of the data folder.
    pub fn open_all(settings: &Settings, relay: relay::Handle, outside: Outside) -> Result<Self> {
        let folder = settings.data.join("stores");
        let read = || format!("read {}", folder.display());
        std::fs::create_dir_all(&folder).with_context(read)?;
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(read)? {
            let path = entry.with_context(read)?.path();
            if path.extension().is_some_and(|extension| extension == "db")
                && let Some(stem) = path.file_stem()
            {
                names.push(stem.to_string_lossy().into_owned());
            }
        }
        let (open, last_seen) = (Mutex::default(), Mutex::default());
        let stores = Self { folder, settings: settings.clone(), relay, outside, open, last_seen };
        for name in names {
            let (_, path) = stores.open(&name)?;
            let known = deployment::last_live(&Connection::open_reader(&path)?)?;
            let mut seen = stores.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
            for live in known {
                if let Some((other, _)) = seen.insert(live.handler.clone(), (name.clone(), live.group)) {
                    bail!(
                        "handler {} was live in two stores, {other} and {name}: take one of them out of {}",
                        live.handler,
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
        open.insert(name.to_owned(), Open { handle: handle.clone(), path: path.clone(), thread });
        Ok((handle, path))
    }

    /// The store and the group in which a handler was last live.
    pub fn last_seen(&self, handler: &str) -> Option<(String, String)> {
        self.last_seen.lock().unwrap_or_else(PoisonError::into_inner).get(handler).cloned()
    }

    /// A handler has gone live.
    pub fn remember(&self, spec: &Spec) {
        let mut seen = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(spec.name.clone(), (spec.store.clone(), spec.group.clone()));
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
