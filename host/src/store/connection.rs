//! A connection to one database file, for the host's SQL; a guest's is in `guest`.
//!
//! Whoever runs is known to the authorizer. This file begins and ends no transaction by itself.

mod guest;
pub(super) mod row;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::Wal;
use rusqlite::limits::Limit;
use rusqlite::{Batch, OpenFlags, ffi};

pub use self::guest::Bounds;
use self::row::{Bound, Row};
use super::authorizer::{Actor, Running};
use super::rights::Rights;
use super::{Error, Kind, Rows, Value, functions, surroundings};
use crate::metrics::histogram::{Histogram, SHORT};

/// SQLite's virtual machine instructions between two looks at the clock.
const PROGRESS_OPS: i32 = 100;
/// The longest string, blob or row, in bytes.
const MAX_LENGTH: i32 = 64 << 20;
/// How long all migrations of a version together may take.
const MIGRATION_TIME: Duration = Duration::from_secs(60);
/// Pages that are copied between two reports.
const COPY_PAGES: i32 = 16;
/// Pages in the log from which on a commit moves them into the database.
const CHECKPOINT_PAGES: i32 = 4_000;

/// An open database.
pub struct Connection {
    inner: rusqlite::Connection,
    running: Running,
    /// Nanoseconds after `epoch` at which a guest's statement is interrupted; `u64::MAX` for never.
    deadline: Arc<AtomicU64>,
    epoch: Instant,
    /// Whether that holds for the host's statements too.
    bounded: Arc<AtomicBool>,
    /// Statements begun that may write.
    writes: Cell<u64>,
    /// How long checkpoints took.
    checkpoints: Arc<Histogram>,
}

