//! Pauses: an operator's word that a handler's records, pending ones and timers included, are not begun.
//!
//! What is under way is finished, and a call to the outside that is out is waited for and used. The ledger holds each pause, so it
//! outlives a version and a process; lanes follow it only after its commit. Requests are no part of it.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::Executor;
use crate::ledger::pause::{self, Change, Pause};

impl Executor {
    /// Begins a pause in the place of one of the same scope, or ends those within a scope. Returns what was there.
    pub(super) fn change_pauses(&mut self, handler: &Arc<str>, change: &Change) -> Result<Vec<Pause>> {
        let before = self.whole(|executor| pause::change(executor.connection(), handler, change));
        let before = before.with_context(|| format!("note the pauses of handler {handler}"))?;
        self.pause_ends = pause::next_end(self.connection())?;
        self.note_pauses(handler);
        Ok(before)
    }

    /// Ends the pauses whose time is over.
    pub(super) fn end_pauses(&mut self) {
        let Some(end) = self.pause_ends else { return };
        let now = crate::clock::now();
        if now < end {
            return;
        }
        match self.whole(|executor| pause::end_due(executor.connection(), now)) {
            Ok((ended, next)) => {
                self.pause_ends = next;
                for (handler, pause) in ended {
                    tracing::info!(handler, paused = %pause.scope, "the time of a pause is over");
                    self.note_pauses(&handler.into());
                }
            }
            Err(error) => {
                // As long as any store is left alone that cannot be written.
                self.pause_ends = Some(now + 1_000);
                tracing::warn!(store = %self.name, %error, "end a pause; it is tried again");
            }
        }
    }

    /// Has the handler's lanes stand still, or go on, as the ledger says.
    pub(super) fn note_pauses(&mut self, handler: &Arc<str>) {
        let pauses = match pause::all(self.connection(), handler) {
            Ok(pauses) => pauses,
            Err(error) => {
                tracing::warn!(%handler, %error, "look for the pauses of a handler; it is done at the next start");
                return;
            }
        };
        let Some(member) = self.members.get(handler) else { return };
        member.meter.set_pauses(pauses.len());
        let live = member.live.clone();
        for token in self.lanes_of(handler) {
            if let Some(lane) = self.lanes.get_mut(&token) {
                lane.paused = pause::cover(&pauses, &lane.topic, lane.partition);
                lane.note_standing(&live.environment.spec.retry);
            }
            self.list(token);
        }
    }
}
