//! Lines for the operator's log. They appear once the delivery has committed or failed, with its topic, partition and
//! offset, so a message need not repeat them.
//!
//! ```
//! # tidemill_sdk::test::example::run(|| {
//! tidemill_sdk::info!("order {} is paid", 7);
//! # Ok(()) });
//! ```

use crate::host;

/// How much a line matters.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::log::{self, Level};
/// let left = 2;
/// let level = if left == 0 { Level::Error } else { Level::Debug };
/// log::write(level, &format!("{left} coupons are left"));
/// # Ok(()) });
/// ```
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
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::log::{self, Level};
/// log::write(Level::Info, "the nightly report is done");
/// # Ok(()) });
/// ```
pub fn write(level: Level, message: &str) {
    host::log(level, message);
}

/// A line at level error: a person must act.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// tidemill_sdk::error!("order {} is paid, but there is no such order", 7);
/// # Ok(()) });
/// ```
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($message)+)) };
}

/// A line at level warn: it went on, but not as it should.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// let country = "XX";
/// tidemill_sdk::warn!("country {country} is unknown: no tax is added");
/// # Ok(()) });
/// ```
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($message)+)) };
}

/// A line at level info.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// tidemill_sdk::info!("order {} is paid", 7);
/// # Ok(()) });
/// ```
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($message)+)) };
}

/// A line at level debug.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// let carts = ["ann", "bob"];
/// tidemill_sdk::debug!("carts: {carts:?}");
/// # Ok(()) });
/// ```
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($message)+)) };
}

/// A line at level trace.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// tidemill_sdk::trace!("the discount is {:.2} %", 12.5);
/// # Ok(()) });
/// ```
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Trace, &::std::format!($($message)+)) };
}
