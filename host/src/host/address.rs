//! Where a listener of the daemon's own can be found: a file in the data folder with its address.
//!
//! Its invariant: while the file is there, a daemon of this folder listens at the address in it, or was killed and none has
//! started since. The file is written once the address is taken, and goes with an orderly stop.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The file of one listener.
pub(super) struct Sign {
    file: PathBuf,
}

impl Sign {
    /// Takes away what a daemon that was killed has left: it leads nowhere, or to somebody else.
    pub(super) fn new(file: PathBuf) -> Self {
        let _ = fs::remove_file(&file);
        Self { file }
    }

    /// Says where it listens, and whether it speaks TLS.
    pub(super) fn put_up(&self, address: SocketAddr, tls: bool) -> Result<()> {
        let told = || format!("write {}", self.file.display());
        let partial = partial(&self.file);
        let scheme = if tls { "https" } else { "http" };
        fs::write(&partial, format!("{scheme}://{}\n", reachable(address))).with_context(told)?;
        fs::rename(&partial, &self.file).with_context(told)
    }

    /// It listens no more.
    pub(super) fn take_down(self) {
        let _ = fs::remove_file(self.file);
    }
}

fn partial(file: &Path) -> PathBuf {
    file.with_extension("url.partial")
}

/// Where this machine reaches a listener, which may listen everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], port)),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        address => address,
    }
}
