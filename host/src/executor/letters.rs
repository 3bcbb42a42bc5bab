//! Dead letters that the operator puts back to their handler, publishes again, or discards.
//!
//! What is done with a letter and the note that it was done are one transaction, so a crash does neither or both. A record
//! that is put back is behind the offset of its lane and waits in `tm_pending` like one that has failed: it is never there and in a
//! lane's memory at once. Nobody waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::Executor;
use crate::deploy::manifest::Spec;
use crate::id::{InputId, Seed};
use crate::kafka::dead_letter::{self, Original};
use crate::lane::{Token, stands};
use crate::ledger::letter::{self, Done, Fate, Letter};
use crate::ledger::pending::{Pending, Purpose, Rows, TIMERS, Waiting};
use crate::ledger::{offset, outbox};
use crate::metrics::meters::{self, Left};
use crate::policy::Order;
use crate::record::Record;
use crate::settings::units;
use crate::store::Error;

/// What is to be done with a dead letter.
pub struct Errand {
    /// The letter.
    pub letter: Letter,
    /// The first offset of its partition that Kafka has.
    pub low: i64,
    /// What is to become of it.
    pub fate: Fate,
    /// To which handler its record goes, or whose it is.
    pub handler: Arc<str>,
    /// The record that it was. Only what is discarded can do without.
    pub was: Option<Original>,
    /// Whether it is done once more, if it was done before.
    pub again: bool,
    /// Who wants it.
    pub who: String,
}

/// What came of it: a word for the operator, if there is one to say; or why nothing did.
pub type Disposed = Result<Option<&'static str>, String>;

/// A handler, a topic and a partition.
type OfLane = (Arc<str>, Arc<str>, i32);

/// What changes in memory once it has committed.
pub(super) struct Draft {
    /// What waits on the lanes that have something more or less: with its lane, if that is open.
    pub(super) lanes: HashMap<OfLane, (Option<Token>, Waiting)>,
    pub(super) next_outbox_id: i64,
    /// Rows of the outbox that wait no more.
    pub(super) removed: u64,
    /// What became of records that handlers have left behind.
    pub(super) left: Vec<(Arc<meters::Handler>, Left)>,
}

/// A record that goes back to its handler.
pub(super) struct Return<'a> {
    pub(super) handler: &'a Arc<str>,
    pub(super) record: &'a Record,
    pub(super) purpose: Purpose,
    pub(super) errors: String,
}

impl Executor {
    /// Does what is wanted of each, all in one transaction; what cannot be done is told, and left as it is.
    pub(super) fn dispose<T>(
        &mut self,
        errands: Vec<T>,
        dry: bool,
        run: impl Fn(&Self, T, &mut Draft) -> Result<Disposed, Error>,
    ) -> Result<Vec<Disposed>> {
        let mut draft =
            Draft { lanes: HashMap::new(), next_outbox_id: self.next_outbox_id, removed: 0, left: Vec::new() };
        self.connection().execute("BEGIN IMMEDIATE", &[])?;
        let disposed = errands.into_iter().map(|errand| run(self, errand, &mut draft)).collect::<Result<_, _>>();
        let disposed = disposed.and_then(|disposed: Vec<Disposed>| {
            self.connection().execute(if dry { "ROLLBACK" } else { "COMMIT" }, &[])?;
            Ok(disposed)
        });
        if disposed.is_err() {
            let _ = self.rollback();
        }
        let disposed = disposed.with_context(|| format!("write to the store {}", self.name))?;
        if !dry {
            self.settle_letters(draft);
        }
        Ok(disposed)
    }

