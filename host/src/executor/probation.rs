//! The probation of a version that has taken another's place: what a delivery adds to it, and what follows from that.
//!
//! Counts belong to the group until it commits, and the verdict is written in its transaction. After a bad one nothing is
//! read by the version any more: its circuit stays open until another takes its place. Which one that is, and whether there is any, the
//! deployer decides; nothing here changes what runs.

use std::sync::Arc;

use super::group::{Abort, Group};
use super::handle::{Live, OnProbation};
use super::record::Delivery;
use super::{Executor, Version};
use crate::guest::Environment;
use crate::ledger::deployment::{self, New};
use crate::ledger::pending::Rows;
use crate::ledger::probation::{self, State};
use crate::policy::probation::{Place, Settings};
use crate::policy::{Circuit, Failure, Probation};
use crate::store::Error;
use crate::store::rights::Rights;

/// A member's version while it is on probation.
pub(super) struct Trial {
    count: Probation,
    /// The version before, which is asked whose fault a trap is.
    before: Option<Arc<Live>>,
}

/// What a group has found.
pub(super) enum Finding {
    Counted(Probation),
    Passed,
    Failed(String),
}

impl Executor {
    /// Makes a version live in the open transaction. Returns its number, whether it has it since now, and how it stands.
    pub(super) fn take_place(&self, new: New<'_>, version: &Version, now: i64) -> Result<(i64, bool, State), Error> {
        let (connection, handler) = (self.connection(), new.handler);
        let before = probation::live(connection, handler)?;
        let failed = before.as_ref().is_some_and(|before| matches!(before.state, State::Failed(_)));
        if failed && version.probation.as_ref().is_some_and(|probation| probation.anew) {
            deployment::retire(connection, handler, version.before)?;
        }
        let (number, is_new) = deployment::make_live(connection, new, version.before, now)?;
        if is_new && let Some(before) = before {
            if failed {
                probation::give_back(connection, handler, before.since, now)?;
            }
            if version.probation.is_some() {
                probation::begin(connection, handler)?;
            }
        }
        let state = match probation::live(connection, handler)? {
            Some(live) if version.probation.is_some() && version.spec.probation.records > 0 => live.state,
            _ => State::Over,
        };
        Ok((number, is_new, state))
    }

    /// The trial of a version that is going live, if it is on one.
    pub(super) fn trial(&mut self, state: &State, probation: Option<Box<OnProbation>>, live: &Live) -> Option<Trial> {
        if *state != State::On {
            return None;
        }
        let before = probation.and_then(|probation| probation.before).map(|(component, spec)| {
            self.next_owner += 1;
            let rights = Rights { grants: spec.tables.clone(), ..(*live.environment.rights).clone() };
            let environment = Environment { spec, owner: self.next_owner, rights: Arc::new(rights) };
            Arc::new(Live::new(component, Arc::new(environment), 0, live.meter.clone()))
        });
        Some(Trial { count: Probation::default(), before })
    }

