//! The dead letters of the handlers: finding them in Kafka, and what the operator does with them.
//!
//! It reads Kafka and changes nothing there: what is done is done by the store of a handler, and noted in it. No deployment and
//! no other operator comes in between a look at what was done before and what is done now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Deployer;
use super::audit::{Act, Caller};
use super::command::{Denied, unknown};
use super::manifest::Spec;
use crate::executor::{self, Errand};
use crate::http::admin::body::{object, whole};
use crate::kafka::dead_letter::{self, Original};
use crate::kafka::ends::{self, Ends};
use crate::kafka::scan::{self, Flow, Part};
use crate::ledger::letter::{self, Fate};
use crate::ledger::{deployment, offset};
use crate::record::{Header, Place, Record, last_header};
use crate::rig::wire;
use crate::settings::units;
use crate::store::Connection as Store;

/// Dead letters of one answer, unless it is said.
pub const PAGE: usize = 100;
/// At most.
pub const PAGE_MAX: usize = 1_000;
/// Places that are named in one request at most.
pub const PLACES_MAX: usize = 1_000;
/// Bytes of records that are held for one request, and then no more are begun.
const HELD: usize = 32 << 20;
/// How long reading may take before what was found is told.
const WITHIN: Duration = Duration::from_secs(20);
/// Records between two that are asked for that are sooner read than gone round.
const GAP: i64 = 200;

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
    /// So many, [`PAGE`] without it.
    #[serde(deserialize_with = "whole")]
    pub limit: Option<usize>,
    /// From where another answer ended.
    pub after: Option<String>,
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

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetters")]
pub struct Page {
    /// The oldest first.
    pub letters: Vec<Letter>,
    /// For `after`, where there is more to look through.
    pub next: Option<String>,
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
    /// For `after` of `matching`, where there is more to look through.
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

/// A handler, as far as its dead letters go.
struct Source {
    spec: Spec,
    store: executor::Handle,
    /// The topics that it has read or is to read.
    topics: BTreeSet<String>,
    runs: bool,
}

impl Source {
    fn letters_of(&self, topic: &str) -> String {
        self.spec.dead_letter.topic.replace("{topic}", topic)
    }

    /// Whether this is one of its dead letter topics.
    fn owns(&self, letters: &str) -> bool {
        self.topics.iter().any(|topic| self.letters_of(topic) == letters)
    }
}

/// The handlers that run or ever did, by their names.
type Sources = BTreeMap<String, Source>;

/// A dead letter as it was read.
struct Found {
    place: Place,
    record: Record,
    was: Result<Original, String>,
    /// The handler of its group.
    handler: Option<String>,
    ends: Ends,
}

impl Deployer {
    /// Looks for dead letters, the oldest first.
    ///
    /// # Errors
    /// The search makes no sense; or Kafka or a store cannot be read.
    pub fn dead_letters(&self, search: &Search) -> Result<Page> {
        let sources = self.sources()?;
        let fates = self.fates()?;
        let (found, next) = self.search(&sources, &fates, search)?;
        let letters = found.iter().map(|found| found.letter(&fates)).collect::<Result<_>>()?;
        Ok(Page { letters, next })
    }

    /// One dead letter.
    ///
    /// # Errors
    /// There is no record at that place.
    pub fn dead_letter(&self, place: &str) -> Result<Detail> {
        let place: Place = place.parse().map_err(Denied::Conflict)?;
        let found = self.read_all(&self.sources()?, std::slice::from_ref(&place))?.into_iter().next();
        let found = found.unwrap_or_else(|| Err(anyhow!("it was not read").to_string()));
        let found = found.map_err(|why| Denied::Unknown(format!("{place}: {why}")))?;
        let letter = found.letter(&self.fates()?)?;
        let (record, attempts) = match &found.was {
            Ok(was) => (&was.record, was.attempts()),
            Err(_) => (&found.record, Vec::new()),
        };
        let value = record.value.as_deref();
        let json = value.and_then(|bytes| serde_json::from_slice(bytes).ok());
        Ok(Detail {
            letter,
            attempts,
            timestamp: record.timestamp.millis().map(units::show_time),
            headers: wire::headers(&record.headers),
            value: json.unwrap_or_else(|| wire::text(value)),
        })
    }

