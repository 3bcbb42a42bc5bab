//! The daemon, and who starts it again when it has ended: a record of the schedule may end it at any moment.
//!
//! An end that nobody asked for fails the test.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use tidemill_tests::{Daemon, LONG, eventually};

use super::ENDS;
use super::clock::Clock;
use crate::rig::Rig;

/// The daemon on a rig.
pub(super) struct Host<'a> {
    pub(super) rig: &'a Rig,
    pub(super) clock: Clock,
    pub(super) daemon: Daemon,
    /// How often it was killed.
    pub(super) kills: u64,
    /// How often a record has ended it.
    pub(super) aborts: u64,
}

impl<'a> Host<'a> {
    /// Starts it, and waits until it is ready.
    pub(super) fn start(rig: &'a Rig, clock: Clock) -> Self {
        let daemon = launch(rig, &clock, None);
        let mut host = Self { rig, clock, daemon, kills: 0, aborts: 0 };
        host.until(LONG, "the daemon is ready", Self::is_ready);
        host
    }

    /// Starts it again after it has ended, and waits until it is ready.
    pub(super) fn start_again(&mut self) {
        self.launch(None);
        self.until(LONG, "the daemon is ready", Self::is_ready);
    }

    /// Starts it again and waits for nothing; with a moment at which it is to be killed, as `fault.rs` of the host has it.
    pub(super) fn launch(&mut self, kill_at: Option<&str>) {
        self.daemon = launch(self.rig, &self.clock, kill_at);
    }

    fn is_ready(&mut self) -> bool {
        self.daemon.find(&["ready: "]).is_some()
    }

    /// Waits for a condition, and keeps it running meanwhile.
    pub(super) fn until(&mut self, deadline: Duration, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        eventually(deadline, what, || {
            self.keep_up();
            condition(self)
        });
    }

    /// Starts it again if a record has ended it.
    pub(super) fn keep_up(&mut self) {
        if !self.daemon.runs() {
            self.note_end(false);
            self.launch(None);
        }
    }

    /// Kills it, unless a record was faster.
    pub(super) fn kill(&mut self) {
        self.daemon.kill9();
        self.note_end(false);
    }

    /// Tells it to stop, and waits until it has.
    pub(super) fn stop(&mut self) {
        // Before that it does not know the signal.
        self.until(LONG, "the daemon is ready", Self::is_ready);
        self.daemon.signal(Signal::TERM);
        self.note_end(true);
    }

    fn note_end(&mut self, asked: bool) {
        let status = self.daemon.wait_exit();
        match status.signal().and_then(Signal::from_named_raw) {
            Some(Signal::ABORT) => self.aborts += 1,
            Some(Signal::KILL) => self.kills += 1,
            _ => assert!(asked && status.success(), "the daemon has ended with {status}:\n{}", self.daemon.log()),
        }
    }
}

fn launch(rig: &Rig, clock: &Clock, kill_at: Option<&str>) -> Daemon {
    Daemon::launch(&rig.sandbox, |command| {
        clock.apply(command);
        command.env("TIDEMILL_TEST_ABORT_ON", ENDS);
        if let Some(moment) = kill_at {
            command.env("TIDEMILL_TEST_KILL_AT", moment);
        }
    })
}
