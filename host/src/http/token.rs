//! A token that callers must know, as of the admin API: compared, and never told.
//!
//! Only its hash is kept. How long a comparison takes says nothing about the token.

use hyper::header::HeaderMap;
use sha2::{Digest as _, Sha256};

use crate::http::jwt::Unauthorized;
use crate::http::problem::Problem;
use crate::http::request;

/// The token of a listener.
pub(super) struct Token {
    hash: [u8; 32],
    /// What somebody is told who sends another one.
    wrong: &'static str,
}

impl Token {
    /// The token, and what somebody is told who sends another one.
    pub(super) fn new(token: &[u8], wrong: &'static str) -> Self {
        Self { hash: Sha256::digest(token).into(), wrong }
    }

    /// Refuses a request that does not bear it.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let value = request::authorization(headers)?.ok_or(Unauthorized::NoToken)?;
        let token = match value.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
            _ => return Err(Unauthorized::NoToken.into()),
        };
        let given: [u8; 32] = Sha256::digest(token).into();
        match given.iter().zip(self.hash).fold(0, |different, (a, b)| different | (a ^ b)) {
            0 => Ok(()),
            _ => Err(Unauthorized::Invalid(self.wrong).into()),
        }
    }
}
