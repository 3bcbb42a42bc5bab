//! What the service manager is told: that the daemon is ready, alive, reading its settings again, or stopping (sd_notify(3)).
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names, and nothing where it names none. That it lives is told only while it does,
//! by the same rule as `/livez`, so that one that hangs is started again.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::http::monitor::Told;
use crate::metrics::Gatherer;

/// How long news may take to be told.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service manager, if one wants to know.
#[derive(Clone, Default)]
pub(super) struct Notify(Option<Arc<Line>>);

struct Line {
    /// Waits a little where the service manager is slow.
    news: UnixDatagram,
    /// Waits for nothing: a beat that is late is none.
    beats: UnixDatagram,
    to: SocketAddr,
}

impl Line {
    fn open(to: SocketAddr) -> std::io::Result<Self> {
        let line = Self { news: UnixDatagram::unbound()?, beats: UnixDatagram::unbound()?, to };
        line.news.set_write_timeout(Some(PATIENCE))?;
        line.beats.set_nonblocking(true)?;
        Ok(line)
    }
}

impl Notify {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        let Some(name) = std::env::var("NOTIFY_SOCKET").ok().filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        match address.and_then(Line::open) {
            Ok(found) => Self(Some(Arc::new(found))),
            Err(error) => {
                tracing::warn!(socket = name, %error, "the service manager cannot be told anything (NOTIFY_SOCKET)");
                Self::default()
            }
        }
    }

    fn tell(&self, state: &str) {
        if let Some(line) = &self.0
            && let Err(error) = line.news.send_to_addr(state.as_bytes(), &line.to)
        {
            tracing::debug!(%error, "tell the service manager");
        }
    }

    /// It does what it was started for; `status` is for people.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// It was told to stop, which may take so long.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = within.as_micros().saturating_add(1_000_000);
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=stopping: what is under way is finished"));
    }

    /// It reads its settings again; that it is ready follows.
    pub(super) fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the settings again", monotonic_micros()));
    }

    /// Tells that it lives, as often as the service manager wants to know.
    pub(super) fn watch(&self, told: Arc<Told>, runtime: &Handle) {
        let Some((line, every)) = self.0.clone().zip(watchdog()) else { return };
        runtime.spawn(async move {
            let mut beat = tokio::time::interval(every);
            let mut alive = true;
            loop {
                beat.tick().await;
                let state = told.gatherer.get().map(Gatherer::liveness).filter(|state| !state.alive);
                if let Some(state) = &state {
                    if alive {
                        let reasons: Vec<&str> = state.reasons.iter().map(|reason| reason.reason.as_str()).collect();
                        tracing::error!(
                            reasons = reasons.join("; "),
                            "the daemon hangs: the service manager is not told that it lives"
                        );
                    }
                } else {
                    let _ = line.beats.send_to_addr(b"WATCHDOG=1", &line.to);
                }
                alive = state.is_none();
            }
        });
    }
}

/// Half of the time in which the service manager wants to hear something, if that is from this process.
fn watchdog() -> Option<Duration> {
    if std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros) / 2)
}

/// `CLOCK_MONOTONIC`, in microseconds.
fn monotonic_micros() -> u128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `now`, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let part = |number: i64| u128::try_from(number).unwrap_or(0);
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1_000
}
