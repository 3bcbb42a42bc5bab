//! What lies in the stores and waits, or is kept for a person: finding it, and what the operator does with it.
//!
//! What is done with a row is done by the executor of its store, in one transaction for all rows of a request and a store. No deployment
//! and no other operator comes in between.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Deployer;
use super::audit::{Action, Caller};
use super::command::{Denied, unknown};
use super::many::NAMED_MAX;
use super::page::{self, Foreign, Page};
use crate::executor::{self, Chore, Verb};
use crate::http::admin::body::{object, whole};
use crate::ledger::stored::{self, Name, Stored, Table};
use crate::rig::wire;
use crate::settings::units;
use crate::store::Connection as Store;

/// Which rows. Each part leaves out what it does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredSearch")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Search {
    /// Of this handler.
    pub handler: Option<String>,
    /// To this topic, or of records of it.
    pub topic: Option<String>,
    /// With this key.
    pub key: Option<String>,
    /// With this in what went wrong last, in any case of letters.
    pub error: Option<String>,
    /// So many, 100 without it.
    #[serde(deserialize_with = "whole")]
    pub limit: Option<usize>,
    /// Goes on where an earlier part ended: its `next`, as it is.
    pub cursor: Option<String>,
}

/// A row, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredEntry")]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// `STORE/NUMBER-CHECK`
    pub row: String,
    /// Whose it is.
    pub handler: String,
    /// The kind of an event, or what a record waits for.
    pub kind: String,
    /// Where it goes, or came from.
    pub topic: String,
    /// The input that it came from.
    pub source: String,
    /// The event's id.
    pub event_id: Option<String>,
    /// The key, or `{"hex": "00ff"}` where it is no text.
    pub key: Json,
    /// Attempts made so far.
    pub attempts: Option<i64>,
    /// When it came there; of a record that waits, when that was written.
    pub at: Option<String>,
    /// Not before this time.
    pub due: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// All of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredDetail")]
pub struct Detail {
    /// In short.
    #[serde(flatten)]
    pub entry: Entry,
    /// The attempts, the oldest first.
    pub errors: Vec<Json>,
    /// The headers: names and values.
    pub headers: Json,
    /// The value: as JSON where it is that, else as text or in hexadecimal.
    pub value: Json,
}

/// What to do, and with which rows: those of these names, or those that are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredOrder")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Order {
    /// Each `STORE/NUMBER-CHECK`.
    pub rows: Vec<String>,
    /// Those that are found.
    #[serde(deserialize_with = "object")]
    pub matching: Option<Search>,
    /// To its topic: of dead letters in the fallback.
    pub to_topic: bool,
    /// Only say what it would do.
    pub dry_run: bool,
}

/// What became of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredHandled")]
pub struct Handled {
    /// Those that were named or found, in their order.
    pub rows: Vec<Outcome>,
    /// The `cursor` of `matching` for the next request, where there may be more.
    pub next: Option<String>,
}

/// What became of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredOutcome")]
pub struct Outcome {
    /// `STORE/NUMBER-CHECK`
    pub row: String,
    /// The input that it came from.
    pub source: Option<String>,
    /// Whose it is.
    pub handler: Option<String>,
    /// Why nothing was done with it.
    pub error: Option<String>,
    /// What there is to say of it.
    pub note: Option<String>,
}

/// An open store, to be looked at.
struct Shelf {
    handle: executor::Handle,
    reader: Store,
}

/// The open stores, by their names.
type Shelves = BTreeMap<String, Shelf>;
/// Numbers of rows of each store: after the first and up to the second.
type Parts = BTreeMap<String, (i64, i64)>;
/// Rows that were found, each with its store's name.
type Found = Vec<(String, Stored)>;

impl Deployer {
    /// Looks for rows, by stores and the oldest of each first.
    ///
    /// # Errors
    /// The search makes no sense, or a store cannot be read.
    pub fn stored(&self, table: Table, search: &Search) -> Result<Page<Entry>> {
        let (found, next) = self.find_stored(&self.shelves()?, table, search)?;
        Ok(Page { items: found.into_iter().map(|(store, row)| entry(&store, row)).collect(), next })
    }

