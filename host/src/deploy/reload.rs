//! The settings read again while the daemon runs: what has changed, what of it holds from now on, what waits for a restart.
//!
//! Its invariant: a file with anything wrong in it, or with which a handler that runs could not go on, changes nothing. What is
//! compared is what the file says; a variable goes before it, then as now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::artifact::Artifact;
use super::audit::{Act, Action, Caller};
use super::{Deployer, may_pass};
use crate::settings::{Problems, Settings};
use crate::telemetry::Levels;
use crate::trace::Tracer;

/// Where settings come from: read, with the file's text.
pub type Read = Box<dyn Fn() -> Result<(Settings, String), Problems> + Send + Sync>;

/// What can be another way while the daemon runs.
pub struct Control {
    /// Reads the settings again.
    pub read: Read,
    /// The text of the file that the daemon was started with.
    pub text: String,
    /// What is logged.
    pub levels: Levels,
    /// Of which traces is told.
    pub tracer: Tracer,
}

/// What became of settings that were read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Keys that hold from now on.
    pub applied: Vec<String>,
    /// Keys that hold after a restart.
    pub restart: Vec<String>,
    /// Keys that a variable goes before, so that nothing changes.
    pub overridden: Vec<String>,
    /// Handlers that go on with other settings, and the numbers of their versions.
    // A tuple, which not every tool reads.
    #[schemars(with = "Vec<Vec<serde_json::Value>>")]
    pub handlers: Vec<(String, i64)>,
    /// Handlers that go on as they were, and why.
    #[schemars(with = "Vec<Vec<String>>")]
    pub kept: Vec<(String, String)>,
}

impl Reloaded {
    /// For people, a line for each thing.
    pub fn lines(&self) -> Vec<String> {
        let list = |what: &str, keys: &[String]| (!keys.is_empty()).then(|| format!("{what}: {}", keys.join(", ")));
        let mut lines: Vec<String> = [
            list("applied", &self.applied),
            list("needs a restart", &self.restart),
            list("changed, but an environment variable goes before it", &self.overridden),
        ]
        .into_iter()
        .flatten()
        .collect();
        let handler = |(name, version): &(String, i64)| format!("handler {name} goes on with it (version {version})");
        lines.extend(self.handlers.iter().map(handler));
        lines.extend(self.kept.iter().map(|(name, why)| format!("handler {name} goes on as it was: {why}")));
        if lines.is_empty() {
            lines.push("nothing has changed".to_owned());
        }
        lines
    }
}

/// Every key of a file, dotted, with its value as text. Each array of tables counts as one.
#[derive(Default)]
pub(super) struct Keys(BTreeMap<String, String>);

impl Keys {
    pub(super) fn of(text: &str) -> Self {
        let mut keys = Self::default();
        keys.add("", &text.parse().unwrap_or_default());
        keys
    }

    fn add(&mut self, prefix: &str, table: &Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(table) => self.add(&key, table),
                other => drop(self.0.insert(key, other.to_string())),
            }
        }
    }

    /// Those that are not the same in both.
    fn changed(&self, other: &Self) -> Vec<String> {
        let all: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        all.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }

    fn take_over(&mut self, key: &str, from: &Self) {
        match from.0.get(key) {
            Some(value) => drop(self.0.insert(key.to_owned(), value.clone())),
            None => drop(self.0.remove(key)),
        }
    }
}

/// Whether a key holds without a restart.
fn applies(key: &str) -> bool {
    matches!(key, "log.level" | "traces.ratio" | "traces.parent-based" | "stop-within")
        || key.starts_with("defaults.")
        || key.starts_with("handler.")
}

/// Whether a variable goes before a key.
fn is_overridden(key: &str) -> bool {
    let name = format!("TIDEMILL_{}", key.to_ascii_uppercase().replace(['.', '-'], "_"));
    std::env::var_os(name).is_some()
}

impl Deployer {
    /// What is logged, and how to log something else.
    pub fn levels(&self) -> &Levels {
        &self.around.control.levels
    }