impl Connection {
    /// Opens the file for its one writer, making it if it is not there.
    pub fn open_writer(path: &Path, synchronous_full: bool) -> Result<Self, Error> {
        let mut connection = Self::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let synchronous = if synchronous_full { "FULL" } else { "NORMAL" };
        connection.batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384;"
        ))?;
        // What SQLite's own hook does (`wal_autocheckpoint`), with a clock beside it. One that cannot be made now is made after a later commit.
        let took = connection.checkpoints.clone();
        connection.inner.wal_hook(Some(move |wal: &mut Wal, pages: i32| {
            if pages >= CHECKPOINT_PAGES {
                let began = Instant::now();
                let _ = wal.checkpoint();
                took.time(began.elapsed());
            }
            Ok(())
        }))?;
        Ok(connection)
    }

    /// Opens the file for reading only; the writer must have made it.
    pub fn open_reader(path: &Path) -> Result<Self, Error> {
        let connection = Self::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096;")?;
        Ok(connection)
    }

    /// Opens a file, which need not be there, for a copy that is thrown away: nothing waits for the disk.
    pub fn open_copy(path: &Path) -> Result<Self, Error> {
        let connection = Self::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384;")?;
        Ok(connection)
    }

    /// Makes `copy` what this database is at one moment. Who writes to this one meanwhile is not held up.
    pub fn copy_to(&self, copy: &mut Self) -> Result<(), Error> {
        match Backup::new(&self.inner, &mut copy.inner)?.step(-1)? {
            StepResult::Done => Ok(()),
            _ => Err(Error::new(Kind::Store, "the store is locked by another process: end that one")),
        }
    }

    /// Makes `copy` what this database is at the moment of the call, piece by piece, and says after each how many bytes of how many
    /// are there. Who writes to this one meanwhile is not held up; its write-ahead log only grows until the end.
    pub fn copy_in_steps(&self, copy: &mut Self, mut told: impl FnMut(u64, u64) -> bool) -> Result<bool, Error> {
        // A backup that finds the database changed begins anew. It does not look while a transaction holds it at one snapshot.
        self.batch("BEGIN")?;
        let copied = self.first("SELECT count(*) FROM main.sqlite_schema", &[], |row| row.integer(0)).and_then(|_| {
            let page = page_size(self)?;
            let backup = Backup::new(&self.inner, &mut copy.inner)?;
            loop {
                let step = backup.step(COPY_PAGES)?;
                let progress = backup.progress();
                let pages = |count: i32| u64::try_from(count).unwrap_or(0) * page;
                let goes_on = told(pages(progress.pagecount - progress.remaining), pages(progress.pagecount));
                match step {
                    StepResult::Done => return Ok(true),
                    StepResult::More if goes_on => {}
                    StepResult::More => return Ok(false),
                    _ => return Err(Error::new(Kind::Store, "the store is locked by another process: end that one")),
                }
            }
        });
        self.batch("COMMIT")?;
        copied
    }

    /// What is wrong with the database's pages and indexes, as SQLite's `integrity_check` tells it; none if it is whole.
    pub fn damage(&self) -> Result<Option<String>, Error> {
        let told = self.first("PRAGMA main.integrity_check(1)", &[], |row| row.text(0))?;
        Ok(told.filter(|told| told != "ok"))
    }

    /// How large the database is, in bytes.
    pub fn size(&self) -> Result<u64, Error> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes = self.first(sql, &[], |row| row.integer(0))?;
        Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }

    fn open(path: &Path, flags: OpenFlags) -> Result<Self, Error> {
        surroundings::register()?;
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut inner = rusqlite::Connection::open_with_flags_and_vfs(path, flags, surroundings::VFS)?;
        inner.busy_timeout(Duration::from_secs(5))?;
        inner.set_prepared_statement_cache_capacity(256);
        inner.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // Else a statement that compares a column with a parameter is compiled anew for each value.
        inner.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        inner.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        inner.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_LENGTH)?;
        inner.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, 1 << 20)?;
        inner.set_limit(Limit::SQLITE_LIMIT_COLUMN, 200)?;
        inner.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 256)?;
        surroundings::override_random(&inner)?;
        functions::replace_slow(&inner)?;
        let running = Running::default();
        inner.authorizer(Some(running.hook()))?;
        let (epoch, deadline) = (Instant::now(), Arc::new(AtomicU64::new(u64::MAX)));
        let bounded = Arc::new(AtomicBool::new(false));
        let (watched, actor, all) = (deadline.clone(), running.clone(), bounded.clone());
        inner.progress_handler(
            PROGRESS_OPS,
            Some(move || {
                let deadline = watched.load(Ordering::Relaxed);
                // The host's own statements inside a delivery are short, and must not be torn.
                let counts = || !actor.is_host() || all.load(Ordering::Relaxed);
                deadline != u64::MAX && counts() && nanos_since(epoch) > deadline
            }),
        )?;
        let checkpoints = Arc::new(Histogram::new(&SHORT));
        Ok(Self { inner, running, deadline, epoch, bounded, writes: Cell::new(0), checkpoints })
    }

    /// Runs one statement of the host's; returns how many rows it changed.
    pub fn execute(&self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let mut statement = self.inner.prepare_cached(sql)?;
        self.bind(&mut statement, params)?;
        Ok(statement.raw_execute()? as u64)
    }

    /// Runs one query of the host's and looks at its rows, until `look` returns `false`.
    pub fn each(
        &self,
        sql: &str,
        params: &[Value],
        mut look: impl FnMut(&Row<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut statement = self.inner.prepare_cached(sql)?;
        self.bind(&mut statement, params)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if !look(&Row(row))? {
                break;
            }
        }
        Ok(())
    }

    /// Runs one query of the host's and maps each row.
    pub fn query<T>(
        &self,
        sql: &str,
        params: &[Value],
        mut map: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut out = Vec::new();
        self.each(sql, params, |row| {
            out.push(map(row)?);
            Ok(true)
        })?;
        Ok(out)
    }

    /// All rows of a query of the host's, with the names of their columns.
    pub fn rows(&self, sql: &str, params: &[Value]) -> Result<Rows, Error> {
        let mut statement = self.inner.prepare(sql)?;
        self.bind(&mut statement, params)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut out = Rows { columns, rows: Vec::new() };
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            out.rows.push((0..out.columns.len()).map(|i| Row(row).value(i)).collect::<Result<_, _>>()?);
        }
        Ok(out)
    }

    /// The first row of a query of the host's, if there is one.
    pub fn first<T>(
        &self,
        sql: &str,
        params: &[Value],
        map: impl FnOnce(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut statement = self.inner.prepare_cached(sql)?;
        self.bind(&mut statement, params)?;
        let mut rows = statement.raw_query();
        rows.next()?.map(|row| map(&Row(row))).transpose()
    }

    /// Runs several statements of the host's.
    pub fn batch(&self, sql: &str) -> Result<(), Error> {
        Ok(self.inner.execute_batch(sql)?)
    }

    /// Runs a migration: statements that may change what its user's tables are made of, but not the transaction, the ledger
    /// or what others have made.
    pub fn migrate(&self, sql: &str, rights: &Arc<Rights>) -> Result<(), Error> {
        self.set_deadline(Instant::now() + MIGRATION_TIME);
        self.running.set_rights(rights.clone());
        let guard = self.running.set(Actor::Migration);
        let mut statements = Batch::new(&self.inner, sql);
        let mut run = || -> Result<(), rusqlite::Error> {
            loop {
                self.running.next_statement();
                let Some(mut statement) = statements.next()? else { return Ok(()) };
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
            }
        };
        let result = run();
        drop(guard);
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        result.map_err(|error| self.explained(error.into()))
    }

    /// A refusal in our words, where SQLite's say only that there is one.
    fn explained(&self, error: Error) -> Error {
        let refusal = self.running.take_refusal();
        match refusal.filter(|_| error.kind == Kind::Denied) {
            Some(message) => Error { message, ..error },
            None => error,
        }
    }

    /// Whether a transaction is open. SQLite ends one by itself after some errors.
    pub fn in_transaction(&self) -> bool {
        !self.inner.is_autocommit()
    }

    /// Whether a deferred foreign key is violated at present, which would fail the COMMIT.
    pub fn violates_deferred_keys(&self) -> bool {
        let (mut current, mut highest) = (0, 0);
        // SAFETY: the handle is open, and both places are valid for the call.
        let code = unsafe {
            ffi::sqlite3_db_status(
                self.inner.handle(),
                ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
                &raw mut current,
                &raw mut highest,
                0,
            )
        };
        code == ffi::SQLITE_OK && current != 0
    }

    /// All SQL on this connection, the host's own too, is interrupted at `deadline`: for who would rather know nothing than wait.
    pub fn bound_all(&self, deadline: Instant) {
        self.bounded.store(true, Ordering::Relaxed);
        self.set_deadline(deadline);
    }

    /// How long the checkpoints of this connection took.
    pub fn checkpoints(&self) -> &Arc<Histogram> {
        &self.checkpoints
    }

    /// Guest SQL on this connection is interrupted at `deadline`.
    pub fn set_deadline(&self, deadline: Instant) {
        let nanos = deadline.saturating_duration_since(self.epoch).as_nanos();
        self.deadline.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many statements that may write were begun. One that fails may leave rows behind that SQLite counts nowhere.
    pub fn writes_begun(&self) -> u64 {
        self.writes.get()
    }

    /// Whether there are virtual tables, which may put off to a later statement what they were given by an earlier one.
    pub fn has_virtual_tables(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND rootpage = 0 LIMIT 1";
        Ok(self.first(sql, &[], |row| row.integer(0))?.is_some())
    }

    fn bind(&self, statement: &mut rusqlite::Statement<'_>, params: &[Value]) -> Result<(), Error> {
        let wanted = statement.parameter_count();
        if wanted != params.len() {
            let message = format!("the statement has {wanted} parameters, but {} values were given", params.len());
            return Err(Error::new(Kind::Statement, message));
        }
        for (i, value) in params.iter().enumerate() {
            statement.raw_bind_parameter(i + 1, Bound(value))?;
        }
        self.writes.set(self.writes.get() + u64::from(!statement.readonly()));
        Ok(())
    }

    /// Rows inserted, updated and deleted since the connection was opened.
    pub fn changes_made(&self) -> u64 {
        self.inner.total_changes()
    }
}

fn page_size(connection: &Connection) -> Result<u64, Error> {
    let bytes = connection.first("PRAGMA main.page_size", &[], |row| row.integer(0))?;
    Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
}

fn nanos_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_compiled_once_whatever_its_parameters_are() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("store.db"), true).unwrap();
        connection
            .batch("CREATE TABLE t (id INTEGER PRIMARY KEY, user TEXT); CREATE INDEX t_user ON t (user)")
            .unwrap();
        let sql = "SELECT id FROM t WHERE user = ?1 AND id < ?2 ORDER BY id DESC LIMIT 10";
        for n in 1..=3 {
            connection.query(sql, &["u".into(), n.into()], |row| row.integer(0)).unwrap();
        }
        let statement = connection.inner.prepare_cached(sql).unwrap();
        assert_eq!(statement.get_status(StatementStatus::Run), 3);
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }

    #[test]
    fn h4_long_statements_leave_no_memory_behind() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("store.db"), true).unwrap();
        let numbers = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        for n in 0..50 {
            let sql = format!("SELECT {n} IN ({numbers}, ?1)");
            connection.guest_query(1, &sql, &[1.into()], Bounds { rows: 1, bytes: 100 }).unwrap();
        }
        let (mut current, mut highest) = (0, 0);
        // SAFETY: the handle is open, and both places are valid for the call.
        let code = unsafe {
            let handle = connection.inner.handle();
            ffi::sqlite3_db_status(handle, ffi::SQLITE_DBSTATUS_STMT_USED, &raw mut current, &raw mut highest, 0)
        };
        assert_eq!(code, ffi::SQLITE_OK);
        assert!(current < 1 << 20, "{current} bytes are kept");
    }

    #[test]
    fn a_reader_that_is_bounded_gives_up_and_one_that_is_not_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(Connection::open_writer(&path, false).unwrap());
        let sql =
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT count(*) FROM n";
        let reader = Connection::open_reader(&path).unwrap();
        let count = || reader.first(sql, &[], |row| row.integer(0));
        assert_eq!(count().unwrap(), Some(100_000));
        reader.bound_all(Instant::now());
        assert!(count().is_err());
    }

    #[test]
    fn the_log_goes_into_the_database_when_it_is_long_and_that_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let writer = Connection::open_writer(&path, false).unwrap();
        let size = || std::fs::metadata(&path).unwrap().len();
        writer.batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(1000000))").unwrap();
        assert_eq!((writer.checkpoints().count(), size() < 1_000_000), (0, true));
        writer.batch("INSERT INTO t VALUES (zeroblob(20000000))").unwrap();
        assert_eq!((writer.checkpoints().count(), size() > 20_000_000), (1, true));
    }
}
