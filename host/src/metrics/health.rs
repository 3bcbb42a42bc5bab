//! Whether the daemon lives, and whether it is ready: the answers behind `/livez` and `/readyz`, with their reasons.
//!
//! It is ready when all that has to answer and to read does so: stores can be written, handlers are there with their routes and
//! consumers, nobody waits for another daemon. Kafka is not asked for that: while it is away requests are taken as ever, and records and
//! events wait. It lives unless a store's thread hangs; a restart helps against nothing else. It looks at memory only.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the daemon is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It waits for another one to end.
    Standby,
    /// It opens stores and deploys what is in the handlers folder.
    Starting,
    /// It runs.
    Running,
    /// It was told to stop.
    Stopping,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Standby, Self::Starting, Self::Running, Self::Stopping];

    fn sentence(self) -> Option<&'static str> {
        match self {
            Self::Standby => Some("it waits for the daemon that holds the data folder to end"),
            Self::Starting => Some("it opens its stores and deploys the handlers folder"),
            Self::Running => None,
            Self::Stopping => Some("it was told to stop"),
        }
    }
}

/// The stage, as it is now.
#[derive(Debug, Default)]
pub struct Now(AtomicU8);

impl Now {
    /// The daemon has come to this stage.
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    /// The stage that it has come to; at first it waits.
    pub fn get(&self) -> Stage {
        Stage::ALL.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or(Stage::Standby)
    }
}

/// What is known of a store.
#[derive(Clone, Debug)]
pub struct StoreState {
    /// Its name.
    pub name: String,
    /// Whether its last commit has failed.
    pub unwell: bool,
    /// Whether its outbox is full.
    pub outbox_full: bool,
    /// How long its thread has been at one thing.
    pub busy: Duration,
}

/// What is known of a handler.
#[derive(Clone, Debug)]
pub struct HandlerState {
    /// Its name.
    pub name: String,
    /// Why it does not do its work.
    pub trouble: &'static str,
}

/// Why an answer is no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// The store that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The handler that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// What is wrong, and what helps.
    pub reason: String,
}

impl Reason {
    fn plain(reason: &str) -> Self {
        Self { store: None, handler: None, reason: reason.to_owned() }
    }

    fn store(name: &str, reason: impl Into<String>) -> Self {
        Self { store: Some(name.to_owned()), handler: None, reason: reason.into() }
    }
}

/// The body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether it can do its work.
    pub ready: bool,
    /// What it is at.
    pub stage: Stage,
    /// Whether Kafka has answered of late; none where nobody has asked. Not a part of `ready`.
    pub kafka: Option<bool>,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// The body of `/livez`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Liveness {
    /// Whether it goes round.
    pub alive: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// Whether it is ready.
pub fn readiness(stage: Stage, stores: &[StoreState], handlers: &[HandlerState], kafka: Option<bool>) -> Readiness {
    let mut reasons: Vec<Reason> = stage.sentence().map(Reason::plain).into_iter().collect();
    for StoreState { name, unwell, outbox_full, .. } in stores {
        if *unwell {
            let why =
                "it cannot be written: free disk space, or check the disk and the data folder; the log has the error";
            reasons.push(Reason::store(name, why));
        }
        if *outbox_full {
            let why = "its outbox is full (outbox.max-rows): requests that write are refused until Kafka takes events";
            reasons.push(Reason::store(name, why));
        }
    }
    for HandlerState { name, trouble } in handlers {
        reasons.push(Reason { store: None, handler: Some(name.clone()), reason: (*trouble).to_owned() });
    }
    Readiness { ready: reasons.is_empty(), stage, kafka, reasons }
}

/// Whether it lives: no store's thread has been at one thing for as long as `stuck_after`.
pub fn liveness(stores: &[StoreState], stuck_after: Duration) -> Liveness {
    let stuck = |store: &&StoreState| store.busy >= stuck_after;
    let reason = |store: &StoreState| {
        let why = format!("its thread has been at one thing for {} s (metrics.stuck-after)", store.busy.as_secs());
        Reason::store(&store.name, why)
    };
    let reasons: Vec<Reason> = stores.iter().filter(stuck).map(reason).collect();
    Liveness { alive: reasons.is_empty(), reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> StoreState {
        StoreState { name: "shop".into(), unwell: false, outbox_full: false, busy: Duration::from_secs(7) }
    }

    #[test]
    fn s2_10_it_is_ready_when_it_runs_and_nothing_is_wrong_whether_kafka_is_there_or_not() {
        let well = readiness(Stage::Running, &[store()], &[], Some(false));
        assert!(well.ready && well.reasons.is_empty());
        for stage in [Stage::Standby, Stage::Starting, Stage::Stopping] {
            let waits = readiness(stage, &[store()], &[], Some(true));
            assert!(!waits.ready && waits.reasons.len() == 1, "{stage:?}");
        }
        let stores = [StoreState { unwell: true, outbox_full: true, ..store() }, store()];
        let handlers = [HandlerState { name: "mail".into(), trouble: "it does not read" }];
        let unwell = readiness(Stage::Running, &stores, &handlers, None);
        let about: Vec<_> = unwell.reasons.iter().map(|r| (r.store.as_deref(), r.handler.as_deref())).collect();
        assert_eq!(about, [(Some("shop"), None), (Some("shop"), None), (None, Some("mail"))]);
    }

    #[test]
    fn s2_10_it_lives_until_a_thread_has_been_at_one_thing_for_too_long() {
        assert!(liveness(&[store()], Duration::from_secs(8)).alive);
        let hung = liveness(&[store()], Duration::from_secs(7));
        assert!(!hung.alive && hung.reasons.iter().all(|reason| reason.store.as_deref() == Some("shop")), "{hung:?}");
    }

    #[test]
    fn a_stage_is_what_was_set_last() {
        let now = Now::default();
        assert_eq!(now.get(), Stage::Standby);
        for stage in Stage::ALL {
            now.set(stage);
            assert_eq!(now.get(), stage);
        }
    }
}
