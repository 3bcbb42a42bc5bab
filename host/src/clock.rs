//! Host time: the highest wall-clock time seen, plus the monotonic time since.
//!
//! It never goes back, and a clock that is set forward and back again neither loses nor delays anything for
//! longer than the error lasted. Logic takes the time as an argument; only wiring reads this.

use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static HIGHEST: Mutex<Option<(i64, Instant)>> = Mutex::new(None);

/// Now, in milliseconds since the Unix epoch. Never less than what an earlier call returned.
pub fn now() -> i64 {
    let wall =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let monotonic = Instant::now();
    let mut highest = HIGHEST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let now = match *highest {
        Some((at, since)) => {
            let elapsed = i64::try_from(monotonic.saturating_duration_since(since).as_millis()).unwrap_or(i64::MAX);
            wall.max(at.saturating_add(elapsed))
        }
        None => wall,
    };
    // The base moves only when the wall clock is ahead, so that rounding down does not add up.
    if highest.is_none_or(|_| now == wall) {
        *highest = Some((now, monotonic));
    }
    now
}
