//! Behaviour from outside: the daemon as an operator runs it, held up to the requirements' rows.
//!
//! Each test starts a daemon of its own; its name begins with the row or the invariant that it shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod rig;
mod sender;
mod orders;
mod http;
mod http_tls;
mod jwks;
mod rate_limits;
mod admin_api;
mod openapi;
mod envelopes;
mod events;
mod outbox;
mod backup;
mod trace_event;
mod records_tail;
mod export;
mod manual_events;
mod delayed;
mod timers;
mod insight;
mod read_back;
mod flow;
mod topics;
mod reading;
mod transactions;
mod kafka_security;
mod members;
mod groups;
mod metrics;
mod monitoring;
mod drill;
mod status;
mod doctor;
mod tracing;
mod signals;
mod commerce;
mod standby;
mod crash;
mod dead_letters;
mod policy;
mod order;
mod circuit;
mod compensation;
mod saga;
mod history;
mod mailings;
mod outbound;
mod feed;
mod destinations;
mod fallback;
mod spring;
mod duplicates;
mod files;
mod reload;
mod deploying;
mod safe_switch;
mod replay;
mod resetting;
mod pausing;
mod dlt;
mod stored;
mod put_back;
mod guard;
mod limits;
mod grants;
mod secrets;
mod canary;
mod instances;
mod clock;
mod contract;
mod bad_files;
mod bad_starts;
mod handler_tests;
mod project;
mod readme;
mod map;
mod security_md;
mod empty;
