//! The bearer token by which Kafka knows the clients (SASL OAUTHBEARER, KIP-255): had from its issuer or from a file, and renewed before it expires.
//!
//! One thread of the process looks after the token, and gives it to each client that is there: librdkafka asks for one only where a client is
//! polled, and some never are. Its invariant: a token and the secret that it is had with are in no message and in no log. A client
//! without a token waits, as one does whose broker is away.

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::native::{Holder, Kept, Seat};
use crate::clock;
use crate::fetch::{Answer, Fetcher};
use crate::policy::Backoff;
use crate::settings::{OAuth, TokenSource};

/// Between two questions that an issuer has not answered with a token.
const AGAIN: Backoff =
    Backoff { interval: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(30), jitter: 0.0 };
/// How often a token's file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The part of its time after which a token is renewed.
const RENEW_AFTER: f64 = 0.75;
/// How long a file's token that does not say when it expires is taken to be good, in milliseconds.
const UNKNOWN: i64 = 24 * 60 * 60 * 1_000;
/// What is encoded of an id and a secret: not what stands for itself either way, since some issuers decode nothing.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*');
/// Characters of an issuer's own words that are passed on.
const WORDS_MAX: usize = 200;

/// A token as Kafka is told it.
pub(super) struct Token {
    pub(super) text: String,
    /// Milliseconds since the Unix epoch.
    pub(super) expires: i64,
    /// Whom it names, for librdkafka's own log.
    pub(super) principal: String,
    /// SASL extensions (RFC 7628, 3.1): names and values.
    pub(super) extensions: Vec<(String, String)>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Why the last try had none.
    failure: Option<String>,
    seats: Vec<Weak<Seat>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What looks after the token. Its thread ends with the last clone.
#[derive(Clone)]
pub struct Login {
    shared: Arc<Shared>,
    _alive: Sender<()>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Login {}

impl Login {
    /// Begins to look for a token, and does not wait for it.
    ///
    /// # Errors
    /// A file of the settings cannot be read.
    pub fn start(settings: &OAuth) -> Result<Self> {
        let issuer = Issuer::new(settings).context("kafka.security.oauth")?;
        let (alive, ended) = channel();
        let login = Self { shared: Arc::default(), _alive: alive };
        let shared = login.shared.clone();
        crate::thread::spawn("kafka-login", move || look_after(issuer, &shared, &ended)).context("start a thread")?;
        Ok(login)
    }

