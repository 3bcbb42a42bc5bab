//! What a store forgets after a time, and when it looks for it: ids in the inbox, answers to idempotent requests.
//!
//! It works inside the transactions of groups, a slice in each, so that the flow never stands still for it; when
//! nothing else is to be done it has groups of its own. Times are the store's age, which no wall clock can jump.

use std::time::{Duration, Instant};

use crate::ledger::inbox::{self, Inbox};
use crate::ledger::{age, request};
use crate::store::{Connection, Error};

/// Ids of the inbox that one group removes at most; about a millisecond's work.
const IDS: i64 = 1_000;
/// Answers that one group removes at most; each may be a large page.
const ANSWERS: i64 = 100;
/// How far the noted age may be behind.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// How long after the start the first look is at the latest.
const FIRST_LOOK: Duration = Duration::from_secs(60);

/// How long a store keeps what it has no more use for; `None` is for ever.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// `inbox.keep`: ids of events.
    pub inbox: Option<Duration>,
    /// `http.idempotency-keep`: answers to requests.
    pub answers: Option<Duration>,
}

/// What a group's transaction has done, true once it has committed.
#[derive(Clone, Copy, Debug)]
struct Draft {
    noted: Instant,
    next: Instant,
    more: bool,
}

pub(super) struct Upkeep {
    keep: Keep,
    /// Between two looks, if there is anything to look for.
    every: Option<Duration>,
    /// The store's age when it was opened, in milliseconds, and when that was.
    opened: (i64, Instant),
    noted: Option<Instant>,
    next: Instant,
    /// The last look did not come to the end.
    more: bool,
    draft: Option<Draft>,
}

impl Upkeep {
    /// For a store that is opened at `now`, milliseconds since the Unix epoch, by the wall clock.
    pub(super) fn open(connection: &Connection, keep: Keep, now: i64, opened: Instant) -> Result<Self, Error> {
        // A few looks in the time for which a part of the inbox is filled keep it near to that.
        let shortest = keep.inbox.map(|keep| keep / inbox::SHARES).into_iter().chain(keep.answers).min();
        let every = shortest.map(|shortest| (shortest / 8).max(Duration::from_millis(10)));
        // So a clock that is wrong by a year at each of two starts costs less than a part.
        let age = age::open(connection, now, shortest.map_or(0, |shortest| millis(shortest / 2)))?;
        let next = opened + every.unwrap_or_default().min(FIRST_LOOK);
        Ok(Self { keep, every, opened: (age, opened), noted: None, next, more: false, draft: None })
    }

    /// How long there is nothing to do.
    pub(super) fn idle(&self) -> Duration {
        match self.every {
            Some(_) if self.more => Duration::ZERO,
            Some(_) => self.next.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        }
    }

    /// Does one slice of what is due, in the transaction that has just begun.
    pub(super) fn run(
        &mut self,
        connection: &Connection,
        inbox: &mut Inbox,
        now: i64,
        instant: Instant,
    ) -> Result<(), Error> {
        self.draft = None;
        let (before, opened) = self.opened;
        let age = before.saturating_add(millis(instant.saturating_duration_since(opened)));
        let keep = self.keep.inbox.map(millis);
        let turns = inbox.is_full(age, keep);
        let look = self.every.filter(|_| self.more || instant >= self.next);
        let behind = self.every.map_or(Duration::MAX, |every| every.min(NOTE_EVERY));
        if !turns && look.is_none() && self.noted.is_some_and(|noted| instant.saturating_duration_since(noted) < behind)
        {
            return Ok(());
        }
        age::note(connection, age, now)?;
        let mut draft = Draft { noted: instant, next: self.next, more: false };
        if turns {
            inbox.turn(connection, age)?;
        }
        if let Some(every) = look {
            if let Some(keep) = keep {
                draft.more |= inbox.purge(connection, age, keep, IDS)?;
            }
            if let Some(keep) = self.keep.answers.map(millis) {
                // An answer knows the age as it was noted last, which may have been a while before.
                let before = age.saturating_sub(keep).saturating_sub(millis(behind));
                draft.more |= request::purge(connection, before, ANSWERS)?;
            }
            draft.next = instant + every;
        }
        self.draft = Some(draft);
        Ok(())
    }

