//! Deployment: from a file in the handlers folder to a handler that runs, and back.
//!
//! Its invariant: a version goes live whole - checked, compiled, migrated - or the one before it goes on as if
//! nothing had happened. It owns which handlers, stores and consumers there are; it never looks into a record.

pub mod manifest;
pub mod secrets;
pub mod artifact;
pub mod stores;
pub mod versions;
pub mod audit;
pub mod page;
pub mod report;
pub mod command;
pub mod groups;
pub mod many;
pub mod dead_letters;
pub mod pausing;
pub mod stored;
pub mod publish;
pub mod backup;
mod caused;
mod checks;
mod going_back;
mod rehearsal;
pub mod smoke;
mod refused;
mod serving;
pub mod watch;
mod reload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::{Context as _, Result, bail};

use self::artifact::Artifact;
use self::audit::{Act, Action, Audit, Caller};
pub use self::checks::{check_against, compile};
use self::going_back::Tried;
use self::manifest::Spec;
use self::refused::Refused;
use self::rehearsal::Rehearsal;
use self::reload::Keys;
pub use self::reload::{Control, Read, Reloaded};
pub(crate) use self::serving::EMBEDDED_PARTITIONS;
pub use self::serving::targets;
use self::stores::{Pin, Stores};
use self::versions::Versions;
use crate::executor::readers::Readers;
use crate::executor::{self, Version};
use crate::guest::{Component, Engine};
use crate::http::routes::Routes;
use crate::kafka::config::Connection;
use crate::kafka::consumer::Consumer;
use crate::kafka::topics::{Admin, TopicError};
use crate::ledger::deployment::{self, Status};
use crate::settings::Settings;
use crate::store::{self, Connection as Store};

/// A handler that runs.
struct Deployed {
    file: PathBuf,
    /// Its artifact's version, and that of the file if it runs in its place.
    version: String,
    instead_of: Option<String>,
    /// Counts the handler's deployments.
    number: i64,
    spec: Spec,
    store: executor::Handle,
    consumer: Option<Consumer>,
    /// The live version.
    slot: executor::Slot,
    /// What was made of it if it has failed its probation.
    tried: Tried,
}

type Handlers = BTreeMap<String, Deployed>;

/// A version that is to go live.
struct Candidate {
    artifact: Artifact,
    /// Its place in the handlers folder.
    file: PathBuf,
    /// The artifact of the file that lies there, if it is to run in its place.
    instead_of: Option<String>,
    /// Where it came from, for the ledger.
    source: String,
    who: String,
    /// What becomes of the version before.
    before: Status,
    /// Whether it is on probation if it takes another's place.
    probation: Probation,
    /// So many of the last records are run before; without it as the settings say.
    smoke: Option<usize>,
}

/// A version's probation, if it takes another's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probation {
    /// It ran before.
    None,
    /// It goes on where it was, and a verdict stands.
    GoesOn,
    /// It begins anew.
    Anew,
}

/// A version that went live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The handler's name.
    pub handler: String,
    /// Counts the handler's deployments.
    pub version: i64,
    /// The artifact's version.
    pub artifact: String,
    /// Whether it is live since now, and not since before a restart.
    pub new: bool,
}

/// What became of it after that.
struct Made {
    live: Live,
    /// What it did on a copy of its store.
    rehearsal: Rehearsal,
    /// Whether its routes and its consumer are there; what is missing is made up for by the folder's watch.
    serves: Result<()>,
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
    /// Keeps what went live.
    pub versions: Versions,
    /// Notes who did what.
    pub audit: Arc<Audit>,
    /// What can be another way while the daemon runs.
    pub control: Control,
}

/// Deploys and removes handlers, one at a time.
pub struct Deployer {
    around: Surroundings,
    stores: Stores,
    handlers: Mutex<Handlers>,
    /// The settings, as they are now.
    settings: RwLock<Arc<Settings>>,
    /// What the file says that they are of.
    keys: Mutex<Keys>,
    backups: backup::Desk,
}

impl Deployer {
    /// A deployer over stores that are open already.
    pub fn new(around: Surroundings, stores: Stores) -> Self {
        if let Err(error) = rehearsal::clear(&around.settings.data) {
            tracing::warn!(error = format!("{error:#}"), "they take space until then");
        }
        let settings = RwLock::new(Arc::new(around.settings.clone()));
        let keys = Mutex::new(Keys::of(&around.control.text));
        Self { around, stores, handlers: Mutex::default(), settings, keys, backups: backup::Desk::default() }
    }

    /// Makes the file's version live, or the one that runs in its place. `None` if just that runs already.
    pub fn deploy(&self, file: &Path) -> Result<Option<Live>> {
        let made = self.deploy_found(file);
        let act = Act::of(Action::Deploy);
        match &made {
            Ok(Some(Made { live, .. })) if live.new => {
                let (handler, artifact) = (Some(live.handler.as_str()), Some(live.artifact.as_str()));
                self.note_folder(file, Act { handler, version: Some(live.version), artifact, ok: true, ..act });
            }
            Err(error) if !may_pass(error) => {
                self.note_folder(file, Act { error: Some(&format!("{error:#}")), ..act });
            }
            _ => {}
        }
        let Some(made) = made? else { return Ok(None) };
        made.serves?;
        Ok(Some(made.live))
    }

