//! What `tidemill new` writes: a project that builds, is tested and linted as it stands.
//!
//! Its invariant: a folder appears whole, or not at all; one that has something in it is never touched.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::sdk;

/// Files of a project, and their text with `{{name}}` for the project's name.
const FILES: [(&str, &str); 8] = [
    ("Cargo.toml", include_str!("template/Cargo.toml.in")),
    ("handler.toml", include_str!("template/handler.toml.in")),
    ("migrations/0001_greetings.sql", include_str!("template/0001_greetings.sql.in")),
    ("src/lib.rs", include_str!("template/lib.rs.in")),
    ("src/tests.rs", include_str!("template/tests.rs.in")),
    ("tests/wasm.rs", include_str!("template/wasm.rs.in")),
    ("README.md", include_str!("template/README.md.in")),
    (".gitignore", include_str!("template/gitignore.in")),
];
const NAME: &str = "{{name}}";

/// Crates that a project is built with: two of one name cannot be told apart.
const TAKEN: [&str; 9] =
    ["alloc", "core", "proc-macro", "serde", "serde-json", "std", "test", "tidemill-sdk", "tidemill-test"];

/// Writes the project `name` into `folder`, which is made, or has nothing in it.
///
/// # Errors
/// The name is none for a handler or for a crate; the folder has something in it, or cannot be written.
pub fn write(name: &str, folder: &Path) -> Result<()> {
    check(name)?;
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!("{} has something in it: name another folder with --path, or empty this one", folder.display());
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            bail!("{} is a file: name another folder with --path", folder.display())
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    }
    // Beside its place, so that a disk that fills up half-way leaves nothing that looks like a project.
    let partial = beside(folder)?;
    let written = fill(name, &partial)
        .and_then(|()| place(&partial, folder).with_context(|| format!("create {}", folder.display())));
    let _ = fs::remove_dir_all(&partial);
    written
}

/// Gives the folder its name. One that is there keeps being that one: somebody's shell may be in it.
fn place(partial: &Path, folder: &Path) -> std::io::Result<()> {
    if !folder.exists() {
        return fs::rename(partial, folder);
    }
    for entry in fs::read_dir(partial)? {
        let entry = entry?;
        fs::rename(entry.path(), folder.join(entry.file_name()))?;
    }
    Ok(())
}

fn fill(name: &str, folder: &Path) -> Result<()> {
    for (file, text) in FILES {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().unwrap_or(folder))
            .and_then(|()| fs::write(&file, text.replace(NAME, name)))
            .with_context(|| format!("write {}", file.display()))?;
    }
    sdk::write(folder)?;
    let lock = folder.join("Cargo.lock");
    fs::write(&lock, sdk::lock()).with_context(|| format!("write {}", lock.display()))
}

/// A folder on the same disk.
fn beside(folder: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(folder).with_context(|| format!("find {}", folder.display()))?;
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
        bail!("{} cannot be a project: name another folder with --path", folder.display());
    };
    Ok(parent.join(format!(".{}.{}", name.to_string_lossy(), std::process::id())))
}

/// A handler's name that is a crate's as well.
fn check(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !first || name.len() > 63 || !name.bytes().all(good) {
        bail!("\"{name}\" is not a valid name; use up to 63 of a-z, 0-9 and -, starting with a letter");
    }
    if TAKEN.contains(&name) {
        bail!("\"{name}\" is a crate that every handler is built with; take another name, like \"my-{name}\"");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::deploy::manifest::{Manifest, Spec};
    use crate::settings::Settings;

    #[test]
    fn names_that_no_crate_or_handler_can_have_are_refused() {
        let long = "a".repeat(64);
        for name in ["", "-a", "1st", "Greeter", "a_b", "a/b", "ä", "serde", "tidemill-sdk", &long] {
            assert!(check(name).is_err(), "{name}");
        }
        for name in ["a", "order-2", long.get(..63).unwrap()] {
            check(name).unwrap();
        }
    }

    #[test]
    fn the_manifest_of_a_new_project_is_valid_and_its_source_short() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("deep/greeter");
        write("greeter", &folder).unwrap();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let manifest = Manifest::parse(&read("handler.toml"), "handler.toml").unwrap();
        let defaults = Settings::parse("", "tidemill.toml").unwrap().defaults;
        let spec = Spec::resolve(&manifest, &defaults, None).unwrap();
        assert_eq!((spec.name.as_str(), spec.topics), ("greeter", vec!["greeter-in".to_owned()]));
        assert!(read("src/lib.rs").lines().count() < 40);
        for file in ["Cargo.toml", "src/lib.rs", "src/tests.rs", "tests/wasm.rs", "README.md"] {
            assert!(!read(file).contains("{{"), "{file}");
        }
        assert_eq!(fs::read_dir(temp.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_something_in_it_is_not_touched_and_an_empty_one_is_filled() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("note"), "mine").unwrap();
        let error = write("greeter", temp.path()).unwrap_err().to_string();
        assert!(error.contains("has something in it") && error.contains("--path"), "{error}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        let error = write("greeter", &temp.path().join("note")).unwrap_err().to_string();
        assert!(error.contains("is a file"), "{error}");
        fs::create_dir(temp.path().join("empty")).unwrap();
        write("greeter", &temp.path().join("empty")).unwrap();
        assert!(temp.path().join("empty/Cargo.toml").exists());
    }
}
