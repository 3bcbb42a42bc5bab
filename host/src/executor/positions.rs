//! The next offset of each lane of a handler, as committed: what Kafka is told.
//!
//! The executor writes here only after a commit, and the consumer takes from here only what it tells Kafka. What Kafka
//! did not take comes back, so that its offset follows even when no further record does; one that was overtaken
//! meanwhile does not, since Kafka's offset would go back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

type Places = HashMap<(Arc<str>, i32), i64>;

/// What Kafka is not known to have yet.
#[derive(Default)]
pub struct Positions(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: Places,
    /// What was taken last of each lane.
    taken: Places,
}

impl Positions {
    pub(super) fn set(&self, topic: &Arc<str>, partition: i32, next: i64) {
        self.lock().waiting.insert((topic.clone(), partition), next);
    }

    /// What has moved since the last call.
    pub fn take(&self) -> Places {
        let mut state = self.lock();
        let taken = std::mem::take(&mut state.waiting);
        state.taken.extend(taken.iter().map(|(lane, next)| (lane.clone(), *next)));
        taken
    }

    /// Kafka did not take this one: it is told again.
    pub fn put_back(&self, topic: &str, partition: i32, next: i64) {
        let (mut state, lane) = (self.lock(), (Arc::from(topic), partition));
        if state.taken.get(&lane) == Some(&next) {
            state.waiting.entry(lane).or_insert(next);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_told_again_unless_it_was_overtaken() {
        let (positions, topic): (_, Arc<str>) = (Positions::default(), "t".into());
        let told = |expected: &[i64]| {
            assert_eq!(positions.take().into_values().collect::<Vec<_>>(), expected);
        };
        positions.set(&topic, 0, 10);
        told(&[10]);
        told(&[]);
        positions.put_back("t", 0, 10);
        told(&[10]);
        positions.set(&topic, 0, 20);
        positions.put_back("t", 0, 10);
        told(&[20]);
        positions.put_back("t", 0, 10);
        told(&[]);
    }
}
