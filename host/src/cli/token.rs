//! `tidemill token`: a bearer token for trying things out, signed with the secret that the daemon checks with.
//!
//! It prints the token and nothing else, so that it can stand inside another command.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{Config, say};
use crate::clock;
use crate::http::secret;
use crate::settings::{Jwt, units};

/// `tidemill token`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Whom the token names: its subject (`sub`).
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    user: String,
    /// How long it is valid.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = units::duration)]
    ttl: Duration,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Prints a token.
///
/// # Errors
/// The settings are wrong, name a public key, or the secret cannot be read or made.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load()?;
    let secret = secret::load_or_create(&settings)?;
    say(&sign(&secret, &settings.http.jwt, &arguments.user, arguments.ttl, clock::now())?)
}

/// A token that says `user`, from `now` (milliseconds since the Unix epoch) on, for `ttl`.
pub(crate) fn sign(secret: &[u8], jwt: &Jwt, user: &str, ttl: Duration, now: i64) -> anyhow::Result<String> {
    let iat = now.div_euclid(1_000);
    let claims = Claims {
        sub: user,
        iat,
        exp: iat.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
        iss: jwt.issuer.as_deref(),
        aud: jwt.audience.as_deref(),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
        .context("sign the token")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;
    use crate::settings::Settings;

    #[test]
    fn a_token_names_the_user_until_it_expires() {
        let text = "[http.jwt]\nissuer = \"us\"\naudience = \"them\"";
        let settings = Settings::parse(text, "tidemill.toml").unwrap();
        let secret = [7u8; 32];
        let token = sign(&secret, &settings.http.jwt, "7", Duration::from_secs(60), 5_999).unwrap();

        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.set_issuer(&["us"]);
        validation.set_audience(&["them"]);
        let claims =
            decode::<serde_json::Value>(&token, &DecodingKey::from_secret(&secret), &validation).unwrap().claims;
        assert_eq!(claims, serde_json::json!({ "sub": "7", "iat": 5, "exp": 65, "iss": "us", "aud": "them" }));
        assert!(decode::<serde_json::Value>(&token, &DecodingKey::from_secret(b"other"), &validation).is_err());
    }
}
