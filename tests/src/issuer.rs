//! Who issues tokens: keys made with openssl, tokens signed with them, and the key set that it publishes.

use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

struct Key {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Value,
    published: bool,
}

/// An issuer with its keys.
#[derive(Default)]
pub struct Issuer {
    keys: Mutex<Vec<Key>>,
}

/// Seconds since the Unix epoch, that many from now.
pub fn in_seconds(seconds: i64) -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64 + seconds
}

impl Issuer {
    /// One that publishes these keys.
    pub fn new(keys: &[(&str, Algorithm)]) -> Self {
        let issuer = Self::default();
        for (id, algorithm) in keys {
            issuer.make(id, *algorithm);
            issuer.publish(id, true);
        }
        issuer
    }

    /// Makes a key, which is not published yet.
    pub fn make(&self, id: &str, algorithm: Algorithm) {
        let kind: &[&str] = match algorithm {
            Algorithm::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Algorithm::ES384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Algorithm::EdDSA => &["-algorithm", "ED25519"],
            _ => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let output = Command::new("openssl").arg("genpkey").args(kind).output();
        let output = output.expect("run openssl, which `.ci/setup tests` installs");
        assert!(output.status.success(), "openssl genpkey: {}", String::from_utf8_lossy(&output.stderr));
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&output.stdout),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&output.stdout),
            _ => EncodingKey::from_rsa_pem(&output.stdout),
        };
        let key = key.expect("a private key");
        let mut public = json!(Jwk::from_encoding_key(&key, algorithm).expect("its public half"));
        public["kid"] = json!(id);
        public["use"] = json!("sig");
        self.keys.lock().unwrap().push(Key { id: id.to_owned(), algorithm, key, public, published: false });
    }

    /// Publishes a key, or withdraws it.
    pub fn publish(&self, id: &str, published: bool) {
        let mut keys = self.keys.lock().unwrap();
        keys.iter_mut().find(|key| key.id == id).expect("a key that was made").published = published;
    }

    /// The key set, as it is published now.
    pub fn set(&self) -> Value {
        let keys = self.keys.lock().unwrap();
        json!({ "keys": keys.iter().filter(|key| key.published).map(|key| &key.public).collect::<Vec<_>>() })
    }

    /// A token that a key signs, and names; `claims` are over a subject `7` and five minutes.
    pub fn sign(&self, id: &str, claims: &Value) -> String {
        self.sign_as(Some(id), id, claims)
    }

    /// One that does not say with which key it is signed.
    pub fn sign_without_kid(&self, id: &str, claims: &Value) -> String {
        self.sign_as(None, id, claims)
    }

    fn sign_as(&self, kid: Option<&str>, id: &str, claims: &Value) -> String {
        let keys = self.keys.lock().unwrap();
        let key = keys.iter().find(|key| key.id == id).expect("a key that was made");
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(key.algorithm) };
        let mut all = json!({ "sub": "7", "iat": in_seconds(0), "exp": in_seconds(300) });
        for (name, value) in claims.as_object().expect("claims") {
            all[name] = value.clone();
        }
        jsonwebtoken::encode(&header, &all, &key.key).expect("sign a token")
    }
}
