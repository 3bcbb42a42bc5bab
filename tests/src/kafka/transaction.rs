//! A transactional producer: what it sends is there for good, or is not, only when it has said so.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::client::Out;

const WITHIN: Duration = Duration::from_secs(60);

/// A producer with a transactional id of its own.
pub struct Transactional {
    producer: BaseProducer,
}

impl Transactional {
    /// On this cluster. The id is anything that no other producer has.
    pub fn new(bootstrap: &str, id: &str) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("transactional.id", id)
            .set("linger.ms", "0")
            .create()
            .unwrap();
        producer.init_transactions(WITHIN).unwrap();
        Self { producer }
    }

    /// Begins a transaction with these records, which then are on the topic.
    pub fn begin(&self, topic: &str, records: impl IntoIterator<Item = Out>) {
        self.producer.begin_transaction().unwrap();
        for out in records {
            let mut record = BaseRecord::<[u8], [u8]>::to(topic);
            record.key = out.key.as_deref();
            record.payload = out.value.as_deref();
            record.partition = out.partition;
            self.producer.send(record).unwrap_or_else(|(error, _)| panic!("produce to {topic}: {error}"));
        }
        self.producer.flush(WITHIN).unwrap();
    }

    /// Ends the transaction: they count.
    pub fn commit(&self) {
        self.producer.commit_transaction(WITHIN).unwrap();
    }

    /// Ends the transaction: they never were.
    pub fn abort(&self) {
        self.producer.abort_transaction(WITHIN).unwrap();
    }
}
