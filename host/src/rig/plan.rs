//! What a rig is to try, and under which settings: an operator's file, and single values of the handler's manifest over it.
//!
//! It reads no variables, so that a test does the same wherever it runs; none but those that the operator's file names for secrets.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use toml::{Table, Value};

use crate::deploy::artifact::Artifact;
use crate::settings::{Bootstrap, JwtKey, Settings};

/// The secret that signs the tokens of a rig's requests, which nobody else takes.
const TOKENS: &str = "a rig's own secret, which opens nothing else";

/// What to try, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The handler's `.wasm`.
    pub file: PathBuf,
    /// Where the store is.
    pub data: PathBuf,
    /// Where compiled code is kept, if not in the data folder.
    pub compiled: Option<PathBuf>,
    /// The operator's `tidemill.toml`.
    pub config: Option<PathBuf>,
    /// `KEY=VALUE`: what `[handler.NAME]` would say, key by key, with dots for tables.
    pub set: Vec<String>,
    /// The store's secret, from which ids and random numbers follow.
    pub seed: String,
    /// The id of all topics, from which they follow too.
    pub topic_id: String,
    /// Calls that are expected from the beginning, as the command `answer` has them.
    pub answers: Vec<String>,
    /// When it begins, in milliseconds since the Unix epoch.
    pub now: i64,
}

impl Plan {
    /// The settings under which the handler runs.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn settings(&self, artifact: &Artifact) -> Result<Settings> {
        let file = self.config.as_deref().unwrap_or(Path::new("tidemill.toml"));
        let text = match &self.config {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?,
            None => String::new(),
        };
        // As it is first, so that what is wrong in it is told with its line.
        let mut settings = Settings::parse(&text, &file.display().to_string())?;
        if !self.set.is_empty() {
            let name = artifact.manifest.name.clone().context("the manifest has no `name`")?;
            let mut table: Table = text.parse().context("read the settings")?;
            for pair in &self.set {
                set(&mut table, &name, pair)?;
            }
            let text = toml::to_string(&table).context("write the settings")?;
            settings = Settings::parse(&text, &format!("{} with --set", file.display()))?;
        }
        settings.data = self.data.clone();
        settings.kafka.bootstrap = Bootstrap::Servers("rig:0".into());
        settings.http.listen = ([127, 0, 0, 1], 0).into();
        settings.http.jwt.key = JwtKey::Secret(TOKENS.into());
        // A rig is killed, and loses no power.
        settings.store.synchronous_full = false;
        Ok(settings)
    }
}

/// Sets one value of `[handler.NAME]`.
fn set(table: &mut Table, handler: &str, pair: &str) -> Result<()> {
    let (key, value) = pair.split_once('=').ok_or_else(|| anyhow!("--set {pair}: write KEY=VALUE"))?;
    let read = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = read.unwrap_or_else(|| Value::String(value.into()));
    let mut place = table;
    let tables = key.rsplit_once('.').map_or("", |(tables, _)| tables);
    for name in ["handler", handler].into_iter().chain(tables.split('.').filter(|name| !name.is_empty())) {
        let below = place.entry(name).or_insert_with(|| Value::Table(Table::new()));
        match below {
            Value::Table(below) => place = below,
            _ => bail!("--set {pair}: `{name}` is a value and no table"),
        }
    }
    place.insert(key.rsplit('.').next().unwrap_or(key).into(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_is_set_among_those_that_are_there() {
        let mut table: Table = "[handler.h]\nretry = { max-attempts = 2, order = \"key\" }".parse().unwrap();
        for pair in ["retry.max-attempts=5", "settings.language=ko", "settings.old=\"7\"", "start=latest"] {
            set(&mut table, "h", pair).unwrap();
        }
        let expected: Table = "[handler.h]\nstart = \"latest\"\nretry = { max-attempts = 5, order = \"key\" }\n\
                               settings = { language = \"ko\", old = \"7\" }"
            .parse()
            .unwrap();
        assert_eq!(table, expected);
        assert!(set(&mut table, "h", "start").is_err() && set(&mut table, "h", "start.x=1").is_err());
    }
}
