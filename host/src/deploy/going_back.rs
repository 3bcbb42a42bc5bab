//! Going back from a version whose first records have trapped, to the last good one.
//!
//! The executor has stopped the version and written why before anybody here knows of it, and that is found again after a
//! restart: so it does not matter when the process ends. Where there is nothing to go back to, the handler stands still until a person acts.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::artifact::Artifact;
use super::audit::{Act, Action, Caller};
use super::command::Denied;
use super::manifest::Spec;
use super::report::Done;
use super::watch::AGAIN;
use super::{Deployed, Deployer, Handlers, Store, may_pass};
use crate::executor::{self, OnProbation};
use crate::guest::Component;
use crate::ledger::deployment::{self, Deployment, Migration, Status};
use crate::ledger::probation::{self, State};

/// What was made of a version that has failed its probation.
#[derive(Default)]
pub(super) enum Tried {
    /// Nothing so far.
    #[default]
    Never,
    /// It could not be gone back from yet.
    At(Instant),
    /// It cannot be gone back from.
    InVain,
}

impl Deployed {
    /// Why it reads nothing any more, if its first records have trapped.
    pub(super) fn condemned(&self) -> Option<String> {
        executor::condemned(&self.slot)
    }
}

impl Deployer {
    /// How a version's probation goes: which one was before it, and could do its records.
    pub(super) fn probation(&self, name: &str, artifact: &Artifact, anew: bool) -> Box<OnProbation> {
        let before = self.before(name, artifact).unwrap_or_else(|error| {
            tracing::debug!(handler = name, error = format!("{error:#}"), "read the version before");
            None
        });
        Box::new(OnProbation { before, anew })
    }

    fn before(&self, name: &str, artifact: &Artifact) -> Result<Option<(Component, Spec)>> {
        if self.stores.last_seen(name).is_none() {
            return Ok(None);
        }
        let store = self.store(name)?;
        let history = deployment::history(&store, name)?;
        let runs =
            history.iter().any(|row| row.status == Status::Live && row.artifact.as_ref() == Some(&artifact.version));
        let over = probation::live(&store, name)?.is_none_or(|live| live.state == State::Over);
        if runs && over {
            return Ok(None);
        }
        let Some(row) = last_good(&history, &artifact.version) else { return Ok(None) };
        let before = self.around.versions.read(row.artifact.as_deref().unwrap_or_default())?;
        let spec = before.resolve(&self.settings())?;
        let knows = |migration: &Migration| before.migrations.iter().any(|known| known.name == migration.name);
        let strange = !deployment::unknown(&store, name, &before.migrations)?.is_empty()
            || !artifact.migrations.iter().all(knows);
        if strange && !spec.newer_schema {
            return Ok(None);
        }
        Ok(Some((self.around.engine.load(&before.bytes, &before.sha256)?, spec)))
    }

    /// Goes back from each version that has failed its probation. What cannot be gone back from is said once.
    pub fn go_back_from_failed(&self) {
        let mut handlers = self.lock();
        let due = |running: &Deployed| match running.tried {
            Tried::Never => true,
            Tried::At(at) => at.elapsed() >= AGAIN,
            Tried::InVain => false,
        };
        let failed: Vec<(String, i64, String)> = handlers
            .iter()
            .filter(|(_, running)| due(running))
            .filter_map(|(name, running)| Some((name.clone(), running.number, running.condemned()?)))
            .collect();
        for (name, number, why) in failed {
            let done = self.go_back_from(&mut handlers, &name);
            let told = match &done {
                Ok(Done { version, .. }) => {
                    let live = version.unwrap_or_default();
                    tracing::warn!(
                        handler = name,
                        version = live,
                        "went back from version {number}, which has failed its probation: {why}"
                    );
                    why
                }
                Err(error) => {
                    let tried = if may_pass(error) { Tried::At(Instant::now()) } else { Tried::InVain };
                    let again = matches!(tried, Tried::At(_));
                    let first = handlers.get_mut(&name).map(|running| std::mem::replace(&mut running.tried, tried));
                    if matches!(first, Some(Tried::At(_))) && again {
                        continue;
                    }
                    let next = if again { "it is tried again" } else { "deploy a version that mends it" };
                    tracing::error!(
                        handler = name,
                        version = number,
                        "the version has failed its probation and cannot be gone back from, so its circuit stays open and its records wait: \
                         {next}. {why}. {error:#}"
                    );
                    format!("{why}. {error:#}")
                }
            };
            let file = handlers.get(&name).map(|running| running.file.clone()).unwrap_or_default();
            let done = done.ok();
            let act = Act {
                handler: Some(&name),
                version: done.as_ref().and_then(|done| done.version).or(Some(number)),
                artifact: done.as_ref().map(|done| done.artifact.as_str()),
                ok: done.is_some(),
                error: Some(&told),
                ..Act::of(Action::GoBack)
            };
            self.note_by(&Caller::HOST, &file, act);
        }
    }

