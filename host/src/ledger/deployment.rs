//! `tm_deployment` and `tm_migration`: which versions of a handler this store has seen, and how its tables came about.
//!
//! A migration runs once, in the transaction that makes its version live; one that was changed after it ran is
//! refused, since nobody could say which tables the store then has.

use std::sync::Arc;

use super::owners;
use crate::store::rights::{Owners, Rights};
use crate::store::{Connection, Error, Kind};

/// One migration of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The file's name; migrations run in the order of their names.
    pub name: String,
    /// The statements.
    pub sql: String,
}

/// A live version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The handler's name.
    pub handler: String,
    /// Its consumer group.
    pub group: String,
    /// The content's hash, in hexadecimal.
    pub sha256: String,
    /// Counts the handler's deployments in this store, from 1.
    pub version: i64,
}

/// What is being deployed.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// The handler's name.
    pub handler: &'a str,
    /// Its consumer group.
    pub group: &'a str,
    /// The content's hash, in hexadecimal.
    pub sha256: &'a str,
    /// The manifest, as TOML.
    pub manifest: &'a str,
    /// Where it came from.
    pub source: &'a str,
}

/// Runs the migrations that have not run yet, in order, inside the open transaction, with the rights of their handler.
/// Returns whose the store's tables are then.
pub fn migrate(
    connection: &Connection,
    rights: &Arc<Rights>,
    migrations: &[Migration],
    now: i64,
) -> Result<Owners, Error> {
    let handler = &*rights.user;
    let sql = "SELECT name, sha256 FROM main.tm_migration WHERE handler = ?1 ORDER BY name";
    let done = connection.query(sql, &[handler.into()], |row| Ok((row.text(0)?, row.text(1)?)))?;
    let ledger = ledger_tables(connection)?;
    let last = done.last().map(|(name, _)| name.clone());
    for migration in migrations {
        let (name, sha256) = (migration.name.as_str(), crate::id::sha256_hex(migration.sql.as_bytes()));
        match done.iter().find(|(done, _)| done == name) {
            Some((_, before)) if *before == sha256 => continue,
            Some(_) => {
                let message = format!(
                    "migration {name} has run already with other text: add a new migration instead of changing it"
                );
                return Err(Error::new(Kind::Other, message));
            }
            None if last.as_deref().is_some_and(|last| name < last) => {
                let message = format!(
                    "migration {name} comes before one that has run already ({}): give it a later name",
                    last.as_deref().unwrap_or_default()
                );
                return Err(Error::new(Kind::Other, message));
            }
            None => {}
        }
        connection
            .migrate(&migration.sql, rights)
            .map_err(|e| Error { message: format!("migration {name}: {e}"), ..e })?;
        if !connection.in_transaction() {
            return Err(Error::new(Kind::Other, format!("migration {name} ended the transaction")));
        }
        let sql = "INSERT INTO main.tm_migration (handler, name, sha256, applied_at) VALUES (?1, ?2, ?3, ?4)";
        connection.execute(sql, &[handler.into(), name.into(), sha256.into(), now.into()])?;
    }
    if ledger_tables(connection)? != ledger {
        return Err(Error::new(Kind::Denied, "a migration makes a table named tm_*: those names are the host's"));
    }
    let sql = "SELECT s.name FROM main.sqlite_schema s, pragma_foreign_key_list(s.name) f
               WHERE s.type = 'table' AND lower(f.\"table\") LIKE 'tm\\_%' ESCAPE '\\' LIMIT 1";
    if let Some(table) = connection.first(sql, &[], |row| row.text(0))? {
        let message = format!("table {table} has a foreign key on one of the host's tables (tm_*): remove it");
        return Err(Error::new(Kind::Denied, message));
    }
    owners::claim(connection, rights)
}

fn ledger_tables(connection: &Connection) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE lower(name) LIKE 'tm\\_%' ESCAPE '\\' ORDER BY name";
    connection.query(sql, &[], |row| row.text(0))
}

/// Makes a version live in place of the one before; returns its number.
pub fn make_live(connection: &Connection, new: New<'_>, now: i64) -> Result<i64, Error> {
    retire(connection, new.handler, "replaced")?;
    insert(connection, new, now, "live", None)
}

/// Notes a deployment that was refused, and why.
pub fn note_failed(connection: &Connection, new: New<'_>, error: &str, now: i64) -> Result<(), Error> {
    insert(connection, new, now, "failed", Some(error)).map(drop)
}

fn insert(connection: &Connection, new: New<'_>, now: i64, status: &str, error: Option<&str>) -> Result<i64, Error> {
    let sql = "INSERT INTO main.tm_deployment (handler, version, sha256, manifest, \"group\", source, deployed_at, status, error)
               SELECT ?1, 1 + (SELECT coalesce(max(version), 0) FROM main.tm_deployment WHERE handler = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8
               RETURNING version";
    let params = [
        new.handler.into(),
        new.sha256.into(),
        new.manifest.into(),
        new.group.into(),
        new.source.into(),
        now.into(),
        status.into(),
        error.into(),
    ];
    Ok(connection.first(sql, &params, |row| row.integer(0))?.unwrap_or_default())
}

/// Ends the live version: `replaced`, or `removed`.
pub fn retire(connection: &Connection, handler: &str, status: &str) -> Result<(), Error> {
    let sql = "UPDATE main.tm_deployment SET status = ?2 WHERE handler = ?1 AND status = 'live'";
    connection.execute(sql, &[handler.into(), status.into()]).map(drop)
}

/// The last version that was ever live for each handler of this store, removed or not.
pub fn last_live(connection: &Connection) -> Result<Vec<Live>, Error> {
    let sql = "SELECT handler, \"group\", sha256, max(version) FROM main.tm_deployment WHERE status <> 'failed' GROUP BY handler";
    connection.query(sql, &[], |row| {
        Ok(Live { handler: row.text(0)?, group: row.text(1)?, sha256: row.text(2)?, version: row.integer(3)? })
    })
}
