//! What the host has given up on, for the handler to make good (a saga's compensation).
//!
//! A handler that names a function for `compensate` in [`handler!`](crate::handler!) is given each record that becomes a dead
//! letter, each timer that is given up on, and each event of its own that Kafka refuses for good. It runs in a transaction of its own, with attempts of its own, and
//! in the order of the key. Nothing here undoes anything by itself.
//!
//! ```
//! use tidemill_sdk::compensation::Input;
//! use tidemill_sdk::test::{Bench, record};
//! # use tidemill_sdk::test::example::HANDLER;
//! use tidemill_sdk::{Failure, params};
//!
//! // The order's payment has become a dead letter: the handler cancels the order.
//! let mut bench = Bench::new(&HANDLER);
//! bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
//! bench.compensate(&Input::Record(record("payments").with_key("7")), "the card was refused")?;
//! assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["CANCELLED"]);
//! # Ok::<(), Failure>(())
//! ```

use crate::Record;
use crate::record::Header;
use crate::timers::Timer;

/// What was given up on.
///
/// ```
/// use tidemill_sdk::compensation::Input;
/// use tidemill_sdk::publisher::Event;
/// use tidemill_sdk::{Failure, params, sql};
///
/// /// The payment could not be taken: the order is told.
/// fn compensate(input: &Input, reason: &str) -> Result<(), Failure> {
///     let Input::Record(record) = input else { return Ok(()) };
///     let order = record.key_str().unwrap_or_default();
///     sql::execute("UPDATE payments SET status = 'FAILED' WHERE order_id = ?1", params![order])?;
///     Event::new("payment-events", "PAYMENT_FAILED")
///         .key(order)
///         .json_with_id(|id| serde_json::json!({ "eventId": id, "orderId": order, "reason": reason }))
///         .enqueue()?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// A record whose attempts are used up, or that was rejected.
    Record(Record),
    /// A timer whose attempts are used up, or that was rejected.
    Timer(Timer),
    /// An event of this handler's that Kafka refuses for good.
    Event(LostEvent),
}

/// An event that could not be published.
///
/// ```
/// use tidemill_sdk::compensation::{Input, LostEvent};
/// use tidemill_sdk::{Failure, error};
///
/// /// Nobody was told that the order is paid.
/// fn compensate(input: &Input, reason: &str) -> Result<(), Failure> {
///     if let Input::Event(LostEvent { event_type, topic, source, .. }) = input {
///         error!("{topic} refuses the {event_type} of {source}: {reason}");
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostEvent {
    /// Its id.
    pub id: String,
    /// For example `ORDER_CREATED`.
    pub event_type: String,
    /// The topic that refused it.
    pub topic: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<Header>,
    /// What caused it, for people: `topic/partition@offset` of a record, or the route of a request.
    pub source: String,
}
