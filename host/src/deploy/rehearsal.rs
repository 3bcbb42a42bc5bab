//! Trying a version on a copy of its store, before the store itself and all who share it have to wait for it.
//!
//! Its invariant: the store is only read, and of the copy nothing is left: it goes when the trial ends, however it ends, and
//! what a killed process has left goes at the next start. Nothing here is live, and nothing leaves the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::artifact::Artifact;
use super::manifest::Spec;
use super::report::Done;
use super::smoke::{self, Smoke};
use super::versions::remove;
use super::{Deployer, Store};
use crate::guest::Component;
use crate::kafka::tail;
use crate::ledger::deployment::{self, Status};
use crate::ledger::{owners, schema};
use crate::settings::units;
use crate::store::rights::{Rights, Tables};

/// The folder of copies in the data folder.
const FOLDER: &str = "rehearsal";
/// Free space beyond the copy's own size that is wanted, in bytes: migrations may make it grow.
const SPARE: u64 = 16 << 20;

/// What a trial has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rehearsal {
    /// Migrations that are still to be run.
    pub(super) migrations: Vec<String>,
    /// How long they took on the copy, if there was one.
    pub(super) took: Option<Duration>,
    /// What became of the last records there, if they were run.
    pub(super) smoke: Option<Smoke>,
}

impl Rehearsal {
    /// With what a command is told of it.
    pub(super) fn told(self, done: Done) -> Done {
        let migrations_ms = self.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        Done { migrations: self.migrations, migrations_ms, smoke: self.smoke, ..done }
    }
}

/// A copy of a store.
struct Copy {
    path: PathBuf,
}

impl Drop for Copy {
    fn drop(&mut self) {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut path = self.path.clone().into_os_string();
            path.push(ending);
            if let Err(error) = remove(Path::new(&path)) {
                tracing::warn!(path = %path.display(), %error, "throw away a copy of a store; it goes at the next start");
            }
        }
    }
}

/// Throws away what a process has left that was killed.
pub(super) fn clear(data: &Path) -> Result<()> {
    let folder = data.join(FOLDER);
    remove(&folder).with_context(|| format!("throw away copies of stores in {}", folder.display()))
}

impl Deployer {
    /// Tries a version on a copy of its store, if there is anything to be tried: its migrations, and the last records, so many of
    /// them, or as the settings say of a version that is not live already.
    ///
    /// # Errors
    /// It would fail to go live, or traps; or no copy can be made, or Kafka does not give the records.
    pub(super) fn rehearse_on_copy(
        &self,
        artifact: &Artifact,
        spec: &Spec,
        component: &Component,
        smoke: Option<usize>,
    ) -> Result<Rehearsal> {
        let store = self.stores.path(&spec.store).map(|path| Store::open_reader(&path)).transpose()?;
        let (migrations, runs): (Vec<String>, bool) = match &store {
            Some(store) => {
                let left = deployment::outstanding(store, &spec.name, &artifact.migrations)?;
                let live = deployment::last_live(store)?.into_iter().find(|row| row.handler == spec.name);
                let runs = live
                    .is_some_and(|row| row.status == Status::Live && row.artifact.as_ref() == Some(&artifact.version));
                (left.iter().map(|(migration, _)| migration.name.clone()).collect(), runs)
            }
            None => (artifact.migrations.iter().map(|migration| migration.name.clone()).collect(), false),
        };
        let smoke = smoke.unwrap_or(if runs { 0 } else { spec.probation.smoke_records });
        // A store that is not there keeps nobody waiting.
        if smoke == 0 && (migrations.is_empty() || store.is_none()) {
            return Ok(Rehearsal { migrations, ..Rehearsal::default() });
        }
        let size = store.as_ref().map_or(Ok(0), Store::size)?;
        if size > spec.probation.copy_limit as u64 {
            let large = format!(
                "store {} has {}, and probation.copy-limit is {}",
                spec.store,
                units::show_size(usize::try_from(size).unwrap_or(usize::MAX)),
                units::show_size(spec.probation.copy_limit)
            );
            if smoke > 0 {
                bail!("a smoke test runs on a copy of the store, and {large}: raise it, or deploy without the test");
            }
            tracing::warn!(handler = spec.name, "the migrations are not tried on a copy first: {large}");
            return Ok(Rehearsal { migrations, ..Rehearsal::default() });
        }
        let (_kept, copy) = self.copy(store.as_ref(), &spec.store, size)?;
        let tried = || format!("tried on a copy of store {}, and the store itself was not touched", spec.store);
        let tables = Arc::new(Tables::default());
        tables.set(owners::load(&copy)?);
        let rights = Arc::new(Rights { user: spec.name.as_str().into(), grants: spec.tables.clone(), tables });
        let took = match migrations.is_empty() {
            true => None,
            false => {
                let took = migrate(&copy, artifact, &rights, store.as_ref()).with_context(tried)?;
                tracing::info!(
                    handler = spec.name,
                    store = spec.store,
                    migrations = migrations.join(", "),
                    took_ms = took.as_millis(),
                    "the migrations ran on a copy of the store, which will stand still about as long"
                );
                Some(took)
            }
        };
        let smoke = match smoke {
            0 => None,
            count => {
                let topics = topics(spec, &copy)?;
                let records = tail::last(&self.around.kafka, spec, &topics, count).context("smoke test")?;
                let smoke = smoke::run(copy, component, spec, rights, &records)?;
                tracing::info!(handler = spec.name, "smoke test: {smoke}");
                Some(smoke)
            }
        };
        Ok(Rehearsal { migrations, took, smoke })
    }

