//! How much of a lane is in memory, and whether it stands still: what the consumer needs to know for back-pressure.
//!
//! The consumer adds before it hands records over, and the executor removes after the commit, so the meter is
//! never below what is really held. It makes no decision.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

/// Shared between a lane and its consumer.
#[derive(Debug)]
pub struct Meter {
    records: AtomicUsize,
    bytes: AtomicUsize,
    blocked: AtomicBool,
    oldest: AtomicI64,
}

/// No record.
const NONE: i64 = i64::MAX;

impl Default for Meter {
    fn default() -> Self {
        let (records, bytes, blocked) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Self { records, bytes, blocked, oldest: AtomicI64::new(NONE) }
    }
}

impl Meter {
    /// One record of so many bytes was handed over.
    pub fn add(&self, bytes: usize) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One record of so many bytes is done.
    pub fn remove(&self, bytes: usize) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Records held.
    pub fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Says whether a pending record holds the lane up.
    pub fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Whether a pending record holds the lane up.
    pub fn blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Says when the first record of the lane was written, in milliseconds since the Unix epoch.
    pub fn set_oldest(&self, written: Option<i64>) {
        self.oldest.store(written.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// When the first record of the lane was written, if there is one and that is known.
    pub fn oldest(&self) -> Option<i64> {
        Some(self.oldest.load(Ordering::Relaxed)).filter(|written| *written != NONE)
    }
}
