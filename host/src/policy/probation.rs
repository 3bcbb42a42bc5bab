//! A version's probation: what its first records say of it.
//!
//! A record counts once, however often it is tried: so one record that is wrong by itself weighs as much as any other,
//! also where it has many attempts and holds up all behind it. It is a value: it reads no clock, and its owner keeps a
//! change only once the delivery that caused it has committed.

use std::collections::BTreeSet;
use std::sync::Arc;

/// `[probation]` of a handler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `records`: how many are looked at; 0 for none.
    pub records: u32,
    /// `trap-rate`: the part of them, from 0 to 1, of which more must not trap.
    pub trap_rate: f64,
    /// `copy-limit`: bytes of a store of which a copy is made to try the version on.
    pub copy_limit: usize,
    /// `smoke-records`: how many of the last records it runs there; 0 for none.
    pub smoke_records: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { records: 100, trap_rate: 0.05, copy_limit: 1 << 30, smoke_records: 0 }
    }
}

/// A record's topic, partition and offset.
pub type Place = (Arc<str>, i32, i64);

/// What is known of a version so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probation {
    ended: u32,
    trapped: BTreeSet<Place>,
}

impl Probation {
    /// A record was done, or given up on as its handler wanted. One that has trapped before is counted already.
    pub fn end(&mut self, place: &Place) {
        self.ended += u32::from(!self.trapped.contains(place));
    }

    /// A record has trapped.
    pub fn trap(&mut self, place: Place) {
        self.trapped.insert(place);
    }

    /// A record that has trapped is wrong by itself.
    pub fn acquit(&mut self, place: &Place) {
        self.ended += u32::from(self.trapped.remove(place));
    }

    /// Records that have trapped.
    pub fn trapped(&self) -> usize {
        self.trapped.len()
    }

    /// Records that have ended otherwise.
    pub fn ended(&self) -> u32 {
        self.ended
    }

    /// Records in all.
    pub fn records(&self) -> usize {
        self.trapped.len() + self.ended as usize
    }

    /// Whether more have trapped than may, whatever comes.
    pub fn has_failed(&self, settings: &Settings) -> bool {
        self.trapped.len() as f64 > settings.trap_rate * f64::from(settings.records)
    }

    /// Whether it is over, and the version good.
    pub fn has_passed(&self, settings: &Settings) -> bool {
        !self.has_failed(settings) && self.records() >= settings.records as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(offset: i64) -> Place {
        ("t".into(), 0, offset)
    }

    #[test]
    fn h2_a_record_counts_once_and_one_that_is_wrong_by_itself_is_not_the_versions() {
        let settings = Settings { records: 4, trap_rate: 0.25, ..Settings::default() };
        let mut probation = Probation::default();
        (0..50).for_each(|_| probation.trap(place(1)));
        assert_eq!((probation.trapped(), probation.has_failed(&settings)), (1, false));
        probation.end(&place(1));
        assert_eq!(probation.records(), 1, "it was counted when it trapped");
        probation.acquit(&place(1));
        probation.acquit(&place(1));
        assert_eq!((probation.trapped(), probation.ended()), (0, 1));
        (2..4).for_each(|offset| probation.trap(place(offset)));
        assert!(probation.has_failed(&settings));
    }

    proptest! {
        /// It ends at the first record with which that is certain, and whatever else would come changes nothing.
        #[test]
        fn h2_it_is_decided_as_soon_as_that_is_certain(
            records in 1u32..60, trap_rate in 0.0f64..=1.0, traps in prop::collection::vec(any::<bool>(), 120),
        ) {
            let settings = Settings { records, trap_rate, ..Settings::default() };
            let mut probation = Probation::default();
            let mut seen = 0;
            for (offset, trapped) in (0..).zip(traps) {
                if trapped { probation.trap(place(offset)) } else { probation.end(&place(offset)) }
                seen += usize::from(trapped);
                let failed = seen as f64 > trap_rate * f64::from(records);
                prop_assert_eq!(probation.has_failed(&settings), failed);
                prop_assert_eq!(probation.has_passed(&settings), !failed && offset + 1 >= i64::from(records));
                if failed || offset + 1 >= i64::from(records) {
                    break;
                }
            }
        }
    }
}