    /// The transaction has committed.
    pub(super) fn settle(&mut self) {
        if let Some(Draft { noted, next, more }) = self.draft.take() {
            (self.noted, self.next, self.more) = (Some(noted), next, more);
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::schema;

    const HOUR: Duration = Duration::from_secs(3_600);
    const YEAR: i64 = 365 * 24 * 3_600_000;

    struct Store {
        _folder: tempfile::TempDir,
        connection: Connection,
        inbox: Inbox,
        upkeep: Upkeep,
        /// By the monotonic clock.
        instant: Instant,
        /// By the wall clock.
        now: i64,
    }

    impl Store {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
            schema::prepare(&connection).unwrap();
            let (instant, now) = (Instant::now(), 1_700_000_000_000);
            let upkeep = Upkeep::open(&connection, keep(), now, instant).unwrap();
            let inbox = Inbox::open(&connection, "secret").unwrap();
            Self { _folder: folder, connection, inbox, upkeep, instant, now }
        }

        fn reopen(&mut self) {
            self.upkeep = Upkeep::open(&self.connection, keep(), self.now, self.instant).unwrap();
            self.inbox = Inbox::open(&self.connection, "secret").unwrap();
        }

        /// Both clocks go on, and all that is due is done, group by group.
        fn pass(&mut self, time: Duration) {
            self.instant += time;
            self.now += millis(time);
            for _ in 0..50 {
                self.connection.batch("BEGIN").unwrap();
                self.upkeep.run(&self.connection, &mut self.inbox, self.now, self.instant).unwrap();
                self.connection.batch("COMMIT").unwrap();
                self.upkeep.settle();
                self.inbox.settle();
            }
            assert!(!self.upkeep.more, "it comes to an end");
        }

        fn add(&mut self, id: &str) {
            self.inbox.add(&self.connection, "h", id, self.now).unwrap();
            self.inbox.settle();
        }

        fn knows(&self, id: &str) -> bool {
            self.inbox.contains(&self.connection, "h", id).unwrap()
        }
    }

    /// Parts of an hour each.
    fn keep() -> Keep {
        Keep { inbox: Some(4 * HOUR), answers: Some(24 * HOUR) }
    }

    #[test]
    fn s1_10_an_id_is_known_for_its_time_and_then_forgotten() {
        let mut store = Store::new();
        for n in 0..2_500 {
            store.add(&format!("first-{n}"));
        }
        store.pass(3 * HOUR);
        store.add("second");
        store.pass(HOUR - Duration::from_secs(1));
        assert!(store.knows("first-0") && store.knows("first-2499"));
        (0..8).for_each(|_| store.pass(HOUR));
        assert!(!store.knows("first-0") && !store.knows("first-2499") && !store.knows("second"));
    }

    #[test]
    fn s1_10_a_clock_that_jumps_purges_nothing_while_the_store_is_open_and_less_than_a_part_while_it_is_not() {
        let mut store = Store::new();
        store.pass(HOUR);
        for hour in 0..6 {
            store.add(&format!("e{hour}"));
            store.pass(HOUR);
        }
        let known = |store: &Store| (0..6).filter(|hour| store.knows(&format!("e{hour}"))).count();
        let before = known(&store);
        assert!(before >= 4, "{before}");
        store.now += YEAR;
        store.pass(Duration::from_secs(60));
        assert_eq!(known(&store), before);
        // And back, and while the daemon is down, forward again.
        store.now -= YEAR;
        store.pass(Duration::from_secs(60));
        for jump in [YEAR, -YEAR] {
            store.now += jump;
            store.reopen();
            store.pass(Duration::from_secs(60));
        }
        assert!(known(&store) + 2 >= before, "{} of {before}", known(&store));
        // It goes on as before.
        (0..9).for_each(|_| store.pass(HOUR));
        assert_eq!(known(&store), 0);
    }

    #[test]
    fn what_a_group_did_that_did_not_commit_is_done_again() {
        let mut store = Store::new();
        store.add("old");
        for _ in 0..8 {
            store.instant += HOUR;
            store.connection.batch("BEGIN").unwrap();
            store.upkeep.run(&store.connection, &mut store.inbox, store.now, store.instant).unwrap();
            store.connection.batch("ROLLBACK").unwrap();
            store.inbox.roll_back();
        }
        assert!(store.knows("old"));
        assert!(store.upkeep.noted.is_none(), "the memory has not moved either");
        (0..9).for_each(|_| store.pass(HOUR));
        assert!(!store.knows("old"));
    }

    #[test]
    fn for_ever_is_for_ever_and_costs_nothing() {
        let mut store = Store::new();
        let keep = Keep { inbox: None, answers: None };
        store.upkeep = Upkeep::open(&store.connection, keep, store.now, store.instant).unwrap();
        store.add("old");
        (0..9).for_each(|_| store.pass(9_000 * HOUR));
        assert!(store.knows("old"));
        assert_eq!(store.upkeep.idle(), Duration::MAX);
    }
}
