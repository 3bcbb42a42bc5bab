//! The handlers' consumer groups: where each stands, and moving one to other offsets.
//!
//! A group is moved in the store first, together with the records that wait there, and then read from its new place; Kafka is
//! told by the consumer, as ever. What cannot be done for each partition that was asked for is done for none. It produces
//! nothing and commits no offset to Kafka by itself.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::audit::{Action, Caller, Told};
use super::command::Denied;
use super::manifest::{EventId, Spec};
use super::page::{Page, Window};
use super::{Deployed, Deployer, Handlers};
use crate::executor::Moved;
use crate::http::admin::body::wholes;
use crate::kafka::ends::{self, Ends};
use crate::ledger::offset::{self, Move, Stored};
use crate::ledger::pause::{self, Pause};
use crate::ledger::pending::Rows;
use crate::settings::units;

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// Its name in Kafka.
    pub group: String,
    /// The handler that reads as this group.
    pub handler: String,
    /// The partitions that it has read, in order.
    pub partitions: Vec<Partition>,
    /// What an operator has paused of it, the widest first.
    #[serde(default)]
    pub pauses: Vec<Pause>,
    /// Why ends and lags are missing, if they are.
    pub warning: Option<String>,
}

/// Where a group stands in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Partition {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The next offset to be handled, as the store has it.
    pub offset: i64,
    /// The offset that the next record will get; none where Kafka does not say.
    pub end: Option<i64>,
    /// Records between the two. Those that wait in the store are not among them.
    pub lag: Option<i64>,
    /// Records that have failed and wait in the store for another attempt.
    pub pending: u64,
    /// Up to which offset records are run again, if that is ahead.
    pub replay_until: Option<i64>,
    /// Whether it is paused.
    #[serde(default)]
    pub paused: bool,
}

/// Where a group is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// At the first record that is there.
    Earliest,
    /// At the next that will come.
    Latest,
    /// At this offset.
    Offset(i64),
    /// At the first record of this time or later, in milliseconds since the Unix epoch.
    Time(i64),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => match (text.parse::<i64>(), units::time(text)) {
                (Ok(offset), _) if offset >= 0 => Ok(Self::Offset(offset)),
                (_, Some(at)) => Ok(Self::Time(at)),
                _ => Err(format!(
                    "{text:?} is no place in a topic; write \"earliest\", \"latest\", an offset like \"1200\" or a time like \"2026-01-31T12:00:00Z\""
                )),
            },
        }
    }
}

/// What becomes of records that are read again and were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Again {
    /// They are duplicates, which the inbox drops.
    Drop,
    /// They are run again, each once.
    Run,
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Run => "run",
        })
    }
}

/// What `POST groups/{group}/reset` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Reset {
    /// `earliest`, `latest`, an offset like `1200`, or a time like `2026-01-31T12:00:00Z`.
    pub to: String,
    /// Only this topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// Only these partitions.
    #[serde(default, deserialize_with = "wholes")]
    pub partitions: Vec<i32>,
    /// What becomes of what was done; asked for where a handler's inbox knows events by their ids.
    #[serde(default)]
    pub duplicates: Option<Again>,
    /// Whether to change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a reset did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Moved")]
pub struct Done {
    /// The group.
    pub group: String,
    /// Its handler.
    pub handler: String,
    /// Whether it was done.
    pub changed: bool,
    /// The partitions, in order.
    pub partitions: Vec<Placed>,
    /// What becomes of records that were done; none where nothing is read again.
    pub duplicates: Option<Again>,
}

/// A partition that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placed {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The next offset before.
    pub from: i64,
    /// The next offset now.
    pub to: i64,
    /// Records that waited for another attempt, and were thrown away.
    pub pending: u64,
}

impl Deployer {
    /// Groups, by their names.
    ///
    /// # Errors
    /// A store cannot be read.
    pub fn groups(&self, window: &Window<String>) -> Result<Page<Group>> {
        let mut specs: Vec<Spec> = self.lock().values().filter(|h| h.spec.reads()).map(|h| h.spec.clone()).collect();
        specs.sort_by(|a, b| a.group.cmp(&b.group));
        window.page(specs, |spec| spec.group.clone(), |group, last| group > last).map(|specs| {
            let mut groups = specs.iter().map(|spec| self.stands(spec)).collect::<Result<Vec<_>>>()?;
            self.add_ends(&mut groups);
            Ok(groups)
        })
    }

    /// One group.
    ///
    /// # Errors
    /// There is no such group.
    pub fn group(&self, name: &str) -> Result<Group> {
        let spec = of_group(&self.lock(), name)?.spec.clone();
        let mut groups = [self.stands(&spec)?];
        self.add_ends(&mut groups);
        let [group] = groups;
        Ok(group)
    }

