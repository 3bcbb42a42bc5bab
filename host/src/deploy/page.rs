//! One part of a listing, and where the next one begins.
//!
//! Its invariant: who follows `next` to its end is told each entry that was there all the while once, whatever comes and goes in between, since a cursor says
//! behind which entry to go on and not how many to skip.

use std::fmt::Display;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Entries of one part where nothing is said.
pub const USUAL: usize = 100;
/// Entries of one part at most.
pub const MAX: usize = 1_000;

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    /// The entries, in the listing's order.
    pub items: Vec<T>,
    /// The `cursor` of the part behind this one; none at the end.
    pub next: Option<String>,
}

/// Which part is asked for: so many entries, behind the one with this key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window<K> {
    listing: &'static str,
    limit: usize,
    after: Option<K>,
}

impl<K: FromStr + Display> Window<K> {
    /// By what a query says. `listing` tells its cursors from those of others.
    ///
    /// # Errors
    /// What is wrong with one of the two.
    pub fn read(listing: &'static str, limit: Option<&str>, cursor: Option<&str>) -> Result<Self, String> {
        let limit = limit_of(limit)?;
        let after = cursor.map(|cursor| key(listing, cursor)).transpose().map_err(|foreign| foreign.to_string())?;
        Ok(Self { listing, limit, after })
    }

    /// The part of entries that come in the listing's order. `behind` says whether one stands behind the key of another.
    pub fn page<T>(
        &self,
        entries: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> K,
        behind: impl Fn(&K, &K) -> bool,
    ) -> Page<T> {
        let asked_for = |entry: &T| self.after.as_ref().is_none_or(|after| behind(&key(entry), after));
        let mut rest = entries.into_iter().filter(asked_for);
        let items: Vec<T> = rest.by_ref().take(self.limit).collect();
        let last = items.last().filter(|_| rest.next().is_some());
        let next = last.map(|last| cursor(self.listing, key(last)));
        Page { items, next }
    }
}

impl<T> Page<T> {
    /// The same of what is told of its entries.
    pub fn map<U>(self, tell: impl FnOnce(Vec<T>) -> anyhow::Result<Vec<U>>) -> anyhow::Result<Page<U>> {
        Ok(Page { items: tell(self.items)?, next: self.next })
    }
}

/// How many entries a query asks for.
///
/// # Errors
/// What is wrong with that.
pub fn limit_of(limit: Option<&str>) -> Result<usize, String> {
    let Some(text) = limit else { return Ok(USUAL) };
    let limit = text.parse().ok().filter(|limit| (1..=MAX).contains(limit));
    limit.ok_or_else(|| format!("`limit` is a number from 1 to {MAX}, not {text:?}"))
}

/// A cursor that no answer of the listing has given.
#[derive(Debug, thiserror::Error)]
#[error("`cursor` is none of this listing: send the `next` of an answer as it is")]
pub struct Foreign;

/// The cursor of a listing that says where to go on.
pub(super) fn cursor(listing: &str, place: impl Display) -> String {
    BASE64.encode(format!("{listing}:{place}"))
}

/// Where a cursor of this listing says to go on.
///
/// # Errors
/// It is another listing's, or none.
pub fn key<K: FromStr>(listing: &str, cursor: &str) -> Result<K, Foreign> {
    let text = BASE64.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.as_deref().and_then(|text| text.strip_prefix(listing)?.strip_prefix(':'));
    place.and_then(|place| place.parse().ok()).ok_or(Foreign)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ask(limit: &str, cursor: Option<&str>) -> Result<Window<i64>, String> {
        Window::read("numbers", Some(limit), cursor)
    }

    #[test]
    fn each_entry_that_stays_is_told_once_while_others_come_and_go() {
        let mut all: Vec<i64> = (0..10).rev().collect();
        let (mut told, mut cursor) = (Vec::new(), None);
        loop {
            let page = ask("3", cursor.as_deref()).unwrap().page(all.iter().copied(), |n| *n, |a, b| a < b);
            told.extend(page.items);
            // A newer one comes, and the one that the cursor is of goes.
            all.insert(0, 10 + told.len() as i64);
            all.retain(|n| Some(n) != told.last());
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(told, (0..10).rev().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for limit in ["0", "1001", "-1", "", "ten", "1.0"] {
            assert!(ask(limit, None).unwrap_err().contains("from 1 to 1000"), "{limit}");
        }
        let of_another = BASE64.encode("names:7");
        let no_number = BASE64.encode("numbers:x");
        for cursor in ["", "!", "7", "AA", &of_another, &no_number] {
            assert!(ask("1", Some(cursor)).unwrap_err().contains("none of this listing"), "{cursor}");
        }
        assert_eq!(ask("1", Some(&BASE64.encode("numbers:7"))).unwrap().after, Some(7));
    }
}
