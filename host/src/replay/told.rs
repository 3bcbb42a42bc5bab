//! What a replay has found, as JSON and as text.
//!
//! The names of its fields are kept from version to version. What depends on the machine or the hour of the replay is not in
//! it, so that two replays of the same are the same.

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::guest::{Effect, Statement};
use crate::id::short;
use crate::outbound::{Answer, Call};
use crate::rig::wire;
use crate::settings::units;

/// What became of a record on a version.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// The handler's name.
    pub handler: String,
    /// The artifact's version.
    pub artifact: String,
    /// The store that was copied; none if there was none.
    pub store: Option<String>,
    /// The record as the handler was given it.
    pub record: Json,
    /// What the delivery's clock said.
    pub at: String,
    /// Whose clock that is.
    pub clock: &'static str,
    /// From 1.
    pub attempt: u32,
    /// What the store has of it already.
    pub before: Before,
    /// Whether the store has read the record's topic: ids and random numbers are those of the daemon then.
    pub topic_known: bool,
    /// Migrations that were run first.
    pub migrations: Vec<String>,
    /// `done`, or how it failed.
    pub outcome: String,
    /// What the failure says.
    pub error: Option<String>,
    /// What would follow the failure.
    pub next: Option<String>,
    /// The handler's statements, in their order.
    pub statements: Vec<Json>,
    /// What it published.
    pub events: Vec<Json>,
    /// What it called, and what it was answered.
    pub calls: Vec<Json>,
    /// Tries of calls for which there was no answer.
    pub unanswered: Vec<Json>,
    /// What it logged.
    pub log: Vec<Json>,
}

/// What a store has of a record before it is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// Nothing.
    New,
    /// It waits for its next attempt.
    Waits,
    /// Its effects.
    Done,
    /// Its effects, or nothing since it was given up on.
    Passed,
}

/// A statement as JSON.
pub(super) fn statement(statement: &Statement) -> Json {
    let params: Json = statement.params.iter().cloned().map(wire::cell).collect();
    let (key, value) = match &statement.effect {
        Effect::Changed(rows) => ("changed", json!(rows)),
        Effect::Returned(rows) => ("returned", json!(rows)),
        Effect::Refused(message) => ("refused", json!(message)),
        Effect::Ended => ("ended", json!(true)),
    };
    json!({ "sql": statement.sql, "params": params, key: value })
}

/// A call and its answer as JSON.
pub(super) fn call(call: &Call, answer: &Answer) -> Json {
    let answered = match answer {
        Ok(response) => json!({ "status": response.status, "body": wire::text(Some(&response.body)) }),
        Err(error) => json!({ "error": error.message }),
    };
    json!({ "method": call.method(), "url": call.url(), "body": wire::text(Some(call.body())), "answered": answered })
}

impl Told {
    /// For people: what was run, and what came of it.
    pub fn text(&self) -> String {
        let field = |key: &str| self.record.get(key).map(shown).unwrap_or_default();
        let mut lines = vec![
            line(
                "record",
                &format!("{}/{}@{}, key {}", plain(&field("topic")), field("partition"), field("offset"), field("key")),
            ),
            line("version", &format!("{} of handler {}", short(&self.artifact), self.handler)),
            line(
                "store",
                &match &self.store {
                    Some(store) => format!("a copy of {store}"),
                    None => "an empty one, since the handler has none here".to_owned(),
                },
            ),
            line("clock", &format!("{} ({}), attempt {}", self.at, self.clock, self.attempt)),
        ];
        lines.push(line(
            "before",
            match self.before {
                Before::New => "the store has not come to it",
                Before::Waits => "it waits in the store for its next attempt",
                Before::Done => "the store has its effects already: what is shown comes on top of them",
                Before::Passed => "the store is past it: if it was done, its effects are there already",
            },
        ));
        if !self.topic_known {
            lines.push(line(
                "note",
                "the store has not read this topic: ids and random numbers are not those of the daemon",
            ));
        }
        lines.extend(self.migrations.iter().map(|name| line("migrated", name)));
        lines.push(self.effects());
        lines.join("\n")
    }

    /// What came of it, which is what two versions are compared by.
    pub fn effects(&self) -> String {
        let mut lines = vec![line(
            "outcome",
            &match &self.error {
                // Some begin with it.
                Some(error) if error.starts_with(&self.outcome) => error.clone(),
                Some(error) => format!("{}: {error}", self.outcome),
                None => self.outcome.clone(),
            },
        )];
        lines.extend(self.next.iter().map(|next| line("", next)));
        for statement in &self.statements {
            let get = |key: &str| statement.get(key);
            lines.push(line("sql", &words(get("sql").and_then(Json::as_str).unwrap_or_default())));
            if get("params").and_then(Json::as_array).is_some_and(|params| !params.is_empty()) {
                lines.push(line("", &get("params").map(shown).unwrap_or_default()));
            }
            lines.push(line(
                "",
                &match (get("changed"), get("returned"), get("refused")) {
                    (Some(rows), _, _) => format!("-> {rows} rows changed"),
                    (_, Some(rows), _) => format!("-> {rows} rows"),
                    (_, _, Some(message)) => format!("-> {}", message.as_str().unwrap_or_default()),
                    _ => "-> it ended the delivery".to_owned(),
                },
            ));
        }
        for event in &self.events {
            let get = |key: &str| event.get(key).map(shown).unwrap_or_default();
            let due = event.get("due").and_then(Json::as_i64);
            let due = due.map_or_else(String::new, |at| format!(", not before {}", units::show_time(at)));
            let via = match event.get("via").and_then(Json::as_str) {
                Some("outbox") | None => String::new(),
                Some(via) => format!(" ({via})"),
            };
            lines.push(line(
                "event",
                &format!(
                    "{} {}, key {}, id {}{due}{via}",
                    plain(&get("topic")),
                    plain(&get("type")),
                    get("key"),
                    plain(&get("id"))
                ),
            ));
            lines.push(line("", &event.get("value").map(text).unwrap_or_default()));
        }
        for call in &self.calls {
            let get = |key: &str| call.get(key).map(text).unwrap_or_default();
            lines.push(line("call", &format!("{} {}", get("method"), get("url"))));
            lines.push(line("", &call.get("answered").map(shown).unwrap_or_default()));
        }
        for logged in &self.log {
            let get = |key: &str| logged.get(key).map(text).unwrap_or_default();
            lines.push(line("log", &format!("{} {}", get("level"), get("message"))));
        }
        if !self.unanswered.is_empty() {
            lines.push(line("note", "calls without an answer failed: give one with --answer"));
        }
        lines.join("\n")
    }
}

fn line(label: &str, text: &str) -> String {
    format!("{label:<9} {text}").trim_end().to_owned()
}

/// As JSON, except that a text stands for itself.
fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| shown(value), str::to_owned)
}

fn shown(value: &Json) -> String {
    value.to_string()
}

/// Without its quotes.
fn plain(text: &str) -> &str {
    text.trim_matches('"')
}

/// On one line.
fn words(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}