    /// Reads the settings again, and lets hold what can.
    ///
    /// # Errors
    /// Something is wrong with them, or a handler could not go on; nothing has changed.
    pub fn reload(&self, caller: &Caller) -> Result<Reloaded> {
        let reloaded = self.try_reload();
        let error = reloaded.as_ref().err().map(|error| format!("{error:#}"));
        let detail = reloaded.as_ref().ok().map(|reloaded| reloaded.lines().join("; "));
        let act = Act { ok: error.is_none(), error: error.as_deref(), ..Act::of(Action::Reload) };
        if let Err(error) = self.around.audit.write(caller, Act { detail: detail.as_deref(), ..act }) {
            tracing::error!(by = &*caller.who, error = format!("{error:#}"), "a change is not in the audit log");
        }
        match (&reloaded, &error) {
            (Ok(reloaded), _) => reloaded.lines().iter().for_each(|line| tracing::info!("settings read again: {line}")),
            (Err(_), error) => error.iter().flat_map(|error| error.lines()).for_each(|problem| {
                tracing::error!("settings read again, and nothing has changed: {problem}");
            }),
        }
        reloaded
    }

    fn try_reload(&self) -> Result<Reloaded> {
        let control = &self.around.control;
        // One at a time.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, text) = (control.read)()?;
        let new = Keys::of(&text);
        let mut reloaded = Reloaded::default();
        for key in keys.changed(&new) {
            match (is_overridden(&key), applies(&key)) {
                (true, _) => reloaded.overridden.push(key),
                (false, true) => reloaded.applied.push(key),
                (false, false) => reloaded.restart.push(key),
            }
        }
        let before = self.settings();
        let mut now = Settings::clone(&before);
        (now.defaults, now.overrides) = (read.defaults, read.overrides);
        (now.traces.sampling, now.stop_within) = (read.traces.sampling, read.stop_within);
        now.log.level = read.log.level;
        let running = self.would_run(&now)?;
        if now.log.level != before.log.level {
            control.levels.set(&now.log.level, None)?;
        }
        control.tracer.sample(now.traces.sampling);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        for key in reloaded.applied.iter().chain(&reloaded.overridden) {
            keys.take_over(key, &new);
        }
        drop(keys);
        for (name, file) in running {
            match self.deploy(&file) {
                Ok(None) => {}
                Ok(Some(live)) => reloaded.handlers.push((live.handler, live.version)),
                Err(error) if may_pass(&error) => {
                    reloaded.kept.push((name, format!("{error:#}; it is tried again when its file is looked at")));
                }
                Err(error) => reloaded.kept.push((name, format!("{error:#}"))),
            }
        }
        Ok(reloaded)
    }

    /// The handlers that run, and their files, if each could go on with these settings.
    fn would_run(&self, settings: &Settings) -> Result<Vec<(String, PathBuf)>> {
        let handlers = self.lock();
        let mut running = Vec::new();
        for (name, handler) in handlers.iter() {
            // One whose file is gone, or has changed, is the watch's to look at.
            let Ok(found) = Artifact::read(&handler.file) else { continue };
            let (artifact, _) = self.in_place_of(found)?;
            let spec = artifact.resolve(settings).with_context(|| format!("handler {name} could not go on"))?;
            if artifact.version == handler.version {
                self.check(&handlers, &handler.file, &spec)?;
            }
            running.push((name.clone(), handler.file.clone()));
        }
        Ok(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_told_key_by_key() {
        let before =
            Keys::of("data = \"a\"\n[http]\ndeadline = \"1s\"\n[[topic]]\nname = \"t\"\n[log]\nlevel = \"info\"");
        let after = Keys::of("data = \"a\"\n[http]\nbody-limit = 1\n[[topic]]\nname = \"u\"\n[log]\nlevel = \"info\"");
        assert_eq!(before.changed(&after), ["http.body-limit", "http.deadline", "topic"]);
        assert!(before.changed(&before).is_empty());
    }

    #[test]
    fn what_holds_at_once_is_what_each_delivery_looks_at() {
        for key in ["log.level", "traces.ratio", "stop-within", "defaults.retry.max-attempts", "handler.a.limits.time"]
        {
            assert!(applies(key), "{key}");
        }
        for key in ["log.format", "traces.endpoint", "http.deadline", "kafka.bootstrap", "topic", "data", "handlers"] {
            assert!(!applies(key), "{key}");
        }
    }
}
