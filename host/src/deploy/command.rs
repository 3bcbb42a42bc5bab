//! Deployment by command: a version that is sent, one that is gone back to, a handler that is taken away.
//!
//! The handlers folder stays what is declared: what was sent goes live first and into the folder then, and until it
//! lies there the ledger says in whose place it runs, so that a process that ends in between undoes nothing. A rollback
//! writes no file, and is in the ledger alone. Each act is in the audit log before it is answered.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::artifact::{Artifact, Parts};
use super::audit::{Action, Caller, Told};
use super::page::{self, Page, Window};
use super::report::{Description, Done, Entry, Listed, Report};
use super::versions::{Staged, remove, sync};
use super::{Candidate, Deployed, Deployer, Handlers, Made, Probation, Store};
use crate::ledger::deployment::{self, Deployment, Status};

/// Why a command cannot be followed, where that is no fault of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such handler or version.
    #[error("{0}")]
    Unknown(String),
    /// Something stands in its way.
    #[error("{0}")]
    Conflict(String),
}

impl Deployer {
    /// Makes a version live that was sent, and puts it into the handlers folder. With `smoke` it first runs so many of the last
    /// records on a copy of its store; without, as the settings say.
    ///
    /// # Errors
    /// It was refused, and nothing was changed; or it is live, and its file could not be put in its place.
    pub fn upload(&self, parts: Parts, smoke: Option<usize>, caller: &Caller) -> Result<Done> {
        self.audit(caller, Action::Deploy, Told::default(), |told| {
            let artifact = Artifact::from_parts(parts, Path::new("handler.wasm"))?;
            (told.handler, told.artifact) = (Some(artifact.name().to_owned()), Some(artifact.version.clone()));
            self.try_upload(artifact, smoke, caller)
        })
    }

    fn try_upload(&self, artifact: Artifact, smoke: Option<usize>, caller: &Caller) -> Result<Done> {
        let mut handlers = self.lock();
        let file = self.place(&handlers, &artifact)?;
        let staged = stage(&file, &artifact)?;
        let lies = Artifact::read(&file).ok().map(|found| found.version).filter(|found| *found != artifact.version);
        let (name, version) = (artifact.name().to_owned(), artifact.version.clone());
        let (source, who, before) = (file.display().to_string(), caller.name().to_owned(), Status::Replaced);
        let probation = Probation::Anew;
        let new = Candidate { artifact, file: file.clone(), instead_of: lies, source, who, before, probation, smoke };
        let made = self.go_live(&mut handlers, new)?;
        let number = handlers.get(&name).map(|running| running.number);
        staged.commit().with_context(|| {
            format!(
                "version {} of handler {name} is live, but its file is not in its place",
                number.unwrap_or_default()
            )
        })?;
        self.settle(&mut handlers, &name);
        let file = file.display().to_string();
        let done = Done { handler: name, version: number, artifact: version, file, ..Done::default() };
        Ok(told(done, made))
    }

    /// Checks and tries a version as [`Deployer::upload`] does, and changes nothing.
    ///
    /// # Errors
    /// It would be refused.
    pub fn rehearse(&self, parts: Parts, smoke: Option<usize>) -> Result<Done> {
        let artifact = Artifact::from_parts(parts, Path::new("handler.wasm"))?;
        let handlers = self.lock();
        let spec = artifact.resolve(&self.settings())?;
        let file = self.place(&handlers, &artifact)?;
        drop(stage(&file, &artifact)?);
        let component = self.examine(&handlers, &file, &artifact, &spec)?;
        let rehearsal = self.rehearse_on_copy(&artifact, &spec, &component, smoke)?;
        let changed = handlers.get(&spec.name).is_none_or(|running| running.version != artifact.version);
        let file = file.display().to_string();
        Ok(rehearsal.told(Done { handler: spec.name, artifact: artifact.version, changed, file, ..Done::default() }))
    }

    /// Makes an earlier version live: the one of this number, or the last one before. The file in the handlers folder stays, and
    /// is held back until it changes; where there is none, it is written again.
    ///
    /// # Errors
    /// There is no such version, or it cannot go live; nothing was changed.
    pub fn rollback(&self, name: &str, version: Option<i64>, caller: &Caller) -> Result<Done> {
        self.audit(caller, Action::Rollback, Told::of(name), |told| {
            let mut handlers = self.lock();
            let store = self.store(name)?;
            let row = choose(deployment::history(&store, name)?, version, handlers.contains_key(name), name)?;
            let number = row.version;
            let of_old = || {
                Denied::Unknown(format!(
                    "version {number} of handler {name} is from before versions were kept: deploy its file again"
                ))
            };
            let hash = row.artifact.ok_or_else(of_old)?;
            told.artifact = Some(hash.clone());
            let gone = |error: anyhow::Error| {
                Denied::Unknown(format!("version {number} of handler {name} cannot be gone back to: {error:#}"))
            };
            let artifact = self.around.versions.read(&hash).map_err(gone)?;
            self.knows_the_schema(&store, &artifact, name, number)?;
            self.go_back(&mut handlers, artifact, name, caller)
        })
    }

