//! A handler's store, read from outside as a person with `sqlite3` would.

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

use crate::sandbox::Sandbox;
use crate::wait::{LONG, SOON, eventually, eventually_some};

/// A read-only look at a store, while the daemon runs or afterwards.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the store of this name, as soon as it is there.
    pub fn open(sandbox: &Sandbox, name: &str) -> Self {
        let file = sandbox.store_file(name);
        eventually(LONG, &format!("there is a store {name}"), || file.exists());
        let connection = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open the store");
        connection.busy_timeout(SOON).unwrap();
        let store = Self { connection };
        // The file appears before its tables do.
        eventually(LONG, &format!("store {name} has its ledger"), || {
            store.try_rows("SELECT 1 FROM tm_meta WHERE key = 'secret'").is_ok_and(|rows| !rows.is_empty())
        });
        store
    }

    /// The one number that a query returns.
    pub fn count(&self, sql: &str) -> i64 {
        self.connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// All rows of a query.
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// All rows of a query, each as text: columns joined by `|`, as the `sqlite3` command prints them.
    pub fn lines(&self, sql: &str) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Null => String::new(),
            Value::Integer(n) => n.to_string(),
            Value::Real(n) => n.to_string(),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        };
        self.rows(sql).iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|")).collect()
    }

    /// The only row of a query, as [`Store::lines`] has it.
    pub fn line(&self, sql: &str) -> String {
        let mut lines = self.lines(sql);
        assert_eq!(lines.len(), 1, "{sql}: {lines:?}");
        lines.remove(0)
    }

    /// Waits until a query returns this number.
    pub fn until(&self, sql: &str, expected: i64) {
        let mut seen = None;
        let end = std::time::Instant::now() + LONG;
        eventually_some(LONG * 2, &format!("{sql} = {expected}"), || {
            // A table of a migration may not be there yet.
            seen = self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).ok();
            assert!(seen == Some(expected) || std::time::Instant::now() < end, "{sql}: {seen:?}, not {expected}");
            (seen == Some(expected)).then_some(())
        });
    }

    /// All rows of a query, or why there are none.
    pub fn try_rows(&self, sql: &str) -> rusqlite::Result<Vec<Vec<Value>>> {
        let mut statement = self.connection.prepare(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|i| row.get(i)).collect())?;
        rows.collect()
    }
}
