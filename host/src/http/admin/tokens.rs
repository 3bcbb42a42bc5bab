//! The admin API's tokens: the one of the settings, and those of a file, each with a name and a role.
//!
//! The file has a line for each: its name, its role, the SHA-256 of the token in hex, and when it was made. It holds no token, so that
//! nobody learns one by reading it. Its invariant: a request is judged by the file as it is then, so that a token is withdrawn as soon as its line
//! is gone; and a line that cannot be read counts for nobody, and takes no other's place.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};
use hyper::header::HeaderMap;
use serde::Serialize;

use super::operation::Role;
use crate::clock;
use crate::deploy::manifest::names;
use crate::http::jwt::Unauthorized;
use crate::http::problem::Problem;
use crate::http::secret;
use crate::http::token::Hash;
use crate::settings::{Settings, units};

/// The file in the data folder.
pub(crate) const FILE: &str = "admin.tokens";
/// How the token of the settings is known.
const UNNAMED: &str = "token";
/// Who else stands in the audit log.
const TAKEN: [&str; 4] = [UNNAMED, "folder", "signal", "tidemill"];

/// Where the tokens with names are.
pub fn file(settings: &Settings) -> PathBuf {
    settings.admin.named_tokens_file.clone().unwrap_or_else(|| settings.data.join(FILE))
}

/// A token with a name, without itself.
#[derive(Clone, Debug, Serialize)]
pub struct Named {
    /// By which the audit log knows it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made; `-` where nobody has said.
    pub made: String,
    #[serde(skip)]
    hash: Hash,
}

impl Named {
    fn read(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (name, role, hash, made) = (word(), word(), word(), word());
        let wrong =
            || "write a name, a role, and a token's SHA-256 in hex, as `tidemill admin token new` does".to_owned();
        let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = hash.as_bytes().chunks(2).map(digits).collect();
        let hash = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
        let made = if made.is_empty() { "-" } else { made };
        Ok(Self { name: named(name)?, role: role.parse()?, made: made.to_owned(), hash: Hash(hash) })
    }
}

/// Checks the name of a token.
pub fn named(text: &str) -> Result<String, String> {
    match TAKEN.contains(&text) {
        true => Err(format!("{text:?} stands in the audit log for somebody else; choose another name")),
        false => names::plain(text),
    }
}

/// The tokens of a text, and what is wrong with its other lines: the number, and why.
fn read(text: &str) -> (Vec<Named>, Vec<(usize, String)>) {
    let (mut found, mut wrong) = (Vec::<Named>::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        match Named::read(line) {
            Ok(token) if found.iter().any(|other| other.name == token.name) => {
                wrong.push((number, format!("there is a token {} above already", token.name)));
            }
            Ok(token) => found.push(token),
            Err(why) => wrong.push((number, why)),
        }
    }
    (found, wrong)
}

fn text(file: &Path) -> Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("read the tokens of the admin API {}", file.display())),
    }
}

/// The tokens of a file; one that is not there has none.
///
/// # Errors
/// The file cannot be read, or a line of it cannot.
pub fn list(file: &Path) -> Result<Vec<Named>> {
    let (found, wrong) = read(&text(file)?);
    match wrong.first() {
        Some((line, why)) => Err(anyhow!("{}:{line}: {why}", file.display())),
        None => Ok(found),
    }
}

/// Makes a token, and adds it to the file. This is the only time that it is told.
///
/// # Errors
/// The name is taken, or the file cannot be read or written; there is no such token then.
pub fn make(file: &Path, name: &str, role: Role) -> Result<String> {
    let _alone = alone(file)?;
    if list(file)?.iter().any(|token| token.name == name) {
        bail!(
            "there is a token {name} already: take it away with `tidemill admin token revoke {name}`, or choose another name"
        );
    }
    let token = secret::random()?;
    let hash = crate::id::sha256_hex(token.as_bytes());
    let mut text = text(file)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text += &format!("{name} {role} {hash} {}\n", units::show_time(clock::now()));
    write(file, &text)?;
    Ok(token)
}

/// Takes a token out of the file. All else in it stays as it is.
///
/// # Errors
/// There is none of this name, or the file cannot be read or written.
pub fn revoke(file: &Path, name: &str) -> Result<()> {
    let _alone = alone(file)?;
    let text = text(file)?;
    let kept = text.split_inclusive('\n').filter(|line| line.split_whitespace().next() != Some(name));
    let kept: String = kept.collect();
    if kept == text {
        bail!("there is no token {name} in {}: `tidemill admin token list` says which there are", file.display());
    }
    write(file, &kept)
}

