//! `tidemill status`: the daemon on one screen, once or again and again.
//!
//! It looks twice, since a rate is what went on between two looks. Before a daemon runs, its probe says what it is at. On a terminal it
//! redraws in place, on a screen of its own, and leaves the terminal as it was; elsewhere it appends lines without colours.

mod screen;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use reqwest::Method;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::remote::{Remote, print_json};
use super::say;
use crate::host::monitor::url_file;
use crate::metrics::gather::status::Status;
use crate::metrics::health::{Readiness, Stage};

/// How long lies between the two looks of one status.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(5);

/// `tidemill status`
#[derive(Debug, Args)]
pub struct Arguments {
    /// Look again each so many seconds, 2 without a number, until ^C.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Print each answer as JSON; with --watch each on a line of its own.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What one look has found.
enum Look {
    /// A daemon that runs.
    Runs(Box<Status>, Instant),
    /// One that waits, starts or stops, and tells no more than that.
    Waits(Readiness),
}

/// A daemon that runs, with what went on since the look before.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    rates: Rates,
}

/// What went on in a second; empty before a second look.
#[derive(Default, Serialize)]
struct Rates {
    /// Records that each handler has left behind.
    records: BTreeMap<String, f64>,
    /// Events of each store that were acknowledged.
    published: BTreeMap<String, f64>,
}

/// Shows it.
///
/// # Errors
/// Nobody answers.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let first = look(&arguments.remote)?;
    if let Some(seconds) = arguments.watch {
        return watch(arguments, Duration::from_secs(seconds), first);
    }
    let (before, now) = match first {
        Look::Waits(_) => (None, first),
        Look::Runs(..) => {
            std::thread::sleep(BETWEEN);
            let again = look(&arguments.remote)?;
            (Some(first), again)
        }
    };
    show(arguments, before.as_ref(), &now, true)
}

/// Prints one look.
fn show(arguments: &Arguments, before: Option<&Look>, now: &Look, pretty: bool) -> Result<()> {
    let print = |text: serde_json::Result<String>| say(&text.context("write JSON")?);
    match (arguments.json, now) {
        (true, Look::Runs(status, _)) => {
            let told = Told { status, rates: rates(before, now) };
            if pretty { print_json(&told) } else { print(serde_json::to_string(&told)) }
        }
        (true, Look::Waits(readiness)) => {
            let told = BTreeMap::from([("readiness", readiness)]);
            if pretty { print_json(&told) } else { print(serde_json::to_string(&told)) }
        }
        (false, _) => {
            let lines = screen::lines(now, &rates(before, now));
            say(&screen::text(&lines, screen::coloured()))
        }
    }
}

/// Looks again and again. A daemon that is gone is said, and may come back.
fn watch(arguments: &Arguments, every: Duration, first: Look) -> Result<()> {
    let in_place = !arguments.json && std::io::stdout().is_terminal();
    let mut end = if in_place { Some(End::listen()?) } else { None };
    let own = in_place.then(OwnScreen::enter).transpose()?;
    let (mut before, mut now) = (None, Ok(first));
    loop {
        match (&now, &own) {
            (Ok(now), Some(own)) => own.draw(&screen::lines(now, &rates(before.as_ref(), now)))?,
            (Err(error), Some(own)) => own.draw(&screen::failed(&format!("{error:#}")))?,
            (Ok(now), None) => show(arguments, before.as_ref(), now, false)?,
            (Err(error), None) => eprintln!("error: {error:#}"),
        }
        if end.as_mut().is_some_and(|end| end.comes_within(every)) {
            return Ok(());
        }
        if end.is_none() {
            std::thread::sleep(every);
        }
        before = now.ok();
        now = look(&arguments.remote);
    }
}