    /// Puts records back to their handlers, or publishes them again.
    ///
    /// # Errors
    /// The order makes no sense; Kafka or a store fails. What cannot be done with one letter is told of that one.
    pub fn replay(&self, order: &Order, caller: &Caller) -> Result<Handled> {
        let fate = if order.to_topic { Fate::Published } else { Fate::Replayed };
        self.handle("replay-dead-letters", fate, order, caller)
    }

    /// Notes that nothing is to be done with dead letters any more.
    ///
    /// # Errors
    /// As for [`Deployer::replay`].
    pub fn discard(&self, order: &Order, caller: &Caller) -> Result<Handled> {
        if order.on.is_some() || order.to_topic {
            return Err(Denied::Conflict("what is discarded goes nowhere: leave `on` and `to-topic` out".into()).into());
        }
        self.handle("discard-dead-letters", Fate::Discarded, order, caller)
    }

    fn handle(&self, action: &str, fate: Fate, order: &Order, caller: &Caller) -> Result<Handled> {
        if order.dry_run {
            return self.try_handle(fate, order, caller);
        }
        let audit = &self.around.audit;
        audit.check().context("nothing was done, since it could not be noted")?;
        let handled = self.try_handle(fate, order, caller);
        let (error, detail) = match &handled {
            Ok(handled) => (None, Some(handled.summary())),
            Err(error) => (Some(format!("{error:#}")), None),
        };
        // One of them at least: where a search finds nothing more, nothing was asked for either.
        if handled.as_ref().is_ok_and(|handled| handled.letters.is_empty()) {
            return handled;
        }
        match &detail {
            Some(done) => tracing::info!(by = caller.name(), done, "{action}"),
            None => tracing::warn!(by = caller.name(), error, "{action} refused"),
        }
        let (ok, handler) = (error.is_none(), order.on.as_deref());
        let act = Act { action, handler, ok, error: error.as_deref(), detail: detail.as_deref(), ..Act::default() };
        let noted = audit.write(caller, act);
        let handled = handled?;
        noted.context("it was done, and could not be noted")?;
        Ok(handled)
    }

