//! Tests of a handler as the `.wasm` that is deployed, with no Kafka and no daemon.
//!
//! A [`Rig`] is a process of `tidemill rig`: the daemon's own executor, policy and SQLite store with one handler, where the test
//! is Kafka, the clock and the services outside. Time stands still until the test lets it go on, so a retry of ten minutes
//! takes none; the process can be closed, or killed at any moment, and goes on with its store.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use serde_json::json;
//! use tidemill_sdk::params;
//! use tidemill_sdk::test::record;
//! use tidemill_test::{Ended, Rig};
//!
//! let mut rig = Rig::new("notification");
//! let event = json!({ "eventId": "e-1", "eventType": "ORDER_PAID", "orderId": 1, "userId": "7", "totalAmount": "5" });
//! let paid = record("order-events").with_key("1").with_json(&event);
//! assert_eq!(rig.record(&paid), Ended::Done);
//! assert_eq!(rig.record(&paid), Ended::Duplicate);
//! rig.kill();
//! assert_eq!(rig.query::<i64>("SELECT count(*) FROM notifications", params![]), [1]);
//! rig.advance(Duration::from_secs(600));
//! ```
//!
//! [`Daemon`] is the daemon itself with its embedded broker, for a test of several handlers together.
//!
//! Records, requests, answers and published events are the types of `tidemill_sdk::test`, so what is written for a native bench
//! reads the same here. The binary is `tidemill` in `PATH`, or what `TIDEMILL_BIN` names; a handler's name stands for its file in the folder
//! `TIDEMILL_WASM`, or in `target/wasm32-wasip2` of this folder or one above it. What cannot go on ends the test, with the reason.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a rig is part of a test: what cannot go on ends it, with the reason"
)]

mod rig;
mod builder;
mod ended;
mod look;
mod outside;
mod line;
mod process;
mod wire;
mod daemon;

pub use builder::Builder;
pub use daemon::Daemon;
pub use ended::Ended;
pub use look::{DeadLetter, Error, Fallback, Pending};
pub use outside::{Moment, Reply};
pub use rig::Rig;