fn rates(before: Option<&Look>, now: &Look) -> Rates {
    let (Some(Look::Runs(before, began)), Look::Runs(now, at)) = (before, now) else { return Rates::default() };
    let seconds = at.duration_since(*began).as_secs_f64();
    // Another process counts from nothing.
    if now.started != before.started || seconds <= 0.0 {
        return Rates::default();
    }
    let rate = |before: Option<u64>, now: u64| before.map(|before| now.saturating_sub(before) as f64 / seconds);
    let records = now.handlers.iter().filter_map(|handler| {
        let earlier = before.handlers.iter().find(|earlier| earlier.handler == handler.handler);
        Some((handler.handler.clone(), rate(earlier.map(|earlier| earlier.records), handler.records)?))
    });
    let published = now.stores.iter().filter_map(|store| {
        let earlier = before.stores.iter().find(|earlier| earlier.store == store.store);
        Some((store.store.clone(), rate(earlier.map(|earlier| earlier.published), store.published)?))
    });
    Rates { records: records.collect(), published: published.collect() }
}

/// One look at the daemon. One that does not run yet has no admin API that would answer, so its probe is asked first.
fn look(remote: &Remote) -> Result<Look> {
    if let Some(readiness) = probe(remote)
        && readiness.stage != Stage::Running
    {
        return Ok(Look::Waits(readiness));
    }
    let status = remote.daemon()?.ask(Method::GET, "status", None)?;
    Ok(Look::Runs(Box::new(status), Instant::now()))
}

/// What `/readyz` says of the daemon of the data folder, or of a standby for it where that has an address of its own.
pub(super) fn probe(remote: &Remote) -> Option<Readiness> {
    let settings = remote.here().ok()??;
    let own = settings.metrics.tls.as_ref().map(|tls| &*tls.certificate);
    let scheme = if own.is_some() { "https" } else { "http" };
    let named = |address: SocketAddr| (address.port() != 0).then(|| format!("{scheme}://{address}"));
    let url = match std::fs::read_to_string(url_file(&settings.data)) {
        Ok(url) => url.trim().to_owned(),
        Err(_) => settings.metrics.listen.and_then(named)?,
    };
    let client = reqwest::Client::builder().no_proxy().timeout(PROBE);
    let client = if url.starts_with("https") { remote.trust.set_up(client, own).ok()? } else { client };
    let ask = async {
        let client = client.build().ok()?;
        client.get(format!("{url}/readyz")).send().await.ok()?.bytes().await.ok()
    };
    let answer = Runtime::new().ok()?.block_on(ask)?;
    serde_json::from_slice(&answer).ok()
}

/// The signals that end a watch.
struct End {
    runtime: Runtime,
    signals: [Signal; 2],
}

impl End {
    fn listen() -> Result<Self> {
        let runtime = Runtime::new().context("listen for signals")?;
        let signals = {
            let _entered = runtime.enter();
            let listen = |kind| signal(kind).context("listen for signals");
            [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?]
        };
        Ok(Self { runtime, signals })
    }

    fn comes_within(&mut self, time: Duration) -> bool {
        let [interrupt, terminate] = &mut self.signals;
        self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = tokio::time::sleep(time) => false,
            }
        })
    }
}

/// A terminal's other screen, without a cursor and without lines that wrap; what was there comes back when this is gone.
struct OwnScreen;

impl OwnScreen {
    fn enter() -> Result<Self> {
        write("\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Self)
    }

    /// Draws as many lines as there is room for.
    fn draw(&self, lines: &[screen::Line]) -> Result<()> {
        let room = screen::rows().map_or(usize::MAX, |rows| rows.saturating_sub(1).max(1));
        let (shown, rest) = lines.split_at(lines.len().min(room));
        let mut text = screen::text(shown, screen::coloured());
        if !rest.is_empty() {
            text += &format!("\n... and {} lines more", rest.len());
        }
        write(&format!("\x1b[H{}\x1b[K\x1b[J", text.replace('\n', "\x1b[K\r\n")))
    }
}

impl Drop for OwnScreen {
    fn drop(&mut self) {
        let _ = write("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        bail!("standard output is closed");
    }
    Ok(())
}
