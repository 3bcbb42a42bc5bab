//! The handlers' circuits in their groups: what a delivery changes, and what is said when one opens or closes.
//!
//! A change belongs to the group until it commits. The rehearsal of a record leaves nothing behind.

use std::sync::Arc;

use super::group::{Abort, Group};
use super::record::Delivery;
use super::{Executor, Member};
use crate::guest::{Context, Ended};
use crate::lane::turn::Input;
use crate::lane::{Lane, Token};
use crate::policy::Circuit;
use crate::policy::circuit::Failed;
use crate::record::Record;

impl Executor {
    /// A handler's circuit, as the group leaves it.
    pub(super) fn circuit<'a>(&'a self, group: &'a Group, handler: &str) -> Option<&'a Circuit> {
        group.circuits.get(handler).or_else(|| self.members.get(handler).map(|member| &member.circuit))
    }

    /// Whether the lane may run a delivery.
    pub(super) fn circuit_lets(&self, group: &Group, token: Token, member: &Member, now: i64) -> bool {
        let spec = &member.live.environment.spec;
        self.circuit(group, &spec.name).is_none_or(|circuit| circuit.lets(&spec.circuit, token.0, now))
    }

    /// A delivery of the handler passed. A timer seldom needs what records need: it closes the circuit only where nothing else waits.
    pub(super) fn circuit_passes(&self, group: &mut Group, delivery: &Delivery) {
        let spec = &delivery.live.environment.spec;
        let Some(circuit) = self.circuit(group, &spec.name) else { return };
        let waits = |(token, lane): (&Token, &Lane)| {
            *token != delivery.token && lane.handler == delivery.handler && lane.waiting.records > 0
        };
        if circuit.is_open() && delivery.is_timer() && self.lanes.iter().any(waits) {
            return;
        }
        if circuit.is_open() || spec.circuit.failure_rate.is_some() {
            let mut circuit = circuit.clone();
            circuit.pass(&spec.circuit);
            group.circuits.insert(delivery.handler.clone(), circuit);
        }
    }

    /// A delivery of the handler failed.
    pub(super) fn circuit_fails(&self, group: &mut Group, delivery: &Delivery, failed: Failed) {
        let spec = &delivery.live.environment.spec;
        if !failed.unavailable && spec.circuit.failure_rate.is_none() && !self.circuit_is_open(group, delivery) {
            return;
        }
        let mut circuit = self.circuit(group, &spec.name).cloned().unwrap_or_default();
        circuit.fail(&spec.circuit, failed);
        group.circuits.insert(delivery.handler.clone(), circuit);
    }

    pub(super) fn circuit_is_open(&self, group: &Group, delivery: &Delivery) -> bool {
        self.circuit(group, &delivery.handler).is_some_and(Circuit::is_open)
    }

    /// Tries the record behind a probe that failed, and throws what it did away: whether that passes tells an outage from
    /// a record that alone is wrong, also where a lane has nobody beside it.
    /// `None` where nothing can be known of it, as behind a timer.
    pub(super) fn rehearse(&mut self, group: &mut Group, delivery: &Delivery) -> Result<Option<bool>, Abort> {
        if delivery.is_timer() {
            return Ok(None);
        }
        let behind = self.behind(group, delivery).map(Input::Fresh);
        let Some(behind) =
            behind.and_then(|input| self.delivery(delivery.token, delivery.live.clone(), input, delivery.now))
        else {
            return Ok(Some(false));
        };
        self.try_and_undo(group, &behind)
    }

    /// Runs a delivery and throws what it did away. Returns whether it passes; `None` where nothing can be known of it.
    pub(super) fn try_and_undo(&mut self, group: &mut Group, delivery: &Delivery) -> Result<Option<bool>, Abort> {
        self.connection().execute("SAVEPOINT delivery", &[])?;
        let context = Context { sender: None, ..self.context(delivery, group) };
        let Some(connection) = self.connection.take() else { return Ok(None) };
        let finished = delivery.run(connection, context);
        self.connection = Some(finished.connection);
        match finished.result {
            Err(Ended::Store(error)) => return Err(Abort::Store(error)),
            Err(Ended::Broken(_)) if !group.solo => return Err(Abort::Broken),
            Err(Ended::Broken(_)) => {
                self.restart(group)?;
                return Ok(Some(false));
            }
            Ok(()) | Err(Ended::Failed(_) | Ended::Asks(..) | Ended::Sends) => {}
        }
        self.connection().execute("ROLLBACK TO delivery", &[])?;
        self.connection().execute("RELEASE delivery", &[])?;
        // A rehearsal neither calls nor sends.
        Ok(match finished.result {
            Err(Ended::Asks(..) | Ended::Sends) => None,
            result => Some(result.is_ok()),
        })
    }

    /// The record that would be new after this delivery's.
    fn behind(&self, group: &Group, delivery: &Delivery) -> Option<Arc<Record>> {
        let lane = self.lanes.get(&delivery.token)?;
        let taken = group.drafts.get(&delivery.token).map_or(0, |draft| draft.taken);
        let own = usize::from(delivery.input.pending().is_none());
        lane.queue.get(taken + own).cloned()
    }

    /// A group that changed a circuit has committed.
    pub(super) fn settle_circuit(&mut self, handler: &str, circuit: Circuit) {
        let Some(member) = self.members.get_mut(handler) else { return };
        let now = crate::clock::now();
        member.meter.set_circuit(&circuit);
        if circuit.is_held() {
            member.circuit = circuit;
            return;
        }
        match (member.circuit.since(), circuit.until()) {
            (None, Some(until)) => tracing::warn!(
                handler,
                wait_ms = until - now,
                "the circuit opens: what the handler needs is down, so its records wait, and no attempt is counted"
            ),
            (Some(since), None) => {
                tracing::info!(
                    handler,
                    open_ms = now - since,
                    "the circuit is closed: a delivery has passed, and all records go on"
                );
            }
            (Some(_), Some(until)) => {
                tracing::debug!(handler, wait_ms = until - now, "the circuit stays open: probes have failed");
            }
            (None, None) => {}
        }
        member.circuit = circuit;
    }
}
