//! Records that keep flowing while something else happens, as many as it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tidemill_tests::Client;

use crate::dice::pass;
use crate::rig::Rig;

/// Records that are produced by a thread of their own, from number 0 (or `first`) on.
#[derive(Debug)]
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flow {
    /// Begins with record `first`; `chunk` records at a time with a short pause after each, up to `last`.
    pub(crate) fn start(rig: &Rig, first: u64, last: u64, chunk: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first)));
        let (stopped, count, client, topic): (_, _, Client, String) =
            (stop.clone(), sent.clone(), rig.client.clone(), rig.input.clone());
        let thread = std::thread::spawn(move || {
            let mut next = first;
            while next < last && !stopped.load(Ordering::Relaxed) {
                let end = last.min(next + chunk);
                client.produce_all(&topic, (next..end).map(Rig::record));
                next = end;
                count.store(next, Ordering::Relaxed);
                pass(Duration::from_millis(5));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Records acknowledged so far, those before the first included.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for the last record, and returns how many there are.
    pub(crate) fn finish(mut self) -> u64 {
        self.thread.take().unwrap().join().expect("the producer goes on to its end");
        self.sent()
    }

    /// Stops it after the chunk under way, and returns how many records there are.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}
