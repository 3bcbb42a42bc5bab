//! What is sent to the admin API, as JSON.
//!
//! It is read strictly: a key that is not known is an error, since it may have been meant. What it means is not decided here.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{self, DeserializeOwned, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::deploy::artifact;
use crate::http::events;
use crate::http::problem::Problem;
use crate::ledger::deployment::Migration;
use crate::record::{Event, Header};

/// Events of one request at most.
pub const EVENTS_MAX: usize = 1_000;

/// A version with what stands beside it, as JSON.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// The component in base64.
    pub wasm: String,
    /// In place of the manifest inside.
    pub manifest: Option<String>,
    /// In place of the migrations inside.
    pub migrations: Option<Vec<UploadedMigration>>,
}

/// What `PUT log` says.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LogFilter")]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The filter.
    pub filter: String,
    /// A duration like `10m`, after which the one before comes back.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// A migration that stands beside.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadedMigration {
    /// Its file's name.
    pub name: String,
    /// The statements.
    pub sql: String,
}

impl Upload {
    /// What it is made of.
    pub fn of(parts: &artifact::Parts) -> Self {
        let migration = |m: &Migration| UploadedMigration { name: m.name.clone(), sql: m.sql.clone() };
        Self {
            wasm: STANDARD.encode(&parts.wasm),
            manifest: parts.manifest.clone(),
            migrations: parts.migrations.as_ref().map(|all| all.iter().map(migration).collect()),
        }
    }

    pub(super) fn parts(self) -> Result<artifact::Parts, Problem> {
        let wasm = STANDARD.decode(self.wasm);
        let wasm = wasm.map_err(|error| Problem::unprocessable(format!("`wasm` is not base64: {error}")))?;
        let mut migrations = self.migrations;
        for migration in migrations.iter_mut().flatten() {
            let name = &migration.name;
            let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']) && name.len() <= 255;
            if !plain || !name.ends_with(".sql") {
                return Err(Problem::unprocessable(format!(
                    "{name:?} is no name of a migration; write it like \"0001_tables.sql\""
                )));
            }
        }
        let migrations =
            migrations.map(|all| all.into_iter().map(|m| Migration { name: m.name, sql: m.sql }).collect());
        Ok(artifact::Parts { wasm, manifest: self.manifest, migrations })
    }
}

/// What `POST handlers/{name}/rollback` may say.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The number of the version; without it the one before.
    #[serde(default, deserialize_with = "whole")]
    pub version: Option<i64>,
}

/// What `POST reload` may say: nothing.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reload {}

/// What `POST handlers/{name}/events` says: events that are published together, or not at all.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// From 1 to 1,000, in their order.
    #[schemars(length(min = 1, max = EVENTS_MAX))]
    pub events: Vec<NewEvent>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    /// The name under `[publish]`.
    pub destination: String,
    /// The value, as it is.
    pub value: String,
    /// The key.
    #[serde(default)]
    pub key: Option<String>,
    /// For example `ORDER_CREATED`.
    #[serde(default)]
    pub event_type: String,
    /// The version of its schema.
    #[serde(default)]
    pub event_version: Option<String>,
    /// Its id, if it has one already.
    #[serde(default)]
    pub event_id: Option<String>,
    /// Names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// A duration like `30s`, before which it is not published.
    #[serde(default)]
    pub delay: Option<String>,
    /// Or a time, like `2026-01-31T12:00:00Z`.
    #[serde(default)]
    pub at: Option<String>,
}

impl NewEvent {
    pub(super) fn event(self) -> Result<Event, Problem> {
        let due = events::due(self.delay.as_deref(), self.at.as_deref()).map_err(Problem::unprocessable)?;
        let headers = self.headers.into_iter().chain(self.event_version.map(|v| (events::VERSION.to_owned(), v)));
        Ok(Event {
            destination: self.destination,
            id: self.event_id,
            event_type: self.event_type,
            key: self.key.map(Bytes::from),
            value: Some(self.value.into()),
            headers: headers.map(|(name, value)| Header { name, value: Some(value.into()) }).collect(),
            due,
        })
    }
}

/// A whole number. JSON may write it as `3.0` as well as `3` (JSON Schema Core 2020-12, 4.2.3).
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Seen)
    }
}

impl Whole {
    fn fit<N: TryFrom<i64>, E: de::Error>(self) -> Result<N, E> {
        N::try_from(self.0).map_err(|_| E::invalid_value(Unexpected::Signed(self.0), &"a number in its bounds"))
    }
}

struct Seen;

impl Visitor<'_> for Seen {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whole, E> {
        Ok(Whole(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
        i64::try_from(number).map(Whole).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole, E> {
        // All whole numbers up to there are told from one another.
        match number.fract() == 0.0 && number.abs() < 9e15 {
            true => Ok(Whole(number as i64)),
            false => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }
}

/// Reads an object, or none. Serde takes an array for one as well, by the order of its fields.
pub(crate) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let found = Option::<serde_json::Map<String, serde_json::Value>>::deserialize(deserializer)?;
    found.map(|found| T::deserialize(serde_json::Value::Object(found)).map_err(de::Error::custom)).transpose()
}

/// Reads a whole number, or none.
pub(crate) fn whole<'de, D: Deserializer<'de>, N: TryFrom<i64>>(deserializer: D) -> Result<Option<N>, D::Error> {
    Option::<Whole>::deserialize(deserializer)?.map(Whole::fit).transpose()
}

/// Reads whole numbers.
pub(crate) fn wholes<'de, D: Deserializer<'de>, N: TryFrom<i64>>(deserializer: D) -> Result<Vec<N>, D::Error> {
    Vec::<Whole>::deserialize(deserializer)?.into_iter().map(Whole::fit).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_is_whole_however_it_is_written() {
        let version = |text: &str| serde_json::from_str::<Rollback>(text).map(|to| to.version);
        assert_eq!(version("{}").unwrap(), None);
        assert_eq!(version("{\"version\": null}").unwrap(), None);
        for text in ["3", "3.0", "0.3e1"] {
            assert_eq!(version(&format!("{{\"version\": {text}}}")).unwrap(), Some(3), "{text}");
        }
        for text in ["3.5", "1e300", "18446744073709551615", "\"3\"", "true", "[3]"] {
            let refused = version(&format!("{{\"version\": {text}}}")).unwrap_err().to_string();
            assert!(refused.contains("a whole number"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_migration_that_is_sent_has_the_name_of_a_file() {
        let parts = |name: &str| {
            let migrations = Some(vec![UploadedMigration { name: name.into(), sql: String::new() }]);
            Upload { wasm: STANDARD.encode(b"x"), manifest: None, migrations }.parts()
        };
        assert_eq!(parts("0001_a.sql").unwrap().wasm, b"x");
        for name in ["", "../a.sql", "a/b.sql", ".a.sql", "a.txt", "a\0.sql", "\\a.sql"] {
            assert!(parts(name).is_err(), "{name:?}");
        }
        assert!(Upload { wasm: "!".into(), manifest: None, migrations: None }.parts().is_err());
    }
}
