//! Lines for the operator's log. They appear once the delivery has committed or failed, with its topic, partition and
//! offset, so a message need not repeat them.
//!
//! Fields come first, as with `tracing`, and end the line: `name = value` is written as it displays, `name = ?value` as it
//! debugs, `name` and `?name` stand for the variable of that name.
//!
//! ```
//! use tidemill_sdk::info;
//!
//! # tidemill_sdk::test::example::run(|| {
//! let (user, items) = ("ann", ["lamp"]);
//! info!("order {} is paid", 7); // order 7 is paid
//! info!(order_id = 7, user, ?items, "paid by {}", "card"); // paid by card order_id=7 user=ann items=["lamp"]
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
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Error, &$crate::log_line!([] $($line)+)) };
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
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Warn, &$crate::log_line!([] $($line)+)) };
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
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Info, &$crate::log_line!([] $($line)+)) };
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
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Debug, &$crate::log_line!([] $($line)+)) };
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
    ($($line:tt)+) => { $crate::log::write($crate::log::Level::Trace, &$crate::log_line!([] $($line)+)) };
}

/// The text of a line. The fields are gathered between the brackets until the message begins.
#[doc(hidden)]
#[macro_export]
macro_rules! log_line {
    ([$($done:tt)*] $name:ident = ?$value:expr, $($rest:tt)+) => {
        $crate::log_line!([$($done)* ($name "{:?}" $value)] $($rest)+)
    };
    ([$($done:tt)*] $name:ident = %$value:expr, $($rest:tt)+) => {
        $crate::log_line!([$($done)* ($name "{}" $value)] $($rest)+)
    };
    ([$($done:tt)*] $name:ident = $value:expr, $($rest:tt)+) => {
        $crate::log_line!([$($done)* ($name "{}" $value)] $($rest)+)
    };
    ([$($done:tt)*] ?$name:ident, $($rest:tt)+) => { $crate::log_line!([$($done)* ($name "{:?}" $name)] $($rest)+) };
    ([$($done:tt)*] %$name:ident, $($rest:tt)+) => { $crate::log_line!([$($done)* ($name "{}" $name)] $($rest)+) };
    ([$($done:tt)*] $name:ident, $($rest:tt)+) => { $crate::log_line!([$($done)* ($name "{}" $name)] $($rest)+) };
    ([$(($name:ident $form:literal $value:expr))*] $($message:tt)+) => {
        [
            ::std::format!($($message)+),
            $(::std::format!(::std::concat!(" ", ::std::stringify!($name), "=", $form), $value)),*
        ]
        .concat()
    };
}

#[cfg(test)]
mod tests {
    use crate::test::{Bench, example::HANDLER, record};
    use crate::{Failure, Handler, Record};

    fn log(_: &Record) -> Result<(), Failure> {
        let (user, items, x) = ("ann", ["lamp"], 5);
        crate::info!("paid {}", x);
        crate::info!("paid {x} by {who:?}", who = user);
        crate::info!(concat!("paid", " {}"), x,);
        crate::warn!(order_id = 3 + 4, "paid {}", x);
        crate::error!(order_id = %7, user, "paid");
        crate::debug!(items = ?items.first(), %user, ?user, kind = 1, "{} of {x}", x);
        Ok(())
    }

    #[test]
    fn fields_end_the_line_and_a_line_without_them_is_as_before() {
        static LOGGING: Handler = Handler { records: Some(log), ..HANDLER };
        let mut bench = Bench::new(&LOGGING);
        assert_eq!(bench.record(&record("payments")), Ok(()));
        let lines: Vec<&str> = bench.lines().iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "paid 5",
                "paid 5 by \"ann\"",
                "paid 5",
                "paid 5 order_id=7",
                "paid order_id=7 user=ann",
                "5 of 5 items=Some(\"lamp\") user=ann user=\"ann\" kind=1",
            ]
        );
    }
}
