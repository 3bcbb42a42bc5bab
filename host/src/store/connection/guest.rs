//! A guest's SQL on a connection.
//!
//! It runs under the authorizer, within a deadline and with a bound on what it returns. Statements are cached for each owner: a handler's
//! text never finds another's prepared statement, nor the host's.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rand_chacha::ChaCha12Rng;
use rusqlite::limits::Limit;

use super::{Connection, MAX_LENGTH, Row};
use crate::store::authorizer::Actor;
use crate::store::rights::Rights;
use crate::store::{Error, Kind, Rows, Value, surroundings};

/// The longest string, blob or row that a guest's SQL makes, in bytes: one SQL function runs to its end, whatever the deadline.
const GUEST_MAX_LENGTH: i32 = 4 << 20;
/// The longest statement of a guest's that is kept compiled, in bytes. What one of a megabyte takes, 256 times, would be
/// kept for as long as the store is open.
const CACHED_MAX: usize = 8 << 10;

/// How many rows and bytes a guest's query may return.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Connection {
    /// Guest SQL on this connection, and this thread, now has these rights, sees `now` and `rng`, and is interrupted at
    /// `deadline`.
    pub fn enter_delivery(&self, rights: Arc<Rights>, now: i64, rng: ChaCha12Rng, deadline: Instant) {
        self.running.set_rights(rights);
        surroundings::enter(now, rng);
        self.set_deadline(deadline);
    }

    /// Ends what [`Connection::enter_delivery`] began.
    pub fn leave_delivery(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        surroundings::leave();
    }

    /// Runs a guest's statement that returns no rows; returns how many rows it changed. `owner` tells handlers
    /// apart.
    pub fn guest_execute(&self, owner: u32, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.as_guest(|| {
            self.with_statement(&owned(owner, sql), |statement| {
                if statement.column_count() > 0 {
                    return Err(Error::new(Kind::Statement, "this statement returns rows: use query"));
                }
                self.bind(statement, params)?;
                Ok(statement.raw_execute()? as u64)
            })
        })
    }

    /// Runs a guest's query.
    pub fn guest_query(&self, owner: u32, sql: &str, params: &[Value], bounds: Bounds) -> Result<Rows, Error> {
        self.as_guest(|| {
            self.with_statement(&owned(owner, sql), |statement| {
                self.bind(statement, params)?;
                bounded(statement, bounds)
            })
        })
    }

    fn with_statement<T>(
        &self,
        text: &str,
        run: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if text.len() > CACHED_MAX {
            return run(&mut self.inner.prepare(text)?);
        }
        run(&mut *self.inner.prepare_cached(text)?)
    }

    /// Runs a guest's statement with a guest's rights and limits.
    fn as_guest<T>(&self, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let guard = self.running.set(Actor::Guest);
        self.inner.set_limit(Limit::SQLITE_LIMIT_LENGTH, GUEST_MAX_LENGTH)?;
        let result = run();
        self.inner.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_LENGTH)?;
        drop(guard);
        result.map_err(|error| {
            let error = self.explained(error);
            if error.out_of_memory() { Error { kind: Kind::Limit, ..error } } else { error }
        })
    }
}

/// The rows of a query, if they are not too many.
fn bounded(statement: &mut rusqlite::Statement<'_>, bounds: Bounds) -> Result<Rows, Error> {
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut out = Rows { columns, rows: Vec::new() };
    let mut bytes = 0;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if out.rows.len() == bounds.rows {
            let message = format!("the query returns more than {} rows (limits.sql-rows)", bounds.rows);
            return Err(Error::new(Kind::Limit, message));
        }
        let row = (0..out.columns.len()).map(|i| Row(row).value(i)).collect::<Result<Vec<_>, _>>()?;
        bytes += row.iter().map(Value::size).sum::<usize>();
        if bytes > bounds.bytes {
            let message = format!("the query returns more than {} bytes (limits.sql-bytes)", bounds.bytes);
            return Err(Error::new(Kind::Limit, message));
        }
        out.rows.push(row);
    }
    Ok(out)
}

/// The text under which a guest's statement is prepared and cached. The comment makes it differ from the same
/// words of another handler, or of the host: all begin with their owner, and a comment ends at its first `*/`.
fn owned(owner: u32, sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 16);
    let _ = write!(text, "/*{owner}*/");
    text.push_str(sql);
    text
}
