//! Schedules: the times at which a handler's timers are due.
//!
//! Pure: a due time follows from the manifest's words and from the time before it, and from no clock. So it is the same after a
//! restart, on another machine, and however late its timer fires.

pub mod cron;

use std::fmt;
use std::time::Duration;

pub use cron::Cron;

use crate::policy;
use crate::settings::units;

/// `[[schedule]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// `name`: of the timer, unique in the handler.
    pub name: String,
    /// `cron`, or `interval`.
    pub times: Times,
    /// `missed`
    pub missed: Missed,
}

/// When a timer is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Times {
    /// `interval`: at each multiple of it since the Unix epoch.
    Interval(Duration),
    /// `cron`, with its `time-zone`.
    Cron(Cron),
}

/// What becomes of due times that have passed while nothing could run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// The timer fires once, for the newest of them (default).
    #[default]
    Latest,
    /// It fires for each, in their order.
    Each,
}

/// After the last due time that there is.
pub const NEVER: i64 = i64::MAX;

impl Times {
    /// The first due time at `at` or later, [`NEVER`] if there is none; both in milliseconds since the Unix epoch.
    pub fn from(&self, at: i64) -> i64 {
        match self {
            Self::Interval(every) => {
                let every = policy::millis(*every).max(1);
                let passed = at.rem_euclid(every);
                if passed == 0 { at } else { at.saturating_add(every - passed) }
            }
            Self::Cron(cron) => cron.from(at).unwrap_or(NEVER),
        }
    }

    /// The last due time from `first`, which is one, to `now`.
    fn latest(&self, first: i64, now: i64) -> i64 {
        // The first due time at or after a moment comes no earlier for a later moment.
        let (mut passed, mut beyond) = (first, now.saturating_add(1));
        while beyond - passed > 1 {
            let middle = passed + (beyond - passed) / 2;
            match self.from(middle) {
                due if due <= now => passed = due,
                _ => beyond = middle,
            }
        }
        passed
    }
}

impl Schedule {
    /// For which due time the timer fires at `now`, when `next` is the first one that it has not fired for; `None` if that is
    /// still to come. All in milliseconds since the Unix epoch.
    pub fn due(&self, next: i64, now: i64) -> Option<i64> {
        match self.missed {
            _ if next > now => None,
            Missed::Each => Some(next),
            Missed::Latest => Some(self.times.latest(next, now)),
        }
    }
}

impl fmt::Display for Times {
    /// As the store keeps it, to see whether a schedule has changed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval(every) => write!(f, "interval {}", units::show_duration(*every)),
            Self::Cron(cron) => write!(f, "cron {cron}"),
        }
    }
}

impl fmt::Display for Schedule {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missed = match self.missed {
            Missed::Latest => "latest",
            Missed::Each => "each",
        };
        write!(f, "{}: {}, missed {missed}", self.name, self.times)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn every(millis: u64) -> Times {
        Times::Interval(Duration::from_millis(millis))
    }

    fn schedule(times: Times, missed: Missed) -> Schedule {
        Schedule { name: "s".into(), times, missed }
    }

    #[test]
    fn s2_13_an_interval_is_a_grid_from_the_epoch() {
        for (at, due) in [(0, 0), (1, 30_000), (29_999, 30_000), (30_000, 30_000), (30_001, 60_000), (-1, 0)] {
            assert_eq!(every(30_000).from(at), due, "from {at}");
        }
        assert_eq!(every(30_000).from(i64::MAX), NEVER);
    }

    #[test]
    fn s2_13_of_missed_due_times_the_newest_fires_or_each_in_order() {
        let [latest, each] = [Missed::Latest, Missed::Each].map(|missed| schedule(every(10), missed));
        for (now, newest, oldest) in
            [(9, None, None), (10, Some(10), Some(10)), (19, Some(10), Some(10)), (45, Some(40), Some(10))]
        {
            assert_eq!((latest.due(10, now), each.due(10, now)), (newest, oldest), "at {now}");
        }
        // Over a year of minutes.
        let minutely =
            schedule(Times::Cron(Cron::parse("* * * * *", jiff::tz::TimeZone::UTC).unwrap()), Missed::Latest);
        assert_eq!(minutely.due(60_000, 366 * 86_400_000 + 59_999), Some(366 * 86_400_000));
    }

    proptest! {
        /// However late it is looked at, `each` fires for every due time once and in order, and `latest` for a part of them that ends
        /// with the newest; neither is early.
        #[test]
        fn s2_13_a_timer_fires_for_due_times_only_and_for_none_twice(
            every in 1u64..50, pauses in prop::collection::vec(0i64..200, 1..40), missed in prop::bool::ANY,
        ) {
            let missed = if missed { Missed::Latest } else { Missed::Each };
            let schedule = schedule(super::Times::Interval(Duration::from_millis(every)), missed);
            let (mut now, mut next, mut fired) = (0i64, schedule.times.from(1), vec![]);
            for pause in pauses {
                now += pause;
                while let Some(due) = schedule.due(next, now) {
                    prop_assert!(due <= now);
                    fired.push(due);
                    next = schedule.times.from(due + 1);
                }
                prop_assert_eq!(next, schedule.times.from(now + 1));
            }
            let step = i64::try_from(every).unwrap();
            prop_assert!(fired.iter().all(|due| due % step == 0) && fired.is_sorted_by(|a, b| a < b));
            if missed == Missed::Each {
                let all: Vec<i64> = (1..).map(|n| n * step).take_while(|due| *due <= now).collect();
                prop_assert_eq!(fired, all);
            }
        }
    }
}