    /// What its store says.
    pub(super) fn stands(&self, spec: &Spec) -> Result<Group> {
        let (connection, handler) = (self.store(&spec.name)?, &*spec.name);
        let rows = offset::all(&connection, handler)?;
        let pauses = pause::all(&connection, handler)?;
        let stands = |(topic, partition, Stored { next_offset, replay, .. }): (String, i32, Stored)| {
            let pending = Rows { connection: &connection, handler, topic: &topic, partition }.to_handle()?;
            let replay_until = Some(replay.until).filter(|until| *until > next_offset);
            let paused = pause::cover(&pauses, &topic, partition);
            Ok(Partition { topic, partition, offset: next_offset, end: None, lag: None, pending, replay_until, paused })
        };
        Ok(Group {
            group: spec.group.clone(),
            handler: spec.name.clone(),
            partitions: rows.into_iter().map(stands).collect::<Result<_>>()?,
            pauses,
            warning: None,
        })
    }

    fn add_ends(&self, groups: &mut [Group]) {
        let partitions = groups.iter().flat_map(|group| &group.partitions);
        let mut places: Vec<(&str, i32)> = partitions.map(|p| (p.topic.as_str(), p.partition)).collect();
        places.sort_unstable();
        places.dedup();
        let looked = ends::look(&self.around.kafka, &places, None);
        let warning = looked.as_ref().err().map(|error| format!("{error:#}"));
        let ends = looked.unwrap_or_default();
        for group in groups {
            group.warning.clone_from(&warning);
            for partition in &mut group.partitions {
                let end = ends.get(&(partition.topic.clone(), partition.partition)).map(|ends| ends.high);
                partition.end = end;
                partition.lag = end.map(|end| (end - partition.offset).max(0));
            }
        }
    }

    /// Moves a group, while it runs.
    ///
    /// # Errors
    /// There is no such group; or a partition cannot go where it is to go, and none was moved.
    pub fn reset(&self, name: &str, reset: &Reset, caller: &Caller) -> Result<Done> {
        let handlers = self.lock();
        let running = of_group(&handlers, name)?;
        if reset.dry_run {
            return self.moves(running, reset).map(|(done, _)| done);
        }
        self.note_group(running, Action::ResetGroup, caller, |told| {
            let done = self.try_reset(running, reset)?;
            told.detail = Some(done.to_string());
            Ok(done)
        })
    }

    /// Changes a group, and notes it.
    pub(super) fn note_group<T>(
        &self,
        running: &Deployed,
        action: Action,
        caller: &Caller,
        act: impl FnOnce(&mut Told) -> Result<T>,
    ) -> Result<T> {
        let (Spec { name, group, .. }, by) = (&running.spec, caller.name());
        self.around.audit.noted(caller, action, Told::of(name), |told| {
            let done = act(told).inspect_err(|error| {
                tracing::warn!(handler = name, group, by, "{action} refused: {error:#}");
            })?;
            tracing::info!(handler = name, group, by, detail = told.detail, "{action}");
            Ok(done)
        })
    }

    fn try_reset(&self, running: &Deployed, reset: &Reset) -> Result<Done> {
        let (mut done, moves) = self.moves(running, reset)?;
        let again = done.duplicates == Some(Again::Run);
        let moved = running.store.reset(&running.spec.name.as_str().into(), moves, again)?;
        if let Some(consumer) = &running.consumer {
            consumer.reopen();
        }
        for (placed, Moved { from, cleared }) in done.partitions.iter_mut().zip(moved) {
            (placed.from, placed.pending) = (from, cleared);
        }
        done.changed = true;
        Ok(done)
    }