    fn go_back_from(&self, handlers: &mut Handlers, name: &str) -> Result<Done> {
        let store = self.store(name)?;
        let row = good_before(&store, name)?;
        let number = row.version;
        let artifact = self.around.versions.read(row.artifact.as_deref().unwrap_or_default());
        let artifact = artifact.with_context(|| format!("version {number} of handler {name}"))?;
        self.knows_the_schema(&store, &artifact, name, number)?;
        self.go_back(handlers, artifact, name, &Caller::HOST)
    }
}

fn good_before(store: &Store, name: &str) -> Result<Deployment> {
    let history = deployment::history(store, name)?;
    let live = history.iter().find(|row| row.status == Status::Live).and_then(|row| row.artifact.clone());
    let none = || Denied::Unknown(format!("handler {name} has no earlier version that was good"));
    Ok(last_good(&history, live.as_deref().unwrap_or_default()).cloned().ok_or_else(none)?)
}

/// The last version that ran before this artifact and made way for another, and neither failed its probation nor was gone
/// back from. The history's newest is first.
pub(super) fn last_good<'h>(history: &'h [Deployment], artifact: &str) -> Option<&'h Deployment> {
    let mut seen = vec![Some(artifact)];
    for row in history.iter().filter(|row| row.status != Status::Failed) {
        // What became of an artifact the last time counts.
        if !seen.contains(&row.artifact.as_deref()) {
            seen.push(row.artifact.as_deref());
            if matches!(row.status, Status::Live | Status::Replaced) && !row.has_failed() {
                return Some(row);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::deploy::command::tests::history;

    #[test]
    fn h2_the_last_good_version_made_way_for_another_and_was_not_gone_back_from() {
        use Status::{Failed, Live, Removed, Replaced, RolledBack};
        let good = |rows: &[(&str, Status)], artifact: &str| last_good(&history(rows), artifact).map(|row| row.version);
        // Before it is live, and after.
        assert_eq!(good(&[("a", Replaced), ("b", Live), ("x", Failed)], "c"), Some(2));
        assert_eq!(good(&[("a", Replaced), ("b", Replaced), ("c", Live)], "c"), Some(2));
        // One that was gone back from is passed over, whoever asked for that.
        assert_eq!(good(&[("a", Replaced), ("b", RolledBack), ("a", Replaced), ("c", Live)], "c"), Some(3));
        assert_eq!(good(&[("a", Replaced), ("b", RolledBack), ("c", Live)], "c"), Some(1));
        // So is one that was taken away.
        assert_eq!(good(&[("a", Removed), ("b", Live)], "b"), None);
        assert_eq!(good(&[("b", Replaced), ("b", Live)], "b"), None);
        // So is one that has failed, and that only another one could follow.
        let mut rows = history(&[("a", Replaced), ("b", Replaced), ("c", Live)]);
        rows.iter_mut().filter(|row| row.version == 2).for_each(|row| row.error = Some("traps".into()));
        assert_eq!(last_good(&rows, "c").map(|row| row.version), Some(1));
    }
}