    /// A copy of a store, or an empty one where there is none.
    fn copy(&self, store: Option<&Store>, name: &str, size: u64) -> Result<(Copy, Store)> {
        let folder = self.settings().data.join(FOLDER);
        let made = || format!("copy store {name} into {}, to try the version there first", folder.display());
        fs::create_dir_all(&folder).with_context(made)?;
        let space = rustix::fs::statvfs(&folder).map_err(std::io::Error::from).with_context(made)?;
        let (wanted, free) = (size.saturating_add(SPARE), space.f_bavail.saturating_mul(space.f_frsize));
        if free < wanted {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let show = |bytes: u64| units::show_size(usize::try_from(bytes >> 20).unwrap_or(usize::MAX >> 20) << 20);
            return Err(anyhow::Error::new(full).context(format!(
                "{}: it takes {} and {} are free; free disk space, or set probation.copy-limit below the store's size",
                made(),
                show(wanted),
                show(free)
            )));
        }
        let kept = Copy { path: folder.join(format!("{name}.db")) };
        let mut copy = Store::open_copy(&kept.path).with_context(made)?;
        match store {
            Some(store) => store.copy_to(&mut copy).with_context(made)?,
            None => drop(schema::prepare(&copy).with_context(made)?),
        }
        Ok((kept, copy))
    }
}

/// The topics that a handler reads; of a pattern those that it has read.
fn topics(spec: &Spec, copy: &Store) -> Result<Vec<String>> {
    let mut topics: BTreeSet<String> = spec.topics.iter().cloned().collect();
    if spec.pattern.is_some() {
        let sql = "SELECT DISTINCT topic FROM main.tm_offset WHERE handler = ?1";
        topics.extend(copy.query(sql, &[spec.name.as_str().into()], |row| row.text(0))?);
    }
    Ok(topics.into_iter().collect())
}

/// Runs the migrations on a copy, as the switch does, and looks at what they leave. Returns how long they took.
fn migrate(copy: &Store, artifact: &Artifact, rights: &Arc<Rights>, store: Option<&Store>) -> Result<Duration> {
    let began = Instant::now();
    copy.execute("BEGIN IMMEDIATE", &[])?;
    let owners = deployment::migrate(copy, rights, &artifact.migrations, crate::clock::now())?;
    let took = began.elapsed();
    // Before the commit, which says only that there are some.
    let after = dangling(copy)?;
    if !after.is_empty() {
        // What was so before does not stand in the way of what may mend it.
        let before = store.map_or(Ok(BTreeMap::new()), dangling)?;
        let more = after.iter().find(|(pair, rows)| before.get(*pair).is_none_or(|old| old < *rows));
        if let Some(((table, parent), _)) = more {
            bail!(
                "after its migrations table {table} has rows whose foreign key finds nothing in {parent}: mend them in the migration"
            );
        }
    }
    let began = Instant::now();
    copy.execute("COMMIT", &[])?;
    rights.tables.set(owners);
    let took = took + began.elapsed();
    let told = copy.first("PRAGMA main.quick_check(1)", &[], |row| row.text(0))?.unwrap_or_default();
    if told != "ok" {
        bail!(
            "after its migrations the copy is not whole ({told}): look at the store with `PRAGMA integrity_check`, and \
             restore a backup if it says the same"
        );
    }
    Ok(took)
}

/// How many rows of a table refer to rows of another that are not there.
fn dangling(store: &Store) -> Result<BTreeMap<(String, String), u64>> {
    let mut found = BTreeMap::new();
    store.each("PRAGMA main.foreign_key_check", &[], |row| {
        *found.entry((row.text(0)?, row.text(2)?)).or_default() += 1;
        Ok(true)
    })?;
    Ok(found)
}
