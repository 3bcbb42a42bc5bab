//! `tm_inbox`: the ids of the events that a handler has done.
//!
//! A row commits with the effects of its event and is written for nothing else, so an event that failed, or that
//! waits for another attempt, is never taken for a duplicate. Rows are appended and never moved, whatever their ids are:
//! where an id's row may be is known in memory, and the row is read before the id is called done. Parts
//! (`tm_inbox_part`) follow each other in time: ids are added to the newest, and the oldest is purged from its first row on.

mod index;

use std::collections::VecDeque;
use std::hash::Hasher as _;
use std::ops::RangeInclusive;

use hashbrown::HashTable;
use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

use self::index::{Index, Place};
use crate::store::{Connection, Error, Kind};

/// A part is filled for one of so many shares of the time that ids are kept: an id is kept one of them longer at most.
pub const SHARES: u32 = 4;
/// Rows with which a part is full, whatever its age: at least, for small inboxes, and at most, since the newest part takes
/// about 25 bytes of memory for each, and is read again when the store is opened.
const FULL: RangeInclusive<i64> = 1 << 17..=1 << 20;
/// Between the two, all rows over this: each part costs a look-up two reads of memory.
const PARTS: i64 = 16;

/// What finds the rows of a store's inbox.
pub struct Inbox {
    key: [u8; 16],
    /// The older parts, in the order of time.
    sealed: VecDeque<Sealed>,
    open: Part,
    /// The places of the rows of `open`.
    places: HashTable<Place>,
    next_id: i64,
    /// [`FULL`]; tests have smaller parts.
    full: RangeInclusive<i64>,
    draft: Draft,
}

/// A part that ids are no longer added to.
struct Sealed {
    part: Part,
    index: Index,
}

#[derive(Clone, Copy)]
struct Part {
    number: i64,
    /// The store's age when it was begun.
    begun: i64,
    /// Its rows follow from here.
    first_id: i64,
}

/// The columns `starts` and `prints`.
type Stored = (Vec<u8>, Vec<u8>);

/// What the open transaction has changed.
#[derive(Default)]
struct Draft {
    added: Vec<Place>,
    /// The newest part before, if that was sealed.
    before: Option<(Part, HashTable<Place>)>,
    /// Whether the oldest part is gone.
    gone: bool,
}

/// When an event was done, in milliseconds since the Unix epoch, of those that are known. It looks at each id of the store, which is
/// for tools: a delivery asks [`Inbox::contains`].
pub fn done_at(connection: &Connection, handler: &str, event_id: &str) -> Result<Option<i64>, Error> {
    let sql = "SELECT done_at FROM main.tm_inbox WHERE handler = ?1 AND event_id = ?2 LIMIT 1";
    connection.first(sql, &[handler.into(), event_id.into()], |row| row.integer(0))
}

impl Inbox {
    /// For a store whose secret keys the hashes, so that nobody outside can make two ids alike.
    pub fn open(connection: &Connection, secret: &str) -> Result<Self, Error> {
        let key = Sha256::new().chain_update("inbox").chain_update(secret).finalize();
        let mut half = [0; 16];
        half.iter_mut().zip(key).for_each(|(to, from)| *to = from);
        let sql = "SELECT part, begun, first_id, starts, prints FROM main.tm_inbox_part ORDER BY part";
        let mut parts = connection.query(sql, &[], |row| {
            let part = Part { number: row.integer(0)?, begun: row.integer(1)?, first_id: row.integer(2)? };
            Ok((part, row.opt_bytes(3)?.zip(row.opt_bytes(4)?)))
        })?;
        let Some((open, _)) = parts.pop() else {
            return Err(Error::new(Kind::Other, "tm_inbox_part is empty: the store is damaged"));
        };
        let mut inbox = Self {
            key: half,
            sealed: VecDeque::new(),
            open,
            places: HashTable::new(),
            next_id: open.first_id,
            full: FULL,
            draft: Draft::default(),
        };
        // Parts of an earlier version have no index, and get it whole or not at all.
        connection.execute("BEGIN IMMEDIATE", &[])?;
        match inbox.add_parts(connection, parts) {
            Ok(()) => connection.execute("COMMIT", &[])?,
            Err(error) => {
                connection.batch("ROLLBACK")?;
                return Err(error);
            }
        };
        for place in inbox.read(connection, open.first_id, i64::MAX)? {
            inbox.next_id = open.first_id + i64::from(place.row) + 1;
            inbox.places.insert_unique(place.hash, place, |place| place.hash);
        }
        Ok(inbox)
    }