    fn note_folder(&self, file: &Path, act: Act<'_>) {
        self.note_by(&Caller::FOLDER, file, act);
    }

    fn note_by(&self, caller: &Caller, file: &Path, act: Act<'_>) {
        let file = file.display().to_string();
        if let Err(error) = self.around.audit.write(caller, Act { file: Some(&file), ..act }) {
            let (by, error) = (&*caller.who, format!("{error:#}"));
            tracing::error!(by, file, error, "a change is not in the audit log");
        }
    }

    fn deploy_found(&self, file: &Path) -> Result<Option<Made>> {
        let mut handlers = self.lock();
        let found = Artifact::read(file)?;
        let (artifact, instead_of) = self.in_place_of(found)?;
        let source = file.display().to_string();
        let (file, who, before) = (file.to_owned(), Caller::FOLDER.name().to_owned(), Status::Replaced);
        let probation = Probation::GoesOn;
        let candidate = Candidate { artifact, file, instead_of, source, who, before, probation, smoke: None };
        self.go_live(&mut handlers, candidate)
    }

    /// The artifact that runs where this one lies in the folder: itself, unless it was rolled back.
    fn in_place_of(&self, found: Artifact) -> Result<(Artifact, Option<String>)> {
        let pin = self.stores.last_seen(found.name()).and_then(|seen| seen.pin);
        let Some(pin) = pin.filter(|pin| pin.instead_of == found.version) else { return Ok((found, None)) };
        let artifact = self.around.versions.read(&pin.artifact);
        let artifact = artifact.with_context(|| format!("handler {} was rolled back", found.name()))?;
        Ok((artifact, Some(found.version)))
    }

    /// Makes a version live. `None` if just that runs. Why one was refused is noted in its store.
    fn go_live(&self, handlers: &mut Handlers, new: Candidate) -> Result<Option<Made>> {
        let refused = Refused::of(&new, &self.settings());
        self.try_live(handlers, new).inspect_err(|error| {
            if !may_pass(error) {
                self.note(refused, format!("{error:#}"));
            }
        })
    }

    fn try_live(&self, handlers: &mut Handlers, new: Candidate) -> Result<Option<Made>> {
        let Candidate { artifact, file, instead_of, source, who, before, probation, smoke } = new;
        let spec = artifact.resolve(&self.settings())?;
        if let Some(running) = handlers.get(&spec.name)
            && running.file == file
            && running.version == artifact.version
            && running.instead_of == instead_of
            && running.serves()
            && running.spec == spec
            && !(probation == Probation::Anew && running.condemned().is_some())
        {
            return Ok(None);
        }
        let component = self.examine(handlers, &file, &artifact, &spec)?;
        if component.fires() && spec.schedules.is_empty() {
            tracing::info!(handler = spec.name, "it exports `timers`, and no `[[schedule]]` says when to fire one");
        }
        let rehearsal = self.rehearse_on_copy(&artifact, &spec, &component, smoke)?;
        self.prepare_topics(&spec)?;
        self.around.versions.keep(&artifact)?;
        let (store, path) = self.stores.open(&spec.store)?;
        // Only records are counted.
        let on_probation = probation != Probation::None && spec.probation.records > 0 && spec.reads();
        let on_probation = on_probation.then(|| self.probation(&spec.name, &artifact, probation == Probation::Anew));
        let joined = store.switch(Version {
            spec: spec.clone(),
            component,
            migrations: artifact.migrations,
            sha256: artifact.sha256.clone(),
            manifest: artifact.manifest_text,
            source,
            artifact: artifact.version.clone(),
            instead_of: instead_of.clone(),
            who,
            before,
            probation: on_probation,
        })?;
        let artifact_version = artifact.version.clone();
        self.stores
            .remember(&spec, instead_of.clone().map(|instead_of| Pin { artifact: artifact_version, instead_of }));
        let (name, number) = (spec.name.clone(), joined.version);
        let live = Live { handler: name.clone(), version: number, artifact: artifact.version.clone(), new: joined.new };
        let previous = handlers.remove(&name);
        let count = handlers.len() + 1;
        let handler = handlers.entry(name.clone()).or_insert(Deployed {
            file,
            version: artifact.version,
            instead_of,
            number,
            spec: spec.clone(),
            store: store.clone(),
            consumer: None,
            slot: joined.slot.clone(),
            tried: Tried::default(),
        });
        let routed = self.route(&spec, &store, &path, &joined);
        let consumer = self.consume(previous, &spec, &store, joined, count);
        let consumer = consumer.with_context(|| format!("version {number} of handler {name} is live, but cannot read"));
        let serves = consumer.and_then(|consumer| {
            handler.consumer = consumer;
            routed
        });
        if live.new
            && let Err(error) = self.prune(&name, &path)
        {
            tracing::warn!(handler = name, error = format!("{error:#}"), "throw away old versions");
        }
        Ok(Some(Made { live, rehearsal, serves }))
    }

