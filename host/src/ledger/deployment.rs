//! `tm_deployment` and `tm_migration`: which versions of a handler this store has seen, and how its tables came about.
//!
//! A migration runs once, in the transaction that makes its version live; one that was changed after it ran is
//! refused, since nobody could say which tables the store then has.

use std::sync::Arc;

use super::owners;
use crate::store::rights::{Owners, Rights};
use crate::store::{Connection, Error, Kind, Row};

/// One migration of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The file's name; migrations run in the order of their names.
    pub name: String,
    /// The statements.
    pub sql: String,
}

/// What became of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs, or will at the next start.
    Live,
    /// Another version took its place.
    Replaced,
    /// An older version took its place, since somebody asked for that.
    RolledBack,
    /// Its handler was removed.
    Removed,
    /// It was refused, and what ran before went on.
    Failed,
}

impl Status {
    const ALL: [Self; 5] = [Self::Live, Self::Replaced, Self::RolledBack, Self::Removed, Self::Failed];

    /// As the column has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled-back",
            Self::Removed => "removed",
            Self::Failed => "failed",
        }
    }

    fn parse(name: &str) -> Result<Self, Error> {
        let unknown = || Error::new(Kind::Other, format!("tm_deployment holds an unknown status ({name})"));
        Self::ALL.into_iter().find(|status| status.name() == name).ok_or_else(unknown)
    }
}

/// A row of `tm_deployment`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The handler's name.
    pub handler: String,
    /// Its consumer group.
    pub group: String,
    /// Counts the handler's deployments in this store, from 1.
    pub version: i64,
    /// The component's hash, in hexadecimal.
    pub sha256: String,
    /// The artifact's version, by which the store of versions has it; older rows have none.
    pub artifact: Option<String>,
    /// The artifact of the file that lies in the handlers folder, where this one runs in its place.
    pub instead_of: Option<String>,
    /// Who asked for it; older rows do not say.
    pub who: Option<String>,
    /// Where it came from.
    pub source: String,
    /// When, in milliseconds since the Unix epoch.
    pub deployed_at: i64,
    /// What became of it.
    pub status: Status,
    /// Why it was refused, or has failed its probation.
    pub error: Option<String>,
}

impl Deployment {
    /// Whether it went live and failed its probation.
    pub fn has_failed(&self) -> bool {
        self.status != Status::Failed && self.error.is_some()
    }
}

/// What is being deployed.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// The handler's name.
    pub handler: &'a str,
    /// Its consumer group.
    pub group: &'a str,
    /// The component's hash, in hexadecimal.
    pub sha256: &'a str,
    /// The manifest, as TOML.
    pub manifest: &'a str,
    /// Where it came from.
    pub source: &'a str,
    /// The artifact's version.
    pub artifact: &'a str,
    /// The artifact of the file that lies in the handlers folder, where this one runs in its place.
    pub instead_of: Option<&'a str>,
    /// Who asked for it.
    pub who: &'a str,
}

/// The migrations that have not run yet, in order, each with its hash.
///
/// # Errors
/// One was changed after it ran, or comes before one that has run.
pub fn outstanding<'m>(
    connection: &Connection,
    handler: &str,
    migrations: &'m [Migration],
) -> Result<Vec<(&'m Migration, String)>, Error> {
    let sql = "SELECT name, sha256 FROM main.tm_migration WHERE handler = ?1 ORDER BY name";
    let done = connection.query(sql, &[handler.into()], |row| Ok((row.text(0)?, row.text(1)?)))?;
    let last = done.last().map(|(name, _)| name.clone());
    let mut outstanding = Vec::new();
    for migration in migrations {
        let (name, sha256) = (migration.name.as_str(), crate::id::sha256_hex(migration.sql.as_bytes()));
        match done.iter().find(|(done, _)| done == name) {
            Some((_, before)) if *before == sha256 => {}
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
            None => outstanding.push((migration, sha256)),
        }
    }
    Ok(outstanding)
}

