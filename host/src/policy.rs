//! The failure policy: what becomes of an input whose delivery failed.
//!
//! [`decide`] is a pure function of the policy, the failure and the situation that it is told: it does no I/O,
//! keeps no state and reads no clock, so that it can be property-tested and run again for the same delivery.

pub mod allowance;
pub mod circuit;
pub mod outcome;
pub mod probation;

use std::time::Duration;

pub use allowance::Spent;
pub use circuit::Circuit;
pub use outcome::{Class, Classes, Failure, Outcome, Treatment};
pub use probation::Probation;

/// How long an input waits between two attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait before the second attempt.
    pub interval: Duration,
    /// Each further wait is so many times the one before; 1 for a fixed wait.
    pub factor: f64,
    /// No wait is longer, before jitter.
    pub max: Duration,
    /// Up to this part of the wait is added, drawn anew each time, so that what failed together is not tried together.
    pub jitter: f64,
}

/// The longest wait that a policy or a handler can ask for, so that no record waits for ever.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Backoff {
    /// The same wait each time.
    pub const fn fixed(interval: Duration) -> Self {
        Self { interval, factor: 1.0, max: WAIT_MAX, jitter: 0.0 }
    }

    /// The wait after `failures` failures in a row, from 1; `dice` is from 0 to 1.
    pub fn wait(&self, failures: u32, dice: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.interval.as_secs_f64() * self.factor.powi(exponent);
        // A power may be infinite, and nothing times that is not a number.
        let wait = if grown.is_nan() { 0.0 } else { grown.min(self.max.as_secs_f64()) };
        Duration::try_from_secs_f64(wait * (1.0 + self.jitter * dice.clamp(0.0, 1.0))).unwrap_or(WAIT_MAX)
    }
}

/// Who waits for a record that waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Every later record of its partition (default).
    Partition,
    /// Later records of its key in its partition. A record without a key has no order, so nobody waits for it.
    Key,
    /// Nobody.
    None,
}

/// `[retry]` of a handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `max-attempts`: how often a record is tried in all, the first time included; at least 1.
    pub max_attempts: u32,
    /// `backoff`: the wait before each further attempt.
    pub backoff: Backoff,
    /// `order`
    pub order: Order,
    /// `max-pending`: records of one partition that wait at once; at that many the partition waits with them.
    pub max_pending: u64,
    /// `max-pending-bytes`: the same in bytes of keys, values and headers.
    pub max_pending_bytes: u64,
    /// `on`: what each outcome counts as.
    pub classes: Classes,
}

impl Default for Policy {
    /// Four attempts, one second apart: what the reference services use.
    fn default() -> Self {
        Self {
            max_attempts: 4,
            backoff: Backoff::fixed(Duration::from_secs(1)),
            order: Order::Partition,
            max_pending: 10_000,
            max_pending_bytes: 64 << 20,
            classes: Classes::default(),
        }
    }
}

impl Policy {
    /// How often an input is tried in all when the last attempt ended so.
    pub fn attempts_for(&self, outcome: Outcome) -> u32 {
        let class = self.classes.of(outcome);
        class.max_attempts.unwrap_or_else(|| outcome.usual_attempts(self.max_attempts))
    }
}

/// What is known about an input when its delivery has failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// Attempts made, this one included, from 1; for [`Outcome::Crash`] the processes that it ended.
    pub attempt: u32,
    /// Whether the handler's circuit is open: what fails then is a probe.
    pub circuit_open: bool,
    /// Whether other records of the handler were done since this one was tried last.
    pub others_pass: bool,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
    /// From 0 to 1, for jitter.
    pub dice: f64,
}

/// What to do with an input whose delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again at this time (milliseconds since the Unix epoch).
    Retry {
        /// The due time.
        due: i64,
    },
    /// Try again when the circuit lets it; the attempt is not counted, since no record is to blame.
    Wait,
    /// Give up: the record becomes a dead letter.
    DeadLetter,
}

/// What becomes of an input whose delivery ended with `failure`.
pub fn decide(policy: &Policy, failure: &Failure, situation: Situation) -> Next {
    let treatment = policy.classes.of(failure.outcome).treatment;
    // Where others pass, what this record needs is there, and it is the record that is to blame.
    let blameless = !situation.others_pass;
    match treatment {
        Treatment::Reject => Next::DeadLetter,
        Treatment::Unavailable if blameless => Next::Wait,
        Treatment::Retry if blameless && situation.circuit_open => Next::Wait,
        Treatment::Retry | Treatment::Unavailable if situation.attempt >= policy.attempts_for(failure.outcome) => {
            Next::DeadLetter
        }
        Treatment::Retry | Treatment::Unavailable => {
            let wait = policy.backoff.wait(situation.attempt, situation.dice);
            let wait = failure.after.map_or(wait, |after| after.min(WAIT_MAX).max(wait));
            Next::Retry { due: situation.now.saturating_add(millis(wait)) }
        }
    }
}

