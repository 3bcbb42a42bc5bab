//! The handler's store, inside the delivery's transaction.
//!
//! What is written here commits with the record or with the response, or not at all. Statements take their values as
//! parameters (`?1`, `?2`, ...); tables are made by the handler's migrations, and transaction control is the host's.
//!
//! ```
//! # tidemill_sdk::test::example::run(|| {
//! use tidemill_sdk::{Decimal, params, sql};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     total: Decimal,
//!     status: String,
//! }
//!
//! sql::execute("INSERT INTO orders (id, user_id, total) VALUES (?1, ?2, ?3)", params![8, "bob", Decimal::new(995, 2)])?;
//! let order: Order = sql::query_one("SELECT total, status FROM orders WHERE id = ?1", params![8])?;
//! assert_eq!((order.total.to_string().as_str(), order.status.as_str()), ("9.95", "CREATED"));
//! # Ok(()) });
//! ```

mod row;
mod value;

use std::fmt;

use serde::de::DeserializeOwned;

use crate::host;
pub use value::Value;

/// The parameters of a statement, in order: `params![id, name]`. Takes everything that [`Value`] has a `From` for,
/// references included; `params![]` is none.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// use tidemill_sdk::{Time, delivery, params, sql};
///
/// let (id, user, note): (i64, &str, Option<String>) = (7, "ann", None);
/// let at: Time = delivery::now();
/// let row: (i64, String, Option<String>, Time) = sql::query_one("SELECT ?1, ?2, ?3, ?4", params![id, user, note, at])?;
/// assert_eq!(row, (7, "ann".to_owned(), None, at));
/// # Ok(()) });
/// ```
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
/// #     timers: &[],
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
/// ```
/// # use tidemill_sdk::{params, sql};
/// #[derive(serde::Deserialize)]
/// struct Order {
///     id: i64,
///     status: String,
/// }
///
/// # tidemill_sdk::test::example::run(|| {
/// let orders: Vec<Order> = sql::query("SELECT id, status FROM orders WHERE user_id = ?1", params!["ann"])?;
/// let pairs: Vec<(i64, String)> = sql::query("SELECT id, status FROM orders", params![])?;
/// let states: Vec<String> = sql::query("SELECT status FROM orders", params![])?;
/// assert_eq!((orders[0].id, orders[0].status.as_str()), (7, "CREATED"));
/// assert_eq!((pairs.len(), states), (1, vec!["CREATED".to_owned()]));
/// # Ok(()) });
/// ```
pub fn query<T: DeserializeOwned>(statement: &str, params: Vec<Value>) -> Result<Vec<T>, Error> {
    read_rows(host::query(statement, params)?)
}

/// Run one statement and read its first row, if it has any.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{params, sql};
/// let by_id = "SELECT user_id FROM orders WHERE id = ?1";
/// assert_eq!(sql::query_optional::<String>(by_id, params![7])?.as_deref(), Some("ann"));
/// assert_eq!(sql::query_optional::<String>(by_id, params![404])?, None);
/// # Ok(()) });
/// ```
pub fn query_optional<T: DeserializeOwned>(statement: &str, params: Vec<Value>) -> Result<Option<T>, Error> {
    let Rows { columns, rows } = host::query(statement, params)?;
    rows.into_iter().next().map(|row| row::read(&columns, row)).transpose()
}

/// Run one statement that must have a row, such as a count or an `INSERT ... RETURNING`, and read the first one.
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{params, sql};
/// let id: i64 = sql::query_one("INSERT INTO orders (user_id, total) VALUES ('bob', '5.00') RETURNING id", params![])?;
/// let count: u32 = sql::query_one("SELECT count(*) FROM orders", params![])?;
/// assert_eq!((id, count), (8, 2));
/// # Ok(()) });
/// ```
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
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{params, sql};
/// let error = sql::execute("UPDATE orders SET sum = 0", params![]).unwrap_err();
/// assert_eq!((error.kind, error.message.as_str()), (sql::ErrorKind::Statement, "no such column: sum"));
/// # Ok(()) });
/// ```
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
///
/// ```
/// # tidemill_sdk::test::example::run(|| {
/// # use tidemill_sdk::{params, sql};
/// let kind = |statement: &str| sql::execute(statement, params![]).map_err(|error| error.kind);
/// assert_eq!(kind("INSERT INTO payments VALUES ('p-1', 7, NULL, '')"), Err(sql::ErrorKind::Constraint));
/// assert_eq!(kind("COMMIT"), Err(sql::ErrorKind::Denied));
/// # Ok(()) });
/// ```
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
    ///
    /// ```
    /// # tidemill_sdk::test::example::run(|| {
    /// # use tidemill_sdk::{info, params, sql};
    /// match sql::execute("INSERT INTO orders (id, user_id, total) VALUES (7, 'ann', '25.00')", params![]) {
    ///     Err(error) if error.is_duplicate() => info!("order 7 is there already"),
    ///     other => drop(other?),
    /// }
    /// # Ok(()) });
    /// ```
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
