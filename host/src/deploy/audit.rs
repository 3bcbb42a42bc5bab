//! The audit log: one line of JSON for each change of what runs, and for each that was refused.
//!
//! Its invariant: a line is on disk before whoever asked is answered, and no line is ever changed. It knows nothing of what
//! was done but what it is told, and holds no file open, so that it can be moved away at any time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::settings::units;

/// The file in the data folder.
pub const FILE: &str = "audit.log";

/// Who asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How it is known: `token`, the name of a token that has one, `folder`, `signal`, or `tidemill`.
    pub who: Cow<'static, str>,
    /// The user and the machine that it says it is.
    pub claimed: Option<String>,
    /// Where it called from.
    pub peer: Option<SocketAddr>,
}

impl Caller {
    /// The handlers folder.
    pub const FOLDER: Self = Self { who: Cow::Borrowed("folder"), claimed: None, peer: None };

    /// SIGHUP.
    pub const SIGNAL: Self = Self { who: Cow::Borrowed("signal"), claimed: None, peer: None };

    /// The host itself.
    pub const HOST: Self = Self { who: Cow::Borrowed("tidemill"), claimed: None, peer: None };

    /// For the ledger.
    pub fn name(&self) -> &str {
        self.claimed.as_deref().unwrap_or(&self.who)
    }
}

macro_rules! actions {
    ($($action:ident = $name:literal),* $(,)?) => {
        /// What the log has lines of, under the names that it has there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        pub enum Action {
            $(#[doc = concat!("`", $name, "`")] #[serde(rename = $name)] $action,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$action),*];

            /// As the log and the metrics have it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)*
                }
            }
        }
    };
}

actions! {
    Deploy = "deploy",
    Rollback = "rollback",
    Undeploy = "undeploy",
    ResetGroup = "reset-group",
    PauseGroup = "pause-group",
    ResumeGroup = "resume-group",
    Publish = "publish",
    ReplayDeadLetters = "replay-dead-letters",
    DiscardDeadLetters = "discard-dead-letters",
    ReplayFallback = "replay-fallback",
    DiscardFallback = "discard-fallback",
    RetryOutbox = "retry-outbox",
    DiscardOutbox = "discard-outbox",
    RetryPending = "retry-pending",
    DiscardPending = "discard-pending",
    Backup = "backup",
    GoBack = "go-back",
    Reload = "reload",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was done, or refused.
#[derive(Clone, Debug, Serialize)]
pub struct Act<'a> {
    /// What it was. The host does [`Action::GoBack`] by itself.
    pub action: Action,
    /// The handler's name, as far as it is known.
    pub handler: Option<&'a str>,
    /// The number of the version that is live now.
    pub version: Option<i64>,
    /// The artifact's version.
    pub artifact: Option<&'a str>,
    /// Its file, where one was found.
    pub file: Option<&'a str>,
    /// Whether it was done.
    pub ok: bool,
    /// Why it was not; or, where it was, what went wrong afterwards; of `go-back`, why.
    pub error: Option<&'a str>,
    /// What was done, where the rest does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

impl Act<'_> {
    /// One that was refused, of which nothing else is told yet.
    pub fn of(action: Action) -> Self {
        let (handler, version, artifact, file, error, detail) = (None, None, None, None, None, None);
        Self { action, handler, version, artifact, file, ok: false, error, detail }
    }
}

/// What the one who acts has to tell for the line.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) handler: Option<String>,
    pub(super) version: Option<i64>,
    pub(super) artifact: Option<String>,
    pub(super) file: Option<String>,
    /// What went wrong after it was done.
    pub(super) warning: Option<String>,
    pub(super) detail: Option<String>,
    /// There was nothing that it could be done with: no line is written.
    pub(super) nothing: bool,
}

impl Told {
    /// Of an act on this handler.
    pub(super) fn of(handler: &str) -> Self {
        Self { handler: Some(handler.to_owned()), ..Self::default() }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    who: &'a str,
    claimed: Option<&'a str>,
    peer: Option<SocketAddr>,
    #[serde(flatten)]
    act: Act<'a>,
}

/// The log of a data folder.
pub struct Audit {
    path: PathBuf,
    writing: Mutex<()>,
    acts: Mutex<BTreeMap<(Action, bool), u64>>,
}

impl Audit {
    /// That of a data folder.
    pub fn new(data: &Path) -> Self {
        Self { path: data.join(FILE), writing: Mutex::default(), acts: Mutex::default() }
    }

