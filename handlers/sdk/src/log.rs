//! Lines for the operator's log. They appear once the delivery has committed or failed, with its topic, partition and
//! offset, so a message need not repeat them.
//!
//! ```no_run
//! tidemill_sdk::info!("order {} is paid", 7);
//! ```

use crate::host;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A person must act.
    Error,
    /// It went on, but not as it should.
    Warn,
    /// What happened.
    Info,
    /// For whoever looks into a problem.
    Debug,
    /// Everything.
    Trace,
}

/// Write one line. The macros [`error!`](crate::error!), [`warn!`](crate::warn!), [`info!`](crate::info!),
/// [`debug!`](crate::debug!) and [`trace!`](crate::trace!) format and call this.
pub fn write(level: Level, message: &str) {
    host::log(level, message);
}

/// A line at level error: a person must act.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($message)+)) };
}

/// A line at level warn: it went on, but not as it should.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($message)+)) };
}

/// A line at level info.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($message)+)) };
}

/// A line at level debug.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($message)+)) };
}

/// A line at level trace.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Trace, &::std::format!($($message)+)) };
}