    /// One row.
    ///
    /// # Errors
    /// There is no such row.
    pub fn stored_row(&self, table: Table, name: &str) -> Result<Detail> {
        let name: Name = name.parse().map_err(Denied::Conflict)?;
        let shelves = self.shelves()?;
        let gone = || Denied::Unknown(format!("{name}: there is no such row, or no longer"));
        let reader = &shelves.get(&name.store).ok_or_else(gone)?.reader;
        let row = stored::find(reader, table, name.id, &name.check)?.ok_or_else(gone)?;
        let content = stored::content(reader, table, name.id)?.ok_or_else(gone)?;
        let value = content.value.as_deref();
        let json = value.and_then(|bytes| serde_json::from_slice(bytes).ok());
        Ok(Detail {
            entry: entry(&name.store, row),
            errors: content.errors,
            headers: wire::headers(&content.headers),
            value: json.unwrap_or_else(|| wire::text(value)),
        })
    }

    /// Does the same with rows, each whole or not at all.
    ///
    /// # Errors
    /// The order makes no sense, or a store fails. What cannot be done with one row is told of that one.
    pub fn tend(&self, table: Table, verb: Verb, order: &Order, caller: &Caller) -> Result<Handled> {
        let verb = match (verb, order.to_topic) {
            (verb, false) => verb,
            (Verb::Replay, true) => Verb::Publish,
            (_, true) => return Err(Denied::Conflict("only what is replayed goes to its topic".into()).into()),
        };
        if order.dry_run {
            return self.try_tend(table, verb, order, caller);
        }
        let action = match (verb, table) {
            (Verb::Replay | Verb::Publish, _) => Action::ReplayFallback,
            (Verb::Retry, Table::Outbox) => Action::RetryOutbox,
            (Verb::Retry, _) => Action::RetryPending,
            (Verb::Discard, Table::Fallback) => Action::DiscardFallback,
            (Verb::Discard, Table::Outbox) => Action::DiscardOutbox,
            (Verb::Discard, Table::Pending) => Action::DiscardPending,
        };
        self.note_many(action, None, caller, || self.try_tend(table, verb, order, caller), Handled::summary)
    }

    fn try_tend(&self, table: Table, verb: Verb, order: &Order, caller: &Caller) -> Result<Handled> {
        // From here to the end nobody else does anything with a row, and no handler comes or goes.
        let _handlers = self.lock();
        let shelves = self.shelves()?;
        let (outcomes, rows, next) = match (&order.matching, order.rows.len()) {
            (Some(search), 0) => {
                let (found, next) = self.find_stored(&shelves, table, search)?;
                let named =
                    |(store, row): (String, Stored)| (outcome(&name(&store, &row), Some(&row)), Some((store, row)));
                let (outcomes, rows): (Vec<_>, Vec<_>) = found.into_iter().map(named).unzip();
                (outcomes, rows, next)
            }
            (None, 1..=NAMED_MAX) => {
                let names: BTreeSet<Name> =
                    order.rows.iter().map(|text| text.parse().map_err(Denied::Conflict)).collect::<Result<_, _>>()?;
                let (mut outcomes, mut rows) = (Vec::new(), Vec::new());
                for name in names {
                    let row = match shelves.get(&name.store) {
                        Some(shelf) => stored::find(&shelf.reader, table, name.id, &name.check)?,
                        None => None,
                    };
                    outcomes.push(outcome(&name, row.as_ref()));
                    rows.push(row.map(|row| (name.store, row)));
                }
                (outcomes, rows, None)
            }
            _ => {
                let why = format!("say which rows: 1 to {NAMED_MAX} `rows`, or `matching`");
                return Err(Denied::Conflict(why).into());
            }
        };
        let mut handled = Handled { rows: outcomes, next };
        let mut by_store: BTreeMap<String, Vec<(usize, Stored)>> = BTreeMap::new();
        for (number, row) in rows.into_iter().enumerate() {
            let Some((store, row)) = row else { continue };
            by_store.entry(store).or_default().push((number, row));
        }
        for (store, rows) in by_store {
            let Some(shelf) = shelves.get(&store) else { continue };
            let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
            // Another store may have done its own already.
            let disposed = self.tend_store(shelf, table, verb, rows, order.dry_run, caller.name());
            let disposed = disposed.unwrap_or_else(|error| vec![Err(format!("{error:#}")); numbers.len()]);
            if !order.dry_run {
                let done = disposed.iter().filter(|disposed| disposed.is_ok()).count();
                shelf.handle.meter().tend(table, verb, done as u64);
            }
            for (number, disposed) in numbers.into_iter().zip(disposed) {
                let Some(outcome) = handled.rows.get_mut(number) else { continue };
                match disposed {
                    Ok(note) => outcome.note = note.map(str::to_owned),
                    Err(why) => outcome.error = Some(why),
                }
            }
        }
        Ok(handled)
    }

