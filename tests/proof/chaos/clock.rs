//! The daemon's wall clock, and nobody else's: a small library, preloaded, adds to the real time what a file says.
//!
//! So it is not only the host that sees another time, but librdkafka too, which stamps what it produces and waits until times.
//! Monotonic time stays as it is, and so does the machine's clock.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use tidemill_tests::Sandbox;
use tidemill_tests::sandbox::repository;

/// The clock of every daemon that was started with it.
pub(super) struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl Clock {
    /// One that is right.
    pub(super) fn new(sandbox: &Sandbox) -> Self {
        let [library, path] = ["clock.so", "clock"].map(|name| sandbox.root().join(name));
        let source = repository().join("tests/proof/chaos/clock.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
        assert!(built.expect("run the C compiler").success(), "clock.c does not compile");
        let clock = Self { library, file: File::create(&path).unwrap(), path };
        clock.set(0);
        clock
    }

    /// Puts it so many seconds before or behind the real time, at once.
    pub(super) fn set(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Has a daemon go by it.
    pub(super) fn apply(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("TIDEMILL_TEST_CLOCK", &self.path);
    }
}
