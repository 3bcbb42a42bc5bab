//! Moments at which a test has the daemon killed, as the kernel or a power cut would.
//!
//! `TIDEMILL_TEST_KILL_AT=committed:37` ends the process without a word when it comes to that moment for the 37th time.
//! `TIDEMILL_TEST_ABORT_ON=NAME` lets each record with that header end it, as a fault of the sandbox would that takes the process along.
//! A rig arms a moment while it runs ([`arm`]).
//! Without any of it a moment costs a look at two values that never change, and nothing here does anything.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use crate::record::Record;

/// A moment that is worth being killed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A handler has run, and its group has not committed.
    Delivered,
    /// A group is about to commit.
    Committing,
    /// A group has committed, and nobody knows.
    Committed,
    /// The broker has acknowledged events, whose rows are still there.
    Acknowledged,
    /// A version's migrations have run, and it is not live.
    Migrated,
    /// A version is live in the store, and nowhere else.
    Switched,
    /// A delivery was set aside, and its call is about to be made.
    SetAside,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Committing,
        Self::Committed,
        Self::Acknowledged,
        Self::Migrated,
        Self::Switched,
        Self::SetAside,
    ];

    /// The moment of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|moment| moment.name() == name)
    }

    /// The name in the variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Acknowledged => "acknowledged",
            Self::Migrated => "migrated",
            Self::Switched => "switched",
            Self::SetAside => "set-aside",
        }
    }
}

/// The moment that is armed, from 1; 0 for none.
static ARMED: AtomicU8 = AtomicU8::new(0);

/// Ends the process when it comes to this moment next.
pub fn arm(moment: Moment) {
    ARMED.store(moment as u8 + 1, Ordering::Relaxed);
}

/// Ends the process if this is the moment that is armed, or that the variable names.
pub fn reach(moment: Moment) {
    static AT: OnceLock<Option<(Moment, AtomicU64)>> = OnceLock::new();
    if let Some((at, left)) = AT.get_or_init(|| parse(&std::env::var("TIDEMILL_TEST_KILL_AT").ok()?))
        && *at == moment
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    if ARMED.load(Ordering::Relaxed) == moment as u8 + 1 {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Ends the process if this record, which is about to run, has the header that the variable names.
pub fn run(record: &Record) {
    static HEADER: OnceLock<Option<String>> = OnceLock::new();
    if let Some(name) = HEADER.get_or_init(|| std::env::var("TIDEMILL_TEST_ABORT_ON").ok())
        && record.headers.iter().any(|header| header.name == *name)
    {
        std::process::abort();
    }
}

fn parse(text: &str) -> Option<(Moment, AtomicU64)> {
    let (name, nth) = text.split_once(':')?;
    Some((Moment::of_name(name)?, AtomicU64::new(nth.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_by_its_name() {
        for moment in Moment::ALL {
            let found = parse(&format!("{}:3", moment.name())).map(|(moment, left)| (moment, left.into_inner()));
            assert_eq!(found, Some((moment, 3)));
        }
        for bad in ["", "committed", "committed:", "never:1", "committed:x"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
