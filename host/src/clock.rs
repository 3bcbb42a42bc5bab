//! Host time: the highest wall-clock time seen, plus the monotonic time since.
//!
//! It never goes back, and goes on from what waits in a store that is opened: a clock that is set forward and back again, or
//! is behind at a start, loses nothing and delays nothing. Logic takes the time as an argument; only wiring reads this.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Both clocks: the wall's, in milliseconds since the Unix epoch, and the monotonic one.
type Told = (i64, Instant);

static CLOCK: Mutex<Clock> = Mutex::new(Clock { highest: None });

/// Where time stands still, in milliseconds since the Unix epoch; [`RUNS`] while it does not.
static HELD: AtomicI64 = AtomicI64::new(RUNS);
const RUNS: i64 = i64::MIN;

/// Now, in milliseconds since the Unix epoch. Never less than what an earlier call returned.
pub fn now() -> i64 {
    match HELD.load(Ordering::Relaxed) {
        RUNS => lock().now(told()),
        at => at,
    }
}

/// What the wall's clock said at that moment, to be told with the precision that [`now`] has not; nothing is decided by it.
pub fn wall(at: Instant) -> SystemTime {
    SystemTime::now() - at.elapsed()
}

/// Lets time stand still at `at`, in milliseconds since the Unix epoch, until the next call; it does not go back either. For a
/// rig, in which time passes when a test says so.
pub fn hold(at: i64) {
    HELD.fetch_max(at, Ordering::Relaxed);
}

/// Goes on from this time, in milliseconds since the Unix epoch, if the clock is behind it: by how much is returned.
pub fn go_on_from(at: i64) -> Option<Duration> {
    match HELD.load(Ordering::Relaxed) {
        RUNS => lock().go_on_from(at, told()),
        held => {
            hold(at);
            u64::try_from(at.saturating_sub(held)).ok().filter(|behind| *behind > 0).map(Duration::from_millis)
        }
    }
}

fn lock() -> MutexGuard<'static, Clock> {
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told() -> Told {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(wall.as_millis()).unwrap_or(i64::MAX), Instant::now())
}

struct Clock {
    highest: Option<Told>,
}

impl Clock {
    fn now(&mut self, (wall, monotonic): Told) -> i64 {
        let now = match self.highest {
            Some((at, since)) => {
                let elapsed = i64::try_from(monotonic.saturating_duration_since(since).as_millis()).unwrap_or(i64::MAX);
                wall.max(at.saturating_add(elapsed))
            }
            None => wall,
        };
        // The base moves only when the wall clock is ahead, so that rounding down does not add up.
        if self.highest.is_none_or(|_| now == wall) {
            self.highest = Some((now, monotonic));
        }
        now
    }

    fn go_on_from(&mut self, at: i64, told: Told) -> Option<Duration> {
        let behind = u64::try_from(at.saturating_sub(self.now(told))).ok().filter(|behind| *behind > 0)?;
        self.highest = Some((at, told.1));
        Some(Duration::from_millis(behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn it_follows_a_clock_that_is_set_forward_and_goes_on_by_itself_when_it_is_set_back() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock { highest: None };
        let told = [(1_000, 0, 1_000), (1_000 + DAY, 10, 1_000 + DAY), (1_020, 20, 1_010 + DAY), (0, 30, 1_020 + DAY)];
        for (wall, monotonic, now) in told {
            assert_eq!(clock.now((wall, after(monotonic))), now, "the wall clock says {wall}");
        }
        assert_eq!(clock.now((2 * DAY, after(40))), 2 * DAY);
    }

    #[test]
    fn it_goes_on_from_a_later_time_and_from_no_earlier_one() {
        let start = Instant::now();
        let mut clock = Clock { highest: None };
        assert_eq!(clock.go_on_from(999, (1_000, start)), None);
        assert_eq!(clock.go_on_from(1_000 + DAY, (1_000, start)), Some(Duration::from_secs(86_400)));
        assert_eq!(clock.now((1_050, start + Duration::from_millis(50))), 1_050 + DAY);
        assert_eq!(clock.go_on_from(DAY, (1_060, start)), None);
    }
}
