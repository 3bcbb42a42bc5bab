//! Identity: what a delivery is known by, and the ids and random numbers that follow from it.
//!
//! Everything here is a pure function of the store's secret and the input's id: a delivery that is run again
//! gets the same event ids and draws the same numbers. Nothing here reads a clock or the system's randomness.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::settings::units;

/// What a delivery was started for; names the input for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputId {
    /// A record, by its topic's id (KIP-516), partition and offset.
    Record {
        /// The topic's id: two topics of one name, made one after the other, differ.
        topic_id: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// An event that Kafka has refused, by its id.
    Event {
        /// The id.
        event_id: String,
    },
    /// A timer, by its name and due time.
    Timer {
        /// The name in the manifest's `[[schedule]]`.
        name: String,
        /// Milliseconds since the Unix epoch.
        due: i64,
    },
    /// An HTTP request, by route, user and idempotency key (or a random id where it has none).
    Request {
        /// Method and path of the route.
        route: String,
        /// The token's subject.
        user: String,
        /// The `Idempotency-Key`, or a random id.
        key: String,
    },
}

impl InputId {
    fn feed(&self, hash: &mut Sha256) {
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Record { topic_id, partition, offset } => {
                part(b"record");
                part(topic_id.as_bytes());
                part(&partition.to_le_bytes());
                part(&offset.to_le_bytes());
            }
            Self::Event { event_id } => {
                part(b"event");
                part(event_id.as_bytes());
            }
            Self::Timer { name, due } => {
                part(b"timer");
                part(name.as_bytes());
                part(&due.to_le_bytes());
            }
            Self::Request { route, user, key } => {
                part(b"request");
                part(route.as_bytes());
                part(user.as_bytes());
                part(key.as_bytes());
            }
        }
    }

    /// As written into the ledger's `source` columns.
    pub fn describe(&self, topic: &str) -> String {
        match self {
            Self::Record { partition, offset, .. } => format!("{topic}/{partition}@{offset}"),
            Self::Event { event_id } => event_id.clone(),
            Self::Timer { name, due } => format!("timer {name}@{}", units::show_time(*due)),
            Self::Request { route, key, .. } => format!("{route} {key}"),
        }
    }
}

/// The source of one delivery's ids and random numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed")
    }
}

impl Seed {
    /// The seed of the delivery that `handler` makes of `input`. Attempts share it, since an attempt that fails
    /// leaves nothing behind.
    pub fn derive(store_secret: &[u8], handler: &str, input: &InputId) -> Self {
        let mut hash = Sha256::new();
        hash.update((store_secret.len() as u64).to_le_bytes());
        hash.update(store_secret);
        hash.update((handler.len() as u64).to_le_bytes());
        hash.update(handler);
        input.feed(&mut hash);
        Self(hash.finalize().into())
    }

    /// The seed of the delivery that compensates the input.
    pub fn compensating(&self) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update("compensate");
        Self(hash.finalize().into())
    }

    /// The seed of the delivery that is told what became of the `n`-th event of this one.
    pub fn completing(&self, n: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update("completed");
        hash.update(n.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// The id of the `n`-th event of the delivery, from 0: a UUIDv8 (RFC 9562) that begins with `at` (the input's
    /// time, milliseconds since the Unix epoch), so that ids in the order of time lie beside each other.
    pub fn event_id(&self, n: u32, at: i64) -> Uuid {
        self.uuid("event", n, at)
    }

    /// The id of the dead letter that the delivery's input becomes.
    pub fn dead_letter_id(&self, at: i64) -> Uuid {
        self.uuid("dead-letter", 0, at)
    }

    /// The idempotency key of the delivery's call at this position, from 0, with this fingerprint.
    pub fn call_id(&self, position: usize, fingerprint: &[u8; 32]) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update("call");
        hash.update((position as u64).to_le_bytes());
        hash.update(fingerprint);
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0u8; 16];
        bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// The trace that the delivery begins where its input is of none (W3C Trace Context); its attempts share it.
    pub fn trace_id(&self) -> [u8; 16] {
        let mut id = [0u8; 16];
        id.iter_mut().zip(self.digest("trace", 0)).for_each(|(to, from)| *to = from);
        id
    }

    /// The span of the delivery's `n`-th attempt.
    pub fn span_id(&self, n: u32) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.digest("span", n);
        [a, b, c, d, e, f, g, h]
    }

    /// A number from 0 to 1 for the wait after the `n`-th attempt.
    pub fn dice(&self, n: u32) -> f64 {
        let [a, b, c, d, ..] = self.digest("dice", n);
        f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }

    fn uuid(&self, purpose: &str, n: u32, at: i64) -> Uuid {
        let digest = self.digest(purpose, n);
        let mut bytes = [0u8; 16];
        let millis = u64::try_from(at).unwrap_or(0).to_be_bytes();
        for (to, from) in bytes.iter_mut().zip(millis.iter().skip(2).chain(digest.iter())) {
            *to = *from;
        }
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    fn digest(&self, purpose: &str, n: u32) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(purpose);
        hash.update(n.to_le_bytes());
        hash.finalize().into()
    }

    /// The delivery's random numbers. `stream` tells sources apart that must not draw from each other.
    pub fn rng(&self, stream: Stream) -> ChaCha12Rng {
        let mut rng = ChaCha12Rng::from_seed(self.0);
        rng.set_stream(stream as u64);
        rng
    }
}

/// Who draws random numbers.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// The contract's `delivery.random`.
    Delivery = 0,
    /// `wasi:random/random`.
    Wasi = 1,
    /// `wasi:random/insecure`.
    WasiInsecure = 2,
    /// SQL's `random()` and `randomblob()`.
    Sql = 3,
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The first digits of a hash, for people.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::rand_core::Rng;

    fn record(partition: i32, offset: i64) -> InputId {
        InputId::Record { topic_id: "t".into(), partition, offset }
    }

    proptest! {
        #[test]
        fn ids_depend_on_everything_and_sort_by_time(p in 0i32..100, o in 0i64..1 << 40, n in 0u32..100, at in 0i64..1 << 47) {
            let seed = Seed::derive(b"secret", "order", &record(p, o));
            let id = seed.event_id(n, at);
            prop_assert_eq!(id, Seed::derive(b"secret", "order", &record(p, o)).event_id(n, at));
            prop_assert_ne!(id, seed.event_id(n + 1, at));
            prop_assert_ne!(id, Seed::derive(b"other", "order", &record(p, o)).event_id(n, at));
            prop_assert_ne!(id, Seed::derive(b"secret", "payment", &record(p, o)).event_id(n, at));
            prop_assert_ne!(id, Seed::derive(b"secret", "order", &record(p, o + 1)).event_id(n, at));
            prop_assert!(id < seed.event_id(n, at + 1));
            prop_assert_eq!(id.get_version_num(), 8);
        }
    }

    #[test]
    fn streams_are_repeatable_and_apart() {
        let seed = Seed::derive(b"secret", "order", &record(0, 1));
        let draw = |stream| seed.rng(stream).next_u64();
        assert_eq!(draw(Stream::Sql), draw(Stream::Sql));
        assert_ne!(draw(Stream::Sql), draw(Stream::Delivery));
    }
}
