//! What stands for Kafka in a rig: the records of its topics, and what was published, in one file that is appended to.
//!
//! Its invariant: what was fed, or acknowledged, is in the file before anybody is told, so that a process that is killed finds it
//! again as it would in Kafka. It decides nothing of what happens to a record.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rdkafka::error::RDKafkaErrorCode as Code;
use serde_json::{Value as Json, json};

use super::wire::{self, Fed};
use crate::kafka::sender::{Position, Way};
use crate::ledger::outbox::Event;
use crate::record::Record;

/// The topics.
pub(super) struct Kafka {
    file: File,
    topics: BTreeMap<(String, i32), Vec<Record>>,
    events: Vec<Json>,
    /// The last time that was noted, in milliseconds since the Unix epoch.
    now: Option<i64>,
    away: bool,
    /// Topics that refuse, and why.
    refused: BTreeMap<String, String>,
}

impl Kafka {
    /// Reads the file, or begins it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("write {}", path.display()))?;
        let (topics, events, refused) = Default::default();
        let mut kafka = Self { file, topics, events, now: None, away: false, refused };
        // What was being written when the process was killed was not acknowledged.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        kafka.file.set_len(whole as u64).with_context(|| format!("write {}", path.display()))?;
        for (number, line) in text.get(..whole).unwrap_or_default().lines().enumerate() {
            kafka.remember(line).with_context(|| format!("read {}:{}", path.display(), number + 1))?;
        }
        Ok(kafka)
    }

    fn remember(&mut self, line: &str) -> Result<()> {
        let mut line: Json = serde_json::from_str(line)?;
        if let Some(now) = line.get("now").and_then(Json::as_i64) {
            self.now = Some(now);
        } else if let Some(record) = line.get_mut("record") {
            let record: Fed = serde_json::from_value(record.take())?;
            let place = (record.topic.clone(), record.partition);
            self.topics.entry(place).or_default().push(record.into_record(0, 0)?);
        } else if let Some(event) = line.get_mut("event") {
            self.events.push(event.take());
        } else if let Some(away) = line.get("away").and_then(Json::as_bool) {
            self.away = away;
        } else if let Some(topic) = line.get("refuse").and_then(Json::as_str) {
            self.keep_refusal(topic, line.get("reason").and_then(Json::as_str));
        }
        Ok(())
    }

    fn append(&mut self, line: &Json) -> Result<()> {
        writeln!(self.file, "{line}").context("write the rig's file")
    }

    /// The time when it was last noted.
    pub(super) fn now(&self) -> Option<i64> {
        self.now
    }

    /// Notes the time.
    pub(super) fn note(&mut self, now: i64) -> Result<()> {
        self.now = Some(now);
        self.append(&json!({ "now": now }))
    }

    /// Whether it takes nothing.
    pub(super) fn is_away(&self) -> bool {
        self.away
    }

    /// It takes nothing from now on, or everything again.
    pub(super) fn set_away(&mut self, away: bool) -> Result<()> {
        self.away = away;
        self.append(&json!({ "away": away }))
    }

    /// Why a topic refuses what is published there.
    pub(super) fn refuses(&self, topic: &str) -> Option<&str> {
        self.refused.get(topic).map(String::as_str)
    }

    /// A topic refuses from now on, for this reason, or takes again.
    pub(super) fn refuse(&mut self, topic: &str, reason: Option<&str>) -> Result<()> {
        self.keep_refusal(topic, reason);
        self.append(&json!({ "refuse": topic, "reason": reason }))
    }

    fn keep_refusal(&mut self, topic: &str, reason: Option<&str>) {
        match reason {
            Some(reason) => drop(self.refused.insert(topic.to_owned(), reason.to_owned())),
            None => drop(self.refused.remove(topic)),
        }
    }

    /// The offset that the next record of a partition gets.
    pub(super) fn end(&self, topic: &str, partition: i32) -> i64 {
        let records = self.topics.get(&(topic.to_owned(), partition));
        records.and_then(|records| records.last()).map_or(0, |record| record.offset + 1)
    }

    /// Takes a record in.
    pub(super) fn add(&mut self, record: &Record) -> Result<()> {
        let end = self.end(&record.topic, record.partition);
        if record.offset < end {
            bail!("offset {} of {}/{} is taken: the next one is {end}", record.offset, record.topic, record.partition);
        }
        self.append(&json!({ "record": wire::record(record) }))?;
        self.topics.entry((record.topic.to_string(), record.partition)).or_default().push(record.clone());
        Ok(())
    }

    /// The partitions that have records.
    pub(super) fn partitions(&self) -> Vec<(String, i32)> {
        self.topics.keys().cloned().collect()
    }

    /// A partition's records from an offset on.
    pub(super) fn from(&self, topic: &str, partition: i32, offset: i64) -> Vec<Record> {
        let records = self.topics.get(&(topic.to_owned(), partition)).into_iter().flatten();
        records.filter(|record| record.offset >= offset).cloned().collect()
    }

    /// What was published, in order.
    pub(super) fn events(&self) -> &[Json] {
        &self.events
    }

    /// Takes an event in. Returns where it lies.
    pub(super) fn publish(&mut self, event: &Event, via: &str, source: &str) -> Result<Position> {
        let partition = event.partition.unwrap_or(0);
        let same = |other: &&Json| {
            other.get("topic").and_then(Json::as_str) == Some(event.topic.as_str())
                && other.get("partition").and_then(Json::as_i64) == Some(partition.into())
        };
        let offset = i64::try_from(self.events.iter().filter(same).count()).unwrap_or(i64::MAX);
        let mut line = shown(event, via, source);
        if let Json::Object(fields) = &mut line {
            fields.insert("partition".into(), partition.into());
            fields.insert("published".into(), true.into());
        }
        self.append(&json!({ "event": line }))?;
        self.events.push(line);
        Ok(Position { partition, offset })
    }

    /// An event that goes past the outbox.
    pub(super) fn send(&mut self, event: &Event, way: Way) -> Result<Position, Code> {
        if self.away {
            return Err(Code::MessageTimedOut);
        }
        if self.refuses(&event.topic).is_some() {
            return Err(Code::MessageSizeTooLarge);
        }
        let via = match way {
            Way::Send => "send",
            Way::SendAsync => "send-async",
        };
        self.publish(event, via, "").map_err(|_| Code::Fail)
    }
}

/// An event as a test sees it.
pub(crate) fn shown(event: &Event, via: &str, source: &str) -> Json {
    json!({
        "id": event.event_id, "type": event.event_type, "topic": event.topic, "partition": event.partition,
        "key": wire::text(event.key.as_deref()), "value": wire::text(event.value.as_deref()),
        "headers": wire::headers(&event.headers), "kind": event.kind.name(), "due": event.not_before,
        "source": source, "via": via, "published": false,
    })
}
