//! The embedded broker as the daemon sees it: a child process with a file that says where it is.
//!
//! [`Embedded::start`] finds the broker that an earlier daemon left in the data folder, or starts a new one. What
//! decides is the answer on the control socket, never the process id: a broker counts as found only when it answers
//! with the incarnation that its file names. The connection stays open while the daemon lives; the broker ends by
//! itself some time after the last one has closed. This module never touches a process that it did not start.
//!
//! The broker keeps its records in memory and forgets them when it ends. It listens on loopback and asks nobody for
//! a password.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use control::{Control, Reply, Request};
use state::State;

pub mod control;
pub mod state;
pub mod serve;

/// How long a broker stays without a daemon, unless it was told to stay for good.
pub const LEASE: Duration = Duration::from_secs(600);

/// The state file within the data folder.
pub const STATE_FILE: &str = "broker.json";
/// The log file within the data folder: what the broker writes to its standard output and error.
pub const LOG_FILE: &str = "broker.log";
const SOCKET_FILE: &str = "broker.sock";

const READY_WITHIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A socket's path may have 107 bytes on Linux and 103 on the BSDs.
const SOCKET_PATH_MAX: usize = 100;

/// A running embedded broker, with the control connection that keeps it alive.
#[derive(Debug)]
pub struct Embedded {
    state: State,
    found: bool,
    keep: bool,
    control: Mutex<Option<Control>>,
    child: Mutex<Option<Child>>,
}

impl Embedded {
    /// Finds the broker of the data folder, or starts one and waits until it answers.
    ///
    /// With `keep` it outlives an orderly [`Embedded::stop`], and then stays until it gets a SIGTERM.
    pub fn start(data: &Path, keep: bool) -> anyhow::Result<Self> {
        let executable = std::env::current_exe().context("find the path of this program")?;
        Self::start_from(&executable, data, keep)
    }

    /// As [`Embedded::start`], with the program whose `broker` subcommand is run.
    pub fn start_from(executable: &Path, data: &Path, keep: bool) -> anyhow::Result<Self> {
        let data = fs::canonicalize(data).with_context(|| format!("open data folder {}", data.display()))?;
        let file = data.join(STATE_FILE);
        if let Some(state) = State::read(&file)? {
            match attach(&state, keep) {
                Ok(control) => {
                    tracing::info!(bootstrap = state.bootstrap, pid = state.pid, "found the embedded broker again");
                    return Ok(Self::new(state, true, keep, control, None));
                }
                Err(error) => tracing::warn!(
                    "the embedded broker named in {} does not answer; its records are gone, a new one starts: {error:#}",
                    file.display()
                ),
            }
            state.forget(&file);
        }
        let (state, control, child) = spawn(executable, &data, keep)?;
        tracing::info!(
            bootstrap = state.bootstrap,
            pid = state.pid,
            "started an embedded broker; it keeps records in memory only"
        );
        Ok(Self::new(state, false, keep, control, Some(child)))
    }

    fn new(state: State, found: bool, keep: bool, control: Control, child: Option<Child>) -> Self {
        Self { state, found, keep, control: Mutex::new(Some(control)), child: Mutex::new(child) }
    }

