//! Values as SQLite stores them, and what becomes one.
//!
//! Nothing is rounded on the way: a [`Decimal`] is TEXT with its own number of places, a [`Time`] is TEXT in ISO-8601,
//! which sorts as time does.

use crate::{Decimal, Time};

/// A value as SQLite stores it.
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

borrowed!(String, Vec<u8>, Decimal, Time, i64, bool);
