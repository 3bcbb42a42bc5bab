//! Random schedules that can be repeated: a seed that is printed, and how long a proof runs.
//!
//! The moments of faults come from here and from nowhere else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Random numbers from one seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From `SEED`, or from the clock; prints which, for repeating the run.
    pub(crate) fn new(test: &str) -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64 >> 8);
        let seed = number("SEED").unwrap_or_else(clock);
        println!("{test}: SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True once in `n`.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A moment within so long from now.
    pub(crate) fn within(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(longest.as_micros() as u64 + 1))
    }
}

/// Whether this is the long run.
pub(crate) fn full() -> bool {
    std::env::var("TIDEMILL_PROOF").is_ok_and(|value| value == "full")
}

/// How many rounds: `ROUNDS`, else `full` in the long run and `short` in the short one.
pub(crate) fn rounds(short: u64, long: u64) -> u64 {
    number("ROUNDS").unwrap_or(if full() { long } else { short })
}

/// How many records in each round: `RECORDS`, else by the length of the run.
pub(crate) fn records(short: u64, long: u64) -> u64 {
    number("RECORDS").unwrap_or(if full() { long } else { short })
}

/// Lets the time until a fault's moment pass.
pub(crate) fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}
