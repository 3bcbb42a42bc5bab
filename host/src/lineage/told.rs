//! What a trace tells: as JSON, and as a tree for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traced {
    /// The id or the place that was asked for.
    pub asked: String,
    /// What it is, and all that it caused; `None` where nobody knows it.
    pub found: Option<Event>,
    /// Where it was looked for.
    pub looked: Vec<String>,
    /// What is not known, and why.
    pub notes: Vec<String>,
}

/// An event, or the record that it is on its topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TracedEvent")]
pub struct Event {
    /// Its id, if it says one.
    pub event_id: Option<String>,
    /// Its type.
    pub event_type: Option<String>,
    /// Where it is published to.
    pub topic: String,
    /// Where it is: `TOPIC/PARTITION@OFFSET`.
    pub place: Option<String>,
    /// Its timestamp, in RFC 3339.
    pub time: Option<String>,
    /// Whether it is on its topic.
    pub state: Found,
    /// Why it is not.
    pub error: Option<String>,
    /// Before when it is not published, in RFC 3339.
    pub due: Option<String>,
    /// Other places with the same id, as after a restart of the publisher.
    #[serde(default)]
    pub again: Vec<String>,
    /// Who published it, at the top of a tree, as far as the outbox still says.
    pub from: Option<String>,
    /// Whether it stands further up already, with what became of it.
    pub seen_above: bool,
    /// What each handler that reads the topic made of it.
    pub handlers: Vec<Became>,
}

/// Where an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TracedFound")]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// On its topic.
    #[default]
    Published,
    /// In the outbox.
    Waiting,
    /// In the fallback.
    Fallback,
    /// It was published, and was not found: by HTTP, or its topic has it no more.
    Gone,
}

/// What became of a record with one handler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TracedBecame")]
pub struct Became {
    /// The handler.
    pub handler: String,
    /// Its store.
    pub store: String,
    /// What became of it.
    pub fate: Fate,
    /// By which id its inbox knows it.
    pub event_id: Option<String>,
    /// When it was done, in RFC 3339.
    pub at: Option<String>,
    /// Attempts so far, where it waits.
    pub attempts: Option<u32>,
    /// When the next one is due, in RFC 3339.
    pub due: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
    /// Where its dead letter is.
    pub letter: Option<String>,
    /// The record with the same id that was done.
    pub duplicate_of: Option<String>,
    /// What it published; its dead letter too, where a handler reads that.
    pub events: Vec<Event>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TracedFate")]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Its effects are in the store.
    Done,
    /// It was passed over, since its event had been done.
    Duplicate,
    /// It waits for its next attempt.
    Pending,
    /// It was given up on, and waits to be compensated.
    Compensates,
    /// It was given up on, and is on a dead letter topic.
    DeadLetter,
    /// It was given up on, and its dead letter was refused too.
    Fallback,
    /// The handler has not come to it.
    #[default]
    NotRead,
    /// The handler is past it: done, by all that is known, and known by its offset alone.
    Passed,
    /// The handler is past it, and nobody knows any more what became of it.
    Forgotten,
}

impl Traced {
    /// The tree.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(found) = &self.found {
            found.draw("", "", &mut lines);
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.join("\n")
    }
}

impl Event {
    fn line(&self) -> String {
        let mut line = self.place.clone().unwrap_or_else(|| self.topic.clone());
        for part in [&self.time, &self.event_type, &self.event_id].into_iter().flatten() {
            line += &format!("  {part}");
        }
        line += match self.state {
            Found::Published => "",
            Found::Waiting => "  waits in the outbox",
            Found::Fallback => "  is in the fallback",
            Found::Gone => "  was published, and is not found any more",
        };
        line += &self.due.iter().map(|due| format!(" until {due}")).collect::<String>();
        line += &self.error.iter().map(|error| format!(": {error}")).collect::<String>();
        line += &self.again.iter().map(|place| format!(", again at {place}")).collect::<String>();
        line += &self.from.iter().map(|from| format!("  (published by {from})")).collect::<String>();
        line + if self.seen_above { "  (see above)" } else { "" }
    }

    fn draw(&self, first: &str, rest: &str, lines: &mut Vec<String>) {
        lines.push(format!("{first}{}", self.line()));
        for (n, handler) in self.handlers.iter().enumerate() {
            let (branch, below) = branch(n + 1 == self.handlers.len());
            handler.draw(&format!("{rest}{branch}"), &format!("{rest}{below}"), lines);
        }
    }
}

impl Became {
    fn line(&self) -> String {
        let name = &self.handler;
        let said =
            |text: &Option<String>, before: &str| text.iter().map(|text| format!("{before}{text}")).collect::<String>();
        match self.fate {
            Fate::Done => format!("{name}: done{}", said(&self.at, " at ")),
            Fate::Duplicate => format!("{name}: skipped, a duplicate of {}", said(&self.duplicate_of, "")),
            Fate::Pending => format!(
                "{name}: pending after {} attempts, {}{}",
                self.attempts.unwrap_or(0),
                self.due.as_ref().map_or_else(|| "behind another".to_owned(), |due| format!("next at {due}")),
                said(&self.error, ": ")
            ),
            Fate::Compensates => format!("{name}: waits to be compensated{}", said(&self.error, ": ")),
            Fate::DeadLetter => format!("{name}: dead letter in {}{}", said(&self.letter, ""), said(&self.error, ": ")),
            Fate::Fallback => format!("{name}: in the fallback{}", said(&self.error, ": ")),
            Fate::NotRead => format!("{name}: not read yet"),
            Fate::Passed => {
                format!("{name}: passed; it is known by its offset alone, and no dead letter of it is found")
            }
            Fate::Forgotten => {
                format!("{name}: passed, and not known any more: its inbox has no such id, and no dead letter is found")
            }
        }
    }

    fn draw(&self, first: &str, rest: &str, lines: &mut Vec<String>) {
        lines.push(format!("{first}{}", self.line()));
        for (n, event) in self.events.iter().enumerate() {
            let (branch, below) = branch(n + 1 == self.events.len());
            event.draw(&format!("{rest}{branch}"), &format!("{rest}{below}"), lines);
        }
    }
}

fn branch(last: bool) -> (&'static str, &'static str) {
    if last { ("`- ", "   ") } else { ("|- ", "|  ") }
}
