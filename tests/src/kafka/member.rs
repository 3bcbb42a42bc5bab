//! A member of a consumer group that is no daemon: it takes its share of the partitions, and does nothing with it.
//!
//! It commits no offset, so whatever it was given is still to be done once it has gone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};

/// A member, until it is dropped: then it leaves.
#[derive(Debug)]
pub struct Member {
    stop: Arc<AtomicBool>,
    partitions: Arc<Mutex<Vec<i32>>>,
    rebalances: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

struct Count(Arc<AtomicUsize>);

impl ClientContext for Count {}

impl ConsumerContext for Count {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Member {
    /// Joins a group that reads one topic, with `partition.assignment.strategy`.
    pub fn join(bootstrap: &str, group: &str, topic: &str, strategy: &str) -> Self {
        let (stop, rebalances) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let partitions: Arc<Mutex<Vec<i32>>> = Arc::default();
        let consumer: BaseConsumer<Count> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .set("partition.assignment.strategy", strategy)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
            .create_with_context(Count(rebalances.clone()))
            .unwrap();
        consumer.subscribe(&[topic]).unwrap();
        let (stopped, held) = (stop.clone(), partitions.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let _ = consumer.poll(Duration::from_millis(20));
                let assigned = consumer.assignment().unwrap();
                *held.lock().unwrap() = assigned.elements().iter().map(|element| element.partition()).collect();
            }
        });
        Self { stop, partitions, rebalances, thread: Some(thread) }
    }

    /// What it was given.
    pub fn partitions(&self) -> Vec<i32> {
        self.partitions.lock().unwrap().clone()
    }

    /// How often it was told that partitions come or go; also if none of its own did.
    pub fn rebalances(&self) -> usize {
        self.rebalances.load(Ordering::SeqCst)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
