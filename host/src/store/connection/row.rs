//! Values on their way into a statement and out of a row.
//!
//! What SQLite holds comes out as it is, but for text that is no UTF-8; nothing is converted from one type into another.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::store::{Error, Kind, Value};

/// One row of a query of the host's.
pub struct Row<'a>(pub(super) &'a rusqlite::Row<'a>);

impl Row<'_> {
    /// Column `i` as it is.
    pub fn value(&self, i: usize) -> Result<Value, Error> {
        Ok(match self.0.get_ref(i)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(value) => Value::Integer(value),
            ValueRef::Real(value) => Value::Real(value),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        })
    }

    /// Column `i` as an integer.
    pub fn integer(&self, i: usize) -> Result<i64, Error> {
        Ok(self.0.get(i)?)
    }

    /// Column `i` as an integer, or `None` for NULL.
    pub fn opt_integer(&self, i: usize) -> Result<Option<i64>, Error> {
        Ok(self.0.get(i)?)
    }

    /// Column `i` as text.
    pub fn text(&self, i: usize) -> Result<String, Error> {
        Ok(self.0.get(i)?)
    }

    /// Column `i` as text, or `None` for NULL.
    pub fn opt_text(&self, i: usize) -> Result<Option<String>, Error> {
        Ok(self.0.get(i)?)
    }

    /// The bytes of column `i`, TEXT or BLOB, or `None` for NULL.
    pub fn opt_bytes(&self, i: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.0.get_ref(i)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Some(bytes.to_vec())),
            _ => Err(Error::new(Kind::Other, format!("column {i} holds a number where bytes are expected"))),
        }
    }
}

pub(super) struct Bound<'a>(pub(super) &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}