    /// Whether there is a log to write to; it is made if need be.
    pub fn check(&self) -> Result<()> {
        self.open().map(drop)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// It is not known to be on disk.
    pub fn write(&self, caller: &Caller, act: Act<'_>) -> Result<()> {
        let time = units::show_time(crate::clock::now());
        let act_of = (act.action, act.ok);
        *self.acts.lock().unwrap_or_else(PoisonError::into_inner).entry(act_of).or_default() += 1;
        let line = Line { time, who: &caller.who, claimed: caller.claimed.as_deref(), peer: caller.peer, act };
        let mut line = serde_json::to_string(&line).context("write the audit log")?;
        line.push('\n');
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.open()?;
        let written = whole(&mut file).and_then(|whole| {
            // What a full disk has cut off stays a line of its own.
            let line = if whole { line } else { format!("\n{line}") };
            file.write_all(line.as_bytes())?;
            file.sync_data()
        });
        written.with_context(|| format!("write the audit log {}", self.path.display()))
    }

    /// Does something that is in the log afterwards, whatever comes of it, but where there was nothing to be done. `act` adds to what is told.
    ///
    /// # Errors
    /// It was not done; or it was, and could not be noted.
    pub(super) fn noted<T>(
        &self,
        caller: &Caller,
        action: Action,
        mut told: Told,
        act: impl FnOnce(&mut Told) -> Result<T>,
    ) -> Result<T> {
        self.check().context("nothing was done, since it could not be noted")?;
        let done = act(&mut told);
        let error = done.as_ref().err().map(|error| format!("{error:#}"));
        let Told { handler, version, artifact, file, warning, detail, nothing } = told;
        if nothing {
            return done;
        }
        let line = Act {
            action,
            handler: handler.as_deref(),
            version,
            artifact: artifact.as_deref(),
            file: file.as_deref(),
            ok: done.is_ok(),
            error: error.as_deref().or(warning.as_deref()),
            detail: detail.as_deref(),
        };
        let noted = self.write(caller, line);
        let done = done?;
        noted.with_context(|| match handler {
            Some(handler) => format!("{action} of handler {handler} was done, and could not be noted"),
            None => format!("{action} was done, and could not be noted"),
        })?;
        Ok(done)
    }

    /// How often each action was done (`true`) or refused since the start.
    pub fn acts(&self) -> BTreeMap<(Action, bool), u64> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self) -> Result<File> {
        let opened = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&self.path);
        opened.with_context(|| format!("write the audit log {}", self.path.display()))
    }
}

/// Whether the last line has its end.
fn whole(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn each_act_is_a_line_also_behind_one_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::new(folder.path());
        let caller =
            Caller { who: "token".into(), claimed: Some("a\n@b".into()), peer: Some("127.0.0.1:5".parse().unwrap()) };
        let act = Act { handler: Some("h"), ok: true, ..Act::of(Action::Deploy) };
        audit.write(&caller, act.clone()).unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"time\":").unwrap();
        audit.write(&Caller::FOLDER, act).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(serde_json::from_str::<serde_json::Value>).collect();
        let [Ok(first), Err(_), Ok(last)] = lines.as_slice() else { unreachable!("{text}") };
        assert_eq!(
            (&first["claimed"], &first["peer"], &first["ok"]),
            (&"a\n@b".into(), &"127.0.0.1:5".into(), &true.into())
        );
        assert_eq!((&last["who"], &last["claimed"], &last["version"]), (&"folder".into(), &().into(), &().into()));
        assert_eq!(last["action"], Action::Deploy.name());
    }

    #[test]
    fn s2_10_the_documentation_names_each_action() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let named = text.split("`action` and `result` are those of the audit log: ").nth(1).unwrap();
        let named = named.split("; ").next().unwrap();
        let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        assert_eq!(named, Action::ALL.iter().map(|action| action.name()).collect::<Vec<_>>());
    }
}
