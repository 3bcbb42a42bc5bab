//! The next offset of each lane of a handler, as committed: what Kafka is told.
//!
//! The executor writes here only after a commit, and the consumer takes from here only what it tells Kafka. Kafka does
//! not say whether it took an offset, so the last ones can be told again; an offset never goes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

type Places = HashMap<(Arc<str>, i32), i64>;

/// What Kafka is to know.
#[derive(Default)]
pub struct Positions(Mutex<State>);

#[derive(Default)]
struct State {
    moved: Places,
    last: Places,
}

impl Positions {
    pub(super) fn set(&self, topic: &Arc<str>, partition: i32, next: i64) {
        let mut state = self.lock();
        state.moved.insert((topic.clone(), partition), next);
        state.last.insert((topic.clone(), partition), next);
    }

    /// What has moved since the last call.
    pub fn take(&self) -> Places {
        std::mem::take(&mut self.lock().moved)
    }

    /// Where each lane is for which `holds` is true, whether it has moved or not.
    pub fn take_all(&self, holds: impl Fn(&str, i32) -> bool) -> Places {
        let mut state = self.lock();
        state.moved.clear();
        state.last.retain(|(topic, partition), _| holds(topic, *partition));
        state.last.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_moved_is_told_once_and_the_last_offsets_again_on_demand() {
        let (positions, topic): (_, Arc<str>) = (Positions::default(), "t".into());
        let told = |places: Places| {
            let mut told: Vec<_> = places.into_iter().map(|((_, partition), next)| (partition, next)).collect();
            told.sort_unstable();
            told
        };
        positions.set(&topic, 0, 10);
        positions.set(&topic, 1, 5);
        assert_eq!(told(positions.take()), [(0, 10), (1, 5)]);
        assert_eq!(told(positions.take()), []);
        positions.set(&topic, 0, 20);
        assert_eq!(told(positions.take_all(|_, _| true)), [(0, 20), (1, 5)]);
        assert_eq!(told(positions.take()), []);
        assert_eq!(told(positions.take_all(|_, partition| partition == 1)), [(1, 5)]);
        assert_eq!(told(positions.take_all(|_, _| true)), [(1, 5)], "a lane that went is forgotten");
    }
}
