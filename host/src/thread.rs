//! Threads that the daemon cannot do without.
//!
//! One that panics has left half of something in memory and would be missed without a word, so the whole process ends:
//! a fresh one starts from what was committed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// Starts a thread whose panic ends the daemon.
pub fn spawn(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let name = name.into();
    Builder::new().name(name.clone()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // It ends, whether this can be said or not.
            let _ = catch_unwind(|| {
                tracing::error!(
                    thread = name,
                    "a thread has panicked: this is a bug in Tidemill. The daemon stops; nothing committed is lost"
                );
            });
            std::process::abort();
        }
    })
}
