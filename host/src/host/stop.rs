//! How the daemon is told to stop, and made to: in order within its time, or at once when it is told twice.
//!
//! Its invariant: nothing committed is lost, however it ends; what is left undone is done at the next start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a daemon that was not done in time: as of what did not work.
const LEFT: i32 = 1;

/// What a daemon that stops waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Requests,
    Consumers,
    Relay,
    Stores,
    Broker,
}

impl Step {
    const ALL: [Self; 5] = [Self::Requests, Self::Consumers, Self::Relay, Self::Stores, Self::Broker];

    fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests under way are answered",
            Self::Consumers => "what handlers have read is put down",
            Self::Relay => "events are published",
            Self::Stores => "stores finish what they hold",
            Self::Broker => "the embedded broker ends",
        }
    }
}

/// What it waits for now.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    pub(super) fn at(&self, step: Step) {
        self.0.store(step as u8, Ordering::Relaxed);
    }

    fn name(&self) -> &'static str {
        Step::ALL.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or(Step::Requests).name()
    }
}

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    /// Waits for one; its number.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
        }
    }

    /// Waits for another one, or for the end of the time: then the process ends, whatever it is at. `left` counts events that wait.
    pub(super) async fn enforce(mut self, within: Duration, progress: Progress, left: impl Fn() -> u64) {
        tokio::select! {
            signal = self.next() => {
                tracing::warn!("told to stop again: the daemon ends at once; what is committed is kept, the rest is done at the next start");
                leave(128 + signal);
            }
            () = tokio::time::sleep(within) => {
                tracing::error!(
                    waits_until = progress.name(),
                    events_not_published = left(),
                    "the daemon was not done within {within:?} (stop-within) and ends all the same: records that were not committed are read again, events are published at the next start, and requests under way have no answer"
                );
                leave(LEFT);
            }
        }
    }
}

/// Ends the process without what runs at an orderly exit: other threads are at work.
fn leave(code: i32) -> ! {
    // SAFETY: it takes no pointer and does not come back; the kernel closes what is open.
    unsafe { libc::_exit(code) }
}