    /// `host:port` for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.state.bootstrap
    }

    /// Names this run of the broker. A broker that forgot its records has another one.
    pub fn incarnation(&self) -> &str {
        &self.state.incarnation
    }

    /// The broker was there already, with the records it had.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Fails when the broker no longer answers.
    pub fn ping(&self) -> anyhow::Result<()> {
        match self.ask(&Request::Ping)? {
            Reply::Pong { .. } => Ok(()),
            other => unexpected(&other),
        }
    }

    /// Creates a topic. False when it was there already, with whatever number of partitions.
    pub fn create_topic(&self, name: &str, partitions: i32) -> anyhow::Result<bool> {
        match self.ask(&Request::Create { topic: name.to_owned(), partitions })? {
            Reply::Created { new } => Ok(new),
            other => unexpected(&other),
        }
    }

    /// Ends the broker, unless it was started or found with `keep`; returns when it is gone.
    ///
    /// It must be the last call. Dropping an `Embedded` without it leaves the broker to its lease.
    pub fn stop(&self) -> anyhow::Result<()> {
        if self.keep {
            drop(lock(&self.control).take());
            return Ok(());
        }
        match self.ask(&Request::Stop)? {
            Reply::Done => {}
            other => return unexpected(&other),
        }
        drop(lock(&self.control).take());
        let deadline = Instant::now() + GONE_WITHIN;
        let mut child = lock(&self.child);
        loop {
            let gone = match child.as_mut() {
                Some(child) => child.try_wait().context("wait for the embedded broker")?.is_some(),
                None => Control::connect(&self.state.control, ANSWER_WITHIN).is_err(),
            };
            if gone {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the embedded broker (process {}) was told to stop and still runs", self.state.pid);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks on the open connection; after a failure, once more on a new one.
    fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let mut slot = lock(&self.control);
        if let Some(control) = slot.as_mut() {
            match control.ask(request) {
                Ok(reply) => return Ok(reply),
                // A connection that failed half way may hold an answer to an older question.
                Err(error) => {
                    tracing::debug!("control connection to the embedded broker failed: {error:#}");
                    *slot = None;
                }
            }
        }
        let mut control = attach(&self.state, self.keep).with_context(|| {
            format!(
                "the embedded broker at {} is gone, and its records with it; restart the daemon",
                self.state.bootstrap
            )
        })?;
        let reply = control.ask(request)?;
        *slot = Some(control);
        Ok(reply)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unexpected<T>(reply: &Reply) -> anyhow::Result<T> {
    match reply {
        Reply::Refused { reason } => bail!("the embedded broker refused: {reason}"),
        other => bail!("the embedded broker gave an unexpected answer: {other:?}"),
    }
}

/// Connects to the broker that the file names, and makes sure that it is that one.
fn attach(state: &State, keep: bool) -> anyhow::Result<Control> {
    let mut control = Control::connect(&state.control, ANSWER_WITHIN)?;
    match control.ask(&Request::Ping)? {
        Reply::Pong { incarnation } if incarnation == state.incarnation => {}
        Reply::Pong { incarnation } => bail!("incarnation {incarnation} answers instead of {}", state.incarnation),
        other => return unexpected(&other),
    }
    let seconds = if keep { 0 } else { LEASE.as_secs() };
    match control.ask(&Request::Lease { seconds })? {
        Reply::Done => Ok(control),
        other => unexpected(&other),
    }
}

fn spawn(executable: &Path, data: &Path, keep: bool) -> anyhow::Result<(State, Control, Child)> {
    let file = data.join(STATE_FILE);
    let log = data.join(LOG_FILE);
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().with_context(|| format!("open {}", log.display()))?;
    let mut child = Command::new(executable)
        .arg("broker")
        .arg("--state")
        .arg(&file)
        .arg("--control")
        .arg(socket_path(data)?)
        .arg("--lease")
        .arg(LEASE.as_secs().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start the embedded broker: {} broker", executable.display()))?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(state) = State::read(&file)?.filter(|state| state.pid == child.id()) {
            let control = attach(&state, keep).context("connect to the embedded broker just started")?;
            return Ok((state, control, child));
        }
        if let Some(status) = child.try_wait().context("wait for the embedded broker")? {
            bail!("the embedded broker ended at once ({status}); {} ends with: {}", log.display(), last_words(&log));
        }
        if Instant::now() >= deadline {
            // Our own child, not yet reaped: the process id is still its own.
            let _ = child.kill();
            let _ = child.wait();
            bail!("the embedded broker was not ready within {READY_WITHIN:?}; see {}", log.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The control socket lies in the data folder, or, where that path is too long for a socket, in a new folder of
/// this user's in the directory for temporary files. The state file names it in either case.
fn socket_path(data: &Path) -> anyhow::Result<PathBuf> {
    let near = data.join(SOCKET_FILE);
    if near.as_os_str().len() <= SOCKET_PATH_MAX {
        // Left by a broker that was killed; nobody answered on it, or we would not be here.
        match fs::remove_file(&near) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the old socket {}", near.display()));
            }
            _ => return Ok(near),
        }
    }
    let name = format!("tidemill-{}", uuid::Uuid::new_v4().simple());
    let folder = [std::env::temp_dir(), PathBuf::from("/tmp")]
        .into_iter()
        .map(|temporary| temporary.join(&name))
        .find(|folder| folder.join(SOCKET_FILE).as_os_str().len() <= SOCKET_PATH_MAX)
        .context("find a place for the embedded broker's control socket: every path is too long")?;
    DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder.join(SOCKET_FILE))
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    if lines.is_empty() { "(nothing)".to_owned() } else { lines.into_iter().rev().collect::<Vec<_>>().join(" | ") }
}

#[cfg(test)]
#[path = "broker/tests.rs"]
mod tests;
