//! What is sent to the admin API, as JSON.
//!
//! It is read strictly: a key that is not known is an error, since it may have been meant. What it means is not decided here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::deploy::artifact;
use crate::http::events;
use crate::http::problem::Problem;
use crate::ledger::deployment::Migration;
use crate::record::{Event, Header};

/// Events of one request at most.
pub const EVENTS_MAX: usize = 1_000;

/// A version with what stands beside it, as JSON.
#[derive(Debug, Serialize, Deserialize)]
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
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The filter.
    pub filter: String,
    /// A duration like `10m`, after which the one before comes back.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// A migration that stands beside.
#[derive(Debug, Serialize, Deserialize)]
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
        let wasm = wasm.map_err(|error| Problem::bad_request(format!("`wasm` is not base64: {error}")))?;
        let mut migrations = self.migrations;
        for migration in migrations.iter_mut().flatten() {
            let name = &migration.name;
            let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']) && name.len() <= 255;
            if !plain || !name.ends_with(".sql") {
                return Err(Problem::bad_request(format!(
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
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The number of the version; without it the one before.
    pub version: Option<i64>,
}

/// What `POST handlers/{name}/events` says: events that are published together, or not at all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// From one to [`EVENTS_MAX`], in their order.
    pub events: Vec<NewEvent>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        let due = events::due(self.delay.as_deref(), self.at.as_deref()).map_err(Problem::bad_request)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
