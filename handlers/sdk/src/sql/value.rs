//! Values as SQLite stores them, and what becomes one.
//!
//! Nothing is rounded on the way: a [`Decimal`] is TEXT with its own number of places, a [`Time`] is TEXT in ISO-8601,
//! which sorts as time does.

use std::borrow::Cow;

use crate::{Decimal, Time};

/// A value as SQLite stores it.
///
/// An enum that is read from a TEXT by its serde name is written by a `From` of its own:
///
/// ```
/// use tidemill_sdk::{Decimal, Failure, Time, delivery, params, sql};
///
/// #[derive(Debug, PartialEq, serde::Deserialize)]
/// #[serde(rename_all = "UPPERCASE")]
/// enum Status {
///     Created,
///     Paid,
/// }
///
/// impl From<&Status> for sql::Value {
///     fn from(status: &Status) -> Self {
///         match status {
///             Status::Created => "CREATED".into(),
///             Status::Paid => "PAID".into(),
///         }
///     }
/// }
///
/// #[derive(Debug, PartialEq, serde::Deserialize)]
/// struct Order {
///     total: Decimal,
///     status: Status,
///     gift: bool,
///     note: Option<String>,
///     signature: Vec<u8>,
///     placed: Time,
/// }
///
/// # tidemill_sdk::test::example::run(|| {
/// let order = Order {
///     total: Decimal::new(2500, 2),
///     status: Status::Paid,
///     gift: true,
///     note: None,
///     signature: vec![0xca, 0xfe],
///     placed: delivery::now(),
/// };
/// // Any SELECT, or a table's row.
/// let read: Order = sql::query_one(
///     "SELECT ?1 AS total, ?2 AS status, ?3 AS gift, ?4 AS note, ?5 AS signature, ?6 AS placed",
///     params![order.total, &order.status, order.gift, &order.note, &order.signature, order.placed],
/// )?;
/// assert_eq!(read, order);
/// # Ok(()) });
/// ```
///
/// What becomes which value:
///
/// ```
/// use tidemill_sdk::sql::Value;
/// use tidemill_sdk::{Decimal, Time};
///
/// assert_eq!(Value::from(true), Value::Integer(1));
/// assert_eq!(Value::from(Decimal::new(2500, 2)), Value::Text("25.00".into()));
/// assert_eq!(Value::from(Time::from_millis(0)), Value::Text("1970-01-01T00:00:00.000Z".into()));
/// assert_eq!(Value::from(vec![1, 2]), Value::Blob(vec![1, 2]));
/// assert_eq!(Value::from(None::<&str>), Value::Null);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL
    Null,
    /// INTEGER
    Integer(i64),
    /// REAL
    Real(f64),
    /// TEXT
    Text(String),
    /// BLOB
    Blob(Vec<u8>),
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Value {
            fn from(value: $integer) -> Self {
                Self::Integer(i64::from(value))
            }
        }
    )*};
}

integers!(i64, i32, i16, i8, u32, u16, u8, bool);

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::Real(f64::from(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Blob(value.to_vec())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Blob(value)
    }
}

impl<const LEN: usize> From<[u8; LEN]> for Value {
    fn from(value: [u8; LEN]) -> Self {
        Self::Blob(value.to_vec())
    }
}

impl<const LEN: usize> From<&[u8; LEN]> for Value {
    fn from(value: &[u8; LEN]) -> Self {
        Self::Blob(value.to_vec())
    }
}

impl From<Cow<'_, str>> for Value {
    fn from(value: Cow<'_, str>) -> Self {
        Self::Text(value.into_owned())
    }
}

impl From<Decimal> for Value {
    fn from(value: Decimal) -> Self {
        Self::Text(value.to_string())
    }
}

impl From<Time> for Value {
    fn from(value: Time) -> Self {
        Self::Text(value.to_string())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Clone + Into<Value>> From<&Option<T>> for Value {
    fn from(value: &Option<T>) -> Self {
        Self::from(value.clone())
    }
}

/// What is borrowed is cloned, so that `params![&order.user]` needs no ceremony.
macro_rules! borrowed {
    ($($borrowed:ty),*) => {$(
        impl From<&$borrowed> for Value {
            fn from(value: &$borrowed) -> Self {
                Self::from(value.clone())
            }
        }
    )*};
}

borrowed!(String, Vec<u8>, Decimal, Time, i64, i32, i16, i8, u32, u16, u8, bool, f64, f32, &str);
