//! Tidemill: business logic as WebAssembly components on Kafka records, with every effect of a record committed once.
//!
//! The modules stand in the order in which a record meets them.

pub mod host;
pub mod settings;
pub mod record;
pub mod broker;
pub mod kafka;
pub mod http;
pub mod policy;
pub mod schedule;
pub mod lane;
pub mod executor;
pub mod guest;
pub mod outbound;
pub(crate) mod fetch;
pub mod store;
pub mod relay;
pub mod deploy;
pub mod ledger;
pub mod rig;
pub mod replay;
pub mod backup;
pub mod lineage;
pub mod id;
pub mod clock;
pub mod thread;
pub mod fault;
pub mod scratch;
pub mod telemetry;
pub mod trace;
pub mod metrics;
pub mod project;
pub mod cli;
