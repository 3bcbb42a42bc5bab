//! The daemon's secrets, that of HS256 and the admin API's token: read from where the settings say, or made once in the data
//! folder.
//!
//! A secret file appears whole or not at all, readable by its owner only, and is never written again. The secret
//! itself is the file's text, so that what one daemon made can be given to another as `secret-file`.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};

use crate::settings::{JwtKey, Settings};

/// The file in the data folder that holds the generated secret.
pub(crate) const FILE: &str = "jwt.secret";
/// The file in the data folder that holds the admin API's token.
pub(crate) const ADMIN_FILE: &str = "admin.token";

/// RFC 7518, section 3.2: a key for HS256 has at least as many bytes as the hash.
pub(crate) const SHORTEST: usize = 32;

/// The secret that tokens are signed and checked with.
///
/// # Errors
/// The settings name a public key, whose other half only the issuer has; or the file cannot be read or made.
pub fn load_or_create(settings: &Settings) -> anyhow::Result<Vec<u8>> {
    match &settings.http.jwt.key {
        JwtKey::Secret(secret) => Ok(secret.clone().into_bytes()),
        JwtKey::SecretFile(path) => {
            read(path).with_context(|| format!("read `http.jwt.secret-file` {}", path.display()))
        }
        JwtKey::Generated => {
            let path = settings.data.join(FILE);
            generated(&settings.data, FILE).with_context(|| format!("read or make the token secret {}", path.display()))
        }
        JwtKey::Rs256(_) | JwtKey::Es256(_) => {
            bail!("tokens come from the issuer that holds the private key: `http.jwt.public-key-file` only checks them")
        }
        JwtKey::JwksFile(_) | JwtKey::JwksUrl { .. } => {
            bail!(
                "tokens come from the issuer that holds the private keys: the key set under `http.jwt` only checks them"
            )
        }
    }
}

/// The admin API's token.
///
/// # Errors
/// The file cannot be read or made.
pub fn admin_token(settings: &Settings) -> anyhow::Result<Vec<u8>> {
    match &settings.admin.token_file {
        Some(path) => read(path).with_context(|| format!("read `admin.token-file` {}", path.display())),
        None => generated(&settings.data, ADMIN_FILE).with_context(|| {
            format!("read or make the token of the admin API {}", settings.data.join(ADMIN_FILE).display())
        }),
    }
}

/// What scrapers must know, if the settings ask for it.
///
/// # Errors
/// The file cannot be read.
pub fn metrics_token(settings: &Settings) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = &settings.metrics.token_file else { return Ok(None) };
    read(path).map(Some).with_context(|| format!("read `metrics.token-file` {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut secret = fs::read(path)?;
    while secret.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        secret.pop();
    }
    if secret.len() < SHORTEST {
        bail!("it holds {} bytes; a secret has at least {SHORTEST} (RFC 7518 asks that of HS256)", secret.len());
    }
    Ok(secret)
}

/// 32 random bytes in hex.
///
/// # Errors
/// The system gives none.
pub(crate) fn random() -> anyhow::Result<String> {
    let mut random = [0u8; 32];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).context("read /dev/urandom")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn generated(data: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let path = &data.join(name);
    if path.try_exists()? {
        return read(path);
    }
    fs::create_dir_all(data).with_context(|| format!("make the data folder {}", data.display()))?;
    let text = random()?;

    // Written aside and linked into place: a second process that does the same at this moment loses and reads ours.
    let aside = data.join(format!("{name}.{}", uuid::Uuid::new_v4()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).and_then(|mut file| {
        writeln!(file, "{text}")?;
        file.sync_all()?;
        match fs::hard_link(&aside, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    });
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound && written.is_ok() => return Err(error.into()),
        _ => written?,
    }
    File::open(data)?.sync_all()?;
    read(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(folder: &Path, text: &str) -> Settings {
        Settings::parse(text, folder.join("tidemill.toml").to_str().unwrap()).unwrap()
    }

    #[test]
    fn a_secret_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), "");
        let secrets: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_create(&settings).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0] && secret.len() == 64));

        let made: Vec<_> = fs::read_dir(&settings.data).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(made.len(), 1, "nothing is left beside the secret: {made:?}");
        assert_eq!(made[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_file_counts_without_its_newline_and_must_be_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), "[http.jwt]\nsecret-file = \"key\"");
        let read = || load_or_create(&settings).map_err(|error| format!("{error:#}"));
        assert!(read().unwrap_err().contains("http.jwt.secret-file"));
        fs::write(folder.path().join("key"), "short\n").unwrap();
        assert!(read().unwrap_err().contains("at least 32"));
        fs::write(folder.path().join("key"), format!("{}\n", "k".repeat(32))).unwrap();
        assert_eq!(read().unwrap(), "k".repeat(32).into_bytes());
    }

    #[test]
    fn with_a_public_key_there_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[http.jwt]\nalgorithm = \"RS256\"\npublic-key-file = \"key.pem\"";
        let error = load_or_create(&settings(folder.path(), text)).unwrap_err();
        assert!(error.to_string().contains("come from the issuer"));
    }
}
