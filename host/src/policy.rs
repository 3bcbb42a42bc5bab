//! The failure policy: what becomes of an input whose delivery failed.
//!
//! [`decide`] is a pure function of the policy, the failure, the attempts made and the time: it does no I/O,
//! keeps no state and reads no clock, so that it can be property-tested and run again for the same delivery.

use std::time::Duration;

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The handler asked to be tried again, optionally not before so long.
    Retry {
        /// The handler's words.
        message: String,
        /// Not before this long after the failure.
        after: Option<Duration>,
    },
    /// The handler said that it will never work.
    Reject {
        /// The handler's words.
        message: String,
    },
    /// Something that the handler depends on is down.
    Unavailable {
        /// The handler's words.
        message: String,
        /// Not before this long after the failure.
        after: Option<Duration>,
    },
    /// The component trapped: a panic, an out-of-bounds access, `unreachable`.
    Trap {
        /// The trap and where it happened.
        message: String,
    },
    /// The delivery went over one of its limits.
    Limit {
        /// Which limit.
        message: String,
    },
}

impl Failure {
    /// The outcome's name in logs, metrics and dead letters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Reject { .. } => "reject",
            Self::Unavailable { .. } => "unavailable",
            Self::Trap { .. } => "trap",
            Self::Limit { .. } => "limit",
        }
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        match self {
            Self::Retry { message, .. }
            | Self::Reject { message }
            | Self::Unavailable { message, .. }
            | Self::Trap { message }
            | Self::Limit { message } => message,
        }
    }
}

/// How long a record waits between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// The same time before every attempt.
    Fixed {
        /// That time.
        interval: Duration,
    },
}

/// `[retry]` of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often a record is tried in all, the first time included; at least 1.
    pub max_attempts: u32,
    /// The wait before each further attempt.
    pub backoff: Backoff,
}

impl Default for Policy {
    /// Four attempts, one second apart: what the reference services use.
    fn default() -> Self {
        Self { max_attempts: 4, backoff: Backoff::Fixed { interval: Duration::from_secs(1) } }
    }
}

/// What to do with an input whose delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again at this time (milliseconds since the Unix epoch).
    Retry {
        /// The due time.
        due: i64,
    },
    /// The same, but the attempt is not counted: no record is to blame.
    Wait {
        /// The due time.
        due: i64,
    },
    /// Give up: the record becomes a dead letter.
    DeadLetter,
}

/// The longest wait that a handler can ask for, so that no record waits for ever.
const AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What becomes of an input after `attempt` attempts (this one included, from 1), the last of which ended
/// with `failure` at `now` (milliseconds since the Unix epoch).
pub fn decide(policy: &Policy, failure: &Failure, attempt: u32, now: i64) -> Next {
    let Backoff::Fixed { interval } = policy.backoff;
    let wait = |after: &Option<Duration>| after.map_or(interval, |after| after.min(AFTER_MAX).max(interval));
    let due = |after: &Option<Duration>| now.saturating_add(millis(wait(after)));
    match failure {
        Failure::Reject { .. } => Next::DeadLetter,
        Failure::Unavailable { after, .. } => Next::Wait { due: due(after) },
        Failure::Retry { .. } | Failure::Trap { .. } | Failure::Limit { .. } if attempt >= policy.max_attempts => {
            Next::DeadLetter
        }
        Failure::Retry { after, .. } => Next::Retry { due: due(after) },
        Failure::Trap { .. } | Failure::Limit { .. } => Next::Retry { due: due(&None) },
    }
}

fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failures() -> impl Strategy<Value = Failure> {
        let after = || proptest::option::of((0u64..100_000).prop_map(Duration::from_millis));
        prop_oneof![
            after().prop_map(|after| Failure::Retry { message: "m".into(), after }),
            Just(Failure::Reject { message: "m".into() }),
            after().prop_map(|after| Failure::Unavailable { message: "m".into(), after }),
            Just(Failure::Trap { message: "m".into() }),
            Just(Failure::Limit { message: "m".into() }),
        ]
    }

    fn policies() -> impl Strategy<Value = Policy> {
        (1u32..20, 0u64..10_000).prop_map(|(max_attempts, ms)| Policy {
            max_attempts,
            backoff: Backoff::Fixed { interval: Duration::from_millis(ms) },
        })
    }

    proptest! {
        /// A failing record comes to an end after exactly `max_attempts` attempts, unless it is unavailable.
        #[test]
        fn a_failing_record_ends_after_max_attempts(policy in policies(), failure in failures(), now in 0i64..1 << 50) {
            let mut attempts = 0;
            let end = loop {
                attempts += 1;
                match decide(&policy, &failure, attempts, now) {
                    Next::Retry { .. } => prop_assert!(attempts < policy.max_attempts),
                    other => break other,
                }
            };
            match failure {
                Failure::Reject { .. } => prop_assert_eq!((end, attempts), (Next::DeadLetter, 1)),
                Failure::Unavailable { .. } => prop_assert!(matches!(end, Next::Wait { .. }), "{end:?}"),
                _ => prop_assert_eq!((end, attempts), (Next::DeadLetter, policy.max_attempts)),
            }
        }

        /// The time that it is told is the only one it knows: another one moves what is due by just that much. (Times lie
        /// on both sides of today.)
        #[test]
        fn another_time_moves_what_is_due_and_nothing_else(
            policy in policies(), failure in failures(), attempt in 1u32..25, now in 0i64..1 << 42, later in 0i64..1 << 42,
        ) {
            let moved = match decide(&policy, &failure, attempt, now) {
                Next::Retry { due } => Next::Retry { due: due + later },
                Next::Wait { due } => Next::Wait { due: due + later },
                Next::DeadLetter => Next::DeadLetter,
            };
            prop_assert_eq!(decide(&policy, &failure, attempt, now + later), moved);
        }

        /// No retry is due in the past, before the policy's interval, or before the handler's own wish.
        #[test]
        fn a_retry_is_never_due_too_early(policy in policies(), failure in failures(), now in i64::MIN..i64::MAX) {
            let Backoff::Fixed { interval } = policy.backoff;
            if let Next::Retry { due } | Next::Wait { due } = decide(&policy, &failure, 1, now) {
                prop_assert!(due >= now.saturating_add(millis(interval)));
                if let Failure::Retry { after: Some(after), .. } | Failure::Unavailable { after: Some(after), .. } = failure {
                    prop_assert!(due >= now.saturating_add(millis(after)));
                }
            }
        }
    }
}