    fn add_parts(&mut self, connection: &Connection, parts: Vec<(Part, Option<Stored>)>) -> Result<(), Error> {
        let ends: Vec<i64> = parts.iter().skip(1).map(|(part, _)| part.first_id).chain([self.open.first_id]).collect();
        for ((part, index), end) in parts.into_iter().zip(ends) {
            let index = match index {
                Some((starts, prints)) => Index::read(&starts, &prints)?,
                None => {
                    let places = self.read(connection, part.first_id, end)?;
                    index::write(connection, part.number, places)?
                }
            };
            self.sealed.push_back(Sealed { part, index });
        }
        Ok(())
    }

    fn read(&self, connection: &Connection, from: i64, end: i64) -> Result<Vec<Place>, Error> {
        let sql = "SELECT id, handler, event_id FROM main.tm_inbox WHERE id >= ?1 AND id < ?2 ORDER BY id";
        connection.query(sql, &[from.into(), end.into()], |row| {
            let row_number = u32::try_from(row.integer(0)? - from).unwrap_or(u32::MAX);
            Ok(Place { hash: self.hash(&row.text(1)?, &row.text(2)?), row: row_number })
        })
    }

    fn hash(&self, handler: &str, event_id: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(handler.as_bytes());
        // No UTF-8 has it.
        hasher.write_u8(0xff);
        hasher.write(event_id.as_bytes());
        hasher.finish()
    }

