//! The idempotency keys of the requests that run now.
//!
//! A key is in the set from before its request is handed on until the request was answered or dropped, whatever
//! became of the client: at most one request of a key is ever under way. What happened to earlier requests is the
//! ledger's to know.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What makes two requests the same: an `Idempotency-Key` counts for one route and one user. The method is left
/// out, so that the same key with another method is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The route's handler.
    pub(super) handler: Arc<str>,
    /// The route's path, as the manifest writes it.
    pub(super) route: String,
    /// The token's subject.
    pub(super) user: Option<String>,
    /// The header's value.
    pub(super) key: String,
}

/// The keys under way.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    keys: Mutex<HashSet<Key>>,
}

impl InFlight {
    /// Enter a key, or `None` when a request with it is still under way. The key leaves with the guard.
    pub(super) fn enter(self: &Arc<Self>, key: Key) -> Option<Guard> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Guard { set: Arc::clone(self), key })
    }
}

/// A key's place in the set.
#[derive(Debug)]
pub(super) struct Guard {
    set: Arc<InFlight>,
    key: Key,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.set.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;

    fn key(user: Option<&str>, key: &str) -> Key {
        Key { handler: "order".into(), route: "/api/orders".into(), user: user.map(str::to_owned), key: key.to_owned() }
    }

    #[test]
    fn a_key_is_taken_until_its_guard_goes() {
        let set = Arc::new(InFlight::default());
        let first = set.enter(key(Some("7"), "k")).unwrap();
        assert!(set.enter(key(Some("7"), "k")).is_none());
        assert!(set.enter(key(Some("8"), "k")).is_some(), "another user's key is another key");
        assert!(set.enter(key(None, "k")).is_some());
        assert!(set.enter(key(Some("7"), "l")).is_some());
        drop(first);
        assert!(set.enter(key(Some("7"), "k")).is_some());
        assert!(set.keys.lock().unwrap().is_empty());
    }
}
