//! One line on standard error while something takes long, for who looks on: on a terminal only, and gone when it is done.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is over sooner needs no word.
const QUIET: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(500);

/// A line that is there as long as this is.
pub(super) struct Progress(Option<(SyncSender<()>, JoinHandle<()>)>);

impl Progress {
    /// Says what is waited for, and for how long already.
    pub(super) fn begin(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (done, waits) = sync_channel::<()>(0);
        let began = Instant::now();
        let tell = move || {
            let mut wait = QUIET;
            while waits.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = EVERY;
                line(&format!("{what} ({} s)", began.elapsed().as_secs()));
            }
            line("");
        };
        Self(crate::thread::spawn("progress", tell).ok().map(|thread| (done, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}

/// Writes over the line that was there, on a terminal.
pub(super) fn line(text: &str) {
    let mut err = std::io::stderr().lock();
    if err.is_terminal() {
        let _ = write!(err, "\r{text}\x1b[K");
        let _ = err.flush();
    }
}