pub(crate) fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failures() -> impl Strategy<Value = Failure> {
        let outcome = proptest::sample::select(&Outcome::ALL[..]);
        let after = proptest::option::of((0u64..200_000_000).prop_map(Duration::from_millis));
        (outcome, after).prop_map(|(outcome, after)| Failure { outcome, message: "m".into(), after })
    }

    fn classes() -> impl Strategy<Value = Classes> {
        let treatment = proptest::sample::select(&[Treatment::Retry, Treatment::Reject, Treatment::Unavailable][..]);
        let class = (treatment, proptest::option::of(1u32..6))
            .prop_map(|(treatment, max_attempts)| Class { treatment, max_attempts });
        let set = (proptest::sample::select(&Outcome::ALL[..]), class);
        prop::collection::vec(set, 0..4).prop_map(|sets| {
            sets.into_iter().fold(Classes::default(), |classes, (outcome, class)| classes.with(outcome, class))
        })
    }

    fn backoffs() -> impl Strategy<Value = Backoff> {
        (0u64..10_000, 1.0f64..10.0, 0u64..100_000, 0.0f64..1.0).prop_map(|(interval, factor, max, jitter)| Backoff {
            interval: Duration::from_millis(interval),
            factor,
            max: Duration::from_millis(interval.max(max)),
            jitter,
        })
    }

    fn policies() -> impl Strategy<Value = Policy> {
        (1u32..20, backoffs(), classes()).prop_map(|(max_attempts, backoff, classes)| Policy {
            max_attempts,
            backoff,
            classes,
            ..Policy::default()
        })
    }

    fn situations() -> impl Strategy<Value = Situation> {
        let now = 0i64..1 << 42;
        (1u32..25, any::<bool>(), any::<bool>(), now, 0.0f64..1.0).prop_map(
            |(attempt, circuit_open, others_pass, now, dice)| Situation {
                attempt,
                circuit_open,
                others_pass,
                now,
                dice,
            },
        )
    }

    proptest! {
        /// A record that fails by itself comes to an end after exactly its outcome's attempts, whatever its class is.
        #[test]
        fn a_record_that_alone_fails_comes_to_an_end(policy in policies(), failure in failures(), situation in situations()) {
            let mut attempt = 0;
            let end = loop {
                attempt += 1;
                match decide(&policy, &failure, Situation { attempt, others_pass: true, ..situation }) {
                    Next::Retry { .. } => prop_assert!(attempt < policy.attempts_for(failure.outcome)),
                    other => break other,
                }
            };
            let rejected = policy.classes.of(failure.outcome).treatment == Treatment::Reject;
            let expected = if rejected { 1 } else { policy.attempts_for(failure.outcome) };
            prop_assert_eq!((end, attempt), (Next::DeadLetter, expected));
        }

        /// Nothing is given up on or counted while what it needs is away: only a record that is wrong by itself is.
        #[test]
        fn an_outage_gives_up_on_nothing(policy in policies(), failure in failures(), situation in situations()) {
            let outage = Situation { circuit_open: true, others_pass: false, ..situation };
            let next = decide(&policy, &failure, outage);
            let rejected = policy.classes.of(failure.outcome).treatment == Treatment::Reject;
            prop_assert_eq!(next, if rejected { Next::DeadLetter } else { Next::Wait });
        }

        /// The time that it is told is the only one it knows: another one moves what is due by just that much. (Times lie
        /// on both sides of today.)
        #[test]
        fn another_time_moves_what_is_due_and_nothing_else(
            policy in policies(), failure in failures(), situation in situations(), later in 0i64..1 << 42,
        ) {
            let moved = match decide(&policy, &failure, situation) {
                Next::Retry { due } => Next::Retry { due: due + later },
                other => other,
            };
            let then = Situation { now: situation.now + later, ..situation };
            prop_assert_eq!(decide(&policy, &failure, then), moved);
        }

        /// No retry is due before the policy's wait or the handler's own wish, nor long after both.
        #[test]
        fn a_retry_is_due_when_the_policy_or_the_handler_says(policy in policies(), failure in failures(), situation in situations()) {
            if let Next::Retry { due } = decide(&policy, &failure, situation) {
                let wish = failure.after.unwrap_or_default().min(WAIT_MAX);
                let wait = policy.backoff.wait(situation.attempt, 0.0).max(wish);
                prop_assert!(due >= situation.now + millis(wait));
                let longest = wait.max(policy.backoff.max).mul_f64(1.0 + policy.backoff.jitter);
                prop_assert!(due <= situation.now + millis(longest) + 1, "{due}");
            }
        }

        /// Waits grow by the factor up to the cap, and jitter only adds.
        #[test]
        fn waits_grow_to_the_cap(backoff in backoffs(), failures in 1u32..2_000, dice in 0.0f64..1.0) {
            let (wait, next) = (backoff.wait(failures, 0.0), backoff.wait(failures + 1, 0.0));
            prop_assert!(wait <= next && next <= backoff.max);
            prop_assert!(wait == backoff.max || next >= wait.mul_f64(backoff.factor).min(backoff.max).saturating_sub(Duration::from_micros(1)));
            prop_assert!(backoff.wait(failures, dice) >= wait);
        }
    }

    #[test]
    fn what_harms_the_host_has_fewer_attempts_unless_told_otherwise() {
        let policy = Policy::default();
        let attempts = Outcome::ALL.map(|outcome| (outcome.name(), policy.attempts_for(outcome)));
        let expected = [
            ("retry", 4),
            ("reject", 4),
            ("undecodable", 4),
            ("unavailable", 4),
            ("trap", 2),
            ("time-limit", 2),
            ("memory-limit", 2),
            ("effects-limit", 2),
            ("crash", 3),
        ];
        assert_eq!(attempts, expected);
        let told = Class { treatment: Treatment::Retry, max_attempts: Some(9) };
        let policy = Policy { max_attempts: 1, classes: Classes::default().with(Outcome::Trap, told), ..policy };
        assert_eq!((policy.attempts_for(Outcome::Trap), policy.attempts_for(Outcome::TimeLimit)), (9, 1));
    }
}