    fn try_handle(&self, fate: Fate, order: &Order, caller: &Caller) -> Result<Handled> {
        if order.on.is_some() && order.to_topic {
            let why = "a record goes to one handler (`on`) or to its topic (`to-topic`), not both";
            return Err(Denied::Conflict(why.into()).into());
        }
        let sources = self.sources()?;
        if let Some(name) = &order.on {
            sources.get(name).ok_or_else(|| unknown(name))?;
        }
        let (found, next) = match (&order.matching, order.places.len()) {
            (Some(search), 0) => {
                let search = Search { all: search.all || order.again, ..search.clone() };
                let (found, next) = self.search(&sources, &self.fates()?, &search)?;
                (found.into_iter().map(|found| (found.place.to_string(), Ok(found))).collect(), next)
            }
            (None, 1..=PLACES_MAX) => {
                let places = order.places.iter().map(|text| text.parse().map_err(Denied::Conflict));
                let places: Vec<Place> = places.collect::<Result<_, _>>()?;
                let found = self.read_all(&sources, &places)?;
                (places.iter().map(ToString::to_string).zip(found).collect::<Vec<_>>(), None)
            }
            _ => {
                let why = format!("say which dead letters: 1 to {PLACES_MAX} `places`, or `matching`");
                return Err(Denied::Conflict(why).into());
            }
        };
        // From here to the end nobody else does anything with a dead letter, and no handler comes or goes.
        let _handlers = self.lock();
        let fates = self.fates()?;
        let mut outcomes = Vec::with_capacity(found.len());
        // By stores, each with its place among the outcomes.
        type Errands = (executor::Handle, Vec<(usize, Errand)>);
        let mut errands: HashMap<Arc<str>, Errands> = HashMap::new();
        for (place, found) in found {
            let was = found.as_ref().ok().and_then(|found| found.was.as_ref().ok());
            let of = was.map(|was| was.record.place().to_string());
            let outcome = Outcome { place, of, handler: None, error: None, note: None };
            let planned = found.and_then(|found| plan(&sources, &fates, found, fate, order, caller));
            outcomes.push(match planned {
                Ok((store, errand)) => {
                    let handler = Some(errand.handler.to_string());
                    let entry = errands.entry(store.name().clone()).or_insert_with(|| (store, Vec::new()));
                    entry.1.push((outcomes.len(), errand));
                    Outcome { handler, ..outcome }
                }
                Err(error) => Outcome { error: Some(error), ..outcome },
            });
        }
        for (store, errands) in errands.into_values() {
            let (numbers, errands): (Vec<usize>, Vec<Errand>) = errands.into_iter().unzip();
            // Another store may have done its own already.
            let disposed = store.dispose(errands, order.dry_run);
            let disposed = disposed.unwrap_or_else(|error| vec![Err(format!("{error:#}")); numbers.len()]);
            for (number, disposed) in numbers.into_iter().zip(disposed) {
                let Some(outcome) = outcomes.get_mut(number) else { continue };
                match disposed {
                    Ok(note) => outcome.note = note.map(str::to_owned),
                    Err(why) => outcome.error = Some(why),
                }
            }
        }
        Ok(Handled { letters: outcomes, next })
    }

    /// The handlers that run, and those that did and whose last version is kept.
    fn sources(&self) -> Result<Sources> {
        let handlers = self.lock();
        let mut sources = Sources::new();
        for name in self.stores.known() {
            let Some(store) = self.stores.last_seen(&name).and_then(|seen| self.stores.handle(&seen.store)) else {
                continue;
            };
            let connection = self.store(&name)?;
            let running = handlers.get(&name).map(|running| running.spec.clone());
            let runs = running.is_some();
            let spec = match running {
                Some(spec) => spec,
                None => match self.last_spec(&connection, &name) {
                    Ok(Some(spec)) => spec,
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::debug!(
                            handler = name,
                            error = format!("{error:#}"),
                            "its last version cannot be read"
                        );
                        continue;
                    }
                },
            };
            let mut topics: BTreeSet<String> = spec.topics.iter().cloned().collect();
            topics.extend(offset::all(&connection, &name)?.into_iter().map(|(topic, ..)| topic));
            sources.insert(name, Source { spec, store, topics, runs });
        }
        Ok(sources)
    }

    fn last_spec(&self, connection: &Store, name: &str) -> Result<Option<Spec>> {
        let last = deployment::last_live(connection)?.into_iter().find(|row| row.handler == name);
        let Some(artifact) = last.and_then(|row| row.artifact) else { return Ok(None) };
        Ok(Some(self.around.versions.read(&artifact)?.lay_out(&self.around.settings)?.0))
    }

    fn fates(&self) -> Result<Fates> {
        let open = |(handle, path): (executor::Handle, Arc<std::path::Path>)| {
            Ok((handle.name().clone(), Store::open_reader(&path)?))
        };
        Ok(Fates(self.stores.listed().into_iter().map(open).collect::<Result<_>>()?))
    }

