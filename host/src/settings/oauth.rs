//! `[kafka.security.oauth]`: where the token comes from by which Kafka knows the clients, with `mechanism = "OAUTHBEARER"`.
//!
//! What is secret is printed nowhere, and read when a token is asked for: a file that is renewed needs no restart.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use reqwest::Url;

use super::read::path;
use super::reader::Section;
use super::value::Value;
use crate::fetch;

/// `[kafka.security.oauth]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// Where tokens come from.
    pub source: TokenSource,
    /// `extensions`: names and values that Kafka is told with a token (RFC 7628, 3.1).
    pub extensions: Vec<(String, String)>,
}

impl OAuth {
    /// The file that holds the token or the client's secret, if one does.
    pub fn secret_file(&self) -> Option<&Path> {
        match &self.source {
            TokenSource::File(file) | TokenSource::Client { secret: Given::File(file), .. } => Some(file),
            TokenSource::Client { secret: Given::Text(_), .. } => None,
        }
    }
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `token-file`: whoever writes it renews it.
    File(PathBuf),
    /// Their issuer, by the client's own credentials (RFC 6749, 4.4).
    Client {
        /// `token-url`
        url: Url,
        /// `client-id`
        id: String,
        /// `client-secret`, or `client-secret-file`
        secret: Given,
        /// `scope`
        scope: Option<String>,
        /// `ca-file`: PEM. Default the system's authorities.
        ca: Option<PathBuf>,
    },
}

/// Something secret, as it stands in the settings or in a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Given {
    /// The settings hold it.
    Text(String),
    /// A file holds it; the end of its last line does not count.
    File(PathBuf),
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
        }
    }
}

impl Given {
    /// It itself. `key` names it in errors.
    ///
    /// # Errors
    /// Its file cannot be read, or is empty.
    pub fn read(&self, key: &str) -> Result<String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(file) => line(file, key),
        }
    }
}

/// What a file holds, without the end of its last line. `what` names that in errors.
pub(super) fn line(file: &Path, what: &str) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {} for {what}", file.display()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        bail!("{} is empty, and should hold {what}", file.display());
    }
    Ok(text.to_owned())
}

/// Reads it. Relative paths are in the folder `base`; `wanted` says that the mechanism is OAUTHBEARER.
pub(super) fn oauth(section: &Section<'_>, base: &Path, wanted: bool) -> Option<OAuth> {
    let url = section.take("token-url", |v| fetch::url(v.text()?));
    let id = section.take("client-id", |v| v.text().map(str::to_owned));
    let text = section.take("client-secret", |v| v.secret().map(|text| Given::Text(text.to_owned())));
    let file = path(section, "client-secret-file", base).map(Given::File);
    let scope = section.take("scope", |v| v.text().map(str::to_owned));
    let ca = path(section, "ca-file", base);
    let token_file = path(section, "token-file", base);
    let extensions = extensions(&section.section("extensions"));
    let set = [
        ("token-url", url.is_some()),
        ("client-id", id.is_some()),
        ("client-secret", text.is_some()),
        ("client-secret-file", file.is_some()),
        ("scope", scope.is_some()),
        ("ca-file", ca.is_some()),
    ];
    let of_issuer = || set.iter().filter(|(_, set)| *set).map(|(key, _)| *key);
    if !wanted {
        let others = [("token-file", token_file.is_some()), ("extensions", !extensions.is_empty())];
        for key in of_issuer().chain(others.into_iter().filter(|(_, set)| *set).map(|(key, _)| key)) {
            section.problem(key, "goes with `mechanism = \"OAUTHBEARER\"` only");
        }
        return None;
    }
    if text.is_some() && file.is_some() {
        section.problem("client-secret-file", "only one of `client-secret` and `client-secret-file` can be set");
    }
    if let Some(file) = token_file {
        for key in of_issuer() {
            section.problem(
                key,
                "asks an issuer for tokens, and `token-file` says that somebody else does: write one of the two",
            );
        }
        return Some(OAuth { source: TokenSource::File(file), extensions });
    }
    if url.is_none() && !section.has("token-url") {
        section.problem("token-url", "is missing, and OAUTHBEARER needs it, or `token-file`");
    } else {
        if id.is_none() {
            section.problem("client-id", "is missing, and `token-url` needs it");
        }
        if text.is_none() && file.is_none() {
            section.problem("client-secret", "is missing, or `client-secret-file`, and `token-url` needs it");
        }
    }
    let source = TokenSource::Client { url: url?, id: id?, secret: text.or(file)?, scope, ca };
    Some(OAuth { source, extensions })
}

fn extensions(section: &Section<'_>) -> Vec<(String, String)> {
    let mut extensions = Vec::new();
    for entry in section.entries() {
        let name = entry.name;
        let value =
            Value::File(entry.value).text().and_then(|text| match text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                true => Ok(text.to_owned()),
                false => Err("is not plain ASCII, and no extension can be anything else".to_owned()),
            });
        // RFC 7628, 3.1: `auth` is the token itself.
        let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic()) && name != "auth";
        match value {
            Ok(value) if named => extensions.push((name.to_owned(), value)),
            Ok(_) => section.problem(name, "is not the name of an extension: it has letters only, and is not `auth`"),
            Err(wrong) => section.problem(name, &wrong),
        }
    }
    extensions
}
