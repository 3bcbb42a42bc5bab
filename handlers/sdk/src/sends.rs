//! What became of events that were sent with [`Event::send_async`](crate::publisher::Event::send_async).
//!
//! A handler that names a function for `sends` in [`handler!`](crate::handler!) is told once for each, in a transaction of its
//! own: the receipt, or why the event is lost as far as is known. It is not told again where that function fails, and not at
//! all of what the daemon had under way when it ended. To try once more later, enqueue: what is sent again at once fails again
//! at once.
//!
//! ```
//! use tidemill_sdk::sends::Sent;
//! use tidemill_sdk::test::Bench;
//! # use tidemill_sdk::test::example::HANDLER;
//! use tidemill_sdk::{Failure, params};
//!
//! let mut bench = Bench::new(&HANDLER);
//! let sent = Sent { id: "e-1".into(), event_type: "REMINDED".into(), ..Sent::default() };
//! bench.completed(&sent, Err("no broker for 30 s".into()))?;
//! assert_eq!(bench.query::<String>("SELECT reason FROM unsent", params![]), ["no broker for 30 s"]);
//! # Ok::<(), Failure>(())
//! ```

use crate::record::Header;

/// An event that was sent.
///
/// ```
/// use tidemill_sdk::publisher::Receipt;
/// use tidemill_sdk::sends::Sent;
/// use tidemill_sdk::{Failure, params, sql};
///
/// /// A reminder that did not leave is shown to a person.
/// fn completed(sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
///     if let Err(reason) = outcome {
///         sql::execute("INSERT INTO unsent (id, reason) VALUES (?1, ?2)", params![&sent.id, reason])?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The name in `[publish]`.
    pub destination: String,
    /// Its id.
    pub id: String,
    /// For example `ORDER_CREATED`.
    pub event_type: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The handler's own headers.
    pub headers: Vec<Header>,
}