    /// Reads until enough was found, and says where to go on.
    fn search(&self, sources: &Sources, fates: &Fates, search: &Search) -> Result<(Vec<Found>, Option<String>)> {
        let filter = Filter::new(search, sources)?;
        let topics = filter.topics(sources);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let ends = ends::of(&self.around.kafka, &names)?;
        let mut parts = match &search.after {
            Some(after) => resume(after, &ends)?,
            None => begin(&ends),
        };
        let limit = search.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
        let began = place_of(&parts);
        let client = scan::open(&self.around.kafka, "dead-letters")?;
        let until = Instant::now() + WITHIN;
        let (mut lists, mut held, mut trouble) = (BTreeMap::<(String, i32), VecDeque<Found>>::new(), 0, None);
        for (topic, parts) in &mut parts {
            let each = |record: Record| {
                let key = (topic.clone(), record.partition);
                let Some(ends) = ends.get(&key) else { return Flow::Enough };
                let found = Found::of(record, sources, ends.clone());
                match filter.fits(&found, fates) {
                    Ok(true) => {}
                    Ok(false) => return Flow::On,
                    Err(error) => {
                        trouble = Some(error);
                        return Flow::Enough;
                    }
                }
                held += found.record.size();
                let list = lists.entry(key).or_default();
                list.push_back(found);
                if list.len() >= limit || held > HELD { Flow::Enough } else { Flow::On }
            };
            *parts = scan::read(&client, topic, std::mem::take(parts), until, each)?;
            if let Some(error) = trouble {
                return Err(error);
            }
        }
        let found = oldest(&mut lists, limit);
        if place_of(&parts) == began && Instant::now() >= until {
            bail!(
                "Kafka at {} has brought nothing of the dead letter topics within {WITHIN:?}",
                self.around.kafka.bootstrap
            );
        }
        // What was read and is not told is read again.
        let next = parts.iter().flat_map(|(topic, parts)| {
            let lists = &lists;
            parts.iter().map(move |part| {
                let untold = lists.get(&(topic.clone(), part.partition)).and_then(VecDeque::front);
                (topic, Part { next: untold.map_or(part.next, |found| found.place.offset), ..*part })
            })
        });
        let next: Vec<String> = next
            .filter(|(_, part)| part.next < part.end)
            .map(|(topic, part)| format!("{topic}/{}@{}-{}", part.partition, part.next, part.end))
            .collect();
        Ok((found, Some(next.join(",")).filter(|next| !next.is_empty())))
    }

    /// Reads the dead letters of these places, each or why it is not there.
    fn read_all(&self, sources: &Sources, places: &[Place]) -> Result<Vec<Result<Found, String>>> {
        let topics: BTreeSet<&str> = places.iter().map(|place| place.topic.as_str()).collect();
        let ends = ends::of(&self.around.kafka, &topics.into_iter().collect::<Vec<_>>())?;
        let mut wanted: BTreeMap<(&str, i32), BTreeSet<i64>> = BTreeMap::new();
        for place in places {
            let there = ends.get(&(place.topic.clone(), place.partition));
            if there.is_some_and(|ends| (ends.low..ends.high).contains(&place.offset)) {
                wanted.entry((&place.topic, place.partition)).or_default().insert(place.offset);
            }
        }
        let client = scan::open(&self.around.kafka, "dead-letters")?;
        let until = Instant::now() + WITHIN;
        let mut read: HashMap<Place, Record> = HashMap::new();
        for ((topic, partition), offsets) in wanted {
            for part in stretches(partition, &offsets) {
                scan::read(&client, topic, vec![part], until, |record| {
                    if offsets.contains(&record.offset) {
                        read.insert(record.place(), record);
                    }
                    Flow::On
                })?;
            }
        }
        let in_time = Instant::now() < until;
        let found = |place: &Place| match (ends.get(&(place.topic.clone(), place.partition)), read.get(place)) {
            (None, _) => Err(format!("Kafka has no partition {}/{}", place.topic, place.partition)),
            (Some(ends), Some(record)) => Ok(Found::of(record.clone(), sources, ends.clone())),
            (Some(ends), None) if in_time => {
                Err(format!("Kafka has no record there: the partition goes from {} to {}", ends.low, ends.high))
            }
            (Some(_), None) => Err(format!("Kafka did not bring it within {WITHIN:?}")),
        };
        Ok(places.iter().map(found).collect())
    }
}

