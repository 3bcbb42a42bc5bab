//! How often a client may call: as operator and manifests say, by its address and by the subject of its token.
//!
//! A client that calls too often is answered 429 and when to come again, before its token or body is looked at. What is remembered has
//! one size, whoever calls: a table whose rows make room for each other, so that the client that would be let in first anyway is
//! forgotten first. Forgetting lets one call more often, never less.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper::HeaderMap;

use crate::http::client;
use crate::http::routes::Target;
use crate::metrics::meters::Limited;
use crate::settings::units::Rate;
use crate::settings::{Http, Rates};

/// Rows that a client's can be one of.
const WAYS: usize = 8;

/// What a client has done too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Called, from one address.
    Address,
    /// Called, as one user.
    User,
    /// Come with tokens that are not good, from one address.
    Logins,
}

/// A request that comes too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooOften {
    pub(super) by: By,
    /// How long the client should wait.
    pub(super) wait: Duration,
}

/// Lets requests in.
pub(super) struct Gate {
    settings: Http,
    table: Table,
    limited: Arc<Limited>,
}

/// For what a client's calls are counted together.
#[derive(Clone, Copy, Hash)]
enum Scope<'a> {
    All,
    Handler(&'a str),
    Route(&'a str, &'a str, &'a str),
    Logins,
}

impl Gate {
    /// Without a client yet.
    pub(super) fn new(settings: &Http, limited: Arc<Limited>) -> Self {
        Self { settings: settings.clone(), table: Table::new(settings.rate.clients), limited }
    }

    /// Where a request comes from, as far as a proxy that is trusted says.
    pub(super) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        peer.map(|peer| client::address(peer, headers, &self.settings))
    }

    /// Lets an address call a route.
    pub(super) fn enter(&self, address: Option<IpAddr>, target: &Target) -> Result<(), TooOften> {
        let who = address.map(network);
        self.each(target, By::Address, who, |rates| rates.per_address)
    }

    /// Lets a user call a route.
    pub(super) fn enter_as(&self, user: &str, target: &Target) -> Result<(), TooOften> {
        self.each(target, By::User, Some(user), |rates| rates.per_user)
    }

    /// Lets an address show a token.
    pub(super) fn may_log_in(&self, address: Option<IpAddr>) -> Result<(), TooOften> {
        let (Some(rate), Some(address)) = (self.settings.rate.failed_logins, address) else { return Ok(()) };
        let wait = self.table.wait(&(Scope::Logins, network(address)), rate, Instant::now());
        wait.map_or(Ok(()), |wait| Err(self.refuse(By::Logins, wait)))
    }

    /// Counts a token that was not good.
    pub(super) fn failed(&self, address: Option<IpAddr>) {
        if let (Some(rate), Some(address)) = (self.settings.rate.failed_logins, address) {
            // Others of the address may have used it up meanwhile.
            let _ = self.table.take(&(Scope::Logins, network(address)), rate, Instant::now());
        }
    }

    fn each<W: Hash + Copy>(
        &self,
        target: &Target,
        by: By,
        who: Option<W>,
        rate: impl Fn(&Rates) -> Option<Rate>,
    ) -> Result<(), TooOften> {
        let Some(who) = who else { return Ok(()) };
        let (handler, route) = (&*target.handler, &target.route);
        for (scope, rates) in [
            (Scope::Route(handler, &route.method, &route.path), &route.rates),
            (Scope::Handler(handler), &target.rates),
            (Scope::All, &self.settings.rate.all),
        ] {
            let Some(rate) = rate(rates) else { continue };
            // A user is not an address that looks the same.
            let key = (scope, by as u8, who);
            self.table.take(&key, rate, Instant::now()).map_err(|wait| self.refuse(by, wait))?;
        }
        Ok(())
    }

    fn refuse(&self, by: By, wait: Duration) -> TooOften {
        let count = match by {
            By::Address => &self.limited.by_address,
            By::User => &self.limited.by_user,
            By::Logins => &self.limited.by_logins,
        };
        count.fetch_add(1, Ordering::Relaxed);
        TooOften { by, wait }
    }
}

