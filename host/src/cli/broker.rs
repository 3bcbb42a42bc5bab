//! `tidemill broker`: the embedded broker's process. The daemon starts it; people have no need to.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::broker::serve::{Broker, Options, Stopper};

/// Arguments of `tidemill broker`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// File to write with incarnation, address, process and socket.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// Unix domain socket for requests.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Seconds without a connection after which the broker ends; 0 for never.
    #[arg(long, value_name = "SECONDS", default_value_t = crate::broker::LEASE.as_secs())]
    lease: u64,
}

/// Runs the broker until it is told to stop, gets a SIGTERM, or has been alone for the length of its lease.
pub fn run(args: Args) -> anyhow::Result<()> {
    // In the daemon's session a Ctrl-C would end both. By hand, from a shell, the process may lead its own group
    // already, and then the call fails without harm.
    let _ = rustix::process::setsid();
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    let broker = Broker::open(Options {
        state: args.state,
        control: args.control,
        lease: (args.lease > 0).then(|| Duration::from_secs(args.lease)),
    })?;
    stop_on_sigterm(broker.stopper())?;
    let state = broker.state().clone();
    tracing::info!(bootstrap = state.bootstrap, incarnation = state.incarnation, "embedded broker ready");
    let ended = broker.run();
    tracing::info!("embedded broker ended: {ended:?}");
    Ok(())
}

fn stop_on_sigterm(stopper: Stopper) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("watch for signals")?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(terminate.recv());
            stopper.stop();
        })
        .context("watch for signals")?;
    Ok(())
}
