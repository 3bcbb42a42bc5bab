//! A handler's project on the machine of who writes it: written once, built again and again, watched meanwhile.
//!
//! Its invariant: a command that fails has changed nothing but what cargo keeps in its own folder. Nothing here runs a
//! handler.

pub mod template;
mod sdk;
mod toolchain;
pub mod cargo;
pub mod strip;
pub mod report;
pub mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A folder with a `Cargo.toml` that makes a handler.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder.
    pub folder: PathBuf,
    /// The package's name.
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Manifest {
    package: Option<Package>,
    lib: Option<Library>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Library {
    #[serde(default)]
    crate_type: Vec<String>,
}

impl Project {
    /// The project in `folder`.
    ///
    /// # Errors
    /// There is none, or it does not make a `.wasm` file.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("Cargo.toml");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no project in {}: go to a handler's folder or name it, or make one with `tidemill new NAME`",
                folder.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let manifest: Manifest = toml::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        let Some(package) = manifest.package else {
            bail!("{} is a workspace without a package: name the folder of one handler", file.display());
        };
        if !manifest.lib.is_some_and(|lib| lib.crate_type.iter().any(|kind| kind == "cdylib")) {
            bail!("{} makes no `.wasm` file: add `[lib]` with `crate-type = [\"cdylib\"]`", file.display());
        }
        Ok(Self { folder: folder.to_owned(), name: package.name })
    }
}

/// Writes a file whole: under another name beside it first.
pub(crate) fn put(file: &Path, bytes: &[u8]) -> Result<()> {
    let write = || format!("write {}", file.display());
    let folder = file.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).with_context(write)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let partial = folder.join(format!(".{name}.{}", std::process::id()));
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, file)).with_context(write)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_that_makes_no_handler_is_told_apart() {
        let temp = tempfile::tempdir().unwrap();
        let error = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(temp.path().join("Cargo.toml"), text).unwrap();
            }
            format!("{:#}", Project::open(temp.path()).unwrap_err())
        };
        for (text, part) in [
            (None, "tidemill new"),
            (Some("[package"), "Cargo.toml"),
            (Some("[workspace]"), "name the folder of one handler"),
            (Some("[package]\nname = \"a\""), "cdylib"),
            (Some("[package]\nname = \"a\"\n[lib]\ncrate-type = [\"rlib\"]"), "cdylib"),
        ] {
            let said = error(text);
            assert!(said.contains(part), "{text:?}: {said}");
        }
        fs::write(temp.path().join("Cargo.toml"), "package.name = \"a\"\nlib.crate-type = [\"cdylib\"]").unwrap();
        assert_eq!(Project::open(temp.path()).unwrap().name, "a");
    }
}
