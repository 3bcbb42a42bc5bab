//! The dead letters of the handlers: what is asked of them, and what is answered.
//!
//! They are found in Kafka (`finding`), told of with what the stores have noted (`telling`), and put back or discarded (`doing`). Kafka is
//! only read: what is done is done by the store of a handler, and noted in it.

mod doing;
mod finding;
mod telling;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::http::admin::body::{object, whole};
use crate::ledger::letter::Fate;

/// By which cursors of dead letters are told from those of other listings.
pub const LISTING: &str = "dead-letters";

/// Which dead letters. Each part leaves out what it does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterSearch")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Search {
    /// Given up by this handler.
    pub handler: Option<String>,
    /// On this dead letter topic, or from this topic.
    pub topic: Option<String>,
    /// With this in the outcome or the message, in any case of letters.
    pub error: Option<String>,
    /// Written at this time or later, as in RFC 3339.
    pub since: Option<String>,
    /// Written before this time.
    pub until: Option<String>,
    /// With this key.
    pub key: Option<String>,
    /// With these headers, each `NAME=VALUE`.
    pub headers: Vec<String>,
    /// Also those that were replayed, published or discarded.
    pub all: bool,
    /// So many, 100 without it.
    #[serde(deserialize_with = "whole")]
    pub limit: Option<usize>,
    /// Goes on where an earlier part ended: its `next`, as it is.
    pub cursor: Option<String>,
}

/// A dead letter, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub struct Letter {
    /// `TOPIC/PARTITION@OFFSET`
    pub place: String,
    /// When it was written.
    pub written: Option<String>,
    /// The handler that gave it up, as far as there is one of that group.
    pub handler: Option<String>,
    /// The group that did.
    pub group: Option<String>,
    /// The place of the record that it was.
    pub of: Option<String>,
    /// The key, or `{"hex": "00ff"}` where it is no text.
    pub key: Json,
    /// How the last attempt ended.
    pub outcome: Option<String>,
    /// What went wrong then.
    pub message: Option<String>,
    /// What the operator has done with it.
    pub fate: Option<Fated>,
    /// Why it is no dead letter that could be replayed.
    pub problem: Option<String>,
}

/// What the operator has done with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fated {
    /// What.
    pub fate: Fate,
    /// To which handler, or of which.
    pub handler: String,
    /// Who.
    pub who: String,
    /// When.
    pub at: String,
}

/// All of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterDetail")]
pub struct Detail {
    /// In short.
    #[serde(flatten)]
    pub letter: Letter,
    /// The attempts of its record, the oldest first.
    pub attempts: Vec<Json>,
    /// When its record was written.
    pub timestamp: Option<String>,
    /// The headers that its record came with: names and values.
    pub headers: Json,
    /// The value: as JSON where it is that, else as text or in hexadecimal.
    pub value: Json,
}

/// What to do, and with which dead letters: those of these places, or those that are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterOrder")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Order {
    /// Each `TOPIC/PARTITION@OFFSET`.
    pub places: Vec<String>,
    /// Those that are found.
    #[serde(deserialize_with = "object")]
    pub matching: Option<Search>,
    /// To this handler, and not to the one that gave it up.
    pub on: Option<String>,
    /// To the topic that it came from, for every group that reads it.
    pub to_topic: bool,
    /// Once more, if it was done before.
    pub again: bool,
    /// Only say what it would do.
    pub dry_run: bool,
}

/// What became of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLettersHandled")]
pub struct Handled {
    /// Those that were named or found, in their order.
    pub letters: Vec<Outcome>,
    /// The `cursor` of `matching` for the next request, where there is more to look through.
    pub next: Option<String>,
}

/// What became of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterOutcome")]
pub struct Outcome {
    /// `TOPIC/PARTITION@OFFSET`
    pub place: String,
    /// The place of the record that it was.
    pub of: Option<String>,
    /// The handler that it went to, or whose it is.
    pub handler: Option<String>,
    /// Why nothing was done with it.
    pub error: Option<String>,
    /// What there is to say of it.
    pub note: Option<String>,
}
