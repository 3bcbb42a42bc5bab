//! What a Tidemill handler is written with.
//!
//! A handler is a crate of type `cdylib` that calls [`handler!`] once and is built for `wasm32-wasip2`; the result
//! is one `.wasm` file with manifest and migrations inside. Everything a handler does goes through this crate: it
//! reads [`Record`]s and HTTP [`Request`](http::Request)s, writes with [`sql`], publishes with
//! [`publisher::Event`], and ends with `Ok` or a [`Failure`].
//!
//! The same source runs natively: compiled for any other target, the functions here work on a
//! [`test::Bench`], so that handlers are unit-tested with plain `cargo test`, no broker and no daemon.
//!
//! ```
//! use tidemill_sdk::{Failure, Record, params, sql};
//!
//! #[derive(serde::Deserialize)]
//! struct Greeting {
//!     name: String,
//! }
//!
//! fn greet(record: &Record) -> Result<(), Failure> {
//!     let greeting: Greeting = record.json()?;
//!     sql::execute("INSERT INTO greeted (name) VALUES (?1)", params![greeting.name])?;
//!     Ok(())
//! }
//! ```
//!
//! # What a handler can do, by example
//!
//! - [A route with path parameters and a query](guide#a-route-with-path-parameters-and-a-query)
//! - [A delayed event](guide#a-delayed-event) and [a timer](guide#a-timer), [work at set times](guide#work-at-set-times)
//! - [A synchronous send](guide#a-synchronous-send)
//! - [A call to a service outside](guide#a-call-to-a-service-outside)
//! - [Compensation](guide#compensation)
//! - [Configuration and secrets](guide#configuration-and-secrets)
//! - [Batches](guide#batches), and why there is no need for them
//! - [CloudEvents](cloud_event), [rows as structs](sql::query), [columns of every type](sql::Value),
//!   [acting only once](sql::execute#acting-only-once), [log lines with fields](log), [a bench for tests](mod@test)
//!
//! # Two rules
//!
//! Two rules follow from the host's promise that a delivery is a function of its input and its store, and may run
//! again at any time: keep nothing in statics, and take time and randomness from [`delivery`].

pub mod guide;
mod handler;
pub mod record;
pub mod events;
pub mod cloud_event;
pub mod http;
pub mod compensation;
mod failure;
pub mod sql;
pub mod publisher;
pub mod sends;
pub mod timers;
pub mod outbound;
pub mod config;
pub mod delivery;
pub mod log;
pub mod time;
pub mod json;
#[doc(hidden)]
pub mod section;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;
#[cfg(target_arch = "wasm32")]
use component as host;

#[cfg(not(target_arch = "wasm32"))]
pub mod test;
#[cfg(not(target_arch = "wasm32"))]
use test::delivery as host;

pub use cloud_event::CloudEvent;
pub use failure::Failure;
pub use handler::{Answer, Compensate, Completed, Fire, Handle, Handler};
pub use record::Record;
pub use rust_decimal::Decimal;
pub use time::Time;
