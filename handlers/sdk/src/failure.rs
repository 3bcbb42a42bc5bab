//! Why a record could not be handled. The variant decides what the host does next; the words are for people.

use std::fmt;
use std::time::Duration;

use crate::{publisher, sql};

/// What a handler of records returns when it could not do its work. The host drops whatever the delivery wrote or
/// enqueued.
///
/// `?` turns errors into failures by this rule: what would fail again in the same way is a [`Reject`](Self::Reject)
/// (JSON that does not fit, a statement that does not parse, a constraint, something denied), everything else is a
/// [`Retry`](Self::Retry). Where a handler knows better it says so: `.map_err(Failure::retry)?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work when tried again: counts as an attempt. After the last one the record is a dead letter.
    Retry {
        /// For people.
        message: String,
        /// Not before this long from now; `None` leaves it to the policy.
        after: Option<Duration>,
    },
    /// It will never work: the record becomes a dead letter now. The text says why.
    Reject(String),
    /// Something the handler depends on is down: nothing is counted, and the handler's records wait.
    Unavailable {
        /// For people.
        message: String,
        /// Not before this long from now; `None` leaves it to the policy.
        after: Option<Duration>,
    },
}

impl Failure {
    /// It may work when tried again.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::Retry { message: message.to_string(), after: None }
    }

    /// It will never work.
    pub fn reject(message: impl fmt::Display) -> Self {
        Self::Reject(message.to_string())
    }

    /// The record cannot be read at all: a rejection that the host tells apart, so that its policy can treat it
    /// otherwise.
    pub fn undecodable(message: impl fmt::Display) -> Self {
        Self::Reject(format!("undecodable: {message}"))
    }

    /// Something that the handler depends on is down.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::Unavailable { message: message.to_string(), after: None }
    }

    /// Not before this long from now. A rejection has no next time, and stays as it is.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        if let Self::Retry { after, .. } | Self::Unavailable { after, .. } = &mut self {
            *after = Some(time);
        }
        self
    }

    /// The words.
    pub fn message(&self) -> &str {
        match self {
            Self::Retry { message, .. } | Self::Reject(message) | Self::Unavailable { message, .. } => message,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Failure {}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::reject(error)
    }
}

impl From<sql::Error> for Failure {
    /// [`sql::ErrorKind::Other`] and [`sql::ErrorKind::Limit`] are retried; all other kinds are rejected.
    fn from(error: sql::Error) -> Self {
        match error.kind {
            sql::ErrorKind::Other | sql::ErrorKind::Limit => Self::retry(error),
            sql::ErrorKind::Statement
            | sql::ErrorKind::Constraint
            | sql::ErrorKind::Denied
            | sql::ErrorKind::ReadOnly
            | sql::ErrorKind::Decode => Self::reject(error),
        }
    }
}

impl From<publisher::Error> for Failure {
    /// Always rejected: whatever the outbox refuses, it refuses again.
    fn from(error: publisher::Error) -> Self {
        Self::reject(error)
    }
}
