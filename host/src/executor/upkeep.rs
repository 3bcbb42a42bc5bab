//! What a store forgets after a time, and when it looks for it: ids in the inbox, answers to idempotent requests.
//!
//! It works inside the transactions of groups, a slice in each, so that the flow never stands still for it; when
//! nothing else is to be done it has groups of its own. Times are the store's age, which no wall clock can jump.

use std::time::{Duration, Instant};

use crate::ledger::{age, inbox, request};
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
    /// `outbox.keep`: published events.
    pub outbox: Duration,
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
    /// For a store that is opened at `now`, milliseconds since the Unix epoch.
    pub(super) fn open(connection: &Connection, keep: Keep, now: i64) -> Result<Self, Error> {
        // A part of the inbox is filled for a third of the time; a few looks in that time keep it near to that.
        let shortest = keep.inbox.map(|inbox| inbox / 3).into_iter().chain(keep.answers).min();
        let every = shortest.map(|shortest| (shortest / 8).max(Duration::from_millis(10)));
        // So a clock that is wrong by a year at each of two starts costs less than a part.
        let age = age::open(connection, now, shortest.map_or(0, |shortest| millis(shortest / 2)))?;
        let opened = Instant::now();
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
    pub(super) fn run(&mut self, connection: &Connection, now: i64) -> Result<(), Error> {
        self.draft = None;
        let Some(every) = self.every else { return Ok(()) };
        let instant = Instant::now();
        let look = self.more || instant >= self.next;
        let behind = every.min(NOTE_EVERY);
        if !look && self.noted.is_some_and(|noted| instant.saturating_duration_since(noted) < behind) {
            return Ok(());
        }
        let (before, opened) = self.opened;
        let age = before.saturating_add(millis(instant.saturating_duration_since(opened)));
        age::note(connection, age, now)?;
        let mut draft = Draft { noted: instant, next: self.next, more: false };
        if look {
            if let Some(keep) = self.keep.inbox.map(millis) {
                inbox::turn(connection, age, keep)?;
                draft.more |= inbox::purge(connection, age, keep, IDS)?;
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