    /// Whether the handler has done this event.
    pub fn contains(&self, connection: &Connection, handler: &str, event_id: &str) -> Result<bool, Error> {
        let hash = self.hash(handler, event_id);
        let is = |id: i64| {
            let sql = "SELECT 1 FROM main.tm_inbox WHERE id = ?1 AND handler = ?2 AND event_id = ?3";
            let row = connection.first(sql, &[id.into(), handler.into(), event_id.into()], |row| row.integer(0));
            Ok::<_, Error>(row?.is_some())
        };
        for place in self.places.iter_hash(hash).filter(|place| place.hash == hash) {
            if is(self.open.first_id + i64::from(place.row))? {
                return Ok(true);
            }
        }
        for Sealed { part, index } in &self.sealed {
            for at in index.find(hash) {
                if let Some(row) = index::row(connection, part.number, at)?
                    && is(part.first_id + row)?
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Notes that the handler has done this event, at `now` (milliseconds since the Unix epoch).
    pub fn add(&mut self, connection: &Connection, handler: &str, event_id: &str, now: i64) -> Result<(), Error> {
        let sql = "INSERT INTO main.tm_inbox (id, handler, event_id, done_at) VALUES (?1, ?2, ?3, ?4)";
        let params = [self.next_id.into(), handler.into(), event_id.into(), now.into()];
        // The row's number is the host's own, so no event is to blame.
        connection.execute(sql, &params).map_err(|error| Error { kind: Kind::Store, ..error })?;
        let row = u32::try_from(self.next_id - self.open.first_id).unwrap_or(u32::MAX);
        let place = Place { hash: self.hash(handler, event_id), row };
        self.places.insert_unique(place.hash, place, |place| place.hash);
        self.draft.added.push(place);
        self.next_id += 1;
        Ok(())
    }

    /// Whether the newest part has all of its rows, or has been filled for its share of `keep`. `age` is the store's; both are
    /// in milliseconds.
    pub fn is_full(&self, age: i64, keep: Option<i64>) -> bool {
        let (shares, begun) = (i64::from(SHARES), self.open.begun);
        let first = self.sealed.front().map_or(&self.open, |oldest| &oldest.part).first_id;
        let full = ((self.next_id - first) / PARTS).clamp(*self.full.start(), *self.full.end());
        self.next_id - self.open.first_id >= full
            || keep.is_some_and(|keep| age.saturating_sub(begun) >= keep.saturating_add(shares - 1) / shares)
    }

    /// Seals the newest part and begins another, at this age of the store. It comes first in its transaction.
    pub fn turn(&mut self, connection: &Connection, age: i64) -> Result<(), Error> {
        let index = index::write(connection, self.open.number, self.places.iter().copied().collect())?;
        let next = Part { number: self.open.number + 1, begun: age, first_id: self.next_id };
        let sql = "INSERT INTO main.tm_inbox_part (part, begun, first_id) VALUES (?1, ?2, ?3)";
        connection.execute(sql, &[next.number.into(), next.begun.into(), next.first_id.into()])?;
        self.sealed.push_back(Sealed { part: self.open, index });
        self.draft.before =
            Some((std::mem::replace(&mut self.open, next), std::mem::replace(&mut self.places, HashTable::new())));
        Ok(())
    }

    /// Removes up to `limit` ids of the oldest part, if all of it is older than `keep`. `false` means that there was no such
    /// part.
    pub fn purge(&mut self, connection: &Connection, age: i64, keep: i64, limit: i64) -> Result<bool, Error> {
        let Some(Sealed { part, .. }) = self.sealed.front() else { return Ok(false) };
        // A part's last id is as old as the part that followed it.
        let next = self.sealed.get(1).map_or(&self.open, |next| &next.part);
        if next.begun > age.saturating_sub(keep) {
            return Ok(false);
        }
        let first = connection.first("SELECT min(id) FROM main.tm_inbox", &[], |row| row.opt_integer(0))?.flatten();
        let to = first.map_or(next.first_id, |first| first.saturating_add(limit)).min(next.first_id);
        connection.execute("DELETE FROM main.tm_inbox WHERE id < ?1", &[to.into()])?;
        if to == next.first_id {
            index::remove(connection, part.number)?;
            connection.execute("DELETE FROM main.tm_inbox_part WHERE part = ?1", &[part.number.into()])?;
            self.draft.gone = true;
        }
        Ok(true)
    }

    /// The transaction has committed.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.draft).gone {
            self.sealed.pop_front();
        }
    }

    /// The transaction was rolled back.
    pub fn roll_back(&mut self) {
        let Draft { added, before, .. } = std::mem::take(&mut self.draft);
        self.next_id -= i64::try_from(added.len()).unwrap_or(0);
        match before {
            Some(before) => {
                (self.open, self.places) = before;
                self.sealed.pop_back();
            }
            None => {
                for added in added {
                    if let Ok(place) = self.places.find_entry(added.hash, |place| place.row == added.row) {
                        place.remove();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Store {
        _folder: tempfile::TempDir,
        connection: Connection,
        inbox: Inbox,
    }

    impl Store {
        /// With parts of up to so many rows.
        fn new(full: i64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
            crate::ledger::schema::prepare(&connection).unwrap();
            let inbox = Inbox { full: full..=full, ..Inbox::open(&connection, "secret").unwrap() };
            Self { _folder: folder, connection, inbox }
        }

        fn reopen(&mut self) {
            let full = self.inbox.full.clone();
            self.inbox = Inbox { full, ..Inbox::open(&self.connection, "secret").unwrap() };
        }

        fn begin(&mut self, age: i64, keep: i64) {
            self.connection.batch("BEGIN").unwrap();
            if self.inbox.is_full(age, Some(keep)) {
                self.inbox.turn(&self.connection, age).unwrap();
            }
        }

        fn end(&mut self, commit: bool) {
            self.connection.batch(if commit { "COMMIT" } else { "ROLLBACK" }).unwrap();
            if commit { self.inbox.settle() } else { self.inbox.roll_back() }
        }

        fn add(&mut self, handler: &str, id: &str) {
            self.inbox.add(&self.connection, handler, id, 0).unwrap();
        }

        fn knows(&self, handler: &str, id: &str) -> bool {
            self.inbox.contains(&self.connection, handler, id).unwrap()
        }

        /// Purges all there is to purge; how many slices that were.
        fn purge(&mut self, age: i64, keep: i64, limit: i64) -> usize {
            (0..)
                .take_while(|_| {
                    self.connection.batch("BEGIN").unwrap();
                    let more = self.inbox.purge(&self.connection, age, keep, limit).unwrap();
                    self.end(true);
                    more
                })
                .count()
        }

        fn count(&self, table: &str) -> i64 {
            let sql = format!("SELECT count(*) FROM {table}");
            self.connection.first(&sql, &[], |row| row.integer(0)).unwrap().unwrap()
        }
    }

    #[test]
    fn a_part_goes_slice_by_slice_and_the_others_stay() {
        let mut store = Store::new(1_000);
        for part in 0..5 {
            store.begin(part * 100, 400);
            (0..10).for_each(|n| store.add(&format!("h{}", n % 2), &format!("{part}-{n}")));
            store.end(true);
        }
        assert_eq!(store.count("tm_inbox_part"), 5);
        assert_eq!(store.purge(499, 400, 4), 0, "the last id of the first part may be 399 old");
        assert_eq!(store.purge(500, 400, 4), 3, "slices of 4, 4 and 2 ids");
        for part in 0..5 {
            for n in 0..10 {
                assert_eq!(store.knows(&format!("h{}", n % 2), &format!("{part}-{n}")), part > 0, "{part}-{n}");
            }
        }
        assert_eq!(store.purge(i64::MAX, 400, 4), 9, "all but the newest, which ids may still be added to");
        assert_eq!([store.count("tm_inbox_part"), store.count("tm_inbox"), store.count("tm_inbox_index")], [1, 10, 0]);
    }

    #[test]
    fn an_id_is_found_by_its_row_and_not_by_its_hash() {
        let mut store = Store::new(5_000);
        for part in 0..3 {
            store.begin(0, i64::MAX);
            (0..5_000).for_each(|n| store.add("h", &format!("{part}-{n}")));
            store.end(true);
        }
        assert_eq!(store.count("tm_inbox_index"), 20, "of two parts");
        for again in [false, true] {
            (0..15_000).step_by(7).for_each(|n| assert!(store.knows("h", &format!("{}-{}", n / 5_000, n % 5_000))));
            assert!(!store.knows("g", "0-0"));
            // All of them ask 600 prints of 16 bits, so that some find an alike.
            assert!((0..30_000).all(|n| !store.knows("h", &format!("new-{n}"))));
            if !again {
                store.reopen();
            }
        }
        // Rows that are gone are not there, whatever the index says.
        store.connection.batch("DELETE FROM tm_inbox").unwrap();
        assert!(!store.knows("h", "0-0") && !store.knows("h", "2-0"));
    }

    /// What a model says: each id, and when it was added.
    type Known = BTreeMap<(bool, u16), i64>;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Whatever the times between, where `keep` changes, where transactions are rolled back, and across starts: an id is there for
        /// as long as each `keep` since has asked for, and not for ever; what was rolled back is not there.
        #[test]
        fn an_id_is_kept_at_least_so_long_and_goes_in_the_end(
            groups in prop::collection::vec(
                ((0i64..300, 1i64..900), prop::collection::vec((any::<bool>(), 0u16..400), 0..40), 0u8..8), 1..40
            )
        ) {
            let mut store = Store::new(50);
            let (mut age, mut known, mut shortest) = (0, Known::new(), i64::MAX);
            let name = |which: bool| if which { "h" } else { "g" };
            for ((wait, keep), ids, end) in groups {
                age += wait;
                shortest = shortest.min(keep);
                let before = known.clone();
                store.begin(age, keep);
                store.inbox.purge(&store.connection, age, keep, 30).unwrap();
                for (which, id) in ids {
                    let found = store.knows(name(which), &id.to_string());
                    let added = known.get(&(which, id)).copied();
                    prop_assert!(!found || added.is_some(), "{} is not there", id);
                    prop_assert!(found || added.is_none_or(|added| age - added >= shortest), "{} is gone", id);
                    if !found {
                        store.add(name(which), &id.to_string());
                        known.insert((which, id), age);
                    }
                }
                store.end(end > 1);
                if end <= 1 {
                    known = before;
                }
                if end == 7 {
                    store.reopen();
                }
            }
            for _ in 0..3 {
                age += 1_000;
                store.begin(age, 900);
                store.end(true);
                store.purge(age, 900, 30);
            }
            // The newest part, and the one before, which was sealed just now.
            prop_assert_eq!([store.count("tm_inbox"), store.count("tm_inbox_index"), store.count("tm_inbox_part")], [0, 0, 2]);
        }
    }
}
