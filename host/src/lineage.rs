//! What one event caused, across handlers and stores: a tree of records, of what each handler made of them, and of the events that this
//! published.
//!
//! It is put together afterwards, from what Kafka and the stores keep anyway; nothing is written for it while records are handled. An
//! event's id follows from its input and a counter (`id`), so what a delivery has published is computed and looked for, also
//! when its rows are gone from the outbox. It reads, is bounded, and says where it no longer knows.

mod known;
pub mod told;

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Result;

use self::known::{Known, Record, Row, Store};
use self::told::{Became, Event, Fate, Found, Traced};
use crate::deploy::manifest::{EventId, Spec};
use crate::id::{InputId, Seed};
use crate::kafka::config::Connection;
use crate::ledger::pending::Purpose;
use crate::ledger::{offset, pending};
use crate::record;
use crate::settings::units;

/// Records in the tree at most.
const NODES: usize = 1_000;
/// Generations at most.
const DEPTH: usize = 20;

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An event's id.
    Event(String),
    /// A record's place: topic, partition and offset.
    Record(String, i32, i64),
}

impl Asked {
    /// `TOPIC/PARTITION@OFFSET`, or else an id.
    pub fn parse(text: &str) -> Self {
        let place = record::place(text);
        place.map_or_else(|| Self::Event(text.to_owned()), |(topic, p, offset)| Self::Record(topic, p, offset))
    }
}

/// Where to look.
pub struct Places {
    /// The handlers that run.
    pub specs: Vec<Spec>,
    /// The stores, by name.
    pub stores: Vec<(String, PathBuf)>,
    /// The cluster.
    pub kafka: Connection,
}

/// Traces a record or an event; `None` of [`Traced::found`] where nobody knows it.
///
/// # Errors
/// A store cannot be read. A cluster that does not answer is a note in what is told.
pub fn trace(places: &Places, text: &str) -> Result<Traced> {
    let asked = Asked::parse(text);
    let known = Known::load(places, &asked)?;
    let mut walk = Walk { places, known: &known, seen: HashSet::new(), left: NODES, cut: false };
    let found = match &asked {
        Asked::Record(topic, partition, offset) => {
            known.at(topic, *partition, *offset).map(|record| walk.record(record, 0)).transpose()?
        }
        Asked::Event(id) => walk.event(id, 0)?,
    };
    let mut notes = known.notes.clone();
    if walk.cut {
        notes.push(format!(
            "the tree is cut at {NODES} records and {DEPTH} generations: trace one of its last events to go on"
        ));
    }
    Ok(Traced { asked: text.to_owned(), found, looked: known.looked.clone(), notes })
}

struct Walk<'a> {
    places: &'a Places,
    known: &'a Known,
    /// Records that are in the tree already.
    seen: HashSet<(String, i32, i64)>,
    left: usize,
    cut: bool,
}

