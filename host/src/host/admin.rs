//! The admin API's place in the data folder: where it listens, and the tokens of which callers must know one.
//!
//! Its invariant: it answers nobody before the daemon runs. What it answers is not its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;

use super::address::Sign;
use super::take_port;
use crate::deploy::Deployer;
use crate::http::admin::tokens::Tokens;
use crate::http::admin::{Admin, SEATS};
use crate::http::connection;
use crate::http::monitor::Told;
use crate::http::tls::Tls;
use crate::settings::Settings;

/// The file in the data folder.
const FILE: &str = "admin.url";

/// Where the daemon of a data folder says that it listens.
pub fn url_file(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The address, taken.
pub(super) struct Door {
    open: Option<(TcpListener, Option<Tls>, Tokens)>,
    sign: Sign,
}

impl Door {
    /// Takes the address and says so in the data folder; nothing is answered yet.
    pub(super) fn open(settings: &Settings, after_another: bool) -> Result<Self> {
        let sign = Sign::new(url_file(&settings.data));
        let Some(address) = settings.admin.listen else { return Ok(Self { open: None, sign }) };
        let tokens = Tokens::open(settings)?;
        let tls = settings.admin.tls.as_ref().map(Tls::read).transpose()?;
        let (listener, address) = take_port(after_another, || connection::listen(address, "admin.listen"))?;
        sign.put_up(address, tls.is_some())?;
        tracing::debug!(%address, "the admin API listens");
        Ok(Self { open: Some((listener, tls, tokens)), sign })
    }

    /// Answers until `cancel`.
    pub(super) async fn serve(self, deployer: Arc<Deployer>, told: Arc<Told>, cancel: CancellationToken) -> Result<()> {
        let Some((listener, tls, tokens)) = self.open else {
            cancel.cancelled().await;
            return Ok(());
        };
        let service = Arc::new(Admin::new(deployer, told, tokens, cancel));
        let served = connection::serve(listener, tls, service, SEATS).await;
        self.sign.take_down();
        served.context("serve the admin API")
    }
}
