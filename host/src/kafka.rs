//! Kafka clients.

pub mod config;
mod native;
pub mod identity;
pub mod topics;
pub mod consumer;
pub mod dead_letter;

pub use native::headers;
