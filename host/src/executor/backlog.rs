//! Flow control: how many events wait in the store's outbox, and what happens when they are too many.
//!
//! The rows are counted when the store opens; from then on the number moves with each commit, and only after it. At
//! the mark the executor runs no delivery: requests are refused, lanes fill up and their partitions pause. What the relay
//! reports goes on to be written, and below the low mark the deliveries do. Nothing here changes a row.

use std::sync::atomic::Ordering;

use super::Executor;
use super::group::Group;
use crate::ledger::outbox;
use crate::record::Refusal;

/// The rows that wait in one outbox.
pub(super) struct Backlog {
    rows: u64,
    max: u64,
    full: bool,
}

/// What a commit has changed.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    Full,
    Room,
}

impl Backlog {
    pub(super) fn new(rows: u64, max: u64) -> Self {
        Self { rows, max, full: false }
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// A tenth below the mark, so that it does not open and shut with each row.
    fn low(&self) -> u64 {
        self.max - self.max.div_ceil(10)
    }

    fn moved(&mut self, added: u64, removed: u64) -> Change {
        self.rows = (self.rows + added).saturating_sub(removed);
        if !self.full && self.rows >= self.max {
            self.full = true;
            Change::Full
        } else if self.full && self.rows <= self.low() {
            self.full = false;
            Change::Room
        } else {
            Change::None
        }
    }
}

impl Executor {
    /// Whether no more deliveries are run, with what the group has added so far.
    pub(super) fn outbox_is_full(&self, group: &Group) -> bool {
        self.backlog.full || self.backlog.rows + self.added(group) >= self.backlog.max
    }

    /// Rows that the group has added to the outbox.
    pub(super) fn added(&self, group: &Group) -> u64 {
        u64::try_from(group.next_outbox_id - self.next_outbox_id).unwrap_or(0)
    }

    /// After a commit: so many rows more wait, and so many less.
    pub(super) fn count(&mut self, added: u64, removed: u64) {
        match self.backlog.moved(added, removed) {
            Change::None => {}
            Change::Full => self.outbox_filled(),
            Change::Room => {
                tracing::info!(store = %self.name, rows = self.backlog.rows, "the outbox has room again: requests and records go on");
            }
        }
        self.meter.outbox_rows.store(self.backlog.rows, Ordering::Relaxed);
        self.meter.outbox_full.store(self.backlog.full, Ordering::Relaxed);
    }

    fn outbox_filled(&mut self) {
        // An id without a row is rare, but must not add up until it stops a store: so the rows themselves are asked.
        match outbox::count(self.connection()) {
            Ok(rows) if rows < self.backlog.max => {
                self.backlog = Backlog::new(rows, self.backlog.max);
                return;
            }
            Ok(rows) => self.backlog.rows = rows,
            Err(error) => tracing::warn!(store = %self.name, %error, "count the outbox"),
        }
        let (rows, low) = (self.backlog.rows, self.backlog.low());
        tracing::warn!(store = %self.name, rows, "the outbox is full (outbox.max-rows): requests that write get 503 and records wait in Kafka until {low} rows are left. Events leave once Kafka takes them, or when they are due");
        for waiting in self.members.values_mut().flat_map(|member| member.requests.drain(..)) {
            let _ = waiting.reply.send(Err(Refusal::OutboxFull));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_the_mark_and_has_room_a_tenth_below_it() {
        let mut backlog = Backlog::new(0, 20);
        assert_eq!(backlog.moved(19, 0), Change::None);
        assert_eq!(backlog.moved(1, 0), Change::Full);
        assert_eq!(backlog.moved(5, 6), Change::None, "19 are left");
        assert_eq!(backlog.moved(0, 1), Change::Room);
        assert_eq!(backlog.moved(5, 100), Change::None, "never below nothing");
        assert_eq!((backlog.rows, backlog.is_full()), (0, false));
        for max in [1, 2, 9] {
            let mut backlog = Backlog::new(max, max);
            assert_eq!(backlog.moved(0, 0), Change::Full);
            assert_eq!(backlog.moved(0, 1), Change::Room, "of {max}");
        }
    }
}