/// What one client can choose its addresses from: of IPv6, a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// Rows by the hash of what they are of: the generic cell rate algorithm (ITU-T I.371), which is a token bucket in one number.
struct Table {
    rows: usize,
    /// Made when the first client is counted.
    sets: OnceLock<Box<[Mutex<[Row; WAYS]>]>>,
    hash: RandomState,
    began: Instant,
}

#[derive(Clone, Copy, Default)]
struct Row {
    key: u64,
    /// When the bucket is full again, nanoseconds from `began`.
    full: u64,
}

impl Table {
    fn new(rows: usize) -> Self {
        Self { rows, sets: OnceLock::new(), hash: RandomState::new(), began: Instant::now() }
    }

    /// Takes one from a bucket, or says after how long it can be taken.
    fn take(&self, key: &impl Hash, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.look(key, rate, now, true)
    }

    /// After how long one can be taken, if not now.
    fn wait(&self, key: &impl Hash, rate: Rate, now: Instant) -> Option<Duration> {
        self.look(key, rate, now, false).err()
    }

    fn look(&self, key: &impl Hash, rate: Rate, now: Instant, take: bool) -> Result<(), Duration> {
        let key = self.hash.hash_one(key);
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (now, per) = (nanos(now.saturating_duration_since(self.began)), nanos(rate.per));
        let one = per / u64::from(rate.count.max(1));
        let sets = self.sets.get_or_init(|| (0..self.rows.div_ceil(WAYS).max(1)).map(|_| Mutex::default()).collect());
        let place = usize::try_from(key % sets.len() as u64).unwrap_or(0);
        let Some(set) = sets.get(place) else { return Ok(()) };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let row = match set.iter().position(|row| row.key == key) {
            Some(there) => set.get_mut(there),
            None if !take => return Ok(()),
            None => {
                let free = set.iter_mut().min_by_key(|row| row.full);
                free.map(|row| {
                    *row = Row { key, full: 0 };
                    row
                })
            }
        };
        let Some(row) = row else { return Ok(()) };
        let full = row.full.max(now).saturating_add(one);
        match full.checked_sub(now.saturating_add(per)).filter(|early| *early > 0) {
            Some(early) => Err(Duration::from_nanos(early)),
            None => {
                if take {
                    row.full = full;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RATE: Rate = Rate { count: 3, per: Duration::from_secs(3) };

    #[test]
    fn h5_a_client_has_its_rate_and_what_it_has_saved_up() {
        let table = Table::new(100);
        let at = |millis: u64| table.began + Duration::from_millis(millis);
        for _ in 0..3 {
            assert_eq!(table.take(&"a", RATE, at(0)), Ok(()));
        }
        assert_eq!(table.take(&"a", RATE, at(0)), Err(Duration::from_secs(1)));
        assert_eq!(table.take(&"a", RATE, at(400)), Err(Duration::from_millis(600)));
        assert_eq!(table.wait(&"a", RATE, at(1_000)), None);
        assert_eq!(table.take(&"a", RATE, at(1_000)), Ok(()));
        assert_eq!(table.wait(&"a", RATE, at(1_000)), Some(Duration::from_secs(1)));
        assert_eq!(table.take(&"b", RATE, at(1_000)), Ok(()));
        // Nothing is saved up beyond it.
        let taken = (0..10).filter(|_| table.take(&"a", RATE, at(60_000)).is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn h5_whoever_calls_the_table_does_not_grow_and_the_busiest_stays() {
        let table = Table::new(64);
        let now = table.began;
        for _ in 0..3 {
            table.take(&"busy", RATE, now).unwrap();
        }
        for client in 0..10_000 {
            let _ = table.take(&client, RATE, now);
        }
        assert_eq!(table.sets.get().unwrap().len() * WAYS, 64);
        assert!(
            table.take(&"busy", RATE, now).is_err(),
            "who has called most is not forgotten for those who called once"
        );
    }

    #[test]
    fn h5_a_network_of_ipv6_is_one_client() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