    /// A migration that has run is never undone, so a version from before it must say that it can live with what it did.
    pub(super) fn knows_the_schema(&self, store: &Store, artifact: &Artifact, name: &str, number: i64) -> Result<()> {
        let unknown = deployment::unknown(store, name, &artifact.migrations)?;
        if !unknown.is_empty() && !artifact.lay_out(&self.settings())?.0.newer_schema {
            let unknown = unknown.join(", ");
            return Err(Denied::Conflict(format!(
                "version {number} of handler {name} does not know what migrations have done since ({unknown}), and they are not undone: \
                 deploy a newer version, or set `newer-schema = true` under [handler.{name}] if that one can live with it"
            ))
            .into());
        }
        Ok(())
    }

    pub(super) fn go_back(
        &self,
        handlers: &mut Handlers,
        artifact: Artifact,
        name: &str,
        caller: &Caller,
    ) -> Result<Done> {
        let version = artifact.version.clone();
        let (file, staged, instead_of) = match handlers.get(name) {
            Some(running) if running.version == version => {
                let number = running.number;
                return Err(
                    Denied::Conflict(format!("that is what runs, as version {number} of handler {name}")).into()
                );
            }
            Some(running) => {
                // One that cannot be read was refused; what it replaced is held back then.
                let lies = Artifact::read(&running.file).ok().map(|found| found.version);
                let lies = lies.or_else(|| running.instead_of.clone()).unwrap_or_else(|| running.version.clone());
                (running.file.clone(), None, Some(lies).filter(|lies| *lies != version))
            }
            None => {
                let file = self.place(handlers, &artifact)?;
                if file.exists() {
                    return Err(Denied::Conflict(format!(
                        "handler {name} does not run, and {} lies there and was refused: deploy another file over it, or take it away",
                        file.display()
                    ))
                    .into());
                }
                let staged = stage(&file, &artifact)?;
                (file, Some(staged), None)
            }
        };
        let (source, who) = (self.around.versions.path(&version).display().to_string(), caller.name().to_owned());
        let (before, probation) = (Status::RolledBack, Probation::None);
        let new = Candidate {
            artifact,
            file: file.clone(),
            instead_of: instead_of.clone(),
            source,
            who,
            before,
            probation,
            smoke: Some(0),
        };
        let made = self.go_live(handlers, new)?;
        let number = handlers.get(name).map(|running| running.number);
        if let Some(staged) = staged {
            staged.commit().with_context(|| format!("handler {name} is live, but its file is not in its place"))?;
        }
        let file = file.display().to_string();
        let done =
            Done { handler: name.to_owned(), version: number, artifact: version, file, instead_of, ..Done::default() };
        Ok(told(done, made))
    }

    /// Takes a handler's file out of the folder and ends it. Its versions, tables and offsets stay.
    ///
    /// # Errors
    /// It does not run; or its file cannot be taken away, and it runs on.
    pub fn undeploy(&self, name: &str, caller: &Caller) -> Result<Done> {
        self.audit(caller, Action::Undeploy, Told::of(name), |told| {
            let mut handlers = self.lock();
            let Some(running) = handlers.get(name) else {
                self.store(name)?;
                return Err(Denied::Conflict(format!("handler {name} does not run")).into());
            };
            let (file, artifact) = (running.file.clone(), running.version.clone());
            told.artifact = Some(artifact.clone());
            let folder = file.parent().unwrap_or(Path::new("."));
            for path in [file.clone(), file.with_extension("toml"), file.with_extension("migrations")] {
                remove(&path).with_context(|| format!("take {} out of the handlers folder", path.display()))?;
            }
            sync(folder)?;
            self.end(&mut handlers, name)?;
            let file = file.display().to_string();
            Ok(Done { handler: name.to_owned(), artifact, changed: true, file, ..Done::default() })
        })
    }

    /// Handlers that run or ever did, by their names.
    ///
    /// # Errors
    /// A store cannot be read.
    pub fn list(&self, window: &Window<String>) -> Result<Page<Listed>> {
        let handlers = self.lock();
        let listed = |name: String| {
            let last = deployment::last_live(&self.store(&name)?)?.into_iter().find(|row| row.handler == name);
            let Some(row) = last else { return Ok(None) };
            let running = handlers.get(&name);
            Ok(Some(Listed {
                state: state(running).to_owned(),
                version: row.version,
                artifact: row.artifact,
                instead_of: running.and_then(|running| running.instead_of.clone()),
                sha256: row.sha256,
                deployed_at: crate::settings::units::show_time(row.deployed_at),
                who: row.who,
                source: row.source,
                handler: name,
            }))
        };
        let names = window.page(self.stores.known(), String::clone, |name, last| name > last);
        names.map(|names| names.into_iter().filter_map(|name| listed(name).transpose()).collect())
    }

