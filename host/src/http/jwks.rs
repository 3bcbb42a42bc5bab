//! The keys that an issuer publishes (RFC 7517), by which tokens are checked: from a file, or fetched from its URL.
//!
//! A thread of its own looks after them. Its invariant: a request never fetches. One whose token names a key that is not known has the
//! thread look again, at most once in [`AGAIN_AFTER`], and is answered with what is known. Each key is for one algorithm, its own and not
//! the token's; a set in which nothing can be used does not take the place of one in which something can.

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use crate::fetch::Fetcher;
use crate::http::jwt::Unauthorized;
use crate::policy::Backoff;

/// How soon keys are fetched again for a token whose key is not known.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two questions that were not answered with keys.
const RETRY: Backoff =
    Backoff { interval: Duration::from_secs(2), factor: 2.0, max: Duration::from_secs(60), jitter: 0.0 };
/// Keys of one set at most.
const KEYS_MAX: usize = 100;
/// An RSA key has 2048 bits at least.
const RSA_BYTES: usize = 256;

/// One key, for one algorithm.
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

type Set = Arc<[Arc<Key>]>;

/// Where keys come from.
pub(super) enum Origin {
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// Its issuer, every so often.
    Url { fetcher: Fetcher, refresh: Duration },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Url { fetcher, .. } => write!(f, "{}", fetcher.url()),
        }
    }
}

/// The keys that are known. Their thread ends with this.
pub(super) struct Keys {
    known: Arc<RwLock<Option<Set>>>,
    look: SyncSender<()>,
    asked: Mutex<Option<Instant>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Reads the file, or begins to fetch, and does not wait for it: an issuer may be away when the daemon starts.
    ///
    /// # Errors
    /// The file cannot be read, or holds no key that can be used.
    pub(super) fn start(origin: Origin) -> Result<Self> {
        let known = Arc::default();
        let mut watch = Watch { origin, known: Arc::clone(&known), last: Vec::new(), failures: 0 };
        if let Origin::File(_) = watch.origin {
            watch.read()?;
        }
        // One question is enough for all who ask while it is answered.
        let (look, looks) = sync_channel(1);
        crate::thread::spawn("jwks", move || watch.run(&looks)).context("start a thread")?;
        Ok(Self { known, look, asked: Mutex::default() })
    }

    /// The key for a token that names this one and says that it is signed with this algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, Unauthorized> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(known) = known else { return Err(Unauthorized::NoKeys) };
        let Some(id) = id else {
            let mut fit = known.iter().filter(|key| key.algorithm == algorithm);
            return match (fit.next(), fit.next()) {
                (Some(key), None) => Ok(Arc::clone(key)),
                (None, _) => Err(Unauthorized::Invalid("the token is signed with another algorithm than expected")),
                (Some(_), Some(_)) => {
                    Err(Unauthorized::Invalid("the token does not say which key it is signed with (kid)"))
                }
            };
        };
        let mut named = known.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
        if named.peek().is_none() {
            self.look_again();
            return Err(Unauthorized::Invalid("the token is signed with a key that is not known (kid)"));
        }
        let key = named.find(|key| key.algorithm == algorithm);
        key.cloned().ok_or(Unauthorized::Invalid("the token is signed with another algorithm than its key is for"))
    }

    /// Has the thread look, unless it was asked to just now.
    fn look_again(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|at| at.elapsed() >= AGAIN_AFTER) {
            *asked = Some(Instant::now());
            // A full channel has been asked already.
            let _ = self.look.try_send(());
        }
    }
}

/// What looks after the keys.
struct Watch {
    origin: Origin,
    known: Arc<RwLock<Option<Set>>>,
    /// What was read last, whether it was any good or not.
    last: Vec<u8>,
    failures: u32,
}

impl Watch {
    fn run(&mut self, looks: &Receiver<()>) {
        loop {
            let wait = self.look();
            if matches!(looks.recv_timeout(wait), Err(RecvTimeoutError::Disconnected)) {
                return;
            }
        }
    }

    /// Reads the keys, and says how long to wait until the next time.
    fn look(&mut self) -> Duration {
        match self.read() {
            Ok(Some(count)) => tracing::info!(from = %self.origin, keys = count, "the keys for tokens were read"),
            Ok(None) if self.failures > 0 => tracing::info!(from = %self.origin, "the keys for tokens are there again"),
            Ok(None) => {}
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let known =
                    self.known.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |set| set.len());
                // A file is looked at every few seconds, and a person need not be told as often.
                if self.failures == 1 || !matches!(self.origin, Origin::File(_)) {
                    tracing::error!(
                        error = format!("{error:#}"),
                        keys = known,
                        "the keys for tokens cannot be read: those that are known go on"
                    );
                }
                return match self.origin {
                    Origin::File(_) => LOOK_EVERY,
                    Origin::Url { .. } => RETRY.wait(self.failures, 0.0),
                };
            }
        }
        self.failures = 0;
        match self.origin {
            Origin::File(_) => LOOK_EVERY,
            Origin::Url { refresh, .. } => refresh,
        }
    }

    /// Takes the keys over, and tells how many there are if they are others than before.
    fn read(&mut self) -> Result<Option<usize>> {
        let bytes = match &self.origin {
            Origin::File(file) => std::fs::read(file).with_context(|| format!("read {}", file.display()))?,
            Origin::Url { fetcher, .. } => {
                let answer = fetcher.get()?;
                if answer.status != 200 {
                    bail!("{} answers {}", fetcher.url(), answer.status);
                }
                answer.body
            }
        };
        if bytes == self.last {
            return match self.failures {
                0 => Ok(None),
                // It was no good the last time either, or its place was taken by what could not be read.
                _ => parse(&bytes).map(|_| None).map_err(|wrong| anyhow!("{} {wrong}", self.origin)),
            };
        }
        self.last.clone_from(&bytes);
        let set = parse(&bytes).map_err(|wrong| anyhow!("{} {wrong}", self.origin))?;
        let count = set.len();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(set);
        Ok(Some(count))
    }
}

