//! Secrets: what a handler asks for by name, where the operator keeps each, and their values while a version runs.
//!
//! Its invariant: a value is in memory and in the hands of the handler that asked for it, and nowhere else: no file of the daemon's,
//! no row, no report and no message of the host's holds it. It is read when a version is deployed, and not again until the next.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

/// The longest secret, in bytes.
const LENGTH_MAX: u64 = 64 << 10;
/// What is shorter is not looked for in what a handler says: it would be found everywhere.
const HIDDEN_MIN: usize = 6;
/// What stands in its place.
const HIDDEN: &str = "[secret]";

/// Secrets by the names under which the handler asks for them.
pub type Secrets = BTreeMap<String, Secret>;

/// Where the operator keeps a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this variable of the daemon's environment.
    Env(String),
    /// In this file, without the end of its last line.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// One secret; its value is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    source: Source,
    value: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.source)
    }
}

impl Secret {
    /// One that has not been read.
    pub fn of(source: Source) -> Self {
        Self { source, value: String::new() }
    }

    /// Where it is kept.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Its value, for the handler alone.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Reads its value.
    ///
    /// # Errors
    /// Why there is none, to follow its name.
    pub fn read(&mut self) -> Result<(), String> {
        let value = match &self.source {
            Source::Env(name) => match std::env::var(name) {
                Ok(value) => value,
                Err(std::env::VarError::NotPresent) => {
                    return Err(format!("is in the variable {name}, which the daemon does not have"));
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(format!("is in the variable {name}, which is not UTF-8 text"));
                }
            },
            Source::File(path) => {
                let mut value = String::new();
                let read =
                    std::fs::File::open(path).and_then(|file| file.take(LENGTH_MAX + 1).read_to_string(&mut value));
                read.map_err(|error| format!("is in the file {}, which cannot be read: {error}", path.display()))?;
                let end = value.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
                end.map(str::len).into_iter().for_each(|length| value.truncate(length));
                value
            }
        };
        if value.is_empty() || value.len() as u64 > LENGTH_MAX {
            let wrong =
                if value.is_empty() { "is empty".to_owned() } else { format!("is longer than {LENGTH_MAX} bytes") };
            return Err(format!("is in {}, which {wrong}", self.source));
        }
        self.value = value;
        Ok(())
    }
}

/// What a handler says, without its secrets.
pub fn hide(secrets: &Secrets, text: String) -> String {
    let long = secrets.values().map(Secret::expose).filter(|value| value.len() >= HIDDEN_MIN);
    long.fold(text, |text, value| if text.contains(value) { text.replace(value, HIDDEN) } else { text })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn h5_a_secret_is_read_from_its_file_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let mut secret = Secret::of(Source::File(path.clone()));
            secret.read().map(|()| secret)
        };
        for (content, value) in [("a b ", "a b "), ("key\n", "key"), ("key\r\n", "key"), ("two\nlines\n", "two\nlines")]
        {
            let secret = read(content.as_bytes()).unwrap();
            assert_eq!(secret.expose(), value);
            assert!(!format!("{secret:?}").contains("Secret(key") && !format!("{secret:?}").contains("lines"));
        }
        for (content, wrong) in
            [(&b""[..], "is empty"), (b"\n", "is empty"), (b"\xff", "cannot be read"), (&[b'a'; 70_000], "longer")]
        {
            assert!(read(content).unwrap_err().contains(wrong), "{wrong}");
        }
        let missing = Secret::of(Source::Env("TM_NO_SUCH_VARIABLE".into())).read().unwrap_err();
        assert!(missing.contains("TM_NO_SUCH_VARIABLE"), "{missing}");
    }

    #[test]
    fn h5_what_a_handler_says_has_no_secret_in_it() {
        let secret = |value: &str| Secret { source: Source::Env("X".into()), value: value.into() };
        let secrets = Secrets::from([("key".into(), secret("sk_live_1")), ("pin".into(), secret("12"))]);
        assert_eq!(hide(&secrets, "sk_live_1, then 12: sk_live_1".into()), "[secret], then 12: [secret]");
    }
}