    /// Looks again when a handler's records are due, which somebody has brought forward.
    pub(super) fn look_at_due(&mut self, handler: &Arc<str>) {
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| lane.handler == *handler).map(|(t, _)| *t).collect();
        for token in lanes {
            let Some(lane) = self.lanes.get(&token) else { continue };
            let (topic, partition) = (&*lane.topic, lane.partition);
            let due = Rows { connection: self.connection(), handler, topic, partition }.earliest();
            match due {
                Ok(due) => {
                    if let Some(lane) = self.lanes.get_mut(&token) {
                        lane.waiting.due = due;
                    }
                    self.set_alarm(token);
                }
                Err(error) => tracing::warn!(%handler, %error, "look for records that are due"),
            }
        }
    }

    /// The count that a delivery adds to, as the group leaves it, if its version is on probation. Compensations and timers add
    /// nothing.
    fn counted_so_far(&self, group: &Group, delivery: &Delivery) -> Option<Probation> {
        if delivery.input.reason().is_some() || delivery.is_timer() {
            return None;
        }
        match group.findings.get(&delivery.handler) {
            Some(Finding::Counted(count)) => Some(count.clone()),
            Some(Finding::Passed | Finding::Failed(_)) => None,
            None => self.members.get(&delivery.handler)?.trial.as_ref().map(|trial| trial.count.clone()),
        }
    }

    /// A record was done, or given up on as its handler wanted.
    pub(super) fn probation_ends(&self, group: &mut Group, delivery: &Delivery) -> Result<(), Abort> {
        let Some(mut count) = self.counted_so_far(group, delivery) else { return Ok(()) };
        count.end(&place(delivery));
        self.find(group, delivery, count)
    }

    /// A record has failed, by a trap or otherwise, and is given up on if `last`. Returns whether its version has failed with that:
    /// then it is not given up on.
    pub(super) fn probation_fails(
        &mut self,
        group: &mut Group,
        delivery: &Delivery,
        failure: &Failure,
        last: bool,
    ) -> Result<bool, Abort> {
        if !failure.outcome.is_trap() {
            return if last { self.probation_ends(group, delivery).map(|()| false) } else { Ok(false) };
        }
        let Some(mut count) = self.counted_so_far(group, delivery) else { return Ok(false) };
        let settings = delivery.live.environment.spec.probation;
        count.trap(place(delivery));
        let outcome = format!("{}: {}", failure.outcome.name(), failure.message);
        let verdict = if count.has_failed(&settings) {
            let (trapped, records) = (count.trapped(), count.records());
            Some(format!("{trapped} of its first {records} records trapped; the last, {}: {outcome}", delivery.source))
        } else if last && self.is_to_blame(group, delivery, &count)? {
            Some(format!("it would have given {} up, for a fault of its own: {outcome}", delivery.source))
        } else {
            if last {
                count.acquit(&place(delivery));
            }
            None
        };
        match verdict {
            Some(why) => {
                probation::fail(self.connection(), &delivery.handler, &why)?;
                group.findings.insert(delivery.handler.clone(), Finding::Failed(why));
                group.circuits.insert(delivery.handler.clone(), Circuit::held(delivery.now));
                Ok(true)
            }
            None => self.find(group, delivery, count).map(|()| false),
        }
    }

    /// Whether the version is to blame for a record that it traps on, and not the record: if the version before does it; where
    /// that is not known, if nothing else was done by this one either.
    fn is_to_blame(&mut self, group: &mut Group, delivery: &Delivery, count: &Probation) -> Result<bool, Abort> {
        let trial = self.members.get(&delivery.handler).and_then(|member| member.trial.as_ref());
        let before = trial.and_then(|trial| trial.before.clone());
        let input = delivery.input.clone();
        if let Some(before) = before.and_then(|live| self.delivery(delivery.token, live, input, delivery.now))
            && let Some(does) = self.try_and_undo(group, &before)?
        {
            return Ok(does);
        }
        Ok(count.ended() == 0 && self.rehearse(group, delivery)? != Some(true))
    }

    fn find(&self, group: &mut Group, delivery: &Delivery, count: Probation) -> Result<(), Abort> {
        let settings: Settings = delivery.live.environment.spec.probation;
        let finding = if count.has_passed(&settings) {
            probation::pass(self.connection(), &delivery.handler)?;
            Finding::Passed
        } else {
            Finding::Counted(count)
        };
        group.findings.insert(delivery.handler.clone(), finding);
        Ok(())
    }

    /// A group that has found something has committed.
    pub(super) fn settle_finding(&mut self, handler: &str, finding: Finding) {
        let Some(member) = self.members.get_mut(handler) else { return };
        let version = member.live.version;
        match finding {
            Finding::Counted(count) => {
                if let Some(trial) = &mut member.trial {
                    trial.count = count;
                }
            }
            Finding::Passed => {
                member.trial = None;
                tracing::info!(handler, version, "the version's probation is over: its first records were done");
            }
            Finding::Failed(why) => {
                tracing::warn!(handler, version, "the version reads nothing more, since it fails its probation: {why}");
                member.trial = None;
                member.live.condemn(why);
            }
        }
    }
}

fn place(delivery: &Delivery) -> Place {
    (delivery.record.topic.clone(), delivery.record.partition, delivery.record.offset)
}
