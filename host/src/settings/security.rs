//! `[kafka.security]`: whom the Kafka clients trust, and how they say who they are.
//!
//! It is in Kafka's terms, and becomes properties of librdkafka. Its invariant: what is secret is printed nowhere; a file that holds one is
//! read when clients are made, and not when settings are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::oauth::{OAuth, line, oauth};
use super::read::path;
use super::reader::Section;

/// `[kafka.security]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    properties: Properties,
    /// Properties whose values are in files.
    files: BTreeMap<&'static str, PathBuf>,
    /// `[kafka.security.oauth]`, with OAUTHBEARER.
    oauth: Option<OAuth>,
}

/// Properties of librdkafka, of which some are secret: only their names are ever printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<&'static str, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Properties {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

impl Security {
    /// Files that hold what is secret.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let key = self.properties.0.get("ssl.key.location").map(Path::new);
        let of_tokens = self.oauth.as_ref().and_then(OAuth::secret_file);
        self.files.values().map(PathBuf::as_path).chain(key).chain(of_tokens)
    }

    /// Files that hold certificates.
    pub fn certificate_files(&self) -> impl Iterator<Item = &Path> {
        ["ssl.ca.location", "ssl.certificate.location"]
            .into_iter()
            .filter_map(|name| self.properties.0.get(name))
            .map(Path::new)
    }

    /// With what is in files.
    ///
    /// # Errors
    /// One cannot be read, or is empty.
    pub fn read(&self) -> Result<Properties> {
        let mut properties = self.properties.clone();
        for (name, file) in &self.files {
            properties.0.insert(name, line(file, name).context("kafka.security")?);
        }
        Ok(properties)
    }

    /// Where tokens come from, if Kafka knows the clients by those.
    pub fn oauth(&self) -> Option<&OAuth> {
        self.oauth.as_ref()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Protocol {
    const ALL: [(&'static str, Self); 4] = [
        ("PLAINTEXT", Self::Plaintext),
        ("SSL", Self::Ssl),
        ("SASL_PLAINTEXT", Self::SaslPlaintext),
        ("SASL_SSL", Self::SaslSsl),
    ];

    fn tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, protocol)| *protocol == self).map_or("", |(name, _)| name)
    }
}

/// As librdkafka names them too.
const MECHANISMS: [(&str, &str); 4] = [
    ("PLAIN", "PLAIN"),
    ("SCRAM-SHA-256", "SCRAM-SHA-256"),
    ("SCRAM-SHA-512", "SCRAM-SHA-512"),
    (OAUTHBEARER, OAUTHBEARER),
];
const OAUTHBEARER: &str = "OAUTHBEARER";

/// Reads it. Relative paths are in the folder `base`.
pub(super) fn security(section: &Section<'_>, base: &Path) -> Security {
    let mut security = Security::default();
    let protocol = section.take("protocol", |v| v.choice(&Protocol::ALL));
    let mechanism = section.take("mechanism", |v| v.choice(&MECHANISMS));
    let verify = section.take("verify-hostname", |v| v.boolean());
    let mut set = Vec::new();
    for (key, property) in [
        ("ca-file", "ssl.ca.location"),
        ("certificate-file", "ssl.certificate.location"),
        ("key-file", "ssl.key.location"),
    ] {
        if let Some(file) = path(section, key, base) {
            if !file.is_file() {
                section.problem(key, &format!("there is no file {}", file.display()));
            }
            set.push(key);
            security.properties.0.insert(property, file.display().to_string());
        }
    }
    for (key, property) in
        [("username", "sasl.username"), ("password", "sasl.password"), ("key-password", "ssl.key.password")]
    {
        let secret = key != "username";
        if let Some(text) = section.take(key, |v| if secret { v.secret() } else { v.text() }.map(str::to_owned)) {
            set.push(key);
            security.properties.0.insert(property, text);
        }
    }
    for (key, plain, property) in
        [("password-file", "password", "sasl.password"), ("key-password-file", "key-password", "ssl.key.password")]
    {
        if let Some(file) = path(section, key, base) {
            if set.contains(&plain) {
                section.problem(key, &format!("only one of `{plain}` and `{key}` can be set"));
            }
            // From here on one of the two is there.
            set.push(plain);
            security.files.insert(property, file);
        }
    }
    security.oauth = oauth(&section.section("oauth"), base, mechanism == Some(OAUTHBEARER));
    check(section, protocol, mechanism, &set);
    let Some(protocol) = protocol.filter(|protocol| *protocol != Protocol::Plaintext) else {
        return Security::default();
    };
    let properties = &mut security.properties.0;
    properties.insert("security.protocol", protocol.name().to_owned());
    if verify == Some(false) {
        properties.insert("ssl.endpoint.identification.algorithm", "none".into());
    }
    properties.extend(mechanism.map(|name| ("sasl.mechanism", name.to_owned())));
    security
}

/// What belongs together, and what is missing.
fn check(section: &Section<'_>, protocol: Option<Protocol>, mechanism: Option<&str>, set: &[&str]) {
    let needs = |keys: &[&str], what: &str| {
        for key in keys.iter().filter(|key| !set.contains(key)) {
            section.problem(key, &format!("is missing, and {what} needs it"));
        }
    };
    let goes_with = |keys: &[&str], what: &str| {
        for key in keys.iter().filter(|key| set.contains(key)) {
            section.problem(key, &format!("goes with `protocol = {what} only"));
        }
    };
    if !protocol.is_some_and(Protocol::tls) {
        goes_with(&["ca-file", "certificate-file", "key-file", "key-password"], "\"SSL\"` or \"SASL_SSL\"");
    }
    if set.contains(&"certificate-file") != set.contains(&"key-file") {
        needs(&["certificate-file", "key-file"], "the other of the two");
    }
    match (protocol.is_some_and(Protocol::sasl), mechanism) {
        (true, Some(OAUTHBEARER)) => {
            for key in ["username", "password"].iter().filter(|key| set.contains(key)) {
                section.problem(key, "goes with PLAIN and SCRAM only: with OAUTHBEARER see [kafka.security.oauth]");
            }
        }
        (true, Some(mechanism)) => needs(&["username", "password"], mechanism),
        (true, None) => {
            section
                .problem("mechanism", "is missing: \"PLAIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-512\" or \"OAUTHBEARER\"");
        }
        (false, mechanism) => {
            const SASL: &str = "\"SASL_SSL\"` or \"SASL_PLAINTEXT\"";
            goes_with(&["username", "password"], SASL);
            if mechanism.is_some() {
                section.problem("mechanism", &format!("goes with `protocol = {SASL} only"));
            }
        }
    }
}
