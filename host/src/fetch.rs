//! What the host asks other services for by itself: a token for Kafka, an issuer's keys.
//!
//! A question is bounded in time and its answer in size, redirects are not followed, and it goes over TLS unless it stays on this
//! machine. It is asked by a thread that waits for it, and never by one that answers requests or runs deliveries.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Certificate, Client, RequestBuilder, Url};
use tokio::runtime::Runtime;

/// How long an answer may take in all.
const WITHIN: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const LENGTH_MAX: usize = 1 << 20;

/// An answer, whatever its status.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The body, up to its limit.
    pub(crate) body: Vec<u8>,
}

/// Asks one service.
pub(crate) struct Fetcher {
    url: Url,
    client: Client,
    runtime: Runtime,
}

impl Fetcher {
    /// For the service at `url`, which has passed [`url`]; with `ca`, one of whose certificates in PEM must have signed the service's, in place
    /// of the system's.
    ///
    /// # Errors
    /// The file cannot be read, or holds no certificate.
    pub(crate) fn new(url: Url, ca: Option<&Path>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(WITHIN)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = ca {
            let pem = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                bail!("{} holds no certificate in PEM", file.display());
            }
            client = client.tls_certs_only(certificates);
        }
        // What is not encrypted stays on this machine.
        if url.scheme() == "http" {
            client = client.no_proxy();
        }
        let client = client.build().context("set up the HTTP client")?;
        Ok(Self { url, client, runtime: runtime.context("set up the HTTP client")? })
    }

    /// Where it asks.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Asks with `GET`.
    ///
    /// # Errors
    /// There is no whole answer in time, or it is too large.
    pub(crate) fn get(&self) -> Result<Answer> {
        self.send(self.client.get(self.url.clone()))
    }

    /// Asks with `POST`, a user and a password (RFC 7617), and a form's fields.
    ///
    /// # Errors
    /// As [`Fetcher::get`].
    pub(crate) fn post(&self, user: &str, password: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let mut form = Url::parse("http://form").context("write a form")?;
        form.query_pairs_mut().extend_pairs(fields);
        let body = form.query().unwrap_or_default().to_owned();
        let request = self.client.post(self.url.clone()).basic_auth(user, Some(password));
        self.send(request.header("content-type", "application/x-www-form-urlencoded").body(body))
    }

    fn send(&self, request: RequestBuilder) -> Result<Answer> {
        self.runtime.block_on(async {
            let mut response = request.header("accept", "application/json").send().await.map_err(|e| self.failed(e))?;
            let (status, mut body) = (response.status().as_u16(), Vec::new());
            while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
                if body.len() + chunk.len() > LENGTH_MAX {
                    bail!("{} answers with more than {LENGTH_MAX} bytes", self.url);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Answer { status, body })
        })
    }

    /// The cause at the bottom says most: a name that is not known, a certificate that nobody trusts.
    fn failed(&self, error: reqwest::Error) -> anyhow::Error {
        if error.is_timeout() {
            return anyhow::anyhow!("{} has not answered within {WITHIN:?}", self.url);
        }
        let (mut cause, mut deeper): (&dyn Error, _) = (&error, error.source());
        while let Some(next) = deeper {
            (cause, deeper) = (next, next.source());
        }
        anyhow::anyhow!("{} cannot be asked: {cause}", self.url)
    }
}

/// Reads where a service is that is told or tells something secret: `https://...`, or `http://` on this machine.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| "is not a URL; write it like \"https://login.example.com/token\"".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or a password in it, which logs would show".into());
    }
    let local = match url.host_str().unwrap_or_default() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback()),
    };
    if url.scheme() == "http" && !local {
        return Err(
            "is read by whoever is on the way: write https, which only a service on this machine can go without".into(),
        );
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h7_only_this_machine_is_asked_without_tls() {
        for good in
            ["https://login.example.com/token", "http://127.0.0.1:80/x", "http://[::1]:9/x", "http://localhost/x"]
        {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://login.example.com/",
            "http://localhost.example.com/",
            "ftp://x/",
            "x",
            "https://u:p@example.com/",
            "http://10.0.0.1/",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
