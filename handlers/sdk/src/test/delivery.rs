//! What the functions of this crate do natively: they work on the delivery that a bench runs on this thread.
//!
//! The names and types are those of `component.rs`, which stands here when a handler is built for wasm.
#![allow(clippy::panic, reason = "outside of a bench there is nothing these functions could work on")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::manifest::Grant;
use super::store::Store;
use super::{Published, Service, Via};
use crate::Time;
use crate::log::Level;
use crate::outbound::{self, ErrorKind as CallError};
use crate::publisher::{self, Enqueued, ErrorKind, Receipt};
use crate::sql::{self, Rows, Value};

/// One delivery under way.
pub(super) struct Delivery {
    pub(super) store: Store,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) destinations: BTreeMap<String, String>,
    /// Rows changed before it began.
    pub(super) changes_before: u64,
    pub(super) grant: Grant,
    pub(super) service: Option<Service>,
    /// Why Kafka takes nothing, if it does not.
    pub(super) refusal: Option<String>,
    pub(super) reads: bool,
    pub(super) now: Time,
    pub(super) attempt: u32,
    /// Counts the bench's deliveries, from 1. Ids and random bytes derive from it.
    pub(super) number: u32,
    /// Random numbers drawn so far.
    pub(super) drawn: u64,
    pub(super) event_id: Option<String>,
    /// The type and the version of the record's event.
    pub(super) event: (Option<String>, Option<String>),
    pub(super) events: Vec<Published>,
    pub(super) lines: Vec<(Level, String)>,
}

impl Delivery {
    fn next_id(&self) -> String {
        format!("{:08x}-0000-8000-8000-{:012x}", self.number, self.events.len() + 1)
    }
}

thread_local! {
    static UNDER_WAY: RefCell<Option<Delivery>> = const { RefCell::new(None) };
}

/// Runs a handler's function with this delivery under way.
pub(super) fn run<T>(delivery: Delivery, function: impl FnOnce() -> T) -> (T, Delivery) {
    UNDER_WAY.set(Some(delivery));
    let returned = function();
    match UNDER_WAY.take() {
        Some(delivery) => (returned, delivery),
        None => panic!("a delivery must not run within another one on the same thread"),
    }
}

fn with<T>(work: impl FnOnce(&mut Delivery) -> T) -> T {
    UNDER_WAY.with_borrow_mut(|delivery| match delivery {
        Some(delivery) => work(delivery),
        None => panic!("only a delivery can do this: run the handler on a `tidemill_sdk::test::Bench`"),
    })
}

pub(crate) fn execute(statement: &str, params: Vec<Value>) -> Result<u64, sql::Error> {
    with(|delivery| delivery.store.execute(statement, params))
}

pub(crate) fn query(statement: &str, params: Vec<Value>) -> Result<Rows, sql::Error> {
    with(|delivery| delivery.store.query(statement, params))
}

pub(crate) fn next_id() -> String {
    with(|delivery| delivery.next_id())
}

/// The longest time, in milliseconds, that an event may be due ahead.
const DELAY_MAX_MS: i64 = 365 * 24 * 60 * 60 * 1_000;

pub(crate) fn enqueue(event: Enqueued) -> Result<String, publisher::Error> {
    put(event, None, Via::Outbox)
}

pub(crate) fn enqueue_at(event: Enqueued, due: i64) -> Result<String, publisher::Error> {
    let ahead = due.saturating_sub(now());
    if ahead > DELAY_MAX_MS {
        let message = "an event may be due 365 days after the delivery at most".to_owned();
        return Err(publisher::Error { kind: ErrorKind::Limit, message });
    }
    put(event, (ahead > 0).then(|| Time::from_millis(due)), Via::Outbox)
}

pub(crate) fn enqueue_after(event: Enqueued, delay_ms: u64) -> Result<String, publisher::Error> {
    enqueue_at(event, now().saturating_add_unsigned(delay_ms))
}

/// A send that Kafka has not taken: the delivery ends with it, as it does in the host.
pub(super) struct NotSent(pub(super) String);