impl Walk<'_> {
    /// An event, by its id; `None` where nobody knows it.
    fn event(&mut self, id: &str, depth: usize) -> Result<Option<Event>> {
        let row = self.known.rows.iter().find(|row| row.event_id == id && row.is_event());
        let mut records = self.known.with_id(id);
        if let Some(row) = row {
            // An event may have been given the id of another, as that of its cause.
            records.retain(|record| record.topic == row.topic);
        }
        let Some((first, again)) = records.split_first() else {
            return Ok(row.map(|row| Event { from: Some(from(row)), ..waiting(row) }));
        };
        let mut event = self.record(first, depth)?;
        event.again = again.iter().map(|record| record.place()).collect();
        event.from = row.map(from);
        Ok(Some(event))
    }

    /// A record, and what became of it.
    fn record(&mut self, record: &Record, depth: usize) -> Result<Event> {
        let mut event = Event {
            event_id: record.event_id.clone(),
            event_type: record.event_type.clone(),
            topic: record.topic.clone(),
            place: Some(record.place()),
            time: record.time.map(units::show_time),
            state: Found::Published,
            ..Event::default()
        };
        if !self.seen.insert((record.topic.clone(), record.partition, record.offset)) {
            event.seen_above = true;
            return Ok(event);
        }
        if depth >= DEPTH || self.left == 0 {
            self.cut = true;
            return Ok(event);
        }
        self.left -= 1;
        let places = self.places;
        for spec in &places.specs {
            if let Some(store) = self.known.store_of(spec)
                && store.reads(spec, &record.topic)?
            {
                event.handlers.push(self.became(spec, store, record, depth)?);
            }
        }
        Ok(event)
    }

    /// What became of a record with a handler.
    fn became(&mut self, spec: &Spec, store: &Store, record: &Record, depth: usize) -> Result<Became> {
        let (name, place) = (spec.name.as_str(), record.place());
        let stored = offset::find(&store.connection, name, &record.topic, record.partition)?;
        let rows = pending::Rows {
            connection: &store.connection,
            handler: name,
            topic: &record.topic,
            partition: record.partition,
        };
        let waits = rows.at(record.offset)?;
        let mut became = Became { handler: name.to_owned(), store: spec.store.clone(), ..Became::default() };
        let topic_id = waits.as_ref().map(|waits| &waits.topic_id).or(stored.as_ref().map(|stored| &stored.topic_id));
        let Some(topic_id) = topic_id.cloned() else {
            became.fate = Fate::NotRead;
            return Ok(became);
        };
        let input = InputId::Record { topic_id, partition: record.partition, offset: record.offset };
        let seed = Seed::derive(store.secret.as_bytes(), name, &input);
        let own = |row: &&Row| row.store == spec.store && row.handler == name && row.source == place;
        let letter = seed.dead_letter_id(record.time.unwrap_or(0)).to_string();
        let kept = self.known.rows.iter().find(|row| own(row) && !row.is_event() && row.cause.is_some());
        let letter_row = self.known.rows.iter().find(|row| row.event_id == letter && row.cause.is_none());
        let letter = self.known.letter(&record.topic, record.partition, record.offset, &spec.group);
        let id = record.ids.iter().find(|(of, _)| of == name).map(|(_, id)| id.as_str());
        let done_at = id.and_then(|id| store.done.get(&(name.to_owned(), id.to_owned())).copied());
        became.events = self.published(&seed, record, &own, spec.limits.events, depth)?;
        let first = id.and_then(|id| self.known.first_with(name, id, &spec.group));
        became.event_id = id.map(str::to_owned);
        if let Some(waits) = &waits {
            let errors: Vec<serde_json::Value> = serde_json::from_str(&waits.errors).unwrap_or_default();
            let error = errors.last().and_then(|error| error.get("message")).and_then(|text| text.as_str());
            (became.attempts, became.due) = (Some(waits.attempts), waits.due.map(units::show_time));
            (became.fate, became.error) = match &waits.purpose {
                Purpose::Handle => (Fate::Pending, error.map(str::to_owned)),
                Purpose::Compensate { reason, .. } => (Fate::Compensates, Some(reason.clone())),
            };
        } else if let Some(row) = kept {
            (became.fate, became.error) = (Fate::Fallback, row.cause.clone());
        } else if let Some((letter, why)) = letter {
            (became.fate, became.letter, became.error) =
                (Fate::DeadLetter, Some(letter.place()), why.map(str::to_owned));
            // It is told of only where somebody reads it.
            became.events.extend(Some(self.record(letter, depth + 1)?).filter(|letter| !letter.handlers.is_empty()));
        } else if let Some(row) = letter_row {
            (became.fate, became.letter) = (Fate::DeadLetter, Some(format!("{} ({})", row.topic, row.status)));
        } else if let Some(at) = done_at {
            became.at = Some(units::show_time(at));
            became.fate = match first.filter(|first| first.place() != place) {
                Some(first) if became.events.is_empty() => {
                    became.duplicate_of = Some(first.place());
                    Fate::Duplicate
                }
                _ => Fate::Done,
            };
        } else if stored.is_none_or(|stored| stored.next_offset <= record.offset) {
            became.fate = Fate::NotRead;
        } else if became.events.is_empty() {
            // The offset is past it, and nothing else is known.
            became.fate = if spec.event_id == EventId::Offset { Fate::Passed } else { Fate::Forgotten };
        } else {
            became.fate = Fate::Done;
        }
        Ok(became)
    }

    /// The events of a delivery, in their order as far as it is known: those of the outbox and the fallback, and those whose ids follow
    /// from the input.
    fn published(
        &mut self,
        seed: &Seed,
        record: &Record,
        own: &dyn Fn(&&Row) -> bool,
        most: usize,
        depth: usize,
    ) -> Result<Vec<Event>> {
        let most = u32::try_from(most).unwrap_or(u32::MAX).min(10_000);
        let time = record.time.unwrap_or(0);
        let computed = [seed.clone(), seed.compensating()].into_iter().flat_map(|seed| {
            let ids: Vec<String> = (0..most).map(|n| seed.event_id(n, time).to_string()).collect();
            ids
        });
        let mut ids: Vec<String> = computed.filter(|id| !self.known.with_id(id).is_empty()).collect();
        for row in self.known.rows.iter().filter(|row| own(row) && row.is_event()) {
            if !ids.contains(&row.event_id) {
                ids.push(row.event_id.clone());
            }
        }
        let mut events = Vec::new();
        for id in ids {
            if let Some(mut event) = self.event(&id, depth + 1)? {
                // It stands below who published it.
                event.from = None;
                events.push(event);
            }
        }
        Ok(events)
    }
}

fn from(row: &Row) -> String {
    format!("handler {} from {}", row.handler, row.source)
}

/// An event that is in a store and in no topic.
fn waiting(row: &Row) -> Event {
    Event {
        event_id: Some(row.event_id.clone()),
        event_type: Some(row.event_type.clone()).filter(|kind| !kind.is_empty()),
        topic: row.topic.clone(),
        state: match (&row.cause, row.status.as_str()) {
            (Some(_), _) => Found::Fallback,
            (None, "published") => Found::Gone,
            _ => Found::Waiting,
        },
        error: row.cause.clone().or_else(|| row.last_error.clone()),
        due: row.not_before.map(units::show_time),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_place_is_an_id() {
        assert_eq!(Asked::parse("orders/0@42"), Asked::Record("orders".into(), 0, 42));
        for id in ["0190c2f2-1111-8222-8333-444455556666", "orders/0", "a/b@c", "/0@1", "x@1", "orders/-1@0"] {
            assert_eq!(Asked::parse(id), Asked::Event(id.into()));
        }
    }
}