    /// Does it with rows of one store.
    fn tend_store(
        &self,
        shelf: &Shelf,
        table: Table,
        verb: Verb,
        rows: Vec<(usize, Stored)>,
        dry: bool,
        who: &str,
    ) -> Result<Vec<executor::Disposed>> {
        let (store, now) = (shelf.handle.name(), crate::clock::now());
        let topics: BTreeSet<String> = rows.iter().map(|(_, row)| row.topic.clone()).collect();
        let delayed = |row: &Stored| row.due.filter(|due| table == Table::Outbox && *due > now);
        if (table, verb) == (Table::Outbox, Verb::Retry) {
            if !dry {
                self.stores.relay().hurry(store, topics);
            }
            let tried = |(_, row): (usize, Stored)| match delayed(&row) {
                Some(due) => Err(format!("it is delayed until {}", units::show_time(due))),
                None => Ok(None),
            };
            return Ok(rows.into_iter().map(tried).collect());
        }
        let ids: Vec<i64> = rows.iter().map(|(_, row)| row.id).collect();
        let paused = match table {
            Table::Outbox => Some(self.stores.relay().pause(store, &ids)?),
            Table::Fallback | Table::Pending => None,
        };
        let on_its_way = |id: i64| paused.as_ref().is_some_and(|paused| paused.on_their_way.contains(&id));
        let chore = |(_, row): (usize, Stored)| {
            let Stored { id, check, .. } = row;
            Chore { table, id, check, verb, who: who.to_owned() }
        };
        let chores = rows.into_iter().filter(|(_, row)| !on_its_way(row.id)).map(chore).collect();
        let mut disposed = shelf.handle.tend(chores, dry)?.into_iter();
        let why = "it is on its way to its destination: wait until that has answered";
        let disposed = ids.iter().map(|id| match on_its_way(*id) {
            true => Err(why.to_owned()),
            false => disposed.next().unwrap_or_else(|| Err("nothing is known of it".to_owned())),
        });
        let disposed = disposed.collect();
        if paused.is_some() && !dry {
            // Those behind need not wait for the time of what is gone.
            self.stores.relay().hurry(store, topics);
        }
        Ok(disposed)
    }

    fn shelves(&self) -> Result<Shelves> {
        let open = |(handle, path): (executor::Handle, std::sync::Arc<std::path::Path>)| {
            let reader = Store::open_reader(&path)?;
            Ok((handle.name().to_string(), Shelf { handle, reader }))
        };
        self.stores.listed().into_iter().map(open).collect()
    }

