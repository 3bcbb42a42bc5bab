//! The host's own tables, `tm_*`, in each store.
//!
//! They are written only by the store's executor, inside the transaction of the group that causes the change,
//! so that what they say and what the handlers' tables say is one state. A person reads them with `sqlite3`.

pub mod schema;
pub mod age;
pub mod clock;
pub mod offset;
pub mod inbox;
pub mod pending;
pub mod timer;
pub mod pause;
pub mod crash;
pub mod outbox;
pub mod fallback;
pub mod letter;
pub mod stored;
pub mod request;
pub mod owners;
pub mod deployment;
pub mod probation;
pub mod encoding;
pub mod listing;

pub use schema::Identity;
