//! Metrics: what the host counts while it works, and the page on which a scraper finds it.
//!
//! Its invariant: a number of deliveries is true of what was committed, and each series has a bounded number of values for each label -
//! routes and not paths, no keys, no ids. It never waits for a store's thread, writes nothing, and asks for nothing that
//! nobody has scraped.

pub mod families;
pub mod histogram;
pub mod meters;
pub mod page;
pub mod statistics;
pub mod ends;
pub mod gather;
pub mod health;
mod process;

pub use self::gather::Gatherer;
pub use self::page::{Format, Page};
