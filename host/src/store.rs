//! One SQLite database: the handlers' tables and the host's own (`tm_*`).
//!
//! Its invariant: SQL of a guest never runs with the host's rights, and sees only the delivery's own clock and
//! randomness. Nothing of rusqlite is visible outside this module, and it knows no handler, record or policy.

pub mod value;
pub mod error;
pub mod connection;
pub mod rights;
mod authorizer;
mod functions;
mod surroundings;

pub use connection::Connection;
pub use connection::row::Row;
pub use error::{Error, Kind};
pub use value::{Rows, Value};
