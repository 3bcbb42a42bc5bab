//! A daemon's admin API, as the commands call it: the one of the data folder, or one that is named.
//!
//! It asks for what it is told to, and changes nothing by itself. An answer that is no success is an error for people.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use reqwest::{Client, Method, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::{Config, terminal, trust};
use crate::deploy::page::{MAX, Page};
use crate::host::admin::url_file;
use crate::http::admin::operation::{CURSOR, LIMIT};
use crate::http::admin::{BASE, CLAIMED};
use crate::http::secret;
use crate::settings::{Problems, Settings};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take: a component is compiled meanwhile.
const ANSWER: Duration = Duration::from_secs(600);

/// Which daemon.
#[derive(Debug, Args)]
pub struct Remote {
    /// The admin API of a daemon elsewhere, like https://10.0.0.5:7070, with its token in TIDEMILL_ADMIN_TOKEN or --token-file.
    #[arg(long, value_name = "URL")]
    daemon: Option<String>,
    /// A file with the token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) trust: trust::Arguments,
    #[command(flatten)]
    pub(super) config: Config,
}

impl Remote {
    /// The settings of the daemon that is meant, unless one elsewhere is named.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn here(&self) -> Result<Option<Settings>, Problems> {
        if self.daemon.is_some() { Ok(None) } else { self.config.load().map(Some) }
    }

    /// Whether it is named by its address, and not by the data folder of the settings.
    pub(super) fn is_named(&self) -> bool {
        self.daemon.is_some()
    }

    /// Where it is, by the arguments or by the data folder of the settings.
    ///
    /// # Errors
    /// There is no daemon, or no token.
    pub(super) fn daemon(&self) -> Result<Daemon> {
        let given = match (&self.token_file, std::env::var("TIDEMILL_ADMIN_TOKEN")) {
            (Some(path), _) => Some(read_token(path)?),
            (None, Ok(token)) if !token.is_empty() => Some(token),
            _ => None,
        };
        let (url, token, found, own) = match &self.daemon {
            Some(url) => {
                let token = given.context("a daemon that is named with --daemon wants its token: set TIDEMILL_ADMIN_TOKEN, or name a file with --token-file")?;
                (url.clone(), token, "--daemon".to_owned(), None)
            }
            None => {
                let settings = self.config.load()?;
                if settings.admin.listen.is_none() {
                    bail!("the admin API is off (`admin.listen`): set it to an address, or name one with --daemon");
                }
                let file = url_file(&settings.data);
                let url = std::fs::read_to_string(&file).with_context(|| {
                    format!(
                        "no daemon runs on the data folder {}: start one with `tidemill run`, or name one with --daemon (read {})",
                        settings.data.display(),
                        file.display()
                    )
                })?;
                let token = match given {
                    Some(token) => token,
                    None => {
                        let made = settings.data.join(secret::ADMIN_FILE);
                        read_token(settings.admin.token_file.as_deref().unwrap_or(&made))?
                    }
                };
                let own = settings.admin.tls.map(|tls| tls.certificate);
                (url.trim().to_owned(), token, file.display().to_string(), own)
            }
        };
        let wrong = || format!("{found}: {url:?} is no address of a daemon; write it like http://10.0.0.5:7070");
        let parsed = Url::parse(&url).with_context(wrong)?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            bail!("{}", wrong());
        }
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // Each question has a runtime of its own, with which its connection ends.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")));
        if self.daemon.is_none() {
            client = client.no_proxy();
        }
        if parsed.scheme() == "https" {
            client = self.trust.set_up(client, own.as_deref())?;
        }
        let client = client.build().context("set up the HTTP client")?;
        Ok(Daemon { client, url: url.trim_end_matches('/').to_owned(), token, found })
    }
}

fn read_token(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read the token {}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A daemon that can be asked.
pub(super) struct Daemon {
    client: Client,
    url: String,
    token: String,
    /// Where the address stands.
    found: String,
}

impl Daemon {
    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// Nobody answers; or the daemon refuses, with its reason.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a client")?;
        let (status, answer) = runtime.block_on(self.send(method, path, body))?;
        let foreign =
            || format!("what answers at {} ({}) is no admin API of Tidemill ({status})", self.url, self.found);
        if status.is_success() {
            return serde_json::from_slice(&answer).with_context(foreign);
        }
        let problem: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        let Some(detail) = problem.get("detail").and_then(serde_json::Value::as_str) else { bail!("{}", foreign()) };
        if status == StatusCode::UNAUTHORIZED {
            bail!("the daemon at {} does not take this token: {detail}", self.url);
        }
        bail!("{detail}")
    }

    /// Asks for a listing, part by part, to its end.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let part: Page<T> = self.ask(Method::GET, &format!("{path}?{LIMIT}={MAX}{cursor}"), None)?;
            all.extend(part.items);
            let Some(next) = part.next else { return Ok(all) };
            cursor = format!("&{CURSOR}={next}");
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<(StatusCode, Vec<u8>)> {
        let url = format!("{}{BASE}/{path}", self.url);
        let mut request = self.client.request(method, url).bearer_auth(&self.token).header(CLAIMED, caller());
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body);
        }
        let unreachable = |error: reqwest::Error| {
            let (url, found) = (&self.url, &self.found);
            let why = match trust::explain(&error) {
                Some(why) => format!("the daemon at {url} ({found}) is not asked, since {why}"),
                None => format!(
                    "no daemon answers at {url} ({found}): start it with `tidemill run`, or name another with --daemon"
                ),
            };
            anyhow::Error::from(error).context(why)
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        Ok((status, response.bytes().await.map_err(unreachable)?.to_vec()))
    }
}

/// The user and the machine, for the audit log.
fn caller() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let visible = |c: &char| c.is_ascii_graphic() || *c == ' ';
    format!("{user}@{machine}").chars().filter(visible).collect()
}

/// A handler's name, which becomes a part of a path.
pub(super) fn name(text: &str) -> Result<String, String> {
    crate::deploy::manifest::names::plain(text)
}

/// Prints what was told as it is.
///
/// # Errors
/// Standard output is closed.
pub(super) fn print_json(told: &impl serde::Serialize) -> Result<()> {
    super::say(&serde_json::to_string_pretty(told).context("write JSON")?)
}

/// Columns as wide as what is in them; the last one is as it is.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| terminal::plain(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