    /// Everything that can be said of a version before it goes live.
    fn examine(&self, handlers: &Handlers, file: &Path, artifact: &Artifact, spec: &Spec) -> Result<Component> {
        if let Some((running, _)) = handlers.iter().find(|(name, handler)| handler.file == file && **name != spec.name)
        {
            bail!(
                "this file is handler {running}: remove it first and then add it again, so that {running} ends before {} begins",
                spec.name
            );
        }
        self.check(handlers, file, spec)?;
        compile(&self.around.engine, artifact, spec)
    }

    /// Throws away versions that nobody would roll back to.
    fn prune(&self, handler: &str, store: &Path) -> Result<()> {
        self.around.versions.prune(&deployment::history(&Store::open_reader(store)?, handler)?)
    }

    /// The settings, as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Handlers> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must hold between handlers, and between the versions of one.
    fn check(&self, handlers: &Handlers, file: &Path, spec: &Spec) -> Result<()> {
        // A file that was renamed is the same handler.
        let others = handlers.values().filter(|other| other.file != file && other.file.exists());
        check_against(spec, others.map(|other| (&*other.file, &other.spec)))?;
        if let Some(seen) = self.stores.last_seen(&spec.name) {
            if seen.store != spec.store {
                bail!(
                    "handler {} keeps its tables and offsets in store {}; `store = \"{}\"` would lose them. Change it back",
                    spec.name,
                    seen.store,
                    spec.store
                );
            }
            if seen.group != spec.group {
                bail!(
                    "handler {} reads as consumer group {}; `group = \"{}\"` would read everything again. Change it back",
                    spec.name,
                    seen.group,
                    spec.group
                );
            }
        }
        Ok(self.around.routes.check(&spec.name, &spec.served())?)
    }

    /// Removes the handler that came from this file, if there is one. Its tables and offsets stay.
    pub fn remove(&self, file: &Path) -> Result<Option<String>> {
        let mut handlers = self.lock();
        let Some(name) = handlers.iter().find(|(_, h)| h.file == file).map(|(name, _)| name.clone()) else {
            return Ok(None);
        };
        let ended = self.end(&mut handlers, &name);
        let error = ended.as_ref().err().map(|error| format!("{error:#}"));
        let act = Act { handler: Some(&name), ok: ended.is_ok(), error: error.as_deref(), ..Act::of(Action::Undeploy) };
        self.note_folder(file, act);
        ended?;
        Ok(Some(name))
    }

    fn end(&self, handlers: &mut Handlers, name: &str) -> Result<()> {
        let Some(mut handler) = handlers.remove(name) else { return Ok(()) };
        self.stores.unpin(name);
        self.around.routes.remove(name);
        if let Some(consumer) = handler.consumer.take() {
            consumer.stop();
        }
        handler.store.remove(&name.into()).with_context(|| format!("remove handler {name}"))
    }

    /// The files whose handlers are live and do not read, since Kafka would not let them.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        self.lock().values().filter(|handler| !handler.serves()).map(|handler| handler.file.clone()).collect()
    }

    /// Handlers that are live and do not read or answer, unless a deployment is under way: that is not waited for.
    pub fn idle_handlers(&self) -> Vec<String> {
        let Ok(handlers) = self.handlers.try_lock() else { return Vec::new() };
        handlers.iter().filter(|(_, handler)| !handler.serves()).map(|(name, _)| name.clone()).collect()
    }

    /// The stores.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// How often each action was done (`true`) or refused since the start.
    pub fn acts(&self) -> BTreeMap<(Action, bool), u64> {
        self.around.audit.acts()
    }

    /// The configuration of each handler that runs.
    pub fn specs(&self) -> Vec<Spec> {
        self.lock().values().map(|handler| handler.spec.clone()).collect()
    }

    /// Stops all consumers, side by side, and waits for them.
    pub fn stop_consumers(&self) {
        let mut handlers = self.lock();
        handlers.values().filter_map(|h| h.consumer.as_ref()).for_each(Consumer::stop_soon);
        handlers.values_mut().filter_map(|h| h.consumer.take()).for_each(Consumer::stop);
    }

    /// Ends all executors, and waits for them.
    pub fn stop_stores(&self) {
        self.stores.stop();
    }
}

/// Whether trying again may help, with the file as it is.
pub fn may_pass(error: &anyhow::Error) -> bool {
    error.downcast_ref::<store::Error>().is_some_and(|e| e.kind == store::Kind::Store)
        || error.downcast_ref::<TopicError>().is_some_and(TopicError::is_transient)
        || error.downcast_ref::<rdkafka::error::KafkaError>().is_some()
        || error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::StorageFull)
}
