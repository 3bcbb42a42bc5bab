//! What a handler's deliveries may take of one processor, so that a store that is kept busy leaves the others theirs.
//!
//! Work of a time `t` at a share `s` is paid for when `t / s` has passed since it began; more may run while no more than
//! [`AHEAD`] is unpaid, so that what is rare never waits. It never holds work back for longer than [`REST`].

use std::time::{Duration, Instant};

/// How much may be unpaid before anything waits.
const AHEAD: Duration = Duration::from_secs(1);
/// The longest wait after one delivery, also where its limit of time lets it run for an hour.
const REST: Duration = Duration::from_secs(10);
/// What a delivery that fails takes elsewhere, about: of the threads that write its line of the log and publish its dead letter.
const ELSEWHERE: Duration = Duration::from_micros(50);

/// What a handler's deliveries have taken of a processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    all: Allowance,
    failing: Allowance,
}

impl Spent {
    /// A delivery has ended `now` after it ran for `time`. All of them may take the share `cpu`, those that fail the share
    /// that is given with one; both are above 0, and 1 at most.
    pub fn spend(&mut self, time: Duration, now: Instant, cpu: f64, failing: Option<f64>) {
        if cpu < 1.0 {
            self.all.spend(time, cpu, now);
        }
        if let Some(share) = failing {
            self.failing.spend(time + ELSEWHERE, share, now);
        }
    }

    /// Until when nothing more may run; `None` if something may. The clock is looked at only where something is to be paid for.
    pub fn rests_until(&self) -> Option<Instant> {
        let until = self.all.rests_until().max(self.failing.rests_until())?;
        Some(until).filter(|until| *until > Instant::now())
    }
}

/// What is left to pay for of one share.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    paid: Option<Instant>,
}

impl Allowance {
    fn spend(&mut self, time: Duration, share: f64, now: Instant) {
        let began = now.checked_sub(time).unwrap_or(now);
        let paid = self.paid.map_or(began, |paid| paid.max(began)) + time.div_f64(share);
        self.paid = Some(paid.min(now + AHEAD + REST));
    }

    fn rests_until(&self) -> Option<Instant> {
        self.paid?.checked_sub(AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_millis(250);

    /// How long a handler has run of a minute in which it always has something to do.
    fn of_a_minute(share: f64) -> Duration {
        let (start, mut allowance, mut ran) = (Instant::now(), Allowance::default(), Duration::ZERO);
        let mut now = start;
        while now < start + Duration::from_secs(60) {
            now = now.max(allowance.rests_until().unwrap_or(now)) + TURN;
            ran += TURN;
            allowance.spend(TURN, share, now);
        }
        ran
    }

    #[test]
    fn h4_who_is_always_busy_has_its_share_of_a_processor() {
        assert_eq!(of_a_minute(1.0), Duration::from_secs(60));
        for share in [0.5, 0.2, 0.05] {
            let ran = of_a_minute(share).as_secs_f64();
            let most = 60.0 * share + 1.0;
            assert!(ran <= most && ran >= 60.0 * share - 1.0, "{share}: {ran} s");
        }
    }

    #[test]
    fn h4_what_is_rare_never_rests() {
        let (mut now, mut allowance) = (Instant::now(), Allowance::default());
        for _ in 0..100 {
            now += TURN.div_f64(0.2);
            allowance.spend(TURN, 0.2, now);
            assert!(allowance.rests_until().is_none_or(|until| until <= now));
        }
    }

    #[test]
    fn h4_one_long_delivery_is_not_paid_for_all_day() {
        let (now, mut allowance) = (Instant::now() + Duration::from_secs(7_200), Allowance::default());
        for _ in 0..3 {
            allowance.spend(Duration::from_secs(3_600), 0.01, now);
            assert_eq!(allowance.rests_until(), Some(now + REST));
        }
    }
}
