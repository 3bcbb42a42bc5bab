//! What Kafka and the stores know, gathered before anything is put together: records of the topics from a time on, by ids and places
//! and without their values, and rows of the stores.
//!
//! Each topic and each store is read once, by a client and connections of its own, to a bound; what is beyond it is a note.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Asked, Places};
use crate::deploy::manifest::Spec;
use crate::executor::event_id;
use crate::kafka::dead_letter;
use crate::kafka::peek;
use crate::kafka::reader::Reader;
use crate::ledger::{offset, schema};
use crate::record::{self, last_header};
use crate::store::{self, Connection};

/// Records that are read of a topic at most.
const RECORDS: usize = 20_000;
/// Rows of a store's outbox, and of its fallback, that are looked at.
const ROWS: i64 = 100_000;
/// How long before an event's own time its topics are read from: clocks differ.
const EARLIER_MS: i64 = 60_000;

/// The place of a record, and the group that gave it up.
type GivenUp = (String, i32, i64, String);

/// What is known.
pub(super) struct Known {
    records: Vec<Record>,
    by_place: HashMap<(String, i32, i64), usize>,
    by_id: HashMap<String, Vec<usize>>,
    /// By handler and id.
    by_inbox: HashMap<(String, String), Vec<usize>>,
    /// By the place of the record and the group that gave it up: the dead letter, and why.
    letters: HashMap<GivenUp, (usize, Option<String>)>,
    /// Rows of the outboxes and fallbacks.
    pub(super) rows: Vec<Row>,
    stores: HashMap<String, Store>,
    pub(super) looked: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// A record, without its value.
pub(super) struct Record {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) time: Option<i64>,
    pub(super) event_id: Option<String>,
    pub(super) event_type: Option<String>,
    /// By which id each handler that reads it knows it.
    pub(super) ids: Vec<(String, String)>,
}

impl Record {
    pub(super) fn place(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// A row of an outbox or a fallback.
pub(super) struct Row {
    pub(super) store: String,
    pub(super) kind: String,
    pub(super) handler: String,
    pub(super) source: String,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) topic: String,
    pub(super) status: String,
    pub(super) last_error: Option<String>,
    pub(super) not_before: Option<i64>,
    /// Of a row of the fallback.
    pub(super) cause: Option<String>,
}

impl Row {
    pub(super) fn is_event(&self) -> bool {
        self.kind == "event"
    }
}

/// A store.
pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) secret: String,
    /// When events were done, by handler and id, of those that were found in Kafka.
    pub(super) done: HashMap<(String, String), i64>,
}

impl Store {
    /// Whether a handler reads a topic: by its name, or since it has read it.
    pub(super) fn reads(&self, spec: &Spec, topic: &str) -> Result<bool, store::Error> {
        let named = spec.topics.iter().any(|name| name == topic);
        Ok(named || offset::all(&self.connection, &spec.name)?.iter().any(|(read, _, _)| read == topic))
    }
}

impl Known {
    pub(super) fn load(places: &Places, asked: &Asked) -> Result<Self> {
        let mut known = Self {
            records: Vec::new(),
            by_place: HashMap::new(),
            by_id: HashMap::new(),
            by_inbox: HashMap::new(),
            letters: HashMap::new(),
            rows: Vec::new(),
            stores: HashMap::new(),
            looked: Vec::new(),
            notes: Vec::new(),
        };
        for (name, path) in &places.stores {
            let read = || format!("read store {}", path.display());
            let store = open(path).with_context(read)?;
            known.stores.insert(name.clone(), store);
        }
        let since = known.begin(places, asked)?.map(|time| time.saturating_sub(EARLIER_MS));
        if let Err(error) = known.read_kafka(places, asked, since) {
            known.notes.push(format!("Kafka was not read, so only what waits in the stores is known: {error:#}"));
        }
        for (name, path) in &places.stores {
            let read = || format!("read store {}", path.display());
            known.read_rows(name, since.unwrap_or(0)).with_context(read)?;
            known.looked.push(format!("store {name} (outbox, fallback, pending, inbox)"));
        }
        known.read_inboxes()?;
        Ok(known)
    }

