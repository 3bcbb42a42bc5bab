//! How a rig is set up.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill_sdk::Time;

use crate::{Rig, process};

/// A rig that is being set up.
///
/// ```no_run
/// # use tidemill_test::Rig;
/// let rig = Rig::builder("notification").set("retry.max-attempts", "2").setting("language", "ko").start();
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    file: PathBuf,
    binary: PathBuf,
    data: Option<PathBuf>,
    arguments: Vec<OsString>,
    secrets: Vec<(String, String)>,
}

impl Builder {
    pub(crate) fn new(handler: &Path) -> Self {
        let (data, arguments, secrets) = Default::default();
        Self { file: process::component(handler), binary: process::binary(), data, arguments, secrets }
    }

    fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.arguments.extend([name.into(), value.into()]);
        self
    }

    /// A value in place of the manifest's, as `[handler.NAME]` of an operator would have it: the key with dots, the value as in TOML.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").set("retry.order", "key").set("retry.backoff", r#"{ kind = "fixed", interval = "5s" }"#);
    /// ```
    pub fn set(self, key: &str, value: &str) -> Self {
        self.with("--set", format!("{key}={value}"))
    }

    /// One of the handler's own `[settings]`, as the operator would set it.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").setting("currency", "KRW").start();
    /// ```
    pub fn setting(self, name: &str, value: &str) -> Self {
        let quoted = serde_json::Value::from(value);
        self.with("--set", format!("settings.{name}={quoted}"))
    }

    /// One of the handler's own `secrets`, as the operator would give it.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("billing").secret("payment-key", "a key for tests").start();
    /// ```
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.push((name.into(), value.into()));
        self
    }

    /// The operator's whole `tidemill.toml`.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").config("deploy/tidemill.toml").start();
    /// ```
    pub fn config(self, file: impl AsRef<Path>) -> Self {
        self.with("--config", file.as_ref())
    }

    /// The folder of the store, which stays when the rig ends, and with which a later one goes on. Without it each rig has a new one.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").data("target/rig-of-the-bug").start();
    /// ```
    pub fn data(mut self, folder: impl AsRef<Path>) -> Self {
        self.data = Some(folder.as_ref().to_owned());
        self
    }

    /// When it begins; 2026-01-31T09:30:00.000Z without it, as on the bench.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// # use tidemill_sdk::Time;
    /// let rig = Rig::builder("order").at(Time::from_millis(0)).start();
    /// ```
    pub fn at(self, now: Time) -> Self {
        self.with("--now", now.millis().to_string())
    }

    /// From what ids and random numbers follow; they are the same in each run with the same seed.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").seed("another").start();
    /// ```
    pub fn seed(self, seed: &str) -> Self {
        self.with("--seed", seed)
    }

    /// The binary, in place of what `TIDEMILL_BIN` names.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").binary("/opt/tidemill/bin/tidemill").start();
    /// ```
    pub fn binary(mut self, path: impl AsRef<Path>) -> Self {
        self.binary = path.as_ref().to_owned();
        self
    }

    /// Starts it: the handler is live. Ends the test if it cannot go live.
    ///
    /// ```no_run
    /// # use tidemill_test::Rig;
    /// let rig = Rig::builder("order").start();
    /// ```
    #[track_caller]
    pub fn start(self) -> Rig {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = || std::env::temp_dir().join(format!("tidemill-test-{}-{number}", std::process::id()));
        let (data, temporary) = self.data.map_or_else(|| (own(), true), |data| (data, false));
        let mut arguments: Vec<OsString> = vec![self.file.clone().into(), "--data".into(), data.clone().into()];
        // Compiled once for all tests, beside what it was compiled from.
        let compiled = self.file.with_file_name(".tidemill-compiled");
        if std::fs::create_dir_all(&compiled).is_ok() {
            arguments.extend(["--compiled".into(), compiled.into()]);
        }
        arguments.extend(self.arguments);
        for (name, value) in self.secrets {
            let folder = data.join("secrets");
            let file = folder.join(&name);
            let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, value));
            written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let quoted = serde_json::Value::from(file.to_string_lossy());
            arguments.extend(["--set".into(), format!("secrets.{name}={{ file = {quoted} }}").into()]);
        }
        Rig::start(self.binary, arguments, temporary.then_some(data))
    }
}