/// The migrations that have run and that a version with these ones does not know.
pub fn unknown(connection: &Connection, handler: &str, migrations: &[Migration]) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM main.tm_migration WHERE handler = ?1 ORDER BY name";
    let done = connection.query(sql, &[handler.into()], |row| row.text(0))?;
    Ok(done.into_iter().filter(|done| migrations.iter().all(|migration| migration.name != *done)).collect())
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
    let ledger = ledger_tables(connection)?;
    for (migration, sha256) in outstanding(connection, handler, migrations)? {
        let name = migration.name.as_str();
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

/// Makes a version live in place of the one before, which ends as `before`; returns its number. What is live already goes
/// on under the number that it has: a restart is no deployment. Says whether it is one.
pub fn make_live(connection: &Connection, new: New<'_>, before: Status, now: i64) -> Result<(i64, bool), Error> {
    let sql = "UPDATE main.tm_deployment SET source = ?3, instead_of = ?4, \"group\" = ?5
               WHERE handler = ?1 AND status = 'live' AND artifact = ?2 RETURNING version";
    let params = [new.handler.into(), new.artifact.into(), new.source.into(), new.instead_of.into(), new.group.into()];
    if let Some(version) = connection.first(sql, &params, |row| row.integer(0))? {
        return Ok((version, false));
    }
    retire(connection, new.handler, before)?;
    Ok((insert(connection, new, now, Status::Live, None)?, true))
}

/// Notes a deployment that was refused, and why. One that is refused again for the same reason is noted once.
pub fn note_failed(connection: &Connection, new: New<'_>, error: &str, now: i64) -> Result<(), Error> {
    let sql = "UPDATE main.tm_deployment SET deployed_at = ?4, who = ?5, source = ?6
               WHERE id = (SELECT max(id) FROM main.tm_deployment WHERE handler = ?1)
               AND status = 'failed' AND artifact = ?2 AND error = ?3";
    let (who, source) = (new.who.into(), new.source.into());
    let params = [new.handler.into(), new.artifact.into(), error.into(), now.into(), who, source];
    if connection.execute(sql, &params)? == 0 {
        insert(connection, new, now, Status::Failed, Some(error))?;
    }
    Ok(())
}

fn insert(connection: &Connection, new: New<'_>, now: i64, status: Status, error: Option<&str>) -> Result<i64, Error> {
    let sql = "INSERT INTO main.tm_deployment (handler, version, sha256, manifest, \"group\", source, deployed_at, status, error,
                   artifact, instead_of, who)
               SELECT ?1, 1 + (SELECT coalesce(max(version), 0) FROM main.tm_deployment WHERE handler = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8,
                   ?9, ?10, ?11
               RETURNING version";
    let params = [
        new.handler.into(),
        new.sha256.into(),
        new.manifest.into(),
        new.group.into(),
        new.source.into(),
        now.into(),
        status.name().into(),
        error.into(),
        new.artifact.into(),
        new.instead_of.into(),
        new.who.into(),
    ];
    Ok(connection.first(sql, &params, |row| row.integer(0))?.unwrap_or_default())
}

/// Ends the live version.
pub fn retire(connection: &Connection, handler: &str, status: Status) -> Result<(), Error> {
    let sql = "UPDATE main.tm_deployment SET status = ?2 WHERE handler = ?1 AND status = 'live'";
    connection.execute(sql, &[handler.into(), status.name().into()]).map(drop)
}

/// Notes that the live version is that of the file in the handlers folder.
pub fn settle(connection: &Connection, handler: &str) -> Result<(), Error> {
    let sql = "UPDATE main.tm_deployment SET instead_of = NULL WHERE handler = ?1 AND status = 'live'";
    connection.execute(sql, &[handler.into()]).map(drop)
}

const COLUMNS: &str =
    "handler, \"group\", version, sha256, artifact, instead_of, who, source, deployed_at, status, error";

/// The deployments of a handler in this store, the newest first.
pub fn history(connection: &Connection, handler: &str) -> Result<Vec<Deployment>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM main.tm_deployment WHERE handler = ?1 ORDER BY version DESC");
    connection.query(&sql, &[handler.into()], read)
}

