//! Tokens that callers must know, as of the admin API: compared, and never told.
//!
//! Only their hashes are kept. How long a comparison takes says nothing about a token.

use hyper::header::HeaderMap;
use sha2::{Digest as _, Sha256};

use crate::http::jwt::Unauthorized;
use crate::http::problem::Problem;
use crate::http::request;

/// A token's SHA-256, which is all that is kept of it. Tokens are long and random, so it needs neither salt nor slowness.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl Hash {
    /// Of a token.
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Of the token that a request bears.
    pub(super) fn given(headers: &HeaderMap) -> Result<Self, Problem> {
        let value = request::authorization(headers)?.ok_or(Unauthorized::NoToken)?;
        match value.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(Self::of(token)),
            _ => Err(Unauthorized::NoToken.into()),
        }
    }

    /// Whether both are of the same token.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

/// The token of a listener.
pub(super) struct Token {
    hash: Hash,
    /// What somebody is told who sends another one.
    wrong: &'static str,
}

impl Token {
    /// The token, and what somebody is told who sends another one.
    pub(super) fn new(token: &[u8], wrong: &'static str) -> Self {
        Self { hash: Hash::of(token), wrong }
    }

    /// Refuses a request that does not bear it.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match Hash::given(headers)?.is(&self.hash) {
            true => Ok(()),
            false => Err(Unauthorized::Invalid(self.wrong).into()),
        }
    }
}