    /// The versions of a handler, the newest first.
    ///
    /// # Errors
    /// There is no such handler.
    pub fn history(&self, name: &str, window: &Window<i64>) -> Result<Page<Entry>> {
        Ok(window.page(self.entries(&self.lock(), name)?, |entry| entry.version, |version, last| version < last))
    }

    fn entries(&self, handlers: &Handlers, name: &str) -> Result<Vec<Entry>> {
        let runs = handlers.contains_key(name);
        let kept =
            |row: &Deployment| row.artifact.as_deref().is_some_and(|artifact| self.around.versions.has(artifact));
        let rows = deployment::history(&self.store(name)?, name)?;
        Ok(rows.into_iter().map(|row| (kept(&row), row)).map(|(kept, row)| Entry::of(row, runs, kept)).collect())
    }

    /// All about a handler.
    ///
    /// # Errors
    /// There is no such handler.
    pub fn report(&self, name: &str) -> Result<Report> {
        let handlers = self.lock();
        let mut versions = self.entries(&handlers, name)?;
        let running = handlers.get(name);
        let last = versions.iter().find(|entry| entry.status != Status::Failed.name());
        let artifact = last.and_then(|entry| self.around.versions.read(entry.artifact.as_deref()?).ok());
        let description = match artifact {
            Some(artifact) => Some(Description::of(&artifact, &artifact.lay_out(&self.settings())?.0)?),
            None => None,
        };
        versions.truncate(page::USUAL);
        Ok(Report {
            handler: name.to_owned(),
            state: state(running).to_owned(),
            file: running.map(|running| running.file.display().to_string()),
            instead_of: running.and_then(|running| running.instead_of.clone()),
            description,
            versions,
        })
    }

    /// The store in which a handler was last live, to read.
    pub(super) fn store(&self, name: &str) -> Result<Store> {
        let seen = self.stores.last_seen(name).and_then(|seen| self.stores.path(&seen.store));
        Ok(Store::open_reader(&seen.ok_or_else(|| unknown(name))?)?)
    }

    /// Where a version's file belongs: where the handler's is that runs, or under its own name.
    fn place(&self, handlers: &Handlers, artifact: &Artifact) -> Result<PathBuf> {
        let name = artifact.name();
        let file = match handlers.get(name) {
            Some(running) => running.file.clone(),
            None => self.settings().handlers.join(format!("{name}.wasm")),
        };
        let other = handlers.iter().find(|(other, handler)| *other != name && handler.file == file);
        let other = other.map(|(other, _)| other.clone());
        let lies = || Artifact::read(&file).ok().map(|found| found.name().to_owned()).filter(|found| found != name);
        if let Some(other) = other.or_else(lies) {
            let file = file.display();
            return Err(
                Denied::Conflict(format!("{file} holds handler {other}: give that file another name first")).into()
            );
        }
        let beside = [
            (file.with_extension("toml"), artifact.manifest_beside, "manifest"),
            (file.with_extension("migrations"), artifact.migrations_beside, "migrations"),
        ];
        for (path, brought, what) in beside {
            if !brought && path.exists() {
                return Err(Denied::Conflict(format!(
                    "{} would replace the {what} inside the file: take it away, or send one of your own that stands beside yours",
                    path.display()
                ))
                .into());
            }
        }
        Ok(file)
    }

    /// What runs is what lies in the folder.
    fn settle(&self, handlers: &mut Handlers, name: &str) {
        self.stores.unpin(name);
        let Some(running) = handlers.get_mut(name) else { return };
        running.instead_of = None;
        let of = name.to_owned();
        if let Err(error) = running.store.note(move |connection| deployment::settle(connection, &of)) {
            tracing::warn!(
                handler = name,
                error = format!("{error:#}"),
                "note that a version's file is in its place; it is done at the next start"
            );
        }
    }

    /// Changes what runs, and notes it.
    fn audit(
        &self,
        caller: &Caller,
        action: Action,
        told: Told,
        act: impl FnOnce(&mut Told) -> Result<Done>,
    ) -> Result<Done> {
        let by = caller.name();
        self.around.audit.noted(caller, action, told, |told| {
            let done = act(told).inspect_err(|error| {
                let handler = told.handler.as_deref();
                tracing::warn!(handler, by, "{action} refused, and what ran before goes on: {error:#}");
            })?;
            tracing::info!(handler = done.handler, version = done.version, by, "{action}");
            (told.version, told.file, told.warning) = (done.version, Some(done.file.clone()), done.warning.clone());
            Ok(done)
        })
    }
}

