//! Proof: what must hold whatever goes wrong - kills, reloads, hostile handlers, rebalances, dead brokers, full disks.
//!
//! Short by default, so that it is part of `make test`; `make proof` sets `TIDEMILL_PROOF=full`. `ROUNDS` and
//! `RECORDS` set the length by hand, and `SEED` repeats the schedule that a run has printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a long one says how far it is"
)]

mod dice;
mod rig;
mod flow;
mod kill;
mod reload;
mod offender;
mod hostile;
mod sql;
mod identity;
mod rebalance;
mod broker;
mod outbox;
mod disk;
mod chaos;
mod shop;
