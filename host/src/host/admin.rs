//! The admin API's place in the data folder: where it listens, and the token that callers must know.
//!
//! Its invariant: while the file is there, a daemon of this folder listens at the address in it, or was killed and none has
//! started since. The file is written once the address is taken, and goes with an orderly stop.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;

use super::take_port;
use crate::deploy::Deployer;
use crate::http::admin::{Admin, SEATS};
use crate::http::{connection, secret};
use crate::settings::Settings;

/// The file in the data folder.
const FILE: &str = "admin.url";

/// Where the daemon of a data folder says that it listens.
pub fn url_file(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The address, taken.
pub(super) struct Door {
    open: Option<(TcpListener, Vec<u8>)>,
    file: PathBuf,
}

impl Door {
    /// Takes the address and says so in the data folder; nothing is answered yet.
    pub(super) fn open(settings: &Settings, after_another: bool) -> Result<Self> {
        let file = url_file(&settings.data);
        // What a daemon that was killed has left leads nowhere, or to somebody else.
        let _ = fs::remove_file(&file);
        let Some(address) = settings.admin.listen else { return Ok(Self { open: None, file }) };
        let token = secret::admin_token(settings)?;
        let (listener, address) = take_port(after_another, || connection::listen(address, "admin.listen"))?;
        let told = || format!("write {}", file.display());
        let partial = settings.data.join(format!("{FILE}.partial"));
        fs::write(&partial, format!("http://{}\n", reachable(address))).with_context(told)?;
        fs::rename(&partial, &file).with_context(told)?;
        tracing::debug!(%address, "the admin API listens");
        Ok(Self { open: Some((listener, token)), file })
    }

    /// Answers until `cancel`.
    pub(super) async fn serve(self, deployer: Arc<Deployer>, cancel: CancellationToken) -> Result<()> {
        let Some((listener, token)) = self.open else {
            cancel.cancelled().await;
            return Ok(());
        };
        let service = Arc::new(Admin::new(deployer, &token, cancel));
        let served = connection::serve(listener, None, service, SEATS).await;
        let _ = fs::remove_file(self.file);
        served.context("serve the admin API")
    }
}

/// Where this machine reaches a listener, which may listen everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], port)),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        address => address,
    }
}
