//! Whose certificate a command takes for the daemon's, and which one it shows of its own.
//!
//! Its invariant: no token leaves before the other side has shown what is trusted here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use reqwest::ClientBuilder;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};

use crate::http::tls::{authorities, certificates, key};

/// What a command shows and trusts where TLS is spoken.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Trust the authorities in this file, in PEM, and no others.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate, in PEM, to a daemon that asks for one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl Arguments {
    /// A client that trusts the authorities of `--ca`; without that the certificate of the file `own`, if it is given, whatever the
    /// name in it; else whom the machine trusts.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn set_up(&self, client: ClientBuilder, own: Option<&Path>) -> Result<ClientBuilder> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match (&self.ca, own) {
            (Some(ca), _) => {
                let built =
                    WebPkiServerVerifier::builder_with_provider(authorities("--ca", ca)?, Arc::clone(&provider));
                built.build().context("set up TLS")?
            }
            (None, Some(own)) => {
                let shown = certificates("the settings' TLS", own)?.into_iter().next();
                Arc::new(Shown { certificate: shown.context("read the certificate")?, provider: Arc::clone(&provider) })
            }
            (None, None) => return self.identity(client),
        };
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.context("set up TLS")?.dangerous().with_custom_certificate_verifier(verifier);
        let config = match (&self.client_cert, &self.client_key) {
            (Some(file), Some(of)) => {
                config.with_client_auth_cert(certificates("--client-cert", file)?, key("--client-key", of)?)
            }
            _ => Ok(config.with_no_client_auth()),
        };
        Ok(client.tls_backend_preconfigured(config.context("--client-cert and --client-key do not go together")?))
    }

    fn identity(&self, client: ClientBuilder) -> Result<ClientBuilder> {
        let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) else { return Ok(client) };
        let mut both = Vec::new();
        for file in [key, certificate] {
            both.extend(std::fs::read(file).with_context(|| format!("read {}", file.display()))?);
            both.push(b'\n');
        }
        let identity = reqwest::Identity::from_pem(&both);
        Ok(client
            .identity(identity.context("--client-cert and --client-key are not a certificate and its key in PEM")?))
    }
}

/// What a failed handshake is for people, if that is what ended a request.
pub(super) fn explain(error: &reqwest::Error) -> Option<String> {
    let why = match handshake(error)? {
        // An authority of the same name has signed nothing of it either.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is of an authority that is not trusted here: name the authority with --ca FILE"
        }
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "its certificate is not the one of the settings: it was renewed just now, or something else answers there"
        }
        Error::InvalidCertificate(why) => return Some(format!("its certificate is not good: {why}")),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a certificate of the caller's: name one with --client-cert FILE and --client-key FILE"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError,
        ) => "it does not take the certificate of --client-cert",
        Error::InvalidMessage(_) => "it speaks no TLS: write http://",
        _ => return None,
    };
    Some(why.to_owned())
}

/// The error of TLS that an error comes from. One of I/O is not the source of what wraps it, but inside.
fn handshake<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match inside {
        Some(inside) => handshake(inside),
        None => handshake(error.source()?),
    }
}

/// Takes this one certificate, which is known from elsewhere.
#[derive(Debug)]
struct Shown {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
