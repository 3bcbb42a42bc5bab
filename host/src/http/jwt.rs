//! Bearer tokens (RFC 6750, RFC 7519): who makes a request.
//!
//! A token is good when it is signed with the one algorithm and key that the operator chose, or with one of an issuer's keys and the
//! algorithm of that, names a subject, and has not expired; a token never chooses its own algorithm. What is answered about a bad one
//! says nothing of the key. This file makes no tokens.

use std::path::Path;

use anyhow::{Context, bail};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use crate::fetch::Fetcher;
use crate::http::jwks::{Keys, Origin};
use crate::http::secret;
use crate::settings::{Jwt, JwtKey, Settings};

/// An encoded RSA public key of 2048 bits has 270 bytes, one of 1024 bits 140.
const RSA_BYTES: usize = 256;
/// An uncompressed point on the curve P-256.
const P256_BYTES: usize = 65;

/// Checks bearer tokens.
#[derive(Debug)]
pub struct Verifier {
    by: By,
    /// For the algorithm of the one key; with an issuer's keys each has its own.
    validation: Validation,
}

/// What tokens are checked by.
#[derive(Debug)]
enum By {
    One(DecodingKey),
    Issuer(Keys),
}

/// Why a request is answered 401. The text goes to the client, and into a header: plain ASCII without `"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// There is no `Authorization: Bearer` header.
    #[error("this route needs a header `Authorization: Bearer <token>`")]
    NoToken,
    /// There is one, and it is not good.
    #[error("{0}")]
    Invalid(&'static str),
    /// The issuer's keys could not be fetched since the daemon started: that is answered 503.
    #[error("the keys that tokens are checked with are not there yet: come again")]
    NoKeys,
}

#[derive(serde::Deserialize)]
struct Claims {
    sub: Option<serde_json::Value>,
}

impl Verifier {
    /// Read the key that the settings name.
    ///
    /// # Errors
    /// The key cannot be read, or is none for the algorithm; the error names the setting.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let jwt = &settings.http.jwt;
        let (algorithm, key) = match &jwt.key {
            JwtKey::Generated | JwtKey::Secret(_) | JwtKey::SecretFile(_) => {
                (Algorithm::HS256, DecodingKey::from_secret(&secret::load_or_create(settings)?))
            }
            JwtKey::Rs256(file) => (Algorithm::RS256, public_key(file, Algorithm::RS256)?),
            JwtKey::Es256(file) => (Algorithm::ES256, public_key(file, Algorithm::ES256)?),
            JwtKey::JwksFile(file) => {
                let keys = Keys::start(Origin::File(file.clone())).context("http.jwt.jwks-file")?;
                return Ok(Self { by: By::Issuer(keys), validation: validation(Algorithm::RS256, jwt) });
            }
            JwtKey::JwksUrl { url, ca, refresh } => {
                let fetcher = Fetcher::new(url.clone(), ca.as_deref()).context("http.jwt.jwks-ca-file")?;
                let keys = Keys::start(Origin::Url { fetcher, refresh: *refresh })?;
                return Ok(Self { by: By::Issuer(keys), validation: validation(Algorithm::RS256, jwt) });
            }
        };
        Ok(Self::with_key(algorithm, key, jwt))
    }

    /// Check with a key that is at hand.
    pub(super) fn with_key(algorithm: Algorithm, key: DecodingKey, jwt: &Jwt) -> Self {
        Self { by: By::One(key), validation: validation(algorithm, jwt) }
    }

    /// The subject of the token in an `Authorization` header; a whole number as its decimal text.
    ///
    /// # Errors
    /// There is no token, or it is not good.
    pub fn verify(&self, authorization: Option<&[u8]>) -> Result<String, Unauthorized> {
        let token = authorization.and_then(bearer).ok_or(Unauthorized::NoToken)?;
        let header = jsonwebtoken::decode_header(token).map_err(|error| refused(error.kind()))?;
        // RFC 7515, 4.1.11: an extension that must be understood, and is not.
        if header.crit.is_some() {
            return Err(Unauthorized::Invalid("the token has a critical header that is not supported"));
        }
        let token = match &self.by {
            By::One(key) => jsonwebtoken::decode::<Claims>(token, key, &self.validation),
            By::Issuer(keys) => {
                let found = keys.find(header.kid.as_deref(), header.alg)?;
                let mut validation = self.validation.clone();
                validation.algorithms = vec![found.algorithm];
                jsonwebtoken::decode(token, &found.key, &validation)
            }
        };
        let token = token.map_err(|error| refused(error.kind()))?;
        match token.claims.sub {
            Some(serde_json::Value::String(sub)) if !sub.is_empty() => Ok(sub),
            Some(serde_json::Value::Number(sub)) if sub.is_i64() || sub.is_u64() => Ok(sub.to_string()),
            Some(serde_json::Value::Null) | None => Err(Unauthorized::Invalid("the token has no subject (sub)")),
            Some(_) => Err(Unauthorized::Invalid("the token's subject (sub) is neither text nor a whole number")),
        }
    }
}

