//! `tm_owner`: which handler's migrations have made a table, a view or a trigger.
//!
//! It is written with a migration, in one transaction. What a person has made by hand stands nowhere, and is no
//! handler's; what was there before owners were noted, in a store that several handlers had used, is everybody's.

use crate::store::rights::{Owner, Owners, Rights};
use crate::store::{Connection, Error, Kind};

/// The handlers' tables, views and triggers. Indexes go with their tables.
const OBJECTS: &str = "s.type IN ('table', 'view', 'trigger')
    AND lower(s.name) NOT LIKE 'tm\\_%' ESCAPE '\\' AND lower(s.name) NOT LIKE 'sqlite\\_%' ESCAPE '\\'";

/// Whose everything in the store is at present.
pub fn load(connection: &Connection) -> Result<Owners, Error> {
    let sql = format!(
        "SELECT s.type, s.name, o.kind IS NOT NULL, o.handler, s.type = 'table' AND s.rootpage = 0 FROM main.sqlite_schema s
         LEFT JOIN main.tm_owner o ON o.kind = s.type AND o.name = s.name WHERE {OBJECTS}"
    );
    let mut owners = Owners::default();
    connection.each(&sql, &[], |row| {
        let (kind, name) = (row.text(0)?, row.text(1)?);
        let owner = match (row.integer(2)? != 0, row.opt_text(3)?) {
            (false, _) => Owner::Nobody,
            (true, None) => Owner::Everybody,
            (true, Some(handler)) => Owner::User(handler.into()),
        };
        match kind.as_str() {
            "trigger" => owners.add_trigger(&name, owner),
            _ => owners.add_relation(&name, owner, row.integer(4)? != 0),
        }
        Ok(true)
    })?;
    Ok(owners)
}

/// After migrations, in their transaction: what is new is the handler's, and what is gone is nobody's. Returns whose
/// everything is now.
///
/// # Errors
/// The store's; or a foreign key of the handler's on a table that it may not write.
pub fn claim(connection: &Connection, rights: &Rights) -> Result<Owners, Error> {
    let sql = format!("SELECT s.type, s.name FROM main.sqlite_schema s WHERE {OBJECTS}");
    let now = connection.query(&sql, &[], |row| Ok((row.text(0)?, row.text(1)?)))?;
    let gone = "DELETE FROM main.tm_owner WHERE NOT EXISTS (
                SELECT 1 FROM main.sqlite_schema s WHERE s.type = tm_owner.kind AND s.name = tm_owner.name COLLATE NOCASE)";
    connection.execute(gone, &[])?;
    let handler = &*rights.user;
    for (kind, name) in now.iter().filter(|(kind, name)| !rights.tables.has(kind == "trigger", name)) {
        let sql = "INSERT OR IGNORE INTO main.tm_owner (kind, name, handler) VALUES (?1, ?2, ?3)";
        connection.execute(sql, &[kind.as_str().into(), name.as_str().into(), handler.into()])?;
    }
    let owners = load(connection)?;
    let rights = Rights { tables: Default::default(), ..rights.clone() };
    rights.tables.set(owners.clone());
    let sql = "SELECT o.name, f.\"table\" FROM main.tm_owner o, pragma_foreign_key_list(o.name) f
               WHERE o.kind = 'table' AND o.handler = ?1";
    for (table, parent) in connection.query(sql, &[handler.into()], |row| Ok((row.text(0)?, row.text(1)?)))? {
        // Its owner could neither delete rows nor change keys without being stopped by it.
        rights
            .may_refer(&parent)
            .map_err(|why| Error::new(Kind::Denied, format!("table {table} has a foreign key on {parent}: {why}")))?;
    }
    Ok(owners)
}

#[cfg(test)]
mod tests;