    /// From which time on what it caused may be, as far as the id, a store or the record says.
    fn begin(&mut self, places: &Places, asked: &Asked) -> Result<Option<i64>> {
        match asked {
            Asked::Record(topic, partition, offset) => match peek::read(&places.kafka, topic, *partition, *offset, 1) {
                Ok(records) => {
                    let record = records.into_iter().next();
                    let time = record.as_ref().and_then(|record| record.timestamp.millis());
                    record.iter().for_each(|record| self.note(&places.specs, record));
                    Ok(time)
                }
                Err(error) => {
                    self.notes.push(format!("{error:#}"));
                    Ok(None)
                }
            },
            Asked::Event(id) => {
                let sql = "SELECT created_at FROM main.tm_outbox WHERE event_id = ?1
                    UNION ALL SELECT created_at FROM main.tm_fallback WHERE event_id = ?1";
                for store in self.stores.values() {
                    let found = store.connection.first(sql, &[id.as_str().into()], |row| row.integer(0))?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(time_of(id))
            }
        }
    }

    /// All topics that a handler reads, publishes to, or leaves dead letters on.
    fn topics(&self, places: &Places, asked: &Asked, since: Option<i64>) -> Result<BTreeSet<String>> {
        let mut topics = BTreeSet::new();
        if let Asked::Record(topic, ..) = asked {
            topics.insert(topic.clone());
        }
        for spec in &places.specs {
            let mut read: BTreeSet<String> = spec.topics.iter().cloned().collect();
            if let Some(store) = self.store_of(spec) {
                read.extend(offset::all(&store.connection, &spec.name)?.into_iter().map(|(topic, _, _)| topic));
            }
            topics.extend(read.iter().map(|topic| spec.dead_letter.topic.replace("{topic}", topic)));
            topics.extend(read);
            let at = since.map_or_else(crate::clock::now, |since| since.saturating_add(EARLIER_MS));
            topics.extend(spec.publish.values().map(|topic| topic.topic(at, &spec.time_zone)));
        }
        Ok(topics)
    }

    fn read_kafka(&mut self, places: &Places, asked: &Asked, since: Option<i64>) -> Result<()> {
        let reader = Reader::open(&places.kafka)?;
        for topic in self.topics(places, asked, since)? {
            let spans = reader.spans(&topic)?;
            if spans.is_empty() {
                continue;
            }
            let share = i64::try_from(RECORDS / spans.len()).unwrap_or(i64::MAX);
            let from: BTreeMap<i32, i64> = match since {
                Some(since) => reader.at(&topic, &spans, since)?,
                None => spans.iter().map(|s| (s.partition, s.low.max(s.high.saturating_sub(share)))).collect(),
            };
            let mut left = RECORDS;
            reader.read(&topic, &from, false, |record| {
                self.note(&places.specs, &record);
                left -= 1;
                Ok(left > 0)
            })?;
            let gone = spans
                .iter()
                .any(|span| from.get(&span.partition).is_some_and(|from| *from <= span.low) && span.low > 0);
            let part = match (left, since) {
                (0, Some(_)) => format!("its first {RECORDS} records from then on"),
                (_, None) => format!("its last {RECORDS} records"),
                _ => "all records from then on".to_owned(),
            };
            if left == 0 || since.is_none() {
                self.notes.push(format!("of topic {topic} only {part} were read"));
            }
            if gone {
                self.notes.push(format!("topic {topic} has its first records no more (its retention)"));
            }
            self.looked.push(format!("topic {topic} ({part})"));
        }
        Ok(())
    }

    fn note(&mut self, specs: &[Spec], record: &record::Record) {
        let place = (record.topic.to_string(), record.partition, record.offset);
        if self.by_place.contains_key(&place) {
            return;
        }
        let header = |name: &str| last_header(&record.headers, name).map(|v| String::from_utf8_lossy(v).into_owned());
        let at = self.records.len();
        let ids: Vec<(String, String)> = specs
            .iter()
            .filter(|spec| spec.pattern.is_some() || spec.topics.iter().any(|topic| **topic == *record.topic))
            .filter_map(|spec| Some((spec.name.clone(), event_id::find(&spec.event_id, record)?)))
            .collect();
        let letter = dead_letter::original(record).ok().flatten().map(|original| original.record);
        if let Some(of) = &letter {
            let group = header("kafka_dlt-original-consumer-group").unwrap_or_default();
            let of = (of.topic.to_string(), of.partition, of.offset, group);
            self.letters.entry(of).or_insert((at, header("kafka_dlt-exception-message")));
        }
        // A dead letter carries the headers of the record that it was, and is not that event.
        let event_id = header("event-id").filter(|_| letter.is_none());
        let known = event_id.iter().chain(ids.iter().map(|(_, id)| id)).collect::<HashSet<_>>();
        if letter.is_none() {
            known.into_iter().for_each(|id| self.by_id.entry(id.clone()).or_default().push(at));
        }
        for id in &ids {
            self.by_inbox.entry(id.clone()).or_default().push(at);
        }
        let event_type = header("event-type").filter(|kind| !kind.is_empty());
        self.by_place.insert(place, at);
        self.records.push(Record {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            time: record.timestamp.millis(),
            event_id: event_id.or_else(|| ids.first().map(|(_, id)| id.clone())),
            event_type,
            ids,
        });
    }

    fn read_rows(&mut self, name: &str, since: i64) -> Result<(), store::Error> {
        let Some(store) = self.stores.get(name) else { return Ok(()) };
        let sql = "SELECT kind, handler, source, event_id, event_type, topic, status, last_error, not_before, NULL
            FROM main.tm_outbox WHERE created_at >= ?1 LIMIT ?2";
        let fallback = "SELECT kind, handler, source, event_id, event_type, topic, 'fallback', NULL, NULL, cause
            FROM main.tm_fallback WHERE created_at >= ?1 LIMIT ?2";
        for sql in [sql, fallback] {
            let rows = store.connection.query(sql, &[since.into(), ROWS.into()], |row| {
                Ok(Row {
                    store: name.to_owned(),
                    kind: row.text(0)?,
                    handler: row.text(1)?,
                    source: row.text(2)?,
                    event_id: row.text(3)?,
                    event_type: row.text(4)?,
                    topic: row.text(5)?,
                    status: row.text(6)?,
                    last_error: row.opt_text(7)?,
                    not_before: row.opt_integer(8)?,
                    cause: row.opt_text(9)?,
                })
            })?;
            if i64::try_from(rows.len()) == Ok(ROWS) {
                self.notes.push(format!("of store {name} only the first {ROWS} rows from then on were looked at"));
            }
            self.rows.extend(rows);
        }
        Ok(())
    }

    /// Looks through each inbox once, for the ids that were found in Kafka.
    fn read_inboxes(&mut self) -> Result<(), store::Error> {
        for store in self.stores.values_mut() {
            let done = &mut store.done;
            store.connection.each("SELECT handler, event_id, done_at FROM main.tm_inbox", &[], |row| {
                let id = (row.text(0)?, row.text(1)?);
                if self.by_inbox.contains_key(&id) {
                    done.insert(id, row.integer(2)?);
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    pub(super) fn at(&self, topic: &str, partition: i32, offset: i64) -> Option<&Record> {
        self.records.get(*self.by_place.get(&(topic.to_owned(), partition, offset))?)
    }

    /// The records of an event, the first one first.
    pub(super) fn with_id(&self, id: &str) -> Vec<&Record> {
        let found = self.by_id.get(id).into_iter().flatten();
        let mut records: Vec<&Record> = found.filter_map(|at| self.records.get(*at)).collect();
        records.sort_by_key(|record| (record.time, record.partition, record.offset));
        records
    }

    /// The first record that a handler knows by this id, of those that it has not given up on.
    pub(super) fn first_with(&self, handler: &str, id: &str, group: &str) -> Option<&Record> {
        let found = self.by_inbox.get(&(handler.to_owned(), id.to_owned())).into_iter().flatten();
        let records = found.filter_map(|at| self.records.get(*at));
        let kept = records.filter(|r| self.letter(&r.topic, r.partition, r.offset, group).is_none());
        kept.min_by_key(|record| (record.time, record.partition, record.offset))
    }

    /// The dead letter that a group has made of a record, and why.
    pub(super) fn letter(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        group: &str,
    ) -> Option<(&Record, Option<&str>)> {
        let (at, why) = self.letters.get(&(topic.to_owned(), partition, offset, group.to_owned()))?;
        Some((self.records.get(*at)?, why.as_deref()))
    }

    pub(super) fn store_of(&self, spec: &Spec) -> Option<&Store> {
        self.stores.get(&spec.store)
    }
}

fn open(path: &Path) -> Result<Store, store::Error> {
    let connection = Connection::open_reader(path)?;
    schema::check(&connection)?;
    let secret = schema::identity(&connection)?.secret;
    Ok(Store { connection, secret, done: HashMap::new() })
}

/// The time that an id begins with: those that the host derives begin with their input's (RFC 9562, version 8), and version 7 with its
/// own.
fn time_of(id: &str) -> Option<i64> {
    let id = uuid::Uuid::parse_str(id).ok()?;
    let millis = i64::try_from(id.as_u128() >> 80).ok()?;
    matches!(id.get_version_num(), 7 | 8).then_some(millis)
}