/// What is asked of a token's claims.
fn validation(algorithm: Algorithm, jwt: &Jwt) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = jwt.leeway.as_secs();
    validation.validate_nbf = true;
    let mut required = vec!["exp"];
    if let Some(issuer) = &jwt.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    match &jwt.audience {
        Some(audience) => {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        None => validation.validate_aud = false,
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// The token of `Bearer <token>`. RFC 9110, 11.1: the scheme's case does not matter.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked("Bearer ".len())?;
    let token = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

/// What the client is told.
fn refused(kind: &ErrorKind) -> Unauthorized {
    Unauthorized::Invalid(match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidSignature => "the token's signature does not verify",
        ErrorKind::InvalidAlgorithm => "the token is signed with another algorithm than expected",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token has no valid expiry (exp)",
            "iss" => "the token has no issuer (iss)",
            "aud" => "the token has no audience (aud)",
            _ => "the token lacks a claim",
        },
        _ => "the token is malformed",
    })
}

/// Read a public key in PEM.
fn public_key(file: &Path, algorithm: Algorithm) -> anyhow::Result<DecodingKey> {
    let setting = "http.jwt.public-key-file";
    let name = file.display();
    let pem = std::fs::read(file).with_context(|| format!("read {name} ({setting})"))?;
    if pem.windows(11).any(|part| part == b"PRIVATE KEY") {
        bail!(
            "{name} ({setting}) holds a private key, which the host must not have: \
             put the public part there, made with `openssl pkey -in KEY -pubout`"
        );
    }
    let (key, good, want) = match algorithm {
        Algorithm::ES256 => (DecodingKey::from_ec_pem(&pem), P256_BYTES..=P256_BYTES, "an EC public key on P-256"),
        _ => (DecodingKey::from_rsa_pem(&pem), RSA_BYTES..=usize::MAX, "an RSA public key of at least 2048 bits"),
    };
    match key {
        Ok(key) if key.try_get_as_bytes().is_ok_and(|bytes| good.contains(&bytes.len())) => Ok(key),
        _ => bail!("{name} ({setting}) is not {want} in PEM, as http.jwt.algorithm = \"{algorithm:?}\" needs"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"a secret of thirty-two bytes ...";
    // Keys that were made for these tests with `openssl genpkey` and are used nowhere else.
    const RSA: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDp374m9llMOIHn
LstiSqINiNa0PSsIByU+8+ZCPWQa5ROFM3o3lMCdwRFCDaMgU9NybbqlVCz36N1h
tlib0qpmwe8NIyy3/NY+MwJbIJHAOgcYNr7N3StLaDCpbiastSO/fUCUkk3F3Evc
RdQAkWUuliejWCIHLX5etYA3uEcGEYZgempEUUz/I/QRq5sOfEGOzm5cBW81uGyg
OkG/jQGusiOWOEPpVgJJfN4l/j6L8NySVDtvgG2EkiPia4daKufeq1l3VV5xrl3f
LeMCZ6tCTwNqIlbEIniDYZnqy1v7aD5FZotlTQ0puuQ3KDeejDnpkC9ojDBsoAYD
DPslH3mdAgMBAAECggEAMQJTgSuvk9LlmfIK6cqVAfwSbgvBaDnDGtmWf3wI7b/i
Ys/iRSJ1aLmMKcjczcnzLfADpGCq2bqhJbhGAkVXsxfhxeGAnf+sT7V1wW3mTR97
3B2gx1gZGgC37dFo5llBKAAR1/B+vr9G4F57qjDNwMDzhn3SB6oHaMZlG4gQzhrY
ZJmQVRt425JI9dwckBxBGQ8dOdjBGvXF2CQcebmr3uVehiF5G9NLe7sKQ38xHLS5
BnFfhL9+GCObBaZgzKCRMJG2IFnplneHi0O8GH5aPlUOqjB/pSp1cLsQbIPCtnAu
Kz2U9qLsz4oZ2CYD0ZqNaicIaE/+WO4WnmqJHol8QQKBgQD/wb6iisOVcRO74WxZ
ztIyslem8Wd+FOQuDibeGvSXGC1D8LtOCJeT7+YJLjzYQNKWDDH4BCJgVVVZEPr4
U5xhJulTgb5m9s3OnJVWKZWL02VTRW7+IkyAy/iM+Cs0ra3kfUBdZ2n+9AscQer8
6WQL67Ud9cDSTcjYF0T+ojO9oQKBgQDqGKvmUfGX/uRWyyYSq8+T3XBLywa4qXnV
AsI54cCVv7gxSsO+VTPXla+WL4wmnCIXrVr/IKMggydL9IEhjxLEBicPjHmUvkUY
4x0iOmLrDMPF8r2oU6fIoHt+FcmdfYY4bREVhZ7ET1Zyy0EDk3UNjaGbh/syQrvv
cBRiTlyifQKBgFqLmxQskGW97MCdZCC/agdswD9oQ72NY+MyO2xymplLg+sDtSxB
Onize/tQFVZyTJu2oZIu1ITKcTbhHhkAcOKsRfq8ek41nlNBeFVSz5D7PGoosMzk
E7WdgNdXnOQ/gMrd1QW8cPhEKhLM+4aikjruLeb3dFaAF1T5mAGWJz9BAoGBAIR8
8BULPYN7o/mnQeYBTRrvkZWj0ysB58zxocEmjltyRSnImZ4IFK4nrld+k4BqjzT9
TOnlq81DzSLEv6yhj8pXfRXkuA7B3NNn/l4X01IaSFaoukQhDG2Uvi+u3wt+Nk+L
Escud5u9Fz0i4anHc9D23obq3/UjJcAum6rDlNP1AoGATAGEsEIdkEaTC+AwN0ZI
uUrBJ75SVR8mUK65eZ6bo52CDIO8OBk+UowyfsmYdeCcnN9fVcCVHIrW+GaScyWw
+bj8qsQr0vb3olgVNUaFzwXTxZ4gXvKXSxe3uFP04CvXODNmZplah+W17Ke5KONl
Bac2JUk2f/0gg14ZXFZQ+BQ=
-----END PRIVATE KEY-----
";
    const RSA_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA6d++JvZZTDiB5y7LYkqi
DYjWtD0rCAclPvPmQj1kGuUThTN6N5TAncERQg2jIFPTcm26pVQs9+jdYbZYm9Kq
ZsHvDSMst/zWPjMCWyCRwDoHGDa+zd0rS2gwqW4mrLUjv31AlJJNxdxL3EXUAJFl
LpYno1giBy1+XrWAN7hHBhGGYHpqRFFM/yP0EaubDnxBjs5uXAVvNbhsoDpBv40B
rrIjljhD6VYCSXzeJf4+i/DcklQ7b4BthJIj4muHWirn3qtZd1Veca5d3y3jAmer
Qk8DaiJWxCJ4g2GZ6stb+2g+RWaLZU0NKbrkNyg3now56ZAvaIwwbKAGAwz7JR95
nQIDAQAB
-----END PUBLIC KEY-----
";
    const RSA_1024_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDPF0yIi+g54YLxTbTUJ3TdIID4
3Gbzql7ABSGQ1XawiCszT4BInj/5x4BtxRunthkLvqHw/8AtLcTTuk8HPm4ts6H6
gcBUCGQXFKSmwDOgZR0oa78YHADugKRsnRbw/FyrSa92ytUTCpVdQapDM3KggWV0
lnoE0c49sB5Cp+dlcwIDAQAB
-----END PUBLIC KEY-----
";
    const EC: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgwpHOW2/rMZvCIf4j
9f+d9geHhAj2bG71qrX8Vq1QicuhRANCAATLSIsQhEW9YSkpmkV5ViGIHBKkTQtB
GtFcvUfHiurGRfoVdw6i9qlHXw6AqohTWJ/4JB/wfb7FMu4h1q1SqgIu
-----END PRIVATE KEY-----
";
    const EC_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy0iLEIRFvWEpKZpFeVYhiBwSpE0L
QRrRXL1Hx4rqxkX6FXcOovapR18OgKqIU1if+CQf8H2+xTLuIdatUqoCLg==
-----END PUBLIC KEY-----
";
    const EC_P384_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEiM6o+3ErKok/ElWJMTvVYPEkuaYX7lba
Qb4NH0PSRIkFYo0yUCtCNHyVkVC3PTRRsDHoIPqDG0nyvriqF70vCOqA9ILoUcEb
sgSyBDORZHF5kJA70+qHLbmfdJNk0Ils
-----END PUBLIC KEY-----
";

    fn jwt(issuer: Option<&str>, audience: Option<&str>) -> Jwt {
        Jwt {
            key: JwtKey::Generated,
            issuer: issuer.map(str::to_owned),
            audience: audience.map(str::to_owned),
            leeway: std::time::Duration::from_secs(30),
        }
    }

    fn hs256(settings: &Jwt) -> Verifier {
        Verifier::with_key(Algorithm::HS256, DecodingKey::from_secret(SECRET), settings)
    }

    /// Seconds from now, as `exp` and `nbf` have them.
    fn at(seconds: i64) -> i64 {
        crate::clock::now() / 1000 + seconds
    }

    fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
        format!("Bearer {}", jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap())
    }

    fn sign_hs256(claims: &Value) -> String {
        sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET), claims)
    }

    fn check(verifier: &Verifier, authorization: &str) -> Result<String, String> {
        verifier.verify(Some(authorization.as_bytes())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_token_names_its_subject() {
        let verifier = hs256(&jwt(None, None));
        for (sub, user) in [(json!("7"), "7"), (json!(7), "7"), (json!(-7), "-7"), (json!("주문"), "주문")] {
            let token = sign_hs256(&json!({"sub": sub, "exp": at(60), "iss": "any", "aud": ["any"]}));
            assert_eq!(check(&verifier, &token).as_deref(), Ok(user));
            assert_eq!(check(&verifier, &token.replacen("Bearer ", "bearer  ", 1)).as_deref(), Ok(user));
        }
    }

    #[test]
    fn claims_are_checked() {
        let verifier = hs256(&jwt(Some("me"), Some("shop")));
        let good = json!({"sub": "7", "exp": at(60), "nbf": at(0), "iss": "me", "aud": ["other", "shop"]});
        assert_eq!(check(&verifier, &sign_hs256(&good)).as_deref(), Ok("7"));
        for (claim, value, reason) in [
            ("exp", json!(at(-3600)), "expired"),
            ("exp", Value::Null, "no valid expiry"),
            ("exp", json!("tomorrow"), "no valid expiry"),
            ("nbf", json!(at(3600)), "not valid yet"),
            ("iss", json!("you"), "another issuer"),
            ("iss", Value::Null, "no issuer"),
            ("aud", json!("bank"), "another audience"),
            ("aud", Value::Null, "no audience"),
            ("sub", Value::Null, "no subject"),
            ("sub", json!(""), "subject"),
            ("sub", json!(1.5), "subject"),
            ("sub", json!(["7"]), "malformed"),
            ("sub", json!(true), "subject"),
        ] {
            let mut claims = good.clone();
            claims[claim] = value.clone();
            let error = check(&verifier, &sign_hs256(&claims)).unwrap_err();
            assert!(error.contains(reason) || error.contains("subject"), "{claim} = {value}: {error}");
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(claim);
                assert_eq!(check(&verifier, &sign_hs256(&claims)), Err(error));
            }
        }
    }

    #[test]
    fn leeway_is_small() {
        let verifier = hs256(&jwt(None, None));
        assert!(check(&verifier, &sign_hs256(&json!({"sub": "7", "exp": at(-10)}))).is_ok());
        assert!(check(&verifier, &sign_hs256(&json!({"sub": "7", "exp": at(-45)}))).is_err());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let verifier = hs256(&jwt(None, None));
        assert_eq!(verifier.verify(None), Err(Unauthorized::NoToken));
        for header in ["", "Bearer", "Bearer ", "Basic dTpw", "token"] {
            assert_eq!(verifier.verify(Some(header.as_bytes())), Err(Unauthorized::NoToken), "{header}");
        }
        assert_eq!(verifier.verify(Some(b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe")), Err(Unauthorized::NoToken));
        let good = sign_hs256(&json!({"sub": "7", "exp": at(60)}));
        for header in ["Bearer x", "Bearer ..", "Bearer a.b.c", "Bearer \u{0}.\u{1}.", &good[..good.len() - 1]] {
            assert!(matches!(verifier.verify(Some(header.as_bytes())), Err(Unauthorized::Invalid(_))), "{header}");
        }
        let (rest, _) = good.rsplit_once('.').unwrap();
        assert!(check(&verifier, &format!("{rest}.")).unwrap_err().contains("signature"));
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        let claims = json!({"sub": "7", "exp": at(60)});
        let rsa = Verifier::with_key(
            Algorithm::RS256,
            DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes()).unwrap(),
            &jwt(None, None),
        );
        let ec = Verifier::with_key(
            Algorithm::ES256,
            DecodingKey::from_ec_pem(EC_PUBLIC.as_bytes()).unwrap(),
            &jwt(None, None),
        );
        let hs = hs256(&jwt(None, None));
        let rsa_key = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
        let by_rsa = sign(Algorithm::RS256, &rsa_key, &claims);
        let by_ec = sign(Algorithm::ES256, &EncodingKey::from_ec_pem(EC.as_bytes()).unwrap(), &claims);
        assert_eq!(check(&rsa, &by_rsa).as_deref(), Ok("7"));
        assert_eq!(check(&ec, &by_ec).as_deref(), Ok("7"));

        // The public key, used as if it were an HMAC secret.
        let confused = sign(Algorithm::HS256, &EncodingKey::from_secret(RSA_PUBLIC.as_bytes()), &claims);
        let by_pss = sign(Algorithm::PS256, &rsa_key, &claims);
        let by_hs512 = sign(Algorithm::HS512, &EncodingKey::from_secret(SECRET), &claims);
        for (verifier, token) in [(&rsa, &confused), (&rsa, &by_pss), (&rsa, &by_ec), (&ec, &by_rsa), (&hs, &by_rsa)] {
            assert!(check(verifier, token).unwrap_err().contains("another algorithm"));
        }
        assert!(check(&hs, &by_hs512).unwrap_err().contains("another algorithm"));

        // {"alg":"none","typ":"JWT"}
        let payload = by_hs512.split('.').nth(1).unwrap();
        let none = format!("Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        for verifier in [&rsa, &ec, &hs] {
            assert!(check(verifier, &none).is_err());
        }
        let other = sign(Algorithm::HS256, &EncodingKey::from_secret(b"another secret of thirty-two byt"), &claims);
        assert!(check(&hs, &other).unwrap_err().contains("signature"));
        let mut header = Header::new(Algorithm::HS256);
        header.crit = Some(vec!["b64".to_owned()]);
        let critical = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET)).unwrap();
        assert!(check(&hs, &format!("Bearer {critical}")).unwrap_err().contains("critical"));
    }

    #[test]
    fn a_key_file_that_cannot_work_is_refused_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        for (pem, algorithm, reason) in [
            (RSA_PUBLIC, Algorithm::RS256, None),
            (EC_PUBLIC, Algorithm::ES256, None),
            (RSA_PUBLIC, Algorithm::ES256, Some("EC public key on P-256")),
            (EC_PUBLIC, Algorithm::RS256, Some("RSA public key")),
            (EC_P384_PUBLIC, Algorithm::ES256, Some("EC public key on P-256")),
            (RSA_1024_PUBLIC, Algorithm::RS256, Some("at least 2048 bits")),
            (RSA, Algorithm::RS256, Some("openssl pkey")),
            (EC, Algorithm::ES256, Some("openssl pkey")),
            ("", Algorithm::RS256, Some("RSA public key")),
        ] {
            std::fs::write(&file, pem).unwrap();
            match (public_key(&file, algorithm), reason) {
                (Ok(_), None) => {}
                (Err(error), Some(reason)) => {
                    let error = error.to_string();
                    assert!(error.contains(reason) && error.contains("http.jwt.public-key-file"), "{error}");
                }
                (result, reason) => panic!("{:?}, expected {reason:?}", result.map(drop)),
            }
        }
        let error = public_key(&folder.path().join("none.pem"), Algorithm::RS256).unwrap_err().to_string();
        assert!(error.contains("none.pem") && error.contains("http.jwt.public-key-file"), "{error}");
    }
}