    /// What is to be moved, and where to.
    fn moves(&self, running: &Deployed, reset: &Reset) -> Result<(Done, Vec<Move>)> {
        let spec = &running.spec;
        let target: Target = reset.to.parse().map_err(anyhow::Error::msg)?;
        let group = self.stands(spec)?;
        let (topics, wanted) = (reset.topic.as_deref(), &reset.partitions);
        let asked_for = |p: &&Partition| {
            topics.is_none_or(|topic| topic == p.topic) && (wanted.is_empty() || wanted.contains(&p.partition))
        };
        let partitions: Vec<&Partition> = group.partitions.iter().filter(asked_for).collect();
        let missing = wanted.iter().find(|wanted| !partitions.iter().any(|p| p.partition == **wanted));
        if partitions.is_empty() || missing.is_some() {
            let which = match (topics, missing) {
                (Some(topic), Some(partition)) => format!("{topic}/{partition}"),
                (Some(topic), None) => topic.to_owned(),
                (None, Some(partition)) => format!("partition {partition} of any topic"),
                (None, None) => "anything".to_owned(),
            };
            let why = format!(
                "group {} has not read {which}, so there is nothing to move: `tidemill groups describe {}` says what it reads",
                spec.group, spec.group
            );
            return Err(Denied::Unknown(why).into());
        }
        let at = match target {
            Target::Time(_) if self.around.kafka.is_embedded() => {
                let why = "the embedded broker looks up no times: write \"earliest\", \"latest\" or an offset";
                return Err(Denied::Conflict(why.into()).into());
            }
            Target::Time(at) => Some(at),
            _ => None,
        };
        let places: Vec<(&str, i32)> = partitions.iter().map(|p| (p.topic.as_str(), p.partition)).collect();
        let ends = ends::look(&self.around.kafka, &places, at)?;
        let placed = partitions.into_iter().map(|p| place(p, &ends, target)).collect::<Result<Vec<_>>>()?;
        let (partitions, moves): (Vec<Placed>, Vec<Move>) = placed.into_iter().unzip();
        let back = partitions.iter().any(|placed| placed.to < placed.from);
        let knows = spec.event_id != EventId::Offset;
        if back && knows && reset.duplicates.is_none() && !reset.dry_run {
            let why = format!(
                "handler {} knows by their event ids which records it has done: say what becomes of those that are read again, \
                 \"run\" (each runs once more) or \"drop\" (only what is new runs)",
                spec.name
            );
            return Err(Denied::Conflict(why).into());
        }
        // Without event ids the offset alone tells what was done.
        let duplicates = if knows { reset.duplicates } else { Some(Again::Run) };
        let (group, handler) = (spec.group.clone(), spec.name.clone());
        Ok((Done { group, handler, changed: false, partitions, duplicates: duplicates.filter(|_| back) }, moves))
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Placed { topic, partition, from, to, pending }) in self.partitions.iter().enumerate() {
            write!(f, "{}{topic}/{partition}: {from} -> {to}", if n == 0 { "" } else { ", " })?;
            if *pending > 0 {
                write!(f, " ({pending} pending thrown away)")?;
            }
        }
        self.duplicates.iter().try_for_each(|again| write!(f, "; duplicates: {again}"))
    }
}

/// Where a partition is to go on, if Kafka has that.
fn place(p: &Partition, ends: &HashMap<(String, i32), Ends>, target: Target) -> Result<(Placed, Move)> {
    let (topic, partition) = (p.topic.clone(), p.partition);
    let found = ends.get(&(topic.clone(), partition)).with_context(|| {
        format!("Kafka does not answer for {topic}/{partition}, so nothing was moved: try again, or name the others")
    });
    let Ends { topic_id, low, high, at } = found?;
    let to = match target {
        Target::Earliest => *low,
        Target::Latest => *high,
        Target::Time(_) => *at,
        Target::Offset(offset) if (*low..=*high).contains(&offset) => offset,
        Target::Offset(offset) => {
            let why = format!(
                "offset {offset} is not in {topic}/{partition}, which goes from {low} to {high}: nothing was moved"
            );
            return Err(Denied::Conflict(why).into());
        }
    };
    let moved = Move { topic: topic.clone(), partition, topic_id: topic_id.as_str().to_owned(), to };
    Ok((Placed { topic, partition, from: p.offset, to, pending: p.pending }, moved))
}

/// The handler that reads as this group.
pub(super) fn of_group<'a>(handlers: &'a Handlers, name: &str) -> Result<&'a Deployed, Denied> {
    let reading = || handlers.values().filter(|handler| handler.spec.reads());
    reading().find(|handler| handler.spec.group == name).ok_or_else(|| {
        let names: Vec<&str> = reading().map(|handler| handler.spec.group.as_str()).collect();
        Denied::Unknown(format!("no handler that runs reads as group {name}; there are: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_4_a_target_is_earliest_latest_an_offset_or_a_time() {
        for (text, expected) in [
            ("earliest", Some(Target::Earliest)),
            ("latest", Some(Target::Latest)),
            ("0", Some(Target::Offset(0))),
            ("5000000000", Some(Target::Offset(5_000_000_000))),
            ("1970-01-01T00:00:01Z", Some(Target::Time(1_000))),
            ("-1", None),
            ("", None),
            ("Earliest", None),
            ("2026-13-01T00:00:00Z", None),
        ] {
            assert_eq!(text.parse::<Target>().ok(), expected, "{text}");
        }
    }
}
