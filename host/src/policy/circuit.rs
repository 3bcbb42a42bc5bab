//! The circuit of a handler: while what it depends on is down, its lanes stand still and no record is blamed.
//!
//! It opens when a delivery says that something is unavailable, or when too many fail; then each round a few lanes try
//! one delivery each, and the first that passes closes it. One that is held open is closed by another version only. It is a value:
//! it reads no clock, and its owner keeps a change only once the delivery that caused it has committed.

use std::time::Duration;

use super::{Backoff, millis};

/// `[circuit]` of a handler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `wait` and `max-wait`: the pause before the first probes, and the longest one; each is twice the one before.
    pub wait: Backoff,
    /// `probes`: lanes that try one delivery each when the pause is over.
    pub probes: usize,
    /// `failure-rate`: the part of the last deliveries, from 0 to 1, that must have failed to open it. Without it only
    /// `unavailable` does.
    pub failure_rate: Option<f64>,
    /// `window`: how many deliveries that part is taken of, up to [`WINDOW_MAX`].
    pub window: u32,
}

/// The largest window, in deliveries.
pub const WINDOW_MAX: u32 = u128::BITS;

impl Default for Settings {
    fn default() -> Self {
        let wait = Backoff { interval: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(30), jitter: 0.1 };
        Self { wait, probes: 3, failure_rate: None, window: 50 }
    }
}

/// One handler's circuit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    open: Option<Open>,
    recent: Recent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    since: i64,
    /// The next round of probes begins here.
    until: i64,
    /// Pauses so far.
    pauses: u32,
    /// Lanes that have tried in this round.
    probed: Vec<u64>,
}

/// The last deliveries, the newest in the lowest bit; a failed one is a 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Recent {
    bits: u128,
    len: u32,
}

impl Recent {
    fn push(&mut self, failed: bool, window: u32) {
        self.bits = self.bits << 1 | u128::from(failed);
        self.len = (self.len + 1).min(window);
    }

    /// Whether the window is full and this part of it has failed.
    fn reaches(&self, rate: f64, window: u32) -> bool {
        let mask = u128::MAX >> (u128::BITS - window.clamp(1, u128::BITS));
        self.len >= window && f64::from((self.bits & mask).count_ones()) >= rate * f64::from(window)
    }
}

/// A delivery that failed, as the circuit sees it.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// Names the lane.
    pub lane: u64,
    /// Whether something that the handler depends on is down.
    pub unavailable: bool,
    /// Not before this long is another try of use.
    pub after: Option<Duration>,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
    /// From 0 to 1, for jitter.
    pub dice: f64,
}

impl Circuit {
    /// One that no delivery closes: another version has to take the handler's place.
    pub fn held(now: i64) -> Self {
        let open = Open { since: now, until: i64::MAX, pauses: 0, probed: Vec::new() };
        Self { open: Some(open), recent: Recent::default() }
    }

