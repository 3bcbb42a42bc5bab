//! TLS on a listener, with the certificate and the key of the operator's files.
//!
//! Files that have changed are read again while the daemon runs, since certificates are renewed. Its invariant: a pair that cannot be read,
//! or does not belong together, never takes the place of the one that serves. It looks at the files seldom, not for each connection.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::settings::Tls as Files;

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What takes connections of a listener over to TLS.
pub struct Tls {
    files: Files,
    current: Mutex<Current>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

struct Current {
    acceptor: TlsAcceptor,
    /// When the files were written that it was read from, or that were found wrong since.
    written: Written,
    looked: Instant,
}

type Written = [Option<SystemTime>; 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or they do not belong together.
    pub fn read(files: &Files) -> Result<Self> {
        let written = written(files);
        let current = Mutex::new(Current { acceptor: acceptor(files)?, written, looked: Instant::now() });
        Ok(Self { files: files.clone(), current })
    }

    /// What serves the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let written = written(&self.files);
            if written != current.written {
                current.written = written;
                match acceptor(&self.files) {
                    Ok(acceptor) => {
                        current.acceptor = acceptor;
                        tracing::info!(file = %self.files.certificate.display(), "the certificate was read again");
                    }
                    Err(error) => tracing::error!(
                        error = format!("{error:#}"),
                        "the new certificate cannot be used, and the one before goes on: put a certificate and its key there"
                    ),
                }
            }
        }
        current.acceptor.clone()
    }
}

fn written(files: &Files) -> Written {
    [&files.certificate, &files.key].map(|file| std::fs::metadata(file).and_then(|found| found.modified()).ok())
}

fn acceptor(files: &Files) -> Result<TlsAcceptor> {
    let read = |file: &Path| format!("http.tls: read {}", file.display());
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| read(&files.certificate))?;
    if certificates.is_empty() {
        bail!(
            "http.tls: {} holds no certificate: it should be PEM, the server's own first",
            files.certificate.display()
        );
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| read(&files.key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_no_client_auth()
        .with_single_cert(certificates, key);
    let mut config = config.with_context(|| {
        format!("http.tls: {} and {} do not go together", files.certificate.display(), files.key.display())
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
