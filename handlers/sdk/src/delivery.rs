//! The delivery itself: its clock, its randomness, its attempt. A second run of the same delivery sees the same.
//!
//! ```
//! # tidemill_sdk::test::example::run(|| {
//! use tidemill_sdk::{delivery, params, sql};
//!
//! let id = delivery::event_id().unwrap_or_default();
//! sql::execute("INSERT INTO payments VALUES (?1, 7, '25.00', ?2)", params![id, delivery::now()])?;
//! # Ok(()) });
//! ```

use crate::{Time, host};

/// The time at which this attempt started. It stands still while the delivery runs.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{Time, delivery};
/// let now = delivery::now();
/// let tomorrow = Time::from_millis(now.millis() + 24 * 60 * 60 * 1000);
/// assert!(delivery::now() == now && tomorrow > now);
/// # Ok(()) });
/// ```
pub fn now() -> Time {
    Time::from_millis(host::now())
}

/// The next random bytes, at most 64 KiB at a time.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::delivery;
/// let coupon: String = delivery::random(4).iter().map(|byte| format!("{byte:02X}")).collect();
/// assert_eq!(coupon.len(), 8);
/// # Ok(()) });
/// ```
pub fn random(len: u32) -> Vec<u8> {
    host::random(len)
}

/// Which attempt this is, from 1.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{delivery, warn};
/// if delivery::attempt() > 1 {
///     warn!("attempt {}", delivery::attempt());
/// }
/// # Ok(()) });
/// ```
pub fn attempt() -> u32 {
    host::attempt()
}

/// The id by which the inbox knows this input, when it has one.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{Failure, delivery};
/// let id = delivery::event_id().ok_or_else(|| Failure::reject("a payment needs an id"))?;
/// assert_eq!(id, "evt-1");
/// # Ok(()) });
/// ```
pub fn event_id() -> Option<String> {
    host::event_id()
}

/// The type of the event that the record carries, from where `event-type`, or else `envelope`, in `handler.toml` says that it is. For a
/// function for each type there is [`events`](mod@crate::events).
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{delivery, info};
/// if delivery::event_type().as_deref() == Some("ORDER_ARCHIVED") {
///     info!("it needs no answer");
/// }
/// # Ok(()) });
/// ```
pub fn event_type() -> Option<String> {
    host::event_type()
}

/// The version of that event's schema, from where `event-version`, or else `envelope`, says.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::delivery;
/// let amounts_are_in_cents = delivery::event_version().as_deref() == Some("2");
/// # let _ = amounts_are_in_cents;
/// # Ok(()) });
/// ```
pub fn event_version() -> Option<String> {
    host::event_version()
}
