//! Deployment: from a file in the handlers folder to a handler that runs, and back.
//!
//! Its invariant: a version goes live whole - checked, compiled, migrated - or the one before it goes on as if
//! nothing had happened. It owns which handlers, stores and consumers there are; it never looks into a record.

pub mod manifest;
pub mod artifact;
pub mod stores;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use self::artifact::Artifact;
use self::manifest::{Route, Spec};
use self::stores::Stores;
use crate::executor::readers::Readers;
use crate::executor::{self, Joined, Version};
use crate::guest::{Component, Engine};
use crate::http::routes::{Dispatch, Routes, Target};
use crate::kafka::config::Connection;
use crate::kafka::consumer::{self, Consumer};
use crate::kafka::topics::{Admin, Ensured, TopicError};
use crate::settings::{self, Settings};
use crate::store;

/// Partitions of a topic that nobody configured, on the embedded broker.
const EMBEDDED_PARTITIONS: i32 = 3;
/// Kilobytes that all consumers together may prefetch.
const PREFETCH_KBYTES: usize = 128 << 10;
/// Kilobytes that one consumer may prefetch at least.
const PREFETCH_MIN_KBYTES: usize = 2 << 10;

/// A handler that runs.
struct Deployed {
    file: PathBuf,
    version: String,
    spec: Spec,
    store: executor::Handle,
    consumer: Option<Consumer>,
}

/// What a deployment needs of the rest of the host.
pub struct Surroundings {
    /// The settings.
    pub settings: Settings,
    /// Names the data folder.
    pub host_id: String,
    /// Compiles and checks components.
    pub engine: Engine,
    /// The routes that are served.
    pub routes: Arc<Routes>,
    /// Serve requests that read.
    pub readers: Readers,
    /// The cluster.
    pub kafka: Connection,
    /// Creates topics.
    pub admin: Admin,
}

/// Deploys and removes handlers, one at a time.
pub struct Deployer {
    around: Surroundings,
    stores: Stores,
    handlers: Mutex<BTreeMap<String, Deployed>>,
}

impl Deployer {
    /// A deployer over stores that are open already.
    pub fn new(around: Surroundings, stores: Stores) -> Self {
        Self { around, stores, handlers: Mutex::default() }
    }

    /// Makes the file's version live. Returns the handler's name and version, or `None` if just that version runs.
    pub fn deploy(&self, file: &Path) -> Result<Option<(String, i64)>> {
        let artifact = Artifact::read(file)?;
        let settings = &self.around.settings;
        let spec = artifact.resolve(settings)?;
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = handlers.get(&spec.name)
            && running.file == file
            && running.version == artifact.version
            && running.consumer.is_some() == reads(&running.spec)
            && running.spec == spec
        {
            return Ok(None);
        }
        if let Some((running, _)) = handlers.iter().find(|(name, handler)| handler.file == file && **name != spec.name)
        {
            bail!(
                "this file is handler {running}: remove it first and then add it again, so that {running} ends before {} begins",
                spec.name
            );
        }
        self.check(&handlers, file, &spec)?;
        let component = self.around.engine.load(&artifact.bytes, &artifact.sha256)?;
        component.try_out(&spec)?;
        check_exports(&spec, &component)?;
        self.prepare_topics(&spec)?;
        let (store, path) = self.stores.open(&spec.store)?;
        let joined = store.switch(Version {
            spec: spec.clone(),
            component,
            migrations: artifact.migrations,
            sha256: artifact.sha256.clone(),
            manifest: artifact.manifest_text,
            source: file.display().to_string(),
        })?;
        self.stores.remember(&spec);
        let (name, version) = (spec.name.clone(), joined.version);
        let before = handlers.remove(&name);
        let handler = Deployed {
            file: file.to_owned(),
            version: artifact.version,
            spec: spec.clone(),
            store: store.clone(),
            consumer: None,
        };
        let number = handlers.len() + 1;
        let handler = handlers.entry(name.clone()).or_insert(handler);
        self.route(&spec, &store, &path, &joined)?;
        handler.consumer = self
            .consume(before, &spec, &store, joined, number)
            .with_context(|| format!("version {version} of handler {name} is live, but cannot read"))?;
        Ok(Some((name, version)))
    }

    /// What must hold between handlers, and between the versions of one.
    fn check(&self, handlers: &BTreeMap<String, Deployed>, file: &Path, spec: &Spec) -> Result<()> {
        // A file that was renamed is the same handler.
        let others = handlers.values().filter(|other| other.file != file && other.file.exists());
        check_against(spec, others.map(|other| (&*other.file, &other.spec)))?;
        if let Some((store, group)) = self.stores.last_seen(&spec.name) {
            if store != spec.store {
                bail!(
                    "handler {} keeps its tables and offsets in store {store}; `store = \"{}\"` would lose them. Change it back",
                    spec.name,
                    spec.store
                );
            }
            if group != spec.group {
                bail!(
                    "handler {} reads as consumer group {group}; `group = \"{}\"` would read everything again. Change it back",
                    spec.name,
                    spec.group
                );
            }
        }
        Ok(self.around.routes.check(&spec.name, &spec.routes)?)
    }

    /// The embedded broker gets every topic that a handler names; a cluster only those under `[[topic]]`.
    fn prepare_topics(&self, spec: &Spec) -> Result<()> {
        if !self.around.kafka.is_embedded() {
            return Ok(());
        }
        for topic in spec.topics.iter().chain(spec.publish.values()) {
            let configured = self.around.settings.topics.iter().find(|t| t.name == *topic);
            let partitions = configured.map_or(EMBEDDED_PARTITIONS, |t| t.partitions);
            if self.around.admin.ensure(topic, partitions, 1)? == Ensured::Created {
                tracing::info!(topic, partitions, "topic created");
            }
        }
        Ok(())
    }

