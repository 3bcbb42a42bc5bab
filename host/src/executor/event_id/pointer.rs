//! A JSON pointer (RFC 6901) to a text or an integer, followed while the document is read.
//!
//! It finds what reading the whole document first would find, and keeps nothing else of it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The text, or an integer as text; `None` where the document is not JSON, or holds something else there.
pub(super) fn find(document: &[u8], pointer: &str) -> Option<String> {
    let mut json = serde_json::Deserializer::from_slice(document);
    let found = At(pointer).deserialize(&mut json).ok()?;
    json.end().ok()?;
    found
}

/// What is left of the pointer: empty at its end, or a `/` and the next token.
struct At<'p>(&'p str);

/// For what is only read: serde's own way to skip a value checks less than reading it does.
const NOWHERE: At<'static> = At("-");

impl<'p> At<'p> {
    fn split(&self) -> Option<(Cow<'p, str>, At<'p>)> {
        let path = self.0.strip_prefix('/')?;
        let end = path.find('/').unwrap_or(path.len());
        let (token, rest) = path.split_at_checked(end)?;
        let token = match token.contains('~') {
            true => Cow::Owned(token.replace("~1", "/").replace("~0", "~")),
            false => Cow::Borrowed(token),
        };
        Some((token, At(rest)))
    }

    fn found(&self, value: impl ToString) -> Option<String> {
        self.0.is_empty().then(|| value.to_string())
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let Some((token, rest)) = self.split() else {
            while map.next_key_seed(Is(""))?.is_some() {
                map.next_value_seed(NOWHERE)?;
            }
            return Ok(None);
        };
        while let Some(is) = map.next_key_seed(Is(&token))? {
            match is {
                // Where a name repeats the last one counts.
                true => found = map.next_value_seed(At(rest.0))?,
                false => drop(map.next_value_seed(NOWHERE)?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (token, rest) = self.split().unwrap_or((Cow::Borrowed(""), At("")));
        let is_index = token == "0" || (!token.starts_with(['0', '+']) && !token.is_empty());
        let index = token.parse::<usize>().ok().filter(|_| is_index);
        let mut found = None;
        for n in 0.. {
            let here = index == Some(n);
            match seq.next_element_seed(if here { At(rest.0) } else { NOWHERE })? {
                Some(value) if here => found = value,
                Some(_) => {}
                None => break,
            }
        }
        Ok(found)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.found(text))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.found(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.found(number))
    }

    /// It was rounded when it was read: two ids could have become one.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a name is this one.
struct Is<'t>(&'t str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::find;

    fn slowly(document: &[u8], pointer: &str) -> Option<String> {
        match serde_json::from_slice::<Json>(document).ok()?.pointer(pointer)? {
            Json::String(text) => Some(text.clone()),
            Json::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => None,
        }
    }

    fn documents() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            any::<u64>().prop_map(|value| value.to_string()),
            any::<f64>()
                .prop_filter("JSON has no others", |value| value.is_finite())
                .prop_map(|value| format!("{value:?}")),
            "[a-z~/é\\\\n]{0,3}".prop_map(|text| Json::String(text).to_string()),
            Just("100000000000000000001".to_owned()),
            Just("nonsense".to_owned()),
            Just("1e999".to_owned()),
            Just(r#""\ud800""#.to_owned()),
            Just("\"\u{7f}\"".to_owned()),
            (120usize..136).prop_map(|deep| "[".repeat(deep) + &"]".repeat(deep)),
        ];
        scalar.prop_recursive(4, 24, 4, |inner| {
            let name = "[ab01~/é]{0,2}".prop_map(|name| Json::String(name).to_string());
            let object = prop::collection::vec((name, inner.clone()), 0..4).prop_map(|fields| {
                let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
                format!("{{{}}}", fields.join(","))
            });
            let array = prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(", ")));
            prop_oneof![object, array]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn it_finds_what_reading_everything_finds(
            document in documents(), pointer in "(/([ab01é+]|~0|~1){0,2}){0,4}", behind in "( |,|\\]){0,1}"
        ) {
            let mut document = format!("{document}{behind}").into_bytes();
            prop_assert_eq!(find(&document, &pointer), slowly(&document, &pointer));
            // No UTF-8 any more.
            document.iter_mut().filter(|byte| **byte == 0x7f).for_each(|byte| *byte = 0xff);
            prop_assert_eq!(find(&document, &pointer), slowly(&document, &pointer));
        }
    }
}