pub(crate) fn send(event: Enqueued) -> Result<Receipt, publisher::Error> {
    let id = put(event, None, Via::Send)?;
    let sent = with(|delivery| match delivery.refusal.clone() {
        Some(reason) => {
            delivery.events.pop();
            Err(NotSent(reason))
        }
        None => Ok(Receipt { id, partition: 0, offset: delivery.events.len() as i64 - 1 }),
    });
    sent.map(Ok).unwrap_or_else(|refused| std::panic::resume_unwind(Box::new(refused)))
}

pub(crate) fn send_async(event: Enqueued) -> Result<String, publisher::Error> {
    let id = put(event, None, Via::SendAsync)?;
    with(|delivery| {
        if delivery.refusal.is_some() {
            delivery.events.pop();
        }
    });
    Ok(id)
}

fn put(event: Enqueued, due: Option<Time>, via: Via) -> Result<String, publisher::Error> {
    let refused = |kind, message: String| Err(publisher::Error { kind, message });
    with(|delivery| {
        if delivery.reads {
            return refused(ErrorKind::ReadOnly, "a request that only reads cannot publish".into());
        }
        let Some(topic) = delivery.destinations.get(&event.destination).cloned() else {
            return refused(
                ErrorKind::Destination,
                format!("[publish] in handler.toml has no destination `{}`", event.destination),
            );
        };
        let id = event.id.unwrap_or_else(|| delivery.next_id());
        let twice = |other: &Published| other.id == id && (via, other.via) == (Via::Outbox, Via::Outbox);
        if id.is_empty() || delivery.events.iter().any(twice) {
            return refused(ErrorKind::Id, format!("the event id `{id}` is empty or used already"));
        }
        delivery.events.push(Published {
            destination: event.destination,
            topic,
            id: id.clone(),
            event_type: event.event_type,
            key: event.key,
            value: event.value,
            headers: event.headers,
            due,
            via,
        });
        Ok(id)
    })
}

pub(crate) fn call(request: outbound::Request) -> Result<outbound::Response, outbound::Error> {
    let refused = |kind, message: String| Err(outbound::Error { kind, message });
    let service = with(|delivery| {
        if !delivery.grant.covers(&request.url) {
            return refused(
                CallError::Denied,
                format!("[grant] in handler.toml does not name the host of {}", request.url),
            );
        }
        if delivery.reads {
            return refused(CallError::ReadOnly, "a request that only reads cannot call".into());
        }
        if delivery.events.iter().any(|event| event.via != Via::SendAsync)
            || delivery.store.changes() != delivery.changes_before
        {
            return refused(CallError::Late, "the delivery has written already: call first, then write".into());
        }
        Ok(delivery.service)
    })?;
    match service {
        Some(service) => service(&request),
        None => panic!("{} {} is called: say with `Bench::service` what it answers", request.method, request.url),
    }
}

pub(crate) fn setting(name: &str) -> Option<String> {
    with(|delivery| delivery.settings.get(name).or_else(|| delivery.secrets.get(name)).cloned())
}

pub(crate) fn settings() -> Vec<(String, String)> {
    with(|delivery| delivery.settings.clone().into_iter().collect())
}

pub(crate) fn log(level: Level, message: &str) {
    with(|delivery| delivery.lines.push((level, message.to_owned())));
}

pub(crate) fn now() -> i64 {
    with(|delivery| delivery.now.millis())
}

/// SplitMix64, seeded with the delivery's number.
pub(crate) fn random(len: u32) -> Vec<u8> {
    with(|delivery| {
        let mut bytes = Vec::new();
        while bytes.len() < len as usize {
            delivery.drawn += 1;
            let seed = (u64::from(delivery.number) << 32).wrapping_add(delivery.drawn);
            let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
        }
        bytes.truncate(len as usize);
        bytes
    })
}

pub(crate) fn attempt() -> u32 {
    with(|delivery| delivery.attempt)
}

pub(crate) fn event_id() -> Option<String> {
    with(|delivery| delivery.event_id.clone())
}

pub(crate) fn event_type() -> Option<String> {
    with(|delivery| delivery.event.0.clone())
}

pub(crate) fn event_version() -> Option<String> {
    with(|delivery| delivery.event.1.clone())
}
