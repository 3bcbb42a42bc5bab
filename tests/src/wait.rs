//! Waiting for a condition, with a deadline: the one place that sleeps.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// For what takes a moment on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// For what has to start a broker or rebalance a group first.
pub const LONG: Duration = Duration::from_secs(60);

const EVERY: Duration = Duration::from_millis(15);

/// Waits until `condition` holds, and fails the test with `what` when it does not within `deadline`.
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(deadline, what, || condition().then_some(()));
}

/// Waits until `look` finds something, and fails the test with `what` when it does not within `deadline`.
pub fn eventually_some<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        sleep(EVERY);
    }
}
