//! Handlers as WebAssembly components: the engine, what a component may call, and one delivery at a time.
//!
//! Its invariant: a guest can harm only its own delivery. It is cut off at its limits, a fresh instance serves
//! each delivery, and its state is thrown away with it, unless the handler has its instances reused. This module decides nothing about transactions or
//! retries; it says how a delivery ended, and the executor does the rest.

pub mod engine;
pub mod component;
pub mod delivery;
pub(crate) mod envelope;
pub(crate) mod event;
mod bindings;
mod convert;
pub mod encode;
mod imports;
pub mod outbound;
pub mod trial;
mod wasi;

pub use component::Component;
pub use delivery::{Context, Effect, Ended, Environment, Finished, LogLine, Sending, Statement, Trace, Warm};
pub use engine::Engine;
pub use outbound::Answers;
