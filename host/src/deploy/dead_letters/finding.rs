//! Finding dead letters: which topics hold them, and reading these until enough was found.
//!
//! Its invariant: who goes on where an answer ended is told each that was there at the first once, and none that came since. It never
//! commits an offset, and writes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::telling::Fates;
use super::{LISTING, Search};
use crate::deploy::Deployer;
use crate::deploy::command::{Denied, unknown};
use crate::deploy::manifest::Spec;
use crate::deploy::page::{self, Foreign};
use crate::executor;
use crate::kafka::dead_letter::{self, Original};
use crate::kafka::ends::{self, Ends};
use crate::kafka::scan::{self, Flow, Part};
use crate::ledger::{deployment, offset};
use crate::record::{Header, Place, Record, last_header};
use crate::settings::units;
use crate::store::Connection as Store;

/// Bytes of records that are held for one request, and then no more are begun.
const HELD: usize = 32 << 20;
/// How long reading may take before what was found is told.
const WITHIN: Duration = Duration::from_secs(20);
/// Records between two that are asked for that are sooner read than gone round.
const GAP: i64 = 200;

/// A handler, as far as its dead letters go.
pub(super) struct Source {
    pub(super) spec: Spec,
    pub(super) store: executor::Handle,
    /// The topics that it has read or is to read.
    topics: BTreeSet<String>,
    pub(super) runs: bool,
}

impl Source {
    fn letters_of(&self, topic: &str) -> String {
        self.spec.dead_letter.topic.replace("{topic}", topic)
    }

    /// Whether this is one of its dead letter topics.
    pub(super) fn owns(&self, letters: &str) -> bool {
        self.topics.iter().any(|topic| self.letters_of(topic) == letters)
    }
}

/// The handlers that run or ever did, by their names.
pub(super) type Sources = BTreeMap<String, Source>;

/// A dead letter as it was read.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) record: Record,
    pub(super) was: Result<Original, String>,
    /// The handler of its group.
    pub(super) handler: Option<String>,
    pub(super) ends: Ends,
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
}

impl Deployer {
    /// The handlers that run, and those that did and whose last version is kept.
    pub(super) fn sources(&self) -> Result<Sources> {
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

    /// Reads until enough was found, and says where to go on.
    pub(super) fn search(
        &self,
        sources: &Sources,
        fates: &Fates,
        search: &Search,
    ) -> Result<(Vec<Found>, Option<String>)> {
        let filter = Filter::new(search, sources)?;
        let topics = filter.topics(sources);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let ends = ends::of(&self.around.kafka, &names)?;
        let mut parts = match &search.cursor {
            Some(cursor) => resume(&page::key::<String>(LISTING, cursor)?, &ends)?,
            None => begin(&ends),
        };
        let limit = search.limit.unwrap_or(page::USUAL).clamp(1, page::MAX);
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
        Ok((found, (!next.is_empty()).then(|| page::cursor(LISTING, next.join(",")))))
    }

    /// Reads the dead letters of these places, each or why it is not there.
    pub(super) fn read_all(&self, sources: &Sources, places: &[Place]) -> Result<Vec<Result<Found, String>>> {
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
fn resume(left: &str, ends: &HashMap<(String, i32), Ends>) -> Result<Parts, Foreign> {
    let mut parts = Parts::new();
    for text in left.split(',') {
        let read = || {
            let (place, end) = text.rsplit_once('-')?;
            let (place, end): (Place, i64) = (place.parse().ok()?, end.parse().ok()?);
            Some((place, end))
        };
        let (place, end) = read().ok_or(Foreign)?;
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