/// What is to be done with a dead letter, and in which store.
fn plan(
    sources: &Sources,
    fates: &Fates,
    found: Found,
    fate: Fate,
    order: &Order,
    caller: &Caller,
) -> Result<(executor::Handle, Errand), String> {
    let Found { place, was, handler, ends, .. } = found;
    // Where nobody is known who gave it up, it is kept by whom its topic belongs to.
    let owner = || sources.values().find(|source| source.owns(&place.topic)).map(|source| source.spec.name.clone());
    let group = was.as_ref().ok().and_then(|was| was.group.clone());
    let was = match (was, fate) {
        (Ok(was), _) => Some(was),
        (Err(_), Fate::Discarded) => None,
        (Err(problem), _) => return Err(problem),
    };
    let name = match (fate, order.on.clone().or(handler)) {
        (_, Some(name)) => name,
        (Fate::Replayed, None) => {
            return Err(format!(
                "no handler here has read as group {}, which gave it up: say which is to have it (--on)",
                group.unwrap_or_else(|| "-".into())
            ));
        }
        (_, None) => owner().ok_or("no handler here has this dead letter topic, so nothing can note it")?,
    };
    let source = sources.get(&name).ok_or_else(|| unknown(&name).to_string())?;
    if fate == Fate::Replayed && !source.runs {
        return Err(format!("handler {name} does not run: deploy it, or say which one is to have it (--on)"));
    }
    let letter = letter::Letter { place, topic_id: ends.topic_id.as_str().to_owned() };
    let elsewhere = fates.find(&letter, Some(source.store.name())).map_err(|error| format!("{error:#}"))?;
    if let Some(done) = elsewhere.filter(|_| !order.again) {
        let (what, at) = (done.fate.name(), units::show_time(done.at));
        return Err(format!("it was {what} at {at} by {}, for handler {}", done.who, done.handler));
    }
    let handler = name.as_str().into();
    let (again, who) = (order.again, caller.name().to_owned());
    Ok((source.store.clone(), Errand { letter, low: ends.low, fate, handler, was, again, who }))
}

/// Readers of all stores, each with its name.
struct Fates(Vec<(Arc<str>, Store)>);

impl Fates {
    /// What was done with a dead letter, in all stores but one.
    fn find(&self, letter: &letter::Letter, but: Option<&str>) -> Result<Option<letter::Done>> {
        for (_, store) in self.0.iter().filter(|(name, _)| but != Some(&**name)) {
            if let Some(done) = letter::find(store, letter)? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }
}

impl Found {
    fn of(record: Record, sources: &Sources, ends: Ends) -> Self {
        let was = dead_letter::original(&record).and_then(|was| {
            was.ok_or_else(|| "it is no dead letter: it has no header kafka_dlt-original-topic".to_owned())
        });
        let group = was.as_ref().ok().and_then(|was| was.group.as_deref());
        let handler = group.and_then(|group| sources.values().find(|source| source.spec.group == group));
        let handler = handler.map(|source| source.spec.name.clone());
        Self { place: record.place(), was, handler, ends, record }
    }

    fn fated(&self, fates: &Fates) -> Result<Option<letter::Done>> {
        let topic_id = self.ends.topic_id.as_str().to_owned();
        fates.find(&letter::Letter { place: self.place.clone(), topic_id }, None)
    }

    fn letter(&self, fates: &Fates) -> Result<Letter> {
        let was = self.was.as_ref().ok();
        let fate = self.fated(fates)?.map(|done| {
            let letter::Done { fate, handler, who, at, .. } = done;
            Fated { fate, handler, who, at: units::show_time(at) }
        });
        Ok(Letter {
            place: self.place.to_string(),
            written: self.record.timestamp.millis().map(units::show_time),
            handler: self.handler.clone(),
            group: was.and_then(|was| was.group.clone()),
            of: was.map(|was| was.record.place().to_string()),
            key: wire::text(self.record.key.as_deref()),
            outcome: was.and_then(|was| was.outcome.clone()),
            message: was.and_then(|was| was.message.clone()),
            fate,
            problem: self.was.as_ref().err().cloned(),
        })
    }
}

/// A search that makes sense.
struct Filter<'a> {
    search: &'a Search,
    error: Option<String>,
    since: Option<i64>,
    until: Option<i64>,
    headers: Vec<(&'a str, &'a str)>,
    /// Whether `topic` is a topic that dead letters came from.
    of_topic: bool,
}