    /// Waits for the first token, or for why there is none: for a command, which does nothing else meanwhile.
    ///
    /// # Errors
    /// There is none.
    pub fn wait(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.token.is_none() {
            if let Some(failure) = &state.failure {
                bail!("{failure}");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("kafka.security.oauth: there is no token after {within:?}");
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Gives the client the token, and each that follows.
    pub(super) fn keep<T: Holder>(&self, client: T) -> Kept<T> {
        let kept = Kept::seated(client);
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = kept.seat() {
            if let Some(token) = &state.token {
                give(seat, token);
            }
            state.seats.retain(|seat| seat.strong_count() > 0);
            state.seats.push(Arc::downgrade(seat));
        }
        kept
    }
}

fn give(seat: &Seat, token: &Token) {
    if let Err(reason) = seat.give(token) {
        tracing::error!(reason, "a Kafka client does not take the token of kafka.security.oauth");
    }
}

/// Looks after the token until nobody needs one.
fn look_after(mut issuer: Issuer, shared: &Shared, ended: &Receiver<()>) {
    let mut failures: u32 = 0;
    loop {
        let wait = match issuer.ask() {
            Ok((token, wait)) => {
                if failures > 0 {
                    tracing::info!("there is a token for Kafka again");
                }
                failures = 0;
                if let Some(token) = token {
                    shared.share(token);
                }
                wait
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let failure = format!("kafka.security.oauth: no token for Kafka: {error:#}");
                // A file is looked at each second, and a person need not be told as often.
                if failures == 1 || issuer.is_remote() {
                    tracing::error!("{failure}; trying again");
                }
                shared.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(failure);
                shared.changed.notify_all();
                AGAIN.wait(failures, 0.0)
            }
        };
        if !matches!(ended.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
            return;
        }
    }
}

impl Shared {
    fn share(&self, token: Token) {
        let token = Arc::new(token);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failure = None;
        state.seats.retain(|seat| seat.strong_count() > 0);
        for seat in state.seats.iter().filter_map(Weak::upgrade) {
            give(&seat, &token);
        }
        state.token = Some(token);
        self.changed.notify_all();
    }
}

/// Where tokens come from.
struct Issuer {
    settings: OAuth,
    fetcher: Option<Fetcher>,
    /// The file's token that was shared last.
    last: String,
}

impl Issuer {
    fn new(settings: &OAuth) -> Result<Self> {
        let fetcher = match &settings.source {
            TokenSource::Client { url, ca, .. } => Some(Fetcher::new(url.clone(), ca.as_deref())?),
            TokenSource::File(_) => None,
        };
        Ok(Self { settings: settings.clone(), fetcher, last: String::new() })
    }

    fn is_remote(&self) -> bool {
        self.fetcher.is_some()
    }

    /// A token, if there is another one, and when to ask again.
    fn ask(&mut self) -> Result<(Option<Token>, Duration)> {
        let now = clock::now();
        let (text, expires) = match (&self.settings.source, &self.fetcher) {
            (TokenSource::Client { id, secret, scope, .. }, Some(fetcher)) => {
                let secret = secret.read("kafka.security.oauth.client-secret")?;
                let mut fields = vec![("grant_type", "client_credentials")];
                fields.extend(scope.as_deref().map(|scope| ("scope", scope)));
                // RFC 6749, 2.3.1: both are encoded as a form's values first.
                let answer = fetcher.post(&encoded(id), &encoded(&secret), &fields)?;
                granted(&answer, now, &secret).map_err(|wrong| anyhow!("{} {wrong}", fetcher.url()))?
            }
            (TokenSource::File(file), _) => match in_file(file, now)? {
                (text, _) if text == self.last => return Ok((None, LOOK_EVERY)),
                found => found,
            },
            (TokenSource::Client { .. }, None) => bail!("there is no way to its issuer"),
        };
        let life = Duration::from_millis(u64::try_from(expires - now).unwrap_or(0));
        let wait = if self.is_remote() { life.mul_f64(RENEW_AFTER) } else { LOOK_EVERY };
        self.last.clone_from(&text);
        let principal = claim(&text, "sub").and_then(|sub| sub.as_str().map(str::to_owned));
        let extensions = self.settings.extensions.clone();
        Ok((Some(Token { principal: principal.unwrap_or_else(|| "tidemill".into()), text, expires, extensions }), wait))
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The token of a file, and when it expires.
fn in_file(file: &Path, now: i64) -> Result<(String, i64)> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let text = text.trim_ascii().to_owned();
    check(&text).map_err(|wrong| anyhow!("{} holds {wrong}", file.display()))?;
    let expires = expiry(&text).unwrap_or(now + UNKNOWN);
    if expires <= now {
        bail!("the token in {} has expired, and nobody has renewed it", file.display());
    }
    Ok((text, expires))
}

/// What an issuer has granted (RFC 6749, 5.1), and when it expires; or what it says instead, without the secret that it was told.
fn granted(answer: &Answer, now: i64, secret: &str) -> Result<(String, i64), String> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = |key: &str| body.get(key).and_then(Value::as_str);
    if answer.status != 200 {
        // RFC 6749, 5.2.
        let words = [said("error"), said("error_description")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let words = words.replace(secret, "[secret]");
        let words: String = words.chars().take(WORDS_MAX).flat_map(char::escape_debug).collect();
        let advice = match answer.status {
            400 | 401 | 403 => ": look at client-id, its secret and scope",
            300..=399 => ": redirects are not followed, write where it leads to",
            404 | 405 => ": look at token-url",
            _ => "",
        };
        let words = if words.is_empty() { words } else { format!(" ({words})") };
        return Err(format!("answers {}{words}{advice}", answer.status));
    }
    let text = said("access_token").ok_or("answers without an access_token")?;
    check(text).map_err(|wrong| format!("answers with {wrong}"))?;
    let seconds =
        body.get("expires_in").and_then(|seconds| seconds.as_f64().or_else(|| seconds.as_str()?.parse().ok()));
    let told = seconds.map(|seconds| now.saturating_add((seconds * 1_000.0) as i64));
    let expires = told.into_iter().chain(expiry(text)).min();
    match expires {
        None => Err("does not say how long the token is good: it has no expires_in, and the token no exp".into()),
        Some(expires) if expires <= now => Err("answers with a token that has expired".into()),
        Some(expires) => Ok((text.to_owned(), expires)),
    }
}

/// RFC 6750, 2.1: the characters of a bearer token.
fn check(text: &str) -> Result<(), &'static str> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    match text {
        "" => Err("no token"),
        text if text.bytes().all(good) => Ok(()),
        _ => Err("what is no bearer token: it has other characters than those have"),
    }
}

/// When a token that is a JWT expires, in milliseconds since the Unix epoch.
fn expiry(token: &str) -> Option<i64> {
    Some((claim(token, "exp")?.as_f64()? * 1_000.0) as i64)
}

/// A claim of a token that is a JWT. Nobody has checked it: Kafka does.
fn claim(token: &str, name: &str) -> Option<Value> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Value>(&payload).ok()?.get_mut(name).map(Value::take)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into() }
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn h7_a_token_ends_when_its_issuer_or_it_says() {
        let ends = |body: String| granted(&answer(200, &body), 10_000, "hush").map(|(_, expires)| expires);
        assert_eq!(ends(r#"{"access_token": "opaque", "expires_in": 60}"#.into()), Ok(70_000));
        assert_eq!(ends(r#"{"access_token": "opaque", "expires_in": "60"}"#.into()), Ok(70_000));
        assert_eq!(ends(format!(r#"{{"access_token": "{}"}}"#, jwt(r#"{"exp": 90}"#))), Ok(90_000));
        assert_eq!(ends(format!(r#"{{"access_token": "{}", "expires_in": 60}}"#, jwt(r#"{"exp": 30.5}"#))), Ok(30_500));
        for (body, wrong) in [
            (r#"{"access_token": "opaque"}"#.to_owned(), "how long"),
            (format!(r#"{{"access_token": "{}"}}"#, jwt(r#"{"exp": 9}"#)), "has expired"),
            (r#"{"access_token": "a b", "expires_in": 60}"#.to_owned(), "other characters"),
            (r#"{"token": "x", "expires_in": 60}"#.to_owned(), "without an access_token"),
            ("<html>".to_owned(), "without an access_token"),
        ] {
            let error = ends(body).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn h7_an_issuer_that_refuses_is_quoted_in_one_line() {
        let refused =
            granted(&answer(401, "{\"error\": \"invalid_client\", \"error_description\": \"no\\nhush\"}"), 0, "hush");
        assert_eq!(
            refused.unwrap_err(),
            r"answers 401 (invalid_client: no\n[secret]): look at client-id, its secret and scope"
        );
        assert_eq!(granted(&answer(502, "<html>"), 0, "hush").unwrap_err(), "answers 502");
    }

    #[test]
    fn h7_a_file_may_hold_a_token_that_does_not_say_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            in_file(&file, 10_000).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read("opaque\n"), Ok(("opaque".into(), 10_000 + UNKNOWN)));
        assert_eq!(read(&jwt(r#"{"exp": 11}"#)).map(|(_, expires)| expires), Ok(11_000));
        assert!(read(&jwt(r#"{"exp": 10}"#)).unwrap_err().contains("has expired"));
        assert!(read("\n").unwrap_err().contains("no token"));
    }
}