    fn route(&self, spec: &Spec, store: &executor::Handle, path: &Arc<Path>, joined: &Joined) -> Result<()> {
        Ok(self.around.routes.set(&spec.name, targets(spec, store, path, joined, &self.around.readers))?)
    }

    /// The consumer that runs is kept where it would read the same in the same way.
    fn consume(
        &self,
        before: Option<Deployed>,
        spec: &Spec,
        store: &executor::Handle,
        joined: Joined,
        handlers: usize,
    ) -> Result<Option<Consumer>> {
        if let Some(Deployed { spec: old, consumer: Some(consumer), .. }) = before {
            if reads_the_same(&old, spec) {
                return Ok(Some(consumer));
            }
            // Closed before the new one opens: they share a `group.instance.id`.
            consumer.stop();
        }
        if !reads(spec) {
            return Ok(None);
        }
        let kbytes = (PREFETCH_KBYTES / handlers.max(1)).max(PREFETCH_MIN_KBYTES);
        let plan = consumer::Plan {
            connection: self.around.kafka.clone(),
            spec: spec.clone(),
            executor: store.clone(),
            positions: joined.positions,
            host_id: self.around.host_id.clone(),
            prefetch_kbytes: u32::try_from(kbytes).unwrap_or(u32::MAX),
        };
        Consumer::start(plan).map(Some)
    }

    /// Removes the handler that came from this file, if there is one. Its tables and offsets stay.
    pub fn remove(&self, file: &Path) -> Result<Option<String>> {
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = handlers.iter().find(|(_, h)| h.file == file).map(|(name, _)| name.clone()) else {
            return Ok(None);
        };
        if let Some(mut handler) = handlers.remove(&name) {
            self.around.routes.remove(&name);
            if let Some(consumer) = handler.consumer.take() {
                consumer.stop();
            }
            handler.store.remove(&name.as_str().into()).with_context(|| format!("remove handler {name}"))?;
        }
        Ok(Some(name))
    }

    /// The configuration of each handler that runs.
    pub fn specs(&self) -> Vec<Spec> {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.values().map(|handler| handler.spec.clone()).collect()
    }

    /// Stops all consumers, side by side, and waits for them.
    pub fn stop_consumers(&self) {
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.values().filter_map(|h| h.consumer.as_ref()).for_each(Consumer::stop_soon);
        handlers.values_mut().filter_map(|h| h.consumer.take()).for_each(Consumer::stop);
    }

    /// Ends all executors, and waits for them.
    pub fn stop_stores(&self) {
        self.stores.stop();
    }
}

/// Where a live handler's routes lead: what reads to the readers, all else to its store's executor.
pub fn targets(
    spec: &Spec,
    store: &executor::Handle,
    path: &Arc<Path>,
    joined: &Joined,
    readers: &Readers,
) -> Vec<Target> {
    let handler: Arc<str> = spec.name.as_str().into();
    let target = |route: &Route| {
        let send: Dispatch = if route.reads() {
            let (readers, slot) = (readers.clone(), joined.slot.clone());
            let (path, identity) = (path.clone(), store.identity().clone());
            Arc::new(move |request| readers.request(&slot, &path, &identity, request))
        } else {
            let (store, handler) = (store.clone(), handler.clone());
            Arc::new(move |request| store.request(&handler, request))
        };
        Target { route: route.clone(), handler: handler.clone(), send }
    };
    spec.routes.iter().map(target).collect()
}

/// A component must export what its manifest promises.
pub fn check_exports(spec: &Spec, component: &Component) -> Result<()> {
    if reads(spec) && !component.takes_records() {
        bail!("the manifest names topics, but the component does not export `records`");
    }
    if !spec.routes.is_empty() && !component.takes_requests() {
        bail!("the manifest names routes, but the component does not export `http`");
    }
    Ok(())
}

/// Names and consumer groups belong to one file each.
pub fn check_against<'a>(spec: &Spec, others: impl Iterator<Item = (&'a Path, &'a Spec)>) -> Result<()> {
    for (file, other) in others {
        let file = file.display();
        if other.name == spec.name {
            bail!(
                "handler {} comes from {file} already: remove one of the two files, or give one another name",
                spec.name
            );
        }
        if other.group == spec.group {
            bail!(
                "consumer group {} belongs to handler {} ({file}): give one of them another `group`",
                spec.group,
                other.name
            );
        }
    }
    Ok(())
}

fn reads(spec: &Spec) -> bool {
    !spec.topics.is_empty() || spec.pattern.is_some()
}

/// Whether trying again may help, with the file as it is.
pub fn may_pass(error: &anyhow::Error) -> bool {
    error.downcast_ref::<store::Error>().is_some_and(|e| e.kind == store::Kind::Store)
        || error.downcast_ref::<TopicError>().is_some_and(TopicError::is_transient)
        || error.downcast_ref::<rdkafka::error::KafkaError>().is_some()
}

fn reads_the_same(old: &Spec, new: &Spec) -> bool {
    let how = |spec: &Spec| {
        // How much is under way at once is the executor's business.
        let consumer = settings::Consumer { concurrency: 0, ..spec.consumer.clone() };
        (spec.topics.clone(), spec.pattern.clone(), spec.start, consumer)
    };
    how(old) == how(new)
}