    /// Whether it waits for another version.
    pub fn is_held(&self) -> bool {
        self.until() == Some(i64::MAX)
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// When the next probes are due, if it is open.
    pub fn until(&self) -> Option<i64> {
        self.open.as_ref().map(|open| open.until)
    }

    /// Since when it is open, if it is.
    pub fn since(&self) -> Option<i64> {
        self.open.as_ref().map(|open| open.since)
    }

    /// Whether this lane may run a delivery.
    pub fn lets(&self, settings: &Settings, lane: u64, now: i64) -> bool {
        match &self.open {
            None => true,
            Some(open) if now >= open.until => true,
            // The round is under way: other lanes try too.
            Some(open) => {
                !open.probed.is_empty() && open.probed.len() < settings.probes && !open.probed.contains(&lane)
            }
        }
    }

    /// A delivery passed.
    pub fn pass(&mut self, settings: &Settings) {
        if self.is_held() {
            return;
        }
        match self.open.take() {
            Some(_) => self.recent = Recent::default(),
            None if settings.failure_rate.is_some() => self.recent.push(false, settings.window),
            None => {}
        }
    }

    /// A delivery failed.
    pub fn fail(&mut self, settings: &Settings, failed: Failed) {
        if self.is_held() {
            return;
        }
        let Failed { lane, now, .. } = failed;
        let until = |pauses| {
            let wait =
                settings.wait.wait(pauses, failed.dice).max(failed.after.unwrap_or_default().min(super::WAIT_MAX));
            now.saturating_add(millis(wait))
        };
        match &mut self.open {
            Some(open) if now >= open.until => {
                open.pauses += 1;
                open.until = until(open.pauses);
                open.probed = vec![lane];
            }
            Some(open) => open.probed.push(lane),
            None => {
                self.recent.push(true, settings.window);
                let often = settings.failure_rate.is_some_and(|rate| self.recent.reaches(rate, settings.window));
                if failed.unavailable || often {
                    self.open = Some(Open { since: now, until: until(1), pauses: 1, probed: Vec::new() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(lane: u64, unavailable: bool, now: i64) -> Failed {
        Failed { lane, unavailable, after: None, now, dice: 0.0 }
    }

    #[test]
    fn it_opens_at_once_for_what_is_unavailable_and_pauses_longer_each_round() {
        let settings = Settings::default();
        let mut circuit = Circuit::default();
        circuit.fail(&settings, failed(1, true, 0));
        let mut pauses = vec![];
        for _ in 0..8 {
            let until = circuit.until().unwrap_or_default();
            assert!(!circuit.lets(&settings, 2, until - 1), "no lane runs before the pause is over");
            assert!(circuit.lets(&settings, 2, until));
            circuit.fail(&settings, failed(2, true, until));
            pauses.push((circuit.until().unwrap_or_default() - until) / 1_000);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30, 30]);
        assert_eq!(circuit.since(), Some(0));
        circuit.pass(&settings);
        assert_eq!(circuit, Circuit::default());
    }

    #[test]
    fn a_round_of_probes_is_one_delivery_of_each_of_a_few_lanes() {
        let settings = Settings::default();
        let mut circuit = Circuit::default();
        circuit.fail(&settings, failed(1, true, 0));
        let lets =
            |circuit: &Circuit, now| (1..=5).filter(|lane| circuit.lets(&settings, *lane, now)).collect::<Vec<_>>();
        assert!(lets(&circuit, 999).is_empty());
        assert_eq!(lets(&circuit, 1_000), [1, 2, 3, 4, 5]);
        circuit.fail(&settings, failed(4, true, 1_000));
        assert_eq!(lets(&circuit, 1_001), [1, 2, 3, 5]);
        circuit.fail(&settings, failed(2, false, 1_001));
        circuit.fail(&settings, failed(3, true, 1_002));
        assert!(lets(&circuit, 1_003).is_empty(), "three have tried");
        assert_eq!(lets(&circuit, 3_000), [1, 2, 3, 4, 5], "a round of its own");
    }

    #[test]
    fn h2_one_that_is_held_lets_nobody_through_and_no_delivery_closes_it() {
        let settings = Settings::default();
        let mut circuit = Circuit::held(5);
        circuit.pass(&settings);
        circuit.fail(&settings, failed(1, true, 6));
        assert_eq!(circuit, Circuit::held(5));
        assert!(circuit.is_held() && !circuit.lets(&settings, 2, i64::MAX - 1));
    }

    #[test]
    fn what_the_handler_names_is_waited_for() {
        let settings = Settings::default();
        let mut circuit = Circuit::default();
        circuit.fail(&settings, Failed { after: Some(Duration::from_secs(7)), ..failed(1, true, 0) });
        assert_eq!(circuit.until(), Some(7_000));
    }

    #[test]
    fn without_a_rate_failures_do_not_open_it() {
        let settings = Settings::default();
        let mut circuit = Circuit::default();
        (0..1_000).for_each(|now| circuit.fail(&settings, failed(1, false, now)));
        assert!(!circuit.is_open());
    }

    proptest! {
        /// It opens exactly when the last `window` deliveries hold so many failures, however they are mixed.
        #[test]
        fn it_opens_at_the_rate(window in 1u32..=WINDOW_MAX, rate in 0.01f64..=1.0, deliveries in prop::collection::vec(any::<bool>(), 0..400)) {
            let settings = Settings { failure_rate: Some(rate), window, ..Settings::default() };
            let mut circuit = Circuit::default();
            let mut last: Vec<bool> = vec![];
            for fails in deliveries {
                last.push(fails);
                if fails { circuit.fail(&settings, failed(1, false, 0)) } else { circuit.pass(&settings) }
                let full = last.len() >= window as usize;
                let failures = last.iter().rev().take(window as usize).filter(|fails| **fails).count();
                let expected = full && fails && failures as f64 >= rate * f64::from(window);
                prop_assert_eq!(circuit.is_open(), expected);
                if expected {
                    circuit.pass(&settings);
                    last.clear();
                }
            }
        }
    }
}
