//! How a record ended, as far as it has.

use serde_json::Value as Json;
use tidemill_sdk::Time;

use crate::wire::{number, string};

/// How a record has ended so far: what the store says of it once nothing is left to do at the rig's time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Its rows, its events and the step past its offset are committed.
    Done,
    /// The inbox knew its event id: the handler did not run.
    Duplicate,
    /// It has not run yet: another record, or a call, is before it.
    Waiting,
    /// It failed, and is tried again.
    Retry {
        /// Attempts that were made.
        attempts: u32,
        /// When the next one is.
        due: Time,
        /// Why the last one failed.
        error: String,
    },
    /// What it needs is down: nothing is counted, and the handler's records wait.
    Unavailable {
        /// What the handler said.
        error: String,
    },
    /// It was given up on.
    DeadLetter {
        /// The topic that it went to.
        topic: String,
        /// Attempts that were made.
        attempts: u32,
        /// Why the last one failed.
        error: String,
    },
    /// It was given up on, and its compensation is still to be done.
    Compensating,
    /// Not even its dead letter topic, or its compensation, has taken it.
    Fallback {
        /// Why.
        cause: String,
    },
}

impl Ended {
    pub(crate) fn read(json: &Json) -> Self {
        let error = string(json, "error");
        let attempts = u32::try_from(number(json, "attempts")).unwrap_or_default();
        match string(json, "ended").as_str() {
            "done" => Self::Done,
            "duplicate" => Self::Duplicate,
            "waiting" => Self::Waiting,
            "retry" => Self::Retry { attempts, due: Time::from_millis(number(json, "due")), error },
            "unavailable" => Self::Unavailable { error },
            "dead-letter" => Self::DeadLetter { topic: string(json, "topic"), attempts, error },
            "compensating" => Self::Compensating,
            "fallback" => Self::Fallback { cause: error },
            other => panic!("`tidemill rig` says that a record ended as \"{other}\": is it newer than this crate?"),
        }
    }

    /// Why it did not end well, as the handler or the host has said it; empty if it did.
    ///
    /// ```
    /// # use tidemill_test::Ended;
    /// let ended = Ended::DeadLetter { topic: "orders.DLT".into(), attempts: 3, error: "no such order".into() };
    /// assert_eq!(ended.error(), "no such order");
    /// assert_eq!(Ended::Done.error(), "");
    /// ```
    pub fn error(&self) -> &str {
        match self {
            Self::Retry { error, .. } | Self::Unavailable { error } | Self::DeadLetter { error, .. } => error,
            Self::Fallback { cause } => cause,
            Self::Done | Self::Duplicate | Self::Waiting | Self::Compensating => "",
        }
    }
}