    /// Looks until enough was found, and says where to go on.
    fn find_stored(&self, shelves: &Shelves, table: Table, search: &Search) -> Result<(Found, Option<String>)> {
        if let Some(name) = search.handler.as_ref().filter(|name| self.stores.last_seen(name).is_none()) {
            return Err(unknown(name).into());
        }
        let mut parts = match &search.cursor {
            Some(cursor) => resume(&page::key::<String>(table.name(), cursor)?)?,
            None => begin(shelves, table)?,
        };
        let limit = search.limit.unwrap_or(page::USUAL).clamp(1, page::MAX);
        let error = search.error.as_ref().map(|text| text.to_lowercase());
        let mut found = Found::new();
        for (store, (after, to)) in &mut parts {
            let Some(shelf) = shelves.get(store) else { continue };
            if found.len() >= limit {
                break;
            }
            let mut full = false;
            stored::each(&shelf.reader, table, *after, *to, |row| {
                *after = row.id;
                if fits(search, error.as_deref(), &row) {
                    found.push((store.clone(), row));
                }
                full = found.len() >= limit;
                !full
            })?;
            if !full {
                *after = *to;
            }
        }
        let left = parts.iter().filter(|(store, (after, to))| after < to && shelves.contains_key(*store));
        let next: Vec<String> = left.map(|(store, (after, to))| format!("{store}/{after}-{to}")).collect();
        Ok((found, (!next.is_empty()).then(|| page::cursor(table.name(), next.join(",")))))
    }
}

fn fits(search: &Search, error: Option<&str>, row: &Stored) -> bool {
    let Search { handler, topic, key, .. } = search;
    handler.as_ref().is_none_or(|name| row.handler == *name)
        && topic.as_ref().is_none_or(|topic| row.topic == *topic)
        && key.as_ref().is_none_or(|key| row.key.as_deref() == Some(key.as_bytes()))
        && error.is_none_or(|text| row.error.as_ref().is_some_and(|error| error.to_lowercase().contains(text)))
}

/// All rows that are there now.
fn begin(shelves: &Shelves, table: Table) -> Result<Parts> {
    let part = |(name, shelf): (&String, &Shelf)| Ok((name.clone(), (0, stored::last(&shelf.reader, table)?)));
    shelves.iter().map(part).collect()
}

/// What is left to look at, as an answer has written it: what came since is none of it.
fn resume(left: &str) -> Result<Parts, Foreign> {
    let part = |text: &str| {
        let (store, range) = text.rsplit_once('/')?;
        let (after, to) = range.split_once('-')?;
        Some((store.to_owned(), (after.parse().ok()?, to.parse().ok()?)))
    };
    left.split(',').map(|text| part(text).ok_or(Foreign)).collect()
}

fn name(store: &str, row: &Stored) -> Name {
    Name { store: store.to_owned(), id: row.id, check: row.check.clone() }
}

fn outcome(name: &Name, row: Option<&Stored>) -> Outcome {
    Outcome {
        row: name.to_string(),
        source: row.map(|row| row.source.clone()),
        handler: row.map(|row| row.handler.clone()),
        error: row.is_none().then(|| "there is no such row, or no longer".to_owned()),
        note: None,
    }
}

fn entry(store: &str, row: Stored) -> Entry {
    let name = name(store, &row).to_string();
    let Stored { handler, kind, topic, source, event_id, key, attempts, at, due, error, .. } = row;
    let (key, [at, due]) = (wire::text(key.as_deref()), [at, due].map(|time| time.map(units::show_time)));
    Entry { row: name, handler, kind, topic, source, event_id, key, attempts, at, due, error }
}

impl Handled {
    /// For the audit log; empty where there was none.
    fn summary(&self) -> String {
        let told = |outcome: &Outcome| {
            let Outcome { row, source, handler, error, .. } = outcome;
            let of = handler.iter().chain(source).cloned().collect::<Vec<_>>().join(", ");
            match error {
                Some(error) => format!("{row} (not done: {error})"),
                None => format!("{row} ({of})"),
            }
        };
        self.rows.iter().map(told).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn h3_an_answer_goes_on_where_another_ended_and_takes_no_row_that_came_since() {
        let parts = Parts::from([("a-b".to_owned(), (5, 90)), ("c".to_owned(), (0, 7))]);
        assert_eq!(resume("a-b/5-90,c/0-7").unwrap(), parts);
        for wrong in ["", "a", "a/5", "a/b-c"] {
            assert!(resume(wrong).is_err(), "{wrong:?}");
        }
    }
}
