//! A handler's next offsets, moved by the operator.
//!
//! All that are asked for move in one transaction, with what waits to be handled of their partitions thrown away, or none does.
//! The lanes that were open are closed by it, so nothing that they hold is run; nothing here reads from the new places.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};

use super::Executor;
use crate::ledger::offset::{self, Move};
use crate::ledger::pending::Rows;

/// A partition that was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The next offset before.
    pub from: i64,
    /// Records thrown away that had failed and waited for another attempt.
    pub cleared: u64,
}

impl Executor {
    /// Moves partitions, `again` as a replay in which the inbox knows nothing of what was done before.
    pub(super) fn reset(&mut self, handler: &Arc<str>, moves: &[Move], again: bool) -> Result<Vec<Moved>> {
        let moved = self.whole(|executor| executor.store_reset(handler, moves, again));
        let moved = moved.with_context(|| format!("move the offsets of handler {handler}"))?;
        for Move { topic, partition, .. } in moves {
            if let Some(token) = self.lane_of(handler, topic, *partition) {
                self.close_lane(token);
            }
        }
        Ok(moved)
    }

    fn store_reset(&self, handler: &Arc<str>, moves: &[Move], again: bool) -> Result<Vec<Moved>> {
        let connection = self.connection();
        let round = if again { Some(offset::next_round(connection, handler)?) } else { None };
        let reset = |place: &Move| {
            let Move { topic, partition, .. } = place;
            let before = offset::reset(connection, handler, place, round)?.ok_or_else(|| {
                anyhow!("{topic}/{partition} was made again, or never read; `tidemill adopt` starts on a new topic")
            })?;
            let cleared = Rows { connection, handler, topic, partition: *partition }.clear()?;
            Ok(Moved { from: before.next_offset, cleared })
        };
        moves.iter().map(reset).collect()
    }
}
