//! What the end-to-end tests stand on: the real daemon in a folder of its own, and the means to look at it from outside.
//!
//! The modules follow a test's way: a [`Sandbox`], a [`Daemon`] in it, requests and records that go in, the [`Store`]
//! and the topics where the effects show. It ends by its process id whatever it started, and never anything else; it
//! sleeps in one place only, [`wait`]. It panics where a test should fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails the test by panicking"
)]

pub mod wait;
pub mod component;
pub mod sandbox;
pub mod daemon;
pub mod http;
pub mod store;
pub mod kafka;
pub mod service;
pub mod collector;
pub mod authority;
pub mod issuer;
pub mod metrics;
pub mod prometheus;
pub mod picture;
pub mod dispatch;

pub use authority::Authority;
pub use collector::{Collector, Span};
pub use daemon::Daemon;
pub use http::{Call, Reply, http};
pub use issuer::Issuer;
pub use kafka::Kafka;
pub use kafka::client::{Client, Out, Rec};
pub use kafka::member::Member;
pub use kafka::transaction::Transactional;
pub use metrics::Metrics;
pub use prometheus::Prometheus;
pub use sandbox::{Sandbox, built, token};
pub use service::Service;
pub use store::Store;
pub use wait::{LONG, SOON, eventually, eventually_some};