    fn settle_letters(&mut self, draft: Draft) {
        draft.left.iter().for_each(|(meter, left)| meter.left(*left, 1));
        for ((handler, topic, partition), (token, waiting)) in draft.lanes {
            // A handler's own lane is opened with the first that waits on it.
            let token = match token {
                None if partition < 0 => self.own_lane(&handler, &topic, partition).map(Some),
                token => Ok(token),
            };
            let token = match token {
                Ok(Some(token)) => token,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%handler, %topic, %error, "look for what was put back; it is done at the next start");
                    continue;
                }
            };
            let (Some(lane), Some(member)) = (self.lanes.get_mut(&token), self.members.get(&handler)) else { continue };
            lane.waiting = waiting;
            lane.meter.set_blocked(stands(&waiting, &member.live.environment.spec.retry));
            self.set_alarm(token);
            self.list(token);
        }
        let added = u64::try_from(draft.next_outbox_id - self.next_outbox_id).unwrap_or(0);
        self.next_outbox_id = draft.next_outbox_id;
        if added > 0 {
            (self.wake)();
        }
        self.count(added, draft.removed);
    }

    pub(super) fn run_errand(&self, errand: Errand, draft: &mut Draft) -> Result<Disposed, Error> {
        let connection = self.connection();
        let now = crate::clock::now();
        let original = errand.was.as_ref().map(|was| was.record.place().to_string());
        if !errand.again
            && let Some(why) = self.was_done(&errand, original.as_deref())?
        {
            return Ok(Err(why));
        }
        let done =
            Done { fate: errand.fate, handler: errand.handler.to_string(), original, who: errand.who.clone(), at: now };
        let disposed = match (errand.fate, &errand.was) {
            (Fate::Discarded, _) => Ok(None),
            (_, None) => Err("it does not say which record it was".to_owned()),
            (Fate::Replayed, Some(was)) => {
                let (handler, record) = (&errand.handler, &was.record);
                let errors = was.history(&errand.who, now);
                self.give_back(Return { handler, record, purpose: Purpose::Handle, errors }, draft, now)?
            }
            (Fate::Published, Some(_)) if self.backlog.is_full() => {
                Err("too many events wait for Kafka (outbox.max-rows): publish it later".to_owned())
            }
            (Fate::Published, Some(was)) => {
                let event = dead_letter::again(&errand.letter.place, was);
                let source = errand.letter.place.to_string();
                outbox::insert(connection, draft.next_outbox_id, &event, &errand.handler, &source, now)?;
                draft.next_outbox_id += 1;
                Ok(None)
            }
        };
        if disposed.is_ok() {
            letter::forget(connection, &errand.letter, errand.low)?;
            letter::note(connection, &errand.letter, &done)?;
        }
        Ok(disposed)
    }

    /// Why it need not be done, if it was.
    fn was_done(&self, errand: &Errand, original: Option<&str>) -> Result<Option<String>, Error> {
        if let Some(done) = letter::find(self.connection(), &errand.letter)? {
            return Ok(Some(told(&done, None)));
        }
        let (Some(original), Some(was)) = (original, &errand.was) else { return Ok(None) };
        if errand.fate == Fate::Discarded {
            return Ok(None);
        }
        let last = letter::last(self.connection(), &errand.handler, original)?;
        // One that has failed again since is another dead letter of the same record, and not a second copy of the first.
        let last = last.filter(|(done, _)| was.failed_at().is_none_or(|failed| failed < done.at));
        Ok(last.map(|(done, by)| told(&done, Some(&by))))
    }

    /// Puts a record where those wait that are tried again, due at once.
    pub(super) fn give_back(&self, back: Return<'_>, draft: &mut Draft, now: i64) -> Result<Disposed, Error> {
        let Return { handler, record, purpose, errors } = back;
        let Some(member) = self.members.get(handler) else {
            return Ok(Err(format!("handler {handler} does not run")));
        };
        let spec = &member.live.environment.spec;
        let topic_id = match record.partition {
            TIMERS => String::new(),
            _ => match self.may_return(handler, record, spec)? {
                Ok(topic_id) => topic_id,
                Err(why) => return Ok(Err(why)),
            },
        };
        let (token, mut waiting) = self.waiting_with(draft, handler, record)?;
        if waiting.records >= spec.retry.max_pending || waiting.bytes >= spec.retry.max_pending_bytes {
            return Ok(Err(format!(
                "as much of {}/{} waits already as may (retry.max-pending, retry.max-pending-bytes): replay it later",
                record.topic, record.partition
            )));
        }
        let record = Arc::new(record.clone());
        let lane = (handler.clone(), record.topic.clone(), record.partition);
        let pending =
            Pending { id: 0, record, topic_id, purpose, scope: Order::None, attempts: 0, due: Some(now), errors };
        let rows = Rows { connection: self.connection(), handler, topic: &lane.1, partition: lane.2 };
        if rows.add(&pending, &mut waiting)?.is_none() {
            return Ok(Err("its record waits in tm_pending, for another attempt or to be compensated".to_owned()));
        }
        let waits = (token.is_none() && lane.2 >= 0).then_some("it waits until the partition is read here again");
        draft.lanes.insert(lane, (token, waiting));
        Ok(Ok(waits))
    }

    /// The id of a record's topic, if its handler can have it back.
    fn may_return(&self, handler: &Arc<str>, record: &Record, spec: &Spec) -> Result<Result<String, String>, Error> {
        let (connection, place) = (self.connection(), format!("{}/{}", record.topic, record.partition));
        if spec.pattern.is_none() && !spec.topics.iter().any(|topic| **topic == *record.topic) {
            return Ok(Err(format!(
                "handler {handler} does not read topic {}: it reads {}",
                record.topic,
                spec.topics.join(", ")
            )));
        }
        let Some(stored) = offset::find(connection, handler, &record.topic, record.partition)? else {
            return Ok(Err(format!("handler {handler} has never read {place}, so it has given up on nothing there")));
        };
        if stored.next_offset <= record.offset {
            return Ok(Err(format!(
                "handler {handler} stands at offset {} of {place}, and has the record still before it",
                stored.next_offset
            )));
        }
        let input =
            InputId::Record { topic_id: stored.topic_id.clone(), partition: record.partition, offset: record.offset };
        let seed = Seed::derive(self.identity.secret.as_bytes(), handler, &input);
        let next_letter = seed.dead_letter_id(record.timestamp.millis().unwrap_or(0)).to_string();
        if outbox::waits(connection, &next_letter)? {
            // One that fails at once would be taken for the one that is there.
            return Ok(Err("Kafka has not acknowledged the dead letter yet: replay it in a moment".to_owned()));
        }
        Ok(Ok(stored.topic_id))
    }

    /// What waits on a record's lane under this draft, with the lane, if that is open.
    pub(super) fn waiting_with(
        &self,
        draft: &Draft,
        handler: &Arc<str>,
        record: &Record,
    ) -> Result<(Option<Token>, Waiting), Error> {
        if let Some(lane) = draft.lanes.get(&(handler.clone(), record.topic.clone(), record.partition)) {
            return Ok(*lane);
        }
        let token = self.lane_of(handler, &record.topic, record.partition);
        if let Some(lane) = token.and_then(|token| self.lanes.get(&token)) {
            return Ok((token, lane.waiting));
        }
        let (connection, partition) = (self.connection(), record.partition);
        let rows = Rows { connection, handler, topic: &record.topic, partition };
        Ok((None, Waiting { records: rows.to_handle()?, ..Waiting::default() }))
    }
}

fn told(done: &Done, by: Option<&str>) -> String {
    let what = match done.fate {
        Fate::Replayed => format!("put back to handler {}", done.handler),
        Fate::Published => "published again".to_owned(),
        Fate::Discarded => "discarded".to_owned(),
    };
    let copy = by.map(|by| format!(", by its dead letter {by}")).unwrap_or_default();
    format!("it was {what} at {} by {}{copy}", units::show_time(done.at), done.who)
}
