//! One store's outbox as HTTP destinations see it: how far each has come in it, and what was reported for it.
//!
//! Rows are taken up in the order of their ids, and delayed ones in the order of their places once they are due, each once.
//! A destination whose queue is full goes on from where it stopped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::courier::{Courier, Lane};
use crate::executor;
use crate::ledger::outbox::{self, Light, Place, Stretch, Waiting};
use crate::settings::Destinations;
use crate::store::{Connection, Error};

/// Rows read at a time.
const BATCH: i64 = 500;

/// How far a destination has come in a store.
struct Bookmark {
    /// The last row that was looked at in the order of ids.
    after: i64,
    /// The last place that was looked at.
    due_after: Place,
    /// When there is a row to be taken up after that, not later than the first one's time.
    next_due: Option<i64>,
    /// Whether there may be rows that were not looked at.
    more: bool,
}

pub(super) struct Shelf {
    path: PathBuf,
    reader: Option<Connection>,
    executor: executor::Handle,
    woken: Arc<AtomicBool>,
    bookmarks: HashMap<usize, Bookmark>,
    /// The store cannot be read.
    stuck: bool,
    /// Rows that were sent, and for which nobody has answered.
    out: BTreeSet<i64>,
    /// With when each could be sent, milliseconds since the Unix epoch.
    acknowledged: BTreeMap<i64, i64>,
    failed: Vec<(i64, String)>,
    refused: Vec<(i64, String)>,
}

impl Shelf {
    pub(super) fn new(path: PathBuf, executor: executor::Handle, woken: Arc<AtomicBool>) -> Self {
        Self {
            path,
            reader: None,
            executor,
            woken,
            bookmarks: HashMap::new(),
            stuck: false,
            out: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            failed: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(super) fn woken(&mut self) {
        // Before the store is read, so that a commit after the reading wakes again.
        self.woken.store(false, Ordering::Release);
        self.look_again();
    }

    /// There may be rows of which nobody has said anything.
    pub(super) fn look_again(&mut self) {
        self.stuck = false;
        self.bookmarks.values_mut().for_each(|bookmark| bookmark.more = true);
    }

    /// When a delayed row is to be taken up for a destination, milliseconds since the Unix epoch.
    pub(super) fn next_due(&self, destination: usize) -> Option<i64> {
        self.bookmarks.get(&destination)?.next_due.filter(|_| !self.stuck)
    }

    /// Hands a destination its rows, until none waits or it has no room.
    pub(super) fn take_up(&mut self, position: usize, courier: &mut Courier, all: &Destinations, now: i64) {
        if self.stuck || !courier.has_room(self.executor.name()) {
            return;
        }
        if let Err(error) = self.read_on(position, courier, all, now) {
            tracing::warn!(store = %self.executor.name(), %error, "read the outbox");
            self.reader = None;
            self.stuck = true;
        }
    }

    fn read_on(&mut self, position: usize, courier: &mut Courier, all: &Destinations, now: i64) -> Result<(), Error> {
        let Some(glob) = all.0.get(position).map(|destination| destination.topic.glob()) else { return Ok(()) };
        let name = self.executor.name().clone();
        let mut mark = self.bookmarks.remove(&position).unwrap_or(Bookmark {
            after: 0,
            due_after: Place::FIRST,
            next_due: None,
            more: true,
        });
        // An earlier destination may have taken the topic for itself, or for Kafka.
        let mut add = |row: &Light| {
            if all.http(&row.topic) == Some(position) {
                courier.add(Lane::of(&name, row.key.clone(), row.id), row.id);
            }
            courier.has_room(&name)
        };
        let read = mark.read_on(self, &glob, now, &mut add);
        self.bookmarks.insert(position, mark);
        read
    }

    /// A whole row, if it waits still.
    pub(super) fn row(&mut self, id: i64) -> Result<Option<Waiting>, Error> {
        self.read(|reader| outbox::one(reader, id))
    }

    /// Whether a row is on its way, or it is known what became of it.
    pub(super) fn has(&self, id: i64) -> bool {
        self.out.contains(&id)
            || self.acknowledged.contains_key(&id)
            || self.refused.iter().any(|(refused, _)| *refused == id)
    }

    pub(super) fn sent(&mut self, id: i64) {
        self.out.insert(id);
    }

    pub(super) fn answered(&mut self, id: i64) {
        self.out.remove(&id);
    }

    pub(super) fn published(&mut self, id: i64, ready_at: i64) {
        self.acknowledged.insert(id, ready_at);
    }

    pub(super) fn failed(&mut self, id: i64, error: String) {
        self.failed.push((id, error));
    }

    pub(super) fn refused(&mut self, id: i64, topic: &str, error: String) {
        tracing::error!(store = %self.executor.name(), row = id, topic, error, "a destination refuses an event for good: it is kept in tm_fallback");
        self.refused.push((id, error));
    }

    /// Tells the store what it can note.
    pub(super) fn report(&mut self) {
        let meter = &self.executor.meter().by_http;
        let acknowledged = std::mem::take(&mut self.acknowledged);
        if !acknowledged.is_empty() {
            meter.acknowledged(acknowledged.values().copied(), crate::clock::now());
            let ranges = super::super::ranges(acknowledged.into_keys());
            let _ = self.executor.published(ranges);
        }
        for (id, error) in self.failed.drain(..) {
            let _ = self.executor.not_published(vec![id], error);
        }
        for (id, error) in self.refused.drain(..) {
            meter.refuse();
            let _ = self.executor.refused(id, error);
        }
    }

    fn read<T>(&mut self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        if self.reader.is_none() {
            self.reader = Some(Connection::open_reader(&self.path)?);
        }
        match &self.reader {
            Some(reader) => read(reader),
            None => unreachable!("it was opened above"),
        }
    }
}

impl Bookmark {
    /// Reads on from here; `add` says whether there is room for another row.
    fn read_on(
        &mut self,
        shelf: &mut Shelf,
        glob: &str,
        now: i64,
        add: &mut impl FnMut(&Light) -> bool,
    ) -> Result<(), Error> {
        let mut room = true;
        while room && self.next_due.is_some_and(|due| due <= now) {
            let until = Place::last_at(now);
            let rows =
                shelf.read(|reader| outbox::light(reader, glob, Stretch::Places(self.due_after, until), BATCH))?;
            if rows.is_empty() {
                self.due_after = until;
                self.next_due = shelf.read(|reader| outbox::next_due(reader, now))?;
            }
            for row in rows {
                // One behind what the order of ids has come to is met there, with its place behind.
                if row.id <= self.after {
                    room = add(&row);
                }
                self.due_after = row.place().unwrap_or(self.due_after);
                if !room {
                    break;
                }
            }
        }
        while room && self.more {
            // Rows that come while these are read have higher ids.
            let to = shelf.read(outbox::last_id)?;
            let rows = shelf.read(|reader| outbox::light(reader, glob, Stretch::Ids(self.after, to), BATCH))?;
            let last = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
            for row in rows {
                self.after = row.id;
                match row.place() {
                    Some(place) if place > self.due_after => {
                        self.next_due = Some(self.next_due.map_or(place.due, |next| next.min(place.due)));
                    }
                    _ => room = add(&row),
                }
                if !room {
                    break;
                }
            }
            if room && last {
                self.after = self.after.max(to);
                self.more = false;
            }
        }
        Ok(())
    }
}
