//! The place of `/metrics` and of the probes: taken before the daemon waits for another one, and given up last.
//!
//! Its invariant: whoever asks is answered for as long as the process can answer at all, and told what it is at. It knows no number itself.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::address::Sign;
use super::take_port;
use crate::http::monitor::{Monitor, SEATS, Told};
use crate::http::tls::Tls;
use crate::http::{connection, secret};
use crate::metrics::Gatherer;
use crate::metrics::health::Stage;
use crate::settings::{Metrics, Settings};

/// The file in the data folder.
const FILE: &str = "metrics.url";
/// The setting of the address.
const KEY: &str = "metrics.listen";

/// Where the daemon of a data folder says that it answers.
pub fn url_file(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The place, and what is told there.
pub(super) struct Post {
    told: Arc<Told>,
    settings: Metrics,
    token: Option<Vec<u8>>,
    /// Until it serves.
    tls: Option<Tls>,
    /// What was taken.
    address: Option<SocketAddr>,
    sign: Option<Sign>,
    cancel: CancellationToken,
    runtime: Handle,
}

impl Post {
    /// For these settings; nothing is taken yet.
    pub(super) fn new(settings: &Settings, runtime: &Handle) -> Result<Self> {
        Ok(Self {
            told: Arc::default(),
            token: secret::metrics_token(settings)?,
            tls: settings.metrics.tls.as_ref().map(Tls::read).transpose()?,
            settings: settings.metrics.clone(),
            address: None,
            sign: None,
            cancel: CancellationToken::new(),
            runtime: runtime.clone(),
        })
    }

    /// Answers as a standby, if the address is free: the daemon that is waited for may have it, on the same machine.
    pub(super) fn stand_by(&mut self) {
        if let Some(address) = self.settings.listen
            && let Ok(taken) = connection::listen(address, KEY)
        {
            self.serve(taken);
        }
    }

    /// Takes the address, unless a standby has it already, and says so in the data folder.
    pub(super) fn take(&mut self, data: &Path, after_another: bool) -> Result<()> {
        self.told.now.set(Stage::Starting);
        let sign = Sign::new(url_file(data));
        let Some(address) = self.settings.listen else { return Ok(()) };
        let address = match self.address {
            Some(address) => address,
            None => self.serve(take_port(after_another, || connection::listen(address, KEY))?),
        };
        sign.put_up(address, self.settings.tls.is_some())?;
        tracing::debug!(%address, "metrics and probes are answered");
        self.sign = Some(sign);
        Ok(())
    }

    fn serve(&mut self, (listener, address): (TcpListener, SocketAddr)) -> SocketAddr {
        self.address = Some(address);
        let monitor = Arc::new(Monitor::new(self.told.clone(), self.token.as_deref(), self.cancel.clone()));
        let tls = self.tls.take();
        self.runtime.spawn(async move {
            if let Err(error) = connection::serve(listener, tls, monitor, SEATS).await {
                tracing::error!(error = format!("{error:#}"), "metrics and probes are answered no more");
            }
        });
        address
    }

    /// The daemon runs, and this gathers its numbers.
    pub(super) fn run(&self, gatherer: Gatherer) {
        let _ = self.told.gatherer.set(gatherer);
        self.told.now.set(Stage::Running);
    }

    /// What is told, for who knows when that changes.
    pub(super) fn told(&self) -> Arc<Told> {
        self.told.clone()
    }

    /// Nobody is answered any more.
    pub(super) fn close(self) {
        self.cancel.cancel();
        if let Some(sign) = self.sign {
            sign.take_down();
        }
    }
}