pub(super) fn unknown(name: &str) -> Denied {
    Denied::Unknown(format!("there is no handler {name}, and there never was: `tidemill handlers` lists them"))
}

/// What a command did, with what went wrong after a version went live.
fn told(done: Done, made: Option<Made>) -> Done {
    let changed = made.is_some();
    let Some(Made { rehearsal, serves, .. }) = made else { return Done { changed, ..done } };
    let warning = serves.err().map(|error| format!("{error:#}; it is tried again"));
    rehearsal.told(Done { changed, warning, ..done })
}

fn stage(file: &Path, artifact: &Artifact) -> Result<Staged> {
    let folder = file.parent().unwrap_or(Path::new(".")).display();
    Staged::write(file, &artifact.parts())
        .with_context(|| format!("the handlers folder {folder} cannot be written, and nothing was changed: let the daemon write there, or copy the file yourself"))
}

fn state(running: Option<&Deployed>) -> &'static str {
    match running {
        Some(running) if running.condemned().is_some() => "held",
        Some(Deployed { instead_of: Some(_), .. }) => "rolled-back",
        Some(_) => "live",
        None => "stopped",
    }
}

/// The version to go back to, of a history whose newest is first. Without a number: for a handler that does not run its last
/// one; for one that runs the last whose place another took since, so that going back twice goes back two versions.
fn choose(history: Vec<Deployment>, version: Option<i64>, runs: bool, name: &str) -> Result<Deployment, Denied> {
    let failed = |row: &Deployment| row.status == Status::Failed;
    if let Some(version) = version {
        let row = history.into_iter().find(|row| row.version == version);
        return match row {
            None => Err(Denied::Unknown(format!(
                "handler {name} has no version {version}: `tidemill versions {name}` lists them"
            ))),
            Some(row) if failed(&row) => {
                Err(Denied::Conflict(format!("version {version} of handler {name} was never live: it was refused")))
            }
            Some(row) => Ok(row),
        };
    }
    let mut seen = Vec::new();
    for row in history.into_iter().filter(|row| !failed(row)) {
        // What became of an artifact the last time counts.
        if !seen.contains(&row.artifact) {
            seen.push(row.artifact.clone());
            if !runs || !(matches!(row.status, Status::Live | Status::RolledBack) || row.has_failed()) {
                return Ok(row);
            }
        }
    }
    Err(Denied::Unknown(format!(
        "handler {name} has no version before this one: `tidemill versions {name}` lists those that can be named"
    )))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(in crate::deploy) fn history(rows: &[(&str, Status)]) -> Vec<Deployment> {
        let text = String::new;
        let row = |(version, (artifact, status)): (i64, &(&str, Status))| Deployment {
            handler: text(),
            group: text(),
            version,
            sha256: text(),
            artifact: Some((*artifact).to_owned()),
            instead_of: None,
            who: None,
            source: text(),
            deployed_at: 0,
            status: *status,
            error: None,
        };
        let mut rows: Vec<Deployment> = (1..).zip(rows).map(row).collect();
        rows.reverse();
        rows
    }

    #[test]
    fn h2_going_back_twice_goes_back_two_versions() {
        use Status::{Failed, Live, Removed, Replaced, RolledBack};
        let back = |rows: &[(&str, Status)], runs| {
            choose(history(rows), None, runs, "h").map(|row| row.version).map_err(|_| ())
        };
        let mut rows = vec![("a", Replaced), ("b", Replaced), ("x", Failed), ("c", Live)];
        assert_eq!(back(&rows, true), Ok(2));
        rows.pop();
        rows.extend([("c", RolledBack), ("b", Live)]);
        assert_eq!(back(&rows, true), Ok(1));
        rows.pop();
        rows.extend([("b", RolledBack), ("a", Live)]);
        assert_eq!(back(&rows, true), Err(()));
        // One that came again by a file counts again.
        rows.pop();
        rows.extend([("a", Replaced), ("b", Replaced), ("d", Live)]);
        assert_eq!(back(&rows, true), Ok(7));
        // A handler that was removed comes back as it was.
        assert_eq!(back(&[("a", Replaced), ("b", Removed), ("x", Failed)], false), Ok(2));
    }

    #[test]
    fn h2_a_version_by_number_was_live_once() {
        let rows = history(&[("a", Status::Replaced), ("x", Status::Failed), ("b", Status::Live)]);
        let by = |number| choose(rows.clone(), Some(number), true, "h");
        assert_eq!(by(1).unwrap().artifact.as_deref(), Some("a"));
        assert!(matches!(by(2), Err(Denied::Conflict(_))) && matches!(by(9), Err(Denied::Unknown(_))));
    }
}
