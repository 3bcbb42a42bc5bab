//! The HTTP front: requests from clients to handlers' routes, and answers back.
//!
//! A request reaches a handler only when its route exists, its token is good and its body is complete; it is
//! answered once, with the handler's response or with a problem (RFC 9457). This module opens no store and runs
//! no handler: a route's [`routes::Dispatch`] does, and an answer comes only after the commit.

pub mod admin;
mod client;
pub mod connection;
pub mod events;
mod inflight;
mod jwks;
pub mod jwt;
pub mod monitor;
mod problem;
mod rate;
mod request;
pub(crate) use request::is_hop_by_hop;
pub mod response;
pub mod routes;
pub mod secret;
mod token;
pub mod server;
pub mod tls;
mod traced;
mod unread;
#[cfg(test)]
mod tests;
