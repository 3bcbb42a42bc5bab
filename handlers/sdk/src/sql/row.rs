//! Rows into Rust types, by serde: tuples by position, structs by column name, anything else from the only column.
//!
//! A value is handed over as what SQLite stored; the one liberty taken is that an INTEGER 0 or 1 is also a `bool`.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::{Error, Value};

/// One row as a `T`.
pub(super) fn read<T: DeserializeOwned>(columns: &[String], row: Vec<Value>) -> Result<T, Error> {
    T::deserialize(Row { columns, row }).map_err(|error| Error::decode(format!("a row does not fit: {error}")))
}

struct Row<'a> {
    columns: &'a [String],
    row: Vec<Value>,
}

impl Row<'_> {
    /// The value of a row that has only one.
    fn only(mut self) -> Result<Value, Failed> {
        match (self.row.pop(), self.row.len()) {
            (Some(value), 0) => Ok(value),
            (_, others) => Err(Failed::custom(format_args!(
                "it has {} columns; read it into a tuple or a struct",
                if others == 0 { 0 } else { others + 1 }
            ))),
        }
    }
}

/// Serde's plainest error: a text.
type Failed = serde::de::value::Error;

macro_rules! from_only_column {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            self.only()?.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Row<'_> {
    type Error = Failed;

    from_only_column! {
        deserialize_any deserialize_bool deserialize_option deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_identifier
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let mut values = SeqDeserializer::new(self.row.into_iter());
        let read = visitor.visit_seq(&mut values)?;
        values.end()?;
        Ok(read)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_map(MapDeserializer::new(self.columns.iter().map(String::as_str).zip(self.row)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }
}

impl IntoDeserializer<'_, Failed> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Integer(value) => visitor.visit_i64(value),
            Self::Real(value) => visitor.visit_f64(value),
            Self::Text(value) => visitor.visit_string(value),
            Self::Blob(value) => visitor.visit_byte_buf(value),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self {
            Self::Integer(value @ 0..=1) => visitor.visit_bool(value == 1),
            Self::Integer(value) => Err(Failed::invalid_value(Unexpected::Signed(value), &"0 or 1")),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self {
            Self::Null => visitor.visit_none(),
            value => visitor.visit_some(value),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    /// A TEXT names the variant.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        match self {
            Self::Text(variant) => visitor.visit_enum(variant.into_deserializer()),
            other => other.deserialize_any(visitor),
        }
    }

    /// A BLOB is also a list of bytes, so that it reads into `Vec<u8>`.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self {
            Self::Blob(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.into_iter())),
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;
    use crate::{Decimal, Time};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "UPPERCASE")]
    enum Status {
        Paid,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Order {
        id: i64,
        total: Decimal,
        status: Status,
        at: Time,
        note: Option<String>,
        open: bool,
    }

    fn order() -> (Vec<String>, Vec<Value>) {
        let columns = ["id", "total", "status", "at", "note", "open", "ignored"];
        let text = |text: &str| Value::Text(text.into());
        let values = vec![
            Value::Integer(1),
            text("50000.10"),
            text("PAID"),
            text("1970-01-01T00:00:00.001Z"),
            Value::Null,
            Value::Integer(1),
            Value::Blob(vec![1]),
        ];
        (columns.map(String::from).to_vec(), values)
    }

    #[test]
    fn a_struct_is_read_by_column_name() {
        let (columns, row) = order();
        let order: Order = read(&columns, row).unwrap();
        let total = Decimal::from_str_exact("50000.10").unwrap();
        assert_eq!(
            order,
            Order { id: 1, total, status: Status::Paid, at: Time::from_millis(1), note: None, open: true }
        );
    }

    #[test]
    fn a_tuple_is_read_by_position_and_must_have_every_column() {
        let row = || vec![Value::Integer(1), Value::Blob(vec![1, 2])];
        let columns = ["a".into(), "b".into()];
        assert_eq!(read::<(u8, Vec<u8>)>(&columns, row()).unwrap(), (1, vec![1, 2]));
        assert!(read::<(u8,)>(&columns, row()).is_err());
        assert!(read::<(u8, Vec<u8>, u8)>(&columns, row()).is_err());
    }

    #[test]
    fn what_is_borrowed_optional_or_an_array_is_a_parameter() {
        let (note, none, bytes) = (Some("n".to_owned()), None::<Decimal>, [1, 2]);
        let values =
            crate::params![&note, &none, bytes, &bytes, &7_i32, &"t", std::borrow::Cow::Borrowed("c"), 0.5_f32];
        let (text, blob) = (|text: &str| Value::Text(text.into()), Value::Blob(vec![1, 2]));
        let expected =
            [text("n"), Value::Null, blob.clone(), blob, Value::Integer(7), text("t"), text("c"), Value::Real(0.5)];
        assert_eq!(values, expected);
    }

    #[test]
    fn an_optional_column_may_hold_any_type() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Row {
            open: Option<bool>,
            total: Option<Decimal>,
            at: Option<Time>,
            status: Option<Status>,
            blob: Option<Vec<u8>>,
        }
        let columns = ["open", "total", "at", "status", "blob"].map(String::from);
        let row = read::<Row>(&columns, crate::params![true, Decimal::ONE, Time::from_millis(0), "PAID", [7]]).unwrap();
        let (total, at) = (Some(Decimal::ONE), Some(Time::from_millis(0)));
        assert_eq!(row, Row { open: Some(true), total, at, status: Some(Status::Paid), blob: Some(vec![7]) });
        let nulls = read::<Row>(&columns, vec![Value::Null; 5]).unwrap();
        assert_eq!(nulls, Row { open: None, total: None, at: None, status: None, blob: None });
    }

    #[test]
    fn a_plain_type_is_read_from_the_only_column() {
        let columns = ["a".into()];
        assert_eq!(read::<Option<i64>>(&columns, vec![Value::Null]).unwrap(), None);
        assert_eq!(read::<Status>(&columns, vec![Value::Text("PAID".into())]).unwrap(), Status::Paid);
        let two = read::<i64>(&["a".into(), "b".into()], vec![Value::Null, Value::Null]).unwrap_err();
        assert!(two.message.contains("it has 2 columns"), "{two}");
    }

    #[test]
    fn what_does_not_fit_says_so() {
        let error = read::<i64>(&["a".into()], vec![Value::Text("x".into())]).unwrap_err();
        assert!(error.message.contains("invalid type: string \"x\", expected i64"), "{error}");
        let missing = read::<Order>(&["id".into()], vec![Value::Integer(1)]).unwrap_err();
        assert!(missing.message.contains("missing field `total`"), "{missing}");
    }
}