/// The keys of a set that can be used. Others are passed over, as RFC 7517, 5, has it, and said.
fn parse(bytes: &[u8]) -> Result<Set, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|_| "holds no JSON")?;
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Err("holds no key set: it should be JSON with a list `keys` (RFC 7517)".into());
    };
    let mut good = Vec::new();
    let mut why = "it is empty".to_owned();
    for (number, value) in keys.iter().take(KEYS_MAX).enumerate() {
        match key(value) {
            Ok(key) => good.push(Arc::new(key)),
            Err(wrong) => {
                why = format!("key {} {wrong}", number + 1);
                tracing::debug!("a key for tokens is passed over: {why}");
            }
        }
    }
    match good.is_empty() {
        true => Err(format!("holds no key that can be used: {why}")),
        false => Ok(good.into()),
    }
}

/// One key, with the algorithm that it is for: what it says, else what its kind is most used with.
fn key(value: &Value) -> Result<Key, &'static str> {
    if value.get("kty").and_then(Value::as_str) == Some("oct") || value.get("d").is_some() {
        return Err("is secret, and a published key set has public ones only");
    }
    let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|_| "is of a kind that is not known")?;
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !signs {
        return Err("is not for signatures");
    }
    let of = |valid: &[KeyAlgorithm]| match common.key_algorithm {
        None => valid.first().copied().ok_or("is for no algorithm"),
        Some(algorithm) if valid.contains(&algorithm) => Ok(algorithm),
        Some(_) => Err("is for an algorithm that its kind is not for, or that is not known"),
    };
    use KeyAlgorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).map_err(|_| "is malformed")?;
            if modulus.iter().skip_while(|byte| **byte == 0).count() < RSA_BYTES {
                return Err("is an RSA key of less than 2048 bits");
            }
            of(&[RS256, RS384, RS512, PS256, PS384, PS512])
        }
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => of(&[ES256]),
            EllipticCurve::P384 => of(&[ES384]),
            _ => Err("is on a curve other than P-256 and P-384"),
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => of(&[EdDSA]),
        _ => Err("is of a kind that is not known"),
    }?;
    Ok(Key {
        id: common.key_id.clone(),
        algorithm: algorithm.try_into().map_err(|_| "is for an algorithm that is not known")?,
        key: DecodingKey::from_jwk(&jwk).map_err(|_| "is malformed")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use serde_json::json;

    use super::*;

    /// The public half of RFC 7515's example for ES256 (A.3).
    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
    }

    fn with(mut value: Value, member: &str, of: Value) -> Value {
        value[member] = of;
        value
    }

    #[test]
    fn h5_a_key_is_for_one_algorithm_which_is_its_own() {
        assert_eq!(key(&ec()).map(|key| key.algorithm), Ok(Algorithm::ES256));
        let rsa = json!({"kty": "RSA", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode([0xff; 256])});
        assert_eq!(key(&rsa).map(|key| key.algorithm), Ok(Algorithm::RS256));
        for algorithm in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
            let key = key(&with(rsa.clone(), "alg", json!(algorithm))).map(|key| format!("{:?}", key.algorithm));
            assert_eq!(key.as_deref(), Ok(algorithm));
        }
        for (value, wrong) in [
            (with(ec(), "alg", json!("HS256")), "not for"),
            (with(ec(), "alg", json!("RS256")), "not for"),
            (with(rsa.clone(), "alg", json!("HS256")), "not for"),
            (with(rsa.clone(), "alg", json!("RSA-OAEP")), "not for"),
            (with(ec(), "use", json!("enc")), "not for signatures"),
            (with(ec(), "key_ops", json!(["encrypt"])), "not for signatures"),
            (with(ec(), "d", json!("AAAA")), "secret"),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), "secret"),
            (with(rsa, "n", json!(URL_SAFE_NO_PAD.encode([0xff; 128]))), "2048"),
            (with(ec(), "crv", json!("P-521")), "curve"),
            (json!({"kty": "new"}), "kind"),
            (json!(7), "kind"),
        ] {
            let error = key(&value).map(|key| key.algorithm).unwrap_err();
            assert!(error.contains(wrong), "{value}: {error}");
        }
    }

    #[test]
    fn h5_a_set_without_a_key_that_can_be_used_is_none() {
        let count = |set: Value| parse(set.to_string().as_bytes()).map(|set| set.len());
        assert_eq!(count(json!({"keys": [{"kty": "new"}, ec()]})), Ok(1));
        assert_eq!(count(json!({"keys": vec![ec(); KEYS_MAX + 1]})), Ok(KEYS_MAX));
        for (set, wrong) in [
            (json!({"keys": []}), "empty"),
            (json!({"keys": [{"kty": "new"}]}), "key 1 is of a kind"),
            (json!({"key": 1}), "RFC 7517"),
            (json!([]), "RFC 7517"),
        ] {
            let error = count(set).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
        assert!(parse(b"<html>").is_err());
    }
}