impl<'a> Filter<'a> {
    fn new(search: &'a Search, sources: &Sources) -> Result<Self> {
        let time = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => units::time(text)
                .map(Some)
                .ok_or_else(|| Denied::Conflict(format!("{text:?} is no time; write it like 2026-01-31T12:00:00Z"))),
        };
        let header = |text: &'a String| {
            text.split_once('=')
                .ok_or_else(|| Denied::Conflict(format!("{text:?} is no header; write it as NAME=VALUE")))
        };
        if let Some(name) = &search.handler {
            sources.get(name).ok_or_else(|| unknown(name))?;
        }
        let read = |topic: &String| sources.values().any(|source| source.topics.contains(topic));
        // One that a handler reads as well, for example to tell somebody, is a dead letter topic all the same.
        let holds = |topic: &String| sources.values().any(|source| source.owns(topic));
        Ok(Self {
            search,
            error: search.error.as_ref().map(|text| text.to_lowercase()),
            since: time(&search.since)?,
            until: time(&search.until)?,
            headers: search.headers.iter().map(header).collect::<Result<_, _>>()?,
            of_topic: search.topic.as_ref().is_some_and(|topic| read(topic) && !holds(topic)),
        })
    }

    /// The dead letter topics to be read.
    fn topics(&self, sources: &Sources) -> BTreeSet<String> {
        let name = self.search.handler.as_ref();
        let sources = sources.values().filter(|source| name.is_none_or(|name| source.spec.name == *name));
        let of = |source: &Source| -> Vec<String> {
            let topics =
                source.topics.iter().filter(|topic| !self.of_topic || self.search.topic.as_ref() == Some(*topic));
            topics.map(|topic| source.letters_of(topic)).collect()
        };
        match &self.search.topic {
            Some(topic) if !self.of_topic => BTreeSet::from([topic.clone()]),
            _ => sources.flat_map(of).collect(),
        }
    }

    fn fits(&self, found: &Found, fates: &Fates) -> Result<bool> {
        let Search { handler, topic, key, all, .. } = self.search;
        let was = found.was.as_ref().ok();
        let written = found.record.timestamp.millis();
        let says = |text: &String| {
            let parts = was.map(|was| [was.outcome.as_deref(), was.message.as_deref()]).unwrap_or_default();
            let parts = parts.into_iter().chain([found.was.as_ref().err().map(String::as_str)]);
            parts.flatten().any(|part| part.to_lowercase().contains(text))
        };
        let record = was.map_or(&found.record, |was| &was.record);
        let has = |(name, value): &(&str, &str)| has_header(&record.headers, name, value);
        let fits = handler.as_ref().is_none_or(|name| found.handler.as_ref() == Some(name))
            && topic.as_ref().is_none_or(|topic| !self.of_topic || **topic == *record.topic)
            && self.error.as_ref().is_none_or(says)
            && self.since.is_none_or(|since| written.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| written.is_some_and(|at| at < until))
            && key.as_ref().is_none_or(|key| found.record.key.as_deref() == Some(key.as_bytes()))
            && self.headers.iter().all(has);
        Ok(fits && (*all || found.fated(fates)?.is_none()))
    }
}

fn has_header(headers: &[Header], name: &str, value: &str) -> bool {
    last_header(headers, name) == Some(value.as_bytes())
}

