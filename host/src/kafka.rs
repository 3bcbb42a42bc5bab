//! Kafka clients.

pub mod config;
pub mod login;
mod native;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod wait;
pub mod identity;
pub mod template;
pub mod topics;
pub(crate) mod release;
pub mod ends;
pub mod consumer;
pub mod scan;
pub mod tail;
pub mod dead_letter;
pub mod peek;
pub mod reader;
pub mod sender;
pub(crate) mod verdict;

pub use native::{Kept, headers};
