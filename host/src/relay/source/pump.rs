//! Which rows are handed to the producer next: by id, by due time, or those of a topic that was held.
//!
//! A delayed row is met in both orders and handed over in one. Met by its id while its place is still ahead, it is
//! left for then; with its place behind, since it was committed too late for it, it goes at once.

use std::sync::Arc;
use std::time::Instant;

use super::super::hold::Hold;
use super::super::outlet::Outlet;
use super::{BATCH, BATCH_BYTES, Source, WINDOW};
use crate::ledger::outbox::{self, Due, Place, Span, Waiting};
use crate::store::Error;

impl Source {
    /// Hands rows to the producer until none waits or there is no room.
    pub(in crate::relay) fn pump(&mut self, outlet: &mut Outlet) {
        if self.paused {
            return;
        }
        if let Err(error) = self.release(outlet).and_then(|()| self.pass_on(outlet)) {
            tracing::warn!(store = %self.executor.name(), %error, "read the outbox");
            self.reader = None;
            self.stuck = true;
        }
    }

    fn pass_on(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        while !self.stuck && self.open() < WINDOW {
            // Those that are due come first: however many others wait, they were to be gone by now.
            if self.next_due.is_some_and(|due| due <= crate::clock::now()) {
                self.pass_on_due(outlet)?;
            } else if self.rows_may_wait {
                self.pass_on_next(outlet)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    /// The next rows in the order of ids.
    fn pass_on_next(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        let after = self.after;
        let rows = self.read(|reader| outbox::waiting(reader, Span::After(after), BATCH, BATCH_BYTES))?;
        self.rows_may_wait = !rows.is_empty();
        for row in rows {
            match row.place() {
                Some(place) if place > self.due_after => self.expect(place.due),
                _ if !self.offer(outlet, &row) => return Ok(()),
                _ => {}
            }
            self.after = row.id;
        }
        Ok(())
    }

    /// The next rows that are due, as far as the order of ids has come: it meets the others itself.
    fn pass_on_due(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        let now = crate::clock::now();
        let due = Due { topic: None, after: self.due_after, until: Place::last_at(now), last_id: self.after };
        let rows = self.read(|reader| outbox::waiting(reader, Span::Due(due), BATCH, BATCH_BYTES))?;
        if rows.is_empty() {
            self.due_after = due.until;
            self.next_due = self.read(|reader| outbox::next_due(reader, now))?;
        }
        for row in rows {
            if !self.offer(outlet, &row) {
                break;
            }
            self.due_after = row.place().unwrap_or(self.due_after);
        }
        Ok(())
    }

    /// Hands a row over, or leaves it to its topic's hold. `false` if the producer has no room.
    fn offer(&mut self, outlet: &mut Outlet, row: &Waiting) -> bool {
        if outlet.goes_by_http(&row.event.topic) {
            return true;
        }
        match self.holds.get_mut(row.event.topic.as_str()) {
            Some(hold) if row.place().is_some() => hold.back_to(row.id, row.place()),
            // It is behind the first that the topic did not take.
            Some(_) => {}
            None => return self.hand_over(outlet, row, false),
        }
        true
    }

    /// Tries topics again that were held, from the first row that each did not take.
    fn release(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        let now = Instant::now();
        let ready: Vec<Arc<str>> =
            self.holds.iter().filter(|(_, h)| h.until <= now).map(|(topic, _)| topic.clone()).collect();
        for topic in ready {
            // Those that are still out may fail as well, and would be overtaken.
            if self.flying.values().any(|row| row.topic == topic) {
                continue;
            }
            let Some(Hold { from, due_after, alone, .. }) = self.holds.get(&topic) else { continue };
            let (from, due_after, alone, to) = (*from, *due_after, *alone, self.after);
            let batch = if from <= alone { 1 } else { BATCH };
            let rows = self.read(|reader| outbox::waiting(reader, Span::Of(&topic, from, to), batch, BATCH_BYTES))?;
            let due = match due_after {
                Some(after) => {
                    let due = Due { topic: Some(&topic), after, until: self.due_after, last_id: to };
                    self.read(|reader| outbox::waiting(reader, Span::Due(due), BATCH, BATCH_BYTES))?
                }
                None => Vec::new(),
            };
            self.holds.remove(&topic);
            // There may be more than was read: it goes on behind these until there is none.
            let over = rows.is_empty() && due.is_empty();
            let mut rest = Hold { from, due_after: due_after.filter(|_| !due.is_empty()), until: now, alone };
            for row in rows.into_iter().chain(due) {
                let place = row.place();
                if !self.hand_over(outlet, &row, place.is_some() || row.id <= alone) {
                    break;
                }
                match place {
                    Some(_) => rest.due_after = place,
                    None => rest.from = row.id + 1,
                }
                // It has refused the row.
                if self.holds.contains_key(&topic) {
                    break;
                }
            }
            match self.holds.get_mut(&topic) {
                Some(again) => again.join(&rest),
                None if over => {}
                None => drop(self.holds.insert(topic, rest)),
            }
        }
        Ok(())
    }
}