/// Up to so many of the first ones of all lists, the one that was written first before the others, and each list in its order.
fn oldest(lists: &mut BTreeMap<(String, i32), VecDeque<Found>>, limit: usize) -> Vec<Found> {
    let written = |list: &VecDeque<Found>| list.front().map(|found| found.record.timestamp.millis());
    let mut heads: BinaryHeap<_> =
        lists.iter().filter_map(|(key, list)| Some(Reverse((written(list)?, key.clone())))).collect();
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(Reverse((_, key))) = heads.pop()
    {
        let Some(list) = lists.get_mut(&key) else { continue };
        found.extend(list.pop_front());
        heads.extend(written(list).map(|at| Reverse((at, key))));
    }
    found
}

/// What there is to read, by topics.
type Parts = BTreeMap<String, Vec<Part>>;

/// How far they have been read, all together.
fn place_of(parts: &Parts) -> i64 {
    parts.values().flatten().map(|part| part.next).sum()
}

fn begin(ends: &HashMap<(String, i32), Ends>) -> Parts {
    let mut parts = Parts::new();
    for ((topic, partition), ends) in ends {
        let part = Part { partition: *partition, next: ends.low, end: ends.high };
        parts.entry(topic.clone()).or_default().push(part);
    }
    parts
}

/// What is left to read, as an answer has written it: what came since is none of it.
fn resume(after: &str, ends: &HashMap<(String, i32), Ends>) -> Result<Parts> {
    let mut parts = Parts::new();
    for text in after.split(',') {
        let read = || {
            let (place, end) = text.rsplit_once('-')?;
            let (place, end): (Place, i64) = (place.parse().ok()?, end.parse().ok()?);
            Some((place, end))
        };
        let (place, end) =
            read().ok_or_else(|| Denied::Conflict(format!("{text:?} is not where another answer ended (`after`)")))?;
        // A topic that is gone, or was made anew, has nothing more of what there was.
        if let Some(ends) = ends.get(&(place.topic.clone(), place.partition)) {
            let part = Part { partition: place.partition, next: place.offset.max(ends.low), end: end.min(ends.high) };
            parts.entry(place.topic).or_default().push(part);
        }
    }
    Ok(parts)
}

/// Offsets as stretches that are read at once.
fn stretches(partition: i32, offsets: &BTreeSet<i64>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for offset in offsets {
        match parts.last_mut() {
            Some(part) if offset - part.end <= GAP => part.end = offset + 1,
            _ => parts.push(Part { partition, next: *offset, end: offset + 1 }),
        }
    }
    parts
}

impl Handled {
    /// For the audit log.
    fn summary(&self) -> String {
        let mut text = String::new();
        for (n, outcome) in self.letters.iter().enumerate() {
            let Outcome { place, handler, error, .. } = outcome;
            // Writing to a string does not fail.
            let _ = write!(text, "{}{place}", if n == 0 { "" } else { ", " });
            let _ = match (error, handler) {
                (Some(error), _) => write!(text, " (not done: {error})"),
                (None, Some(handler)) => write!(text, " ({handler})"),
                (None, None) => Ok(()),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn h3_places_that_are_close_are_read_at_once_and_those_far_off_by_themselves() {
        let parts = stretches(2, &BTreeSet::from([5, 6, 200, 5_000]));
        let part = |next, end| Part { partition: 2, next, end };
        assert_eq!(parts, [part(5, 201), part(5_000, 5_001)]);
    }

    #[test]
    fn h3_an_answer_goes_on_where_another_ended_and_takes_nothing_that_came_since() {
        let ends =
            |low, high| Ends { topic_id: crate::kafka::identity::TopicId::from_stored("i"), low, high, at: high };
        let all = HashMap::from([(("a-b.DLT".to_owned(), 1), ends(5, 90)), (("c".to_owned(), 0), ends(0, 9))]);
        let parts = resume("a-b.DLT/1@2-80,gone/0@1-2", &all).unwrap();
        assert_eq!(parts, Parts::from([("a-b.DLT".to_owned(), vec![Part { partition: 1, next: 5, end: 80 }])]));
        for wrong in ["", "a", "a/0@1", "a/0@1-", "a/0-1"] {
            assert!(resume(wrong, &all).is_err(), "{wrong:?}");
        }
    }
}