/// The last version that was ever live for each handler of this store, removed or not.
pub fn last_live(connection: &Connection) -> Result<Vec<Deployment>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM main.tm_deployment d WHERE version =
         (SELECT max(version) FROM main.tm_deployment WHERE handler = d.handler AND status <> 'failed')"
    );
    connection.query(&sql, &[], read)
}

fn read(row: &Row<'_>) -> Result<Deployment, Error> {
    Ok(Deployment {
        handler: row.text(0)?,
        group: row.text(1)?,
        version: row.integer(2)?,
        sha256: row.text(3)?,
        artifact: row.opt_text(4)?,
        instead_of: row.opt_text(5)?,
        who: row.opt_text(6)?,
        source: row.text(7)?,
        deployed_at: row.integer(8)?,
        status: Status::parse(&row.text(9)?)?,
        error: row.opt_text(10)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::schema;

    fn new<'a>(artifact: &'a str, instead_of: Option<&'a str>) -> New<'a> {
        let (handler, group, sha256, manifest) = ("h", "g", "s", "m");
        New { handler, group, sha256, manifest, source: "h.wasm", artifact, instead_of, who: "somebody" }
    }

    #[test]
    fn h2_a_restart_is_no_deployment_and_a_refusal_is_noted_once() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        let live = |artifact: &str, instead_of: Option<&str>, before: Status| {
            make_live(&connection, new(artifact, instead_of), before, 5).unwrap().0
        };
        assert_eq!(live("a", None, Status::Replaced), 1);
        assert_eq!(live("a", None, Status::Replaced), 1);
        assert_eq!(live("b", None, Status::Replaced), 2);
        for now in [6, 7] {
            note_failed(&connection, new("c", None), "broken", now).unwrap();
        }
        note_failed(&connection, new("c", None), "broken otherwise", 8).unwrap();
        assert_eq!(live("a", Some("b"), Status::RolledBack), 5);
        assert_eq!(last_live(&connection).unwrap().pop().unwrap().instead_of.as_deref(), Some("b"));
        settle(&connection, "h").unwrap();
        let told = |row: Deployment| format!("{} {} {}", row.version, row.artifact.unwrap(), row.status.name());
        let rows: Vec<_> = history(&connection, "h").unwrap().into_iter().map(told).collect();
        assert_eq!(rows, ["5 a live", "4 c failed", "3 c failed", "2 b rolled-back", "1 a replaced"]);
        assert_eq!(last_live(&connection).unwrap().pop().unwrap().instead_of, None);
    }

    #[test]
    fn h2_a_version_is_asked_for_the_migrations_that_it_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        let migration = |name: &str| Migration { name: name.into(), sql: format!("CREATE TABLE t{name} (x)") };
        let all = ["1", "2"].map(migration);
        let names = |migrations: &[Migration]| {
            let left = outstanding(&connection, "h", migrations).unwrap();
            left.iter().map(|(migration, _)| migration.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&all), ["1", "2"]);
        connection.batch("BEGIN").unwrap();
        let rights = Arc::new(Rights { user: "h".into(), ..Rights::default() });
        migrate(&connection, &rights, &all, 5).unwrap();
        connection.batch("COMMIT").unwrap();
        assert!(names(&all).is_empty() && names(&[migration("3")]) == ["3"]);
        assert_eq!(unknown(&connection, "h", &[migration("1"), migration("3")]).unwrap(), ["2"]);
        assert!(unknown(&connection, "other", &[]).unwrap().is_empty());
    }
}
