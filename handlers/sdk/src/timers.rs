//! Timers: what a handler does at the times that its manifest's `[[schedule]]` names.
//!
//! A handler names a function for each schedule under `timers` in [`handler!`](crate::handler!). A timer is a delivery like a record: its
//! rows and events commit together with the step to the next due time, so each due time takes effect once, though the daemon ends in
//! between. The timers of one schedule run one at a time and in order; one that fails is tried again by `[retry]` while the next waits, and
//! when its attempts are used up it stays in the store's fallback table, and is [compensated](crate::compensation).
//!
//! ```
//! use tidemill_sdk::test::Bench;
//! # use tidemill_sdk::test::example::HANDLER;
//! use tidemill_sdk::{Failure, params};
//!
//! // Its manifest has `[[schedule]]` with `name = "expire-orders"` and `interval = "1h"`.
//! let mut bench = Bench::new(&HANDLER);
//! bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
//! bench.fire("expire-orders")?;
//! assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["EXPIRED"]);
//! # Ok::<(), Failure>(())
//! ```

use crate::{Failure, Fire, Time};

/// One due time of a schedule.
///
/// ```
/// use tidemill_sdk::timers::Timer;
/// use tidemill_sdk::{Failure, params, sql};
///
/// /// The day's sum, under the day that is over, however late it is.
/// fn close_day(timer: &Timer) -> Result<(), Failure> {
///     sql::execute("INSERT INTO days SELECT ?1, sum(amount) FROM sales WHERE sold_at < ?1", params![timer.due])?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timer {
    /// The schedule's name.
    pub name: String,
    /// When it was to be fired. [`delivery::now`](crate::delivery::now) says when it is: as late as the host was.
    pub due: Time,
}

impl Timer {
    /// The timer of this schedule for this due time, for a test.
    ///
    /// ```
    /// use tidemill_sdk::Time;
    /// use tidemill_sdk::timers::Timer;
    ///
    /// let midnight = Timer::new("close-day", Time::from_millis(0));
    /// assert_eq!(midnight.due.to_string(), "1970-01-01T00:00:00.000Z");
    /// ```
    pub fn new(name: impl Into<String>, due: Time) -> Self {
        Self { name: name.into(), due }
    }

    /// Runs the function of its schedule.
    pub(crate) fn fire(&self, timers: &[(&str, Fire)]) -> Result<(), Failure> {
        match timers.iter().find(|(name, _)| *name == self.name) {
            Some((_, fire)) => fire(self),
            None => Err(Failure::reject(format!("`handler!` names no function for the schedule \"{}\"", self.name))),
        }
    }
}
