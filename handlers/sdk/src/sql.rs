//! The handler's store, inside the delivery's transaction.
//!
//! What is written here commits with the record or with the response, or not at all. Statements take their values as
//! parameters (`?1`, `?2`, ...); tables are made by the handler's migrations, and transaction control is the host's.

mod row;
mod value;

use std::fmt;

use serde::de::DeserializeOwned;

use crate::host;
pub use value::Value;

/// The parameters of a statement, in order: `params![id, name]`. Takes everything that [`Value`] has a `From` for,
/// references included; `params![]` is none.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        ::std::vec::Vec::<$crate::sql::Value>::from([$($crate::sql::Value::from($value)),*])
    };
}

/// Run one statement that returns no rows. Returns how many rows it inserted, updated or deleted.
///
/// # Acting only once
///
/// The inbox knows a duplicate by its event id. Two different events that ask for the same step - two payments of one
/// order, say - it cannot know: let the row's state decide. Name the state that the step starts from in the `WHERE`, and
/// act only if the statement has changed the row. It is safe as it stands: the deliveries of a store run one after the
/// other, and the change and the event commit together.
///
/// ```
/// use tidemill_sdk::publisher::Event;
/// use tidemill_sdk::{Failure, Record, params, sql};
///
/// fn pay(record: &Record) -> Result<(), Failure> {
///     let order = record.key_str().ok_or_else(|| Failure::reject("the key names no order"))?;
///     let changed = sql::execute(
///         "UPDATE orders SET status = 'PAID' WHERE id = ?1 AND status = 'CREATED'",
///         params![order],
///     )?;
///     if changed == 1 {
///         Event::new("orders", "ORDER_PAID").key(order).enqueue()?;
///     }
///     Ok(())
/// }
/// # use tidemill_sdk::test::{Bench, record};
/// # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
/// #     manifest: "name = \"orders\"\ntopics = [\"payments\"]\npublish = { orders = \"order-events\" }",
/// #     migrations: &[("1.sql", "CREATE TABLE orders (id TEXT PRIMARY KEY, status TEXT NOT NULL);")],
/// #     records: Some(pay),
/// #     compensate: None,
/// #     completed: None,
/// #     routes: &[],
/// # };
/// let mut bench = Bench::new(&HANDLER);
/// bench.prepare("INSERT INTO orders VALUES ('1', 'CREATED')");
/// bench.record(&record("payments").with_key("1").with_value("the first"))?;
/// bench.record(&record("payments").with_key("1").with_value("the second"))?;
/// assert_eq!(bench.events().len(), 1);
/// # Ok::<(), Failure>(())
/// ```
pub fn execute(statement: &str, params: Vec<Value>) -> Result<u64, Error> {
    host::execute(statement, params)
}

/// Run one statement and read its rows: into tuples by position, into structs by column name, into anything else
/// that is [`DeserializeOwned`] from its only column.
///
/// ```no_run
/// # use tidemill_sdk::{params, sql};
/// #[derive(serde::Deserialize)]
/// struct Order { id: i64, status: String }
///
/// let orders: Vec<Order> = sql::query("SELECT id, status FROM orders WHERE user_id = ?1", params!["7"])?;
/// let pairs: Vec<(i64, String)> = sql::query("SELECT id, status FROM orders", params![])?;
/// let names: Vec<String> = sql::query("SELECT status FROM orders", params![])?;
/// # Ok::<(), sql::Error>(())
/// ```
pub fn query<T: DeserializeOwned>(statement: &str, params: Vec<Value>) -> Result<Vec<T>, Error> {
    read_rows(host::query(statement, params)?)
}

/// Run one statement and read its first row, if it has any.
pub fn query_optional<T: DeserializeOwned>(statement: &str, params: Vec<Value>) -> Result<Option<T>, Error> {
    let Rows { columns, rows } = host::query(statement, params)?;
    rows.into_iter().next().map(|row| row::read(&columns, row)).transpose()
}

/// Run one statement that must have a row, such as a count or an `INSERT ... RETURNING`, and read the first one.
pub fn query_one<T: DeserializeOwned>(statement: &str, params: Vec<Value>) -> Result<T, Error> {
    query_optional(statement, params)?.ok_or_else(|| Error::decode("the statement returned no row"))
}

pub(crate) fn read_rows<T: DeserializeOwned>(Rows { columns, rows }: Rows) -> Result<Vec<T>, Error> {
    rows.into_iter().map(|row| row::read(&columns, row)).collect()
}

/// What a query returned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// Why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of thing went wrong.
    pub kind: ErrorKind,
    /// SQLite's extended result code, for example 2067 for a UNIQUE constraint; 0 if it is not SQLite's.
    pub code: i32,
    /// For people.
    pub message: String,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The statement does not parse, names what does not exist, or has the wrong number of parameters.
    Statement,
    /// A constraint refused the change.
    Constraint,
    /// The handler may not do this.
    Denied,
    /// A write during a request that only reads.
    ReadOnly,
    /// A limit of the delivery: rows, bytes, statements, time.
    Limit,
    /// Anything else that SQLite reports.
    Other,
    /// A row does not fit the type that it was to be read into.
    Decode,
}

impl Error {
    /// Whether a UNIQUE or PRIMARY KEY constraint refused the change, that is, whether the row is there already.
    pub fn is_duplicate(&self) -> bool {
        // SQLITE_CONSTRAINT_PRIMARYKEY and SQLITE_CONSTRAINT_UNIQUE, https://sqlite.org/rescode.html
        matches!(self.code, 1555 | 2067)
    }

    fn decode(message: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::Decode, code: 0, message: message.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
