//! The rebalance callback: it notes what happened and does the one thing that cannot wait.
//!
//! Newly assigned partitions are only noted: the poll thread takes each up once its offset is known. Revoked ones
//! are given up at once, after Kafka was told how far they came. Nothing here waits for anybody.
//!
//! librdkafka takes changes of a cooperative assignment only as additions and removals, and of an eager one only as
//! whole lists. Which of the two it is, nobody but this file has to know.

use std::collections::HashMap;
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
use crate::metrics::statistics::Statistics;
use crate::settings::Assignment as Sharing;

pub(super) struct Rebalancer {
    reporter: Reporter,
    positions: Arc<Positions>,
    metadata: String,
    sharing: Sharing,
    events: Mutex<Vec<Event>>,
    statistics: Arc<Statistics>,
}

impl Rebalancer {
    pub(super) fn new(
        handler: &str,
        positions: Arc<Positions>,
        identity: &Identity,
        sharing: Sharing,
        statistics: Arc<Statistics>,
    ) -> Self {
        Self {
            reporter: Reporter::new(handler),
            positions,
            metadata: opening::metadata(&identity.store_id),
            sharing,
            events: Mutex::default(),
            statistics,
        }
    }

    /// What happened since the last call.
    pub(super) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Begins to read partitions, each from its offset, beside those that are `held`. Those go on; if the whole list has
    /// to be assigned anew, from the offsets in `held`.
    pub(super) fn take_up(
        &self,
        client: &BaseConsumer<Self>,
        new: &[(&str, i32, Offset)],
        held: &[(&str, i32, Offset)],
    ) -> KafkaResult<()> {
        match self.sharing {
            Sharing::Cooperative => client.incremental_assign(&list_of(new)?),
            // The others would begin again for nothing.
            Sharing::Eager if new.is_empty() => Ok(()),
            Sharing::Eager => client.assign(&list_of(&[held, new].concat())?),
        }
    }

    /// Ends the reading of all of these, which are all there are.
    pub(super) fn put_down(&self, client: &BaseConsumer<Self>, held: &[(&str, i32, Offset)]) -> KafkaResult<()> {
        match self.sharing {
            Sharing::Cooperative => client.incremental_unassign(&list_of(held)?),
            Sharing::Eager => client.unassign(),
        }
    }

    /// Tells Kafka what the store has committed since the last call, with the store's id. Returns whether there was
    /// anything to tell; no answer comes back.
    pub(super) fn tell(&self, client: &BaseConsumer<Self>) -> bool {
        self.commit(client, &self.positions.take())
    }

    /// Tells Kafka where each lane is for which `holds` is true.
    pub(super) fn tell_again(&self, client: &BaseConsumer<Self>, holds: impl Fn(&str, i32) -> bool) {
        self.commit(client, &self.positions.take_all(holds));
    }

    fn commit(&self, client: &BaseConsumer<Self>, places: &HashMap<(Arc<str>, i32), i64>) -> bool {
        if places.is_empty() {
            return false;
        }
        if let Err(error) = self.list(places).and_then(|list| client.commit(&list, CommitMode::Async)) {
            tracing::debug!(%error, "tell Kafka the offsets");
        }
        true
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

    fn stats_raw(&self, report: &[u8]) {
        self.statistics.note(report);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(error, reason);
    }
}

impl ConsumerContext for Rebalancer {
    fn rebalance(&self, client: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let named: Vec<(String, i32)> =
            partitions.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let done = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.note(Event::Assigned(named));
            // The group goes on at once, and what is assigned already is read on; the poll thread adds the new ones.
            let nothing = TopicPartitionList::new();
            match self.sharing {
                Sharing::Cooperative => client.incremental_assign(&nothing),
                Sharing::Eager => client.assign(&nothing),
            }
        } else {
            self.tell(client);
            self.note(Event::Revoked(named));
            match self.sharing {
                Sharing::Cooperative => give_up(client, partitions),
                Sharing::Eager => client.unassign(),
            }
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

pub(super) fn list_of(partitions: &[(&str, i32, Offset)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition, offset) in partitions {
        list.add_partition_offset(topic, *partition, *offset)?;
    }
    Ok(list)
}
