//! The bench's store: SQLite in memory, one transaction for each delivery, with the host's refusals.
//!
//! While a delivery runs, transaction control, ATTACH, PRAGMA, DDL and the host's own tables are refused, as the host
//! refuses them; between deliveries the store belongs to the test.
#![allow(clippy::panic, clippy::expect_used, reason = "a store that cannot be prepared ends the test, with the reason")]

use std::cell::RefCell;
use std::rc::Rc;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, ffi, params_from_iter};

use crate::section::Migration;
use crate::sql::{Error, ErrorKind, Rows, Value};

/// A handle to the store; clones are the same store.
#[derive(Clone, Debug)]
pub(super) struct Store(Rc<RefCell<Connection>>);

impl Store {
    #[track_caller]
    pub(super) fn new(migrations: &[Migration]) -> Self {
        let store = Self(Rc::new(RefCell::new(Connection::open_in_memory().expect("open a database in memory"))));
        store.batch("PRAGMA foreign_keys = ON");
        for (path, sql) in migrations {
            let applied = store.0.borrow().execute_batch(sql);
            applied.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        store
    }

    /// Statements of the test's own.
    #[track_caller]
    pub(super) fn batch(&self, statements: &str) {
        let done = self.0.borrow().execute_batch(statements);
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Opens a delivery's transaction.
    pub(super) fn begin(&self, reads: bool) {
        self.batch(if reads { "BEGIN; PRAGMA query_only = ON" } else { "BEGIN IMMEDIATE" });
        self.watch(Some(allow));
    }

    /// Ends it: true if its writes were kept. The error says why they could not be.
    pub(super) fn end(&self, keep: bool) -> Result<bool, String> {
        self.watch(None);
        let connection = self.0.borrow();
        let ended = if connection.is_autocommit() {
            Err("a statement has ended the delivery's transaction".to_owned())
        } else if keep {
            connection.execute_batch("COMMIT").map(|()| true).map_err(|error| error.to_string())
        } else {
            Ok(false)
        };
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK").expect("roll the delivery back");
        }
        connection.execute_batch("PRAGMA query_only = OFF").expect("end the delivery");
        ended
    }

    /// Rows changed since it was made.
    pub(super) fn changes(&self) -> u64 {
        self.0.borrow().total_changes()
    }

    pub(super) fn execute(&self, statement: &str, params: Vec<Value>) -> Result<u64, Error> {
        let changed = self.0.borrow().execute(statement, params_from_iter(params.into_iter().map(to_sqlite)));
        changed.map(|rows| rows as u64).map_err(|error| describe(&error))
    }

    pub(super) fn query(&self, statement: &str, params: Vec<Value>) -> Result<Rows, Error> {
        let read = || {
            let connection = self.0.borrow();
            let mut statement = connection.prepare(statement)?;
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut found = statement.query(params_from_iter(params.into_iter().map(to_sqlite)))?;
            let mut rows = Vec::new();
            while let Some(row) = found.next()? {
                let values = (0..columns.len()).map(|column| row.get_ref(column).map(from_sqlite));
                rows.push(values.collect::<Result<_, _>>()?);
            }
            Ok(Rows { columns, rows })
        };
        read().map_err(|error| describe(&error))
    }

    fn watch(&self, authorizer: Option<fn(AuthContext<'_>) -> Authorization>) {
        self.0.borrow_mut().authorizer(authorizer).expect("set the authorizer");
    }
}

/// What a delivery may do: read and change the rows of the handler's own tables.
fn allow(context: AuthContext<'_>) -> Authorization {
    let hosts = |table: &str| table.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("tm_"));
    match context.action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if function_name != "load_extension" => Authorization::Allow,
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
            if !hosts(table_name) =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn describe(error: &rusqlite::Error) -> Error {
    let (code, kind) = match error {
        rusqlite::Error::SqliteFailure(failure, _) | rusqlite::Error::SqlInputError { error: failure, .. } => {
            let kind = match failure.code {
                ErrorCode::ConstraintViolation => ErrorKind::Constraint,
                ErrorCode::AuthorizationForStatementDenied => ErrorKind::Denied,
                ErrorCode::ReadOnly => ErrorKind::ReadOnly,
                ErrorCode::TooBig => ErrorKind::Limit,
                _ if failure.extended_code == ffi::SQLITE_ERROR => ErrorKind::Statement,
                _ => ErrorKind::Other,
            };
            (failure.extended_code, kind)
        }
        _ => (0, ErrorKind::Statement),
    };
    Error { kind, code, message: error.to_string() }
}

fn to_sqlite(value: Value) -> rusqlite::types::Value {
    match value {
        Value::Null => rusqlite::types::Value::Null,
        Value::Integer(value) => rusqlite::types::Value::Integer(value),
        Value::Real(value) => rusqlite::types::Value::Real(value),
        Value::Text(value) => rusqlite::types::Value::Text(value),
        Value::Blob(value) => rusqlite::types::Value::Blob(value),
    }
}

fn from_sqlite(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(value) => Value::Text(String::from_utf8_lossy(value).into_owned()),
        ValueRef::Blob(value) => Value::Blob(value.to_vec()),
    }
}
