//! The rebalance callback: it notes what happened and does the one thing that cannot wait.
//!
//! Newly assigned partitions are only noted: the poll thread takes each up once its offset is known. Revoked ones
//! are given up at once, after Kafka was told how far they came. Nothing here waits for anybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::assignment::Event;
use crate::executor::positions::Positions;
use crate::kafka::config::Reporter;
use crate::lane::opening;
use crate::ledger::Identity;

pub(super) struct Rebalancer {
    reporter: Reporter,
    positions: Arc<Positions>,
    metadata: String,
    events: Mutex<Vec<Event>>,
    /// Offsets that Kafka did not take.
    refused: Mutex<Vec<(String, i32, i64)>>,
    /// Commits that Kafka has not answered.
    commits_open: AtomicI64,
}

impl Rebalancer {
    pub(super) fn new(handler: &str, positions: Arc<Positions>, identity: &Identity) -> Self {
        Self {
            reporter: Reporter::new(handler),
            positions,
            metadata: opening::metadata(&identity.store_id),
            events: Mutex::default(),
            refused: Mutex::default(),
            commits_open: AtomicI64::new(0),
        }
    }

    /// What happened since the last call.
    pub(super) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// What Kafka did not take is told again with the next commit, as far as `holds` says that it is still ours.
    pub(super) fn tell_again(&self, holds: impl Fn(&str, i32) -> bool) {
        let refused = std::mem::take(&mut *self.refused.lock().unwrap_or_else(PoisonError::into_inner));
        for (topic, partition, next) in refused.into_iter().filter(|(topic, partition, _)| holds(topic, *partition)) {
            self.positions.put_back(&topic, partition, next);
        }
    }

    /// Whether Kafka has answered all commits.
    pub(super) fn is_told(&self) -> bool {
        self.commits_open.load(Ordering::Relaxed) == 0
    }

    /// Tells Kafka what the store has committed since the last call, with the store's id. What it does not take
    /// comes back by [`Rebalancer::tell_again`].
    pub(super) fn commit(&self, client: &BaseConsumer<Self>) {
        let moved = self.positions.take();
        if moved.is_empty() {
            return;
        }
        match self.list(&moved).and_then(|list| client.commit(&list, CommitMode::Async)) {
            Ok(()) => drop(self.commits_open.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                tracing::debug!(%error, "tell Kafka the offsets");
                let told = moved.into_iter().map(|((topic, partition), next)| (topic.to_string(), partition, next));
                self.refused.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
            }
        }
    }

    fn list(&self, moved: &HashMap<(Arc<str>, i32), i64>) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(moved.len());
        for ((topic, partition), next) in moved {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
            if let Some(mut element) = list.find_partition(topic, *partition) {
                element.set_metadata(self.metadata.clone());
            }
        }
        Ok(list)
    }
}

impl ClientContext for Rebalancer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reporter.log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(error, reason);
    }
}

impl ConsumerContext for Rebalancer {
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        self.commits_open.fetch_sub(1, Ordering::Relaxed);
        let Err(error) = result else { return };
        tracing::debug!(%error, "Kafka did not take the offsets");
        let offsets = offsets.elements();
        let told = offsets.iter().filter_map(|e| Some((e.topic().to_owned(), e.partition(), e.offset().to_raw()?)));
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).extend(told.filter(|(_, _, next)| *next >= 0));
    }

    fn rebalance(&self, client: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let named: Vec<(String, i32)> =
            partitions.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let done = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.note(Event::Assigned(named));
            // The group goes on at once, and what is assigned already is read on; the poll thread adds the new ones.
            client.incremental_assign(&TopicPartitionList::new())
        } else {
            self.commit(client);
            self.note(Event::Revoked(named));
            give_up(client, partitions)
        };
        if let Err(error) = done {
            tracing::warn!(%error, "answer a rebalance");
        }
    }
}

/// Partitions that were never taken up (they came and went while their offsets were looked at) are not given up.
fn give_up(client: &BaseConsumer<Rebalancer>, revoked: &TopicPartitionList) -> KafkaResult<()> {
    let held = client.assignment()?;
    let mut list = TopicPartitionList::new();
    for element in revoked.elements() {
        if held.find_partition(element.topic(), element.partition()).is_some() {
            list.add_partition(element.topic(), element.partition());
        }
    }
    client.incremental_unassign(&list)
}
