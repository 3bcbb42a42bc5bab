//! TLS on a listener, with the certificate and the key of the operator's files, and the authorities of its clients where they show certificates.
//!
//! Files that have changed are read again while the daemon runs, since certificates are renewed. Its invariant: a pair that cannot be read,
//! or does not belong together, never takes the place of the one that serves. It looks at the files seldom, not for each connection.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

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

type Written = [Option<SystemTime>; 3];

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
    let at = |file: &Path| std::fs::metadata(file).and_then(|found| found.modified()).ok();
    [at(&files.certificate), at(&files.key), files.client_ca.as_deref().and_then(at)]
}

/// The certificates of a file in PEM, of which there is one at least. `section` names the settings that name the file.
///
/// # Errors
/// It cannot be read, or holds none.
pub(crate) fn certificates(section: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.with_context(|| format!("{section}: read {}", file.display()))?;
    if found.is_empty() {
        bail!("{section}: {} holds no certificate: it should be PEM", file.display());
    }
    Ok(found)
}

/// The private key of a file in PEM.
///
/// # Errors
/// It cannot be read, or holds none.
pub(crate) fn key(section: &str, file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).with_context(|| format!("{section}: read {}", file.display()))
}

/// Authorities of a file in PEM.
///
/// # Errors
/// It cannot be read, or holds something else.
pub(crate) fn authorities(section: &str, file: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(section, file)? {
        let added = roots.add(certificate);
        added.with_context(|| format!("{section}: {} holds a certificate that is no authority's", file.display()))?;
    }
    Ok(Arc::new(roots))
}

fn acceptor(files: &Files) -> Result<TlsAcceptor> {
    let section = &files.section;
    let chain = certificates(section, &files.certificate)?;
    let key = key(section, &files.key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("set up TLS")?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(file) => {
            let roots = authorities(section, file)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            config.with_client_cert_verifier(verifier.context("set up TLS")?)
        }
    };
    let config = config.with_single_cert(chain, key);
    let mut config = config.with_context(|| {
        format!("{section}: {} and {} do not go together", files.certificate.display(), files.key.display())
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