/// Whoever changes the file does so alone, for as long as this is held.
fn alone(file: &Path) -> Result<File> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let held = fs::create_dir_all(folder).and_then(|()| File::open(folder)).and_then(|folder| {
        folder.lock()?;
        Ok(folder)
    });
    held.with_context(|| format!("write the tokens of the admin API {}", file.display()))
}

/// Puts the file in its place, whole, for its owner only.
fn write(file: &Path, text: &str) -> Result<()> {
    let aside = file.with_extension("partial");
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside);
    let written = written.and_then(|mut to| {
        to.write_all(text.as_bytes())?;
        to.sync_all()?;
        fs::rename(&aside, file)
    });
    written.with_context(|| format!("write the tokens of the admin API {}", file.display()))
}

/// Who asks, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: Cow<'static, str>,
    pub(super) role: Role,
}

/// All tokens that are good.
pub struct Tokens {
    unnamed: Hash,
    file: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    named: Vec<Named>,
    /// The file that they are of.
    of: Option<Stamp>,
}

/// Which file it is, and as it was written when: seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

fn stamp(file: &Path) -> Option<Stamp> {
    let found = fs::metadata(file).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

impl Tokens {
    /// Those of the settings and their file.
    ///
    /// # Errors
    /// A file cannot be read or made, or a line of it is wrong.
    pub fn open(settings: &Settings) -> Result<Self> {
        let (unnamed, file) = (Hash::of(&secret::admin_token(settings)?), file(settings));
        let of = stamp(&file);
        let current = Mutex::new(Current { named: list(&file)?, of });
        Ok(Self { unnamed, file, current })
    }

    /// Who a request's token says it is.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<Known, Problem> {
        let given = Hash::given(headers)?;
        let mut known = None;
        if self.unnamed.is(&given) {
            known = Some(Known { name: UNNAMED.into(), role: Role::Deploy });
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.renew(&self.file);
        for named in current.named.iter().filter(|named| named.hash.is(&given)) {
            known.get_or_insert_with(|| Known { name: named.name.clone().into(), role: named.role });
        }
        known.ok_or_else(|| Unauthorized::Invalid("this is no token of the admin API").into())
    }
}

impl Current {
    /// Reads the file again if it is another one now.
    fn renew(&mut self, file: &Path) {
        let now = stamp(file);
        if now == self.of {
            return;
        }
        let (named, wrong) = match text(file) {
            Ok(text) => read(&text),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "no token with a name is taken until the file can be read"
                );
                Default::default()
            }
        };
        for (line, why) in wrong {
            tracing::error!(file = %file.display(), line, why, "this line is nobody's token");
        }
        tracing::info!(file = %file.display(), tokens = named.len(), "the tokens of the admin API were read again");
        *self = Self { named, of: now };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_line_that_cannot_be_read_is_nobodys() {
        let hash = "ab".repeat(32);
        let text = format!(
            "# who deploys\nci deploy {hash} 2026-01-31T12:00:00.000Z\n\nci read {hash}\nby-hand read {hash}\n\
             half operate abab\nodd owner {hash}\ntoken read {hash}\nUpper read {hash}\nalone\n"
        );
        let (found, wrong) = read(&text);
        let found: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.role, t.made.as_str())).collect();
        assert_eq!(found, [("ci", Role::Deploy, "2026-01-31T12:00:00.000Z"), ("by-hand", Role::Read, "-")]);
        let lines: Vec<usize> = wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [4, 6, 7, 8, 9, 10]);
        assert!(wrong[2].1.contains("`read`, `operate` or `deploy`"), "{wrong:?}");
    }

    #[test]
    fn a_token_is_made_for_its_owner_only_and_taken_away_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.tokens");
        assert!(list(&file).unwrap().is_empty());
        let token = make(&file, "one", Role::Read).unwrap();
        assert_eq!(token.len(), 64);
        fs::write(&file, format!("{}# a remark", fs::read_to_string(&file).unwrap())).unwrap();
        make(&file, "two", Role::Deploy).unwrap();
        assert!(!fs::read_to_string(&file).unwrap().contains(&token));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make(&file, "two", Role::Read).unwrap_err().to_string().contains("already"));
        revoke(&file, "one").unwrap();
        assert!(revoke(&file, "one").is_err());
        let left = list(&file).unwrap();
        assert_eq!((left.len(), left[0].name.as_str()), (1, "two"));
        assert!(fs::read_to_string(&file).unwrap().starts_with("# a remark\n"));
    }

    #[test]
    fn tokens_are_made_at_once_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.tokens");
        std::thread::scope(|scope| {
            for n in 0..16 {
                let file = &file;
                scope.spawn(move || make(file, &format!("t{n}"), Role::Read).unwrap());
            }
        });
        assert_eq!(list(&file).unwrap().len(), 16);
    }
}
