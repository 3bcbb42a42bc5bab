//! What a test says for the services outside, and when it has the process killed.

use serde_json::{Value as Json, json};
use tidemill_sdk::http::Response;

use crate::wire;

/// What becomes of one try of a call to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The service answers.
    Answer(Response),
    /// It does not answer in time.
    Timeout,
    /// There is no connection.
    Unreachable,
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Answer(response)
    }
}

impl Reply {
    pub(crate) fn write(&self) -> Json {
        match self {
            Self::Answer(Response { status, headers, body }) => {
                let headers: Json = headers.iter().map(|(name, value)| json!([name, wire::text(value)])).collect();
                json!({ "answer": { "status": status, "headers": headers, "body": wire::text(body) } })
            }
            Self::Timeout => "timeout".into(),
            Self::Unreachable => "unreachable".into(),
        }
    }
}

/// A moment that is worth being killed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The handler has run, and nothing is committed.
    Delivered,
    /// The transaction is about to commit.
    Committing,
    /// It has committed, and nobody knows.
    Committed,
    /// Kafka has an event, whose row is still in the outbox.
    Acknowledged,
    /// A record waits for a call, which is about to be made.
    SetAside,
    /// The migrations of a version have run, and it is not live.
    Migrated,
    /// A version is live in the store, and nowhere else.
    Switched,
}

impl Moment {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Acknowledged => "acknowledged",
            Self::SetAside => "set-aside",
            Self::Migrated => "migrated",
            Self::Switched => "switched",
        }
    }
}
