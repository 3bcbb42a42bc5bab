//! A topic that refused: from where it goes on once it is tried again.
//!
//! Two places are enough, one in the order of ids and one in the order of due times; the rows themselves wait in the
//! store. A place only ever goes back, so that nothing is passed over.

use std::time::Instant;

use crate::ledger::outbox::Place;

/// A topic that refused.
pub(super) struct Hold {
    /// The first row that it did not take.
    pub(super) from: i64,
    /// The place before the first delayed row that was due and that it did not take, if there is one.
    pub(super) due_after: Option<Place>,
    /// It is left alone until then.
    pub(super) until: Instant,
    /// Rows up to this one go alone; 0 if there is no such. Delayed ones always do here.
    pub(super) alone: i64,
}

impl Hold {
    /// This row was not taken.
    pub(super) fn back_to(&mut self, id: i64, place: Option<Place>) {
        match place.map(Place::before) {
            Some(before) => self.due_after = Some(self.due_after.map_or(before, |after| after.min(before))),
            None => self.from = self.from.min(id),
        }
    }

    /// Neither was what the other one stands for.
    pub(super) fn join(&mut self, other: &Self) {
        self.from = self.from.min(other.from);
        self.due_after = self.due_after.into_iter().chain(other.due_after).min();
        self.alone = self.alone.max(other.alone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_first_that_was_not_taken_in_either_order() {
        let until = Instant::now();
        let hold = |from, alone| Hold { from, due_after: None, until, alone };
        let (mut one, mut other) = (hold(10, 0), hold(7, 9));
        for (id, due) in [(4, 50), (2, 60), (8, 50)] {
            one.back_to(id, Some(Place { due, id }));
        }
        assert_eq!((one.from, one.due_after), (10, Some(Place { due: 50, id: 3 })));
        other.back_to(8, None);
        assert_eq!((other.from, other.due_after), (7, None), "never forward");
        one.join(&other);
        assert_eq!((one.from, one.due_after, one.alone), (7, Some(Place { due: 50, id: 3 }), 9));
        other.join(&one);
        assert_eq!(other.due_after, one.due_after);
    }
}
