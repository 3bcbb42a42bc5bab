//! Pausing a consumer group, or a part of it, and letting it go on.
//!
//! A pause is committed to the handler's store before it is noted and answered, and holds until it is ended or its time is over, whatever
//! is restarted or deployed meanwhile. The last word on a scope holds; whoever says it is told what was there. Kafka is told nothing: the
//! group keeps its members and its partitions.

use std::time::Duration;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::audit::{Action, Caller};
use super::command::Denied;
use super::groups::of_group;
use super::{Deployed, Deployer};
use crate::clock;
use crate::http::admin::body::whole;
use crate::ledger::pause::{Change, Pause, Scope};
use crate::settings::units;

/// What `POST groups/{group}/pause` and `.../resume` say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pausing {
    /// Only this topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// Only this partition of it.
    #[serde(default, deserialize_with = "whole")]
    pub partition: Option<i32>,
    /// A duration like `10m`, after which the pause ends by itself.
    #[serde(default, rename = "for")]
    pub time: Option<String>,
}

/// What became of the pauses of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Paused {
    /// The group.
    pub group: String,
    /// Its handler.
    pub handler: String,
    /// Whether anything is other than before.
    pub changed: bool,
    /// The pause that the new one has taken the place of, or those that have ended.
    pub before: Vec<Pause>,
    /// Those that are in force now, the widest first.
    pub pauses: Vec<Pause>,
}

impl Deployer {
    /// Pauses a group, or a part of it, while it runs.
    ///
    /// # Errors
    /// There is no such group; or it does not read that topic or partition.
    pub fn pause(&self, name: &str, asked: &Pausing, caller: &Caller) -> Result<Paused> {
        let handlers = self.lock();
        let running = of_group(&handlers, name)?;
        self.note_group(running, Action::PauseGroup, caller, |told| {
            let scope = self.scope(running, asked)?;
            let since = clock::now();
            let time = asked.time.as_deref().map(units::duration).transpose().map_err(Denied::Conflict)?;
            let until = time.map(|time| since.saturating_add(millis(time)));
            let pause = Pause { scope, since, until, who: caller.name().to_owned() };
            told.detail = Some(pause.to_string());
            let before = running.store.pause(&running.spec.name.as_str().into(), Change::Begin(pause))?;
            self.paused(running, true, before)
        })
    }

    /// Lets a group, or a part of it, go on.
    ///
    /// # Errors
    /// There is no such group; or what is to go on is held by a wider pause, which would have to end.
    pub fn resume(&self, name: &str, asked: &Pausing, caller: &Caller) -> Result<Paused> {
        let handlers = self.lock();
        let running = of_group(&handlers, name)?;
        self.note_group(running, Action::ResumeGroup, caller, |told| {
            if asked.time.is_some() {
                return Err(Denied::Conflict("a group goes on for good: leave `for` out".into()).into());
            }
            let scope = self.scope(running, asked)?;
            let pauses = self.stands(&running.spec)?.pauses;
            if let Some(wider) = pauses.iter().find(|pause| pause.scope != scope && pause.scope.holds(&scope)) {
                let why = format!(
                    "{scope} is held by a wider pause ({wider}), so it would not go on: nothing was changed; resume that one"
                );
                return Err(Denied::Conflict(why).into());
            }
            told.detail = Some(scope.to_string());
            let ended = running.store.pause(&running.spec.name.as_str().into(), Change::End(scope))?;
            self.paused(running, !ended.is_empty(), ended)
        })
    }

    fn paused(&self, running: &Deployed, changed: bool, before: Vec<Pause>) -> Result<Paused> {
        let group = self.stands(&running.spec)?;
        Ok(Paused { group: group.group, handler: group.handler, changed, before, pauses: group.pauses })
    }

    /// What is meant, if the group reads it.
    fn scope(&self, running: &Deployed, asked: &Pausing) -> Result<Scope> {
        let (spec, scope) = (&running.spec, Scope { topic: asked.topic.clone(), partition: asked.partition });
        let Some(topic) = &scope.topic else {
            return match scope.partition {
                None => Ok(scope),
                Some(partition) => {
                    let why = format!("partition {partition} of which topic? Name it with `topic`");
                    Err(Denied::Conflict(why).into())
                }
            };
        };
        let read = self.stands(spec)?.partitions;
        let named = scope.partition.is_none() && spec.topics.contains(topic);
        let is_it = |partition: i32| scope.partition.is_none_or(|wanted| wanted == partition);
        if named || read.iter().any(|p| p.topic == *topic && is_it(p.partition)) {
            return Ok(scope);
        }
        let why = format!(
            "group {} has not read {scope}: `tidemill groups describe {}` says what it reads",
            spec.group, spec.group
        );
        Err(Denied::Unknown(why).into())
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
