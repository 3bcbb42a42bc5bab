//! The delivery itself: its clock, its randomness, its attempt. A second run of the same delivery sees the same.

use crate::{Time, host};

/// The time at which this attempt started. It stands still while the delivery runs.
pub fn now() -> Time {
    Time::from_millis(host::now())
}

/// The next random bytes, at most 64 KiB at a time.
pub fn random(len: u32) -> Vec<u8> {
    host::random(len)
}

/// Which attempt this is, from 1.
pub fn attempt() -> u32 {
    host::attempt()
}

/// The id by which the inbox knows this input, when it has one.
pub fn event_id() -> Option<String> {
    host::event_id()
}
