//! The guest crate, and the one for tests, as this program carries them: their sources, written into a project that has no other place to take them
//! from.
//!
//! They lie as in the repository - the contract, the workspace, the crate - so that no file has to be changed but the
//! workspace's list of members.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Path in the repository, and text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
/// The guest crate's folder in a project.
const FOLDER: &str = ".tidemill/sdk";
const WORKSPACE: &str = "handlers/Cargo.toml";
const LOCK: &str = "handlers/Cargo.lock";

/// Writes the guest crate into the project in `folder`.
///
/// # Errors
/// The disk does not take it.
pub(super) fn write(folder: &Path) -> Result<()> {
    for (name, text) in FILES.iter().filter(|(name, _)| *name != LOCK) {
        let file = folder.join(FOLDER).join(name);
        let alone;
        let text = if *name == WORKSPACE {
            alone = without_members(text);
            &alone
        } else {
            *text
        };
        fs::create_dir_all(file.parent().unwrap_or(folder))
            .and_then(|()| fs::write(&file, text))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Writes it if the project in `folder` is made for it and has lost it, as a fresh clone may have.
pub(super) fn restore(folder: &Path) -> Result<()> {
    let named = fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains(FOLDER));
    if named && !folder.join(FOLDER).exists() {
        tracing::info!("{FOLDER} is missing and is written anew");
        write(folder)?;
    }
    Ok(())
}

/// The versions that the guest crate was tested with, as a lock file for a project; cargo adds the project itself.
pub(super) fn lock() -> String {
    let lock = FILES.iter().find(|(name, _)| *name == LOCK).map_or("", |(_, text)| text);
    let kept = |package: &&str| package.contains("\nsource = ") || package.contains("\nname = \"tidemill-");
    let mut packages = lock.split("\n[[package]]");
    let head = packages.next().unwrap_or_default();
    std::iter::once(head.to_owned())
        .chain(packages.filter(kept).map(|package| format!("\n[[package]]{package}")))
        .collect()
}

/// The workspace without the handlers.
fn without_members(workspace: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("members = ") { "members = [\"sdk\", \"test\"]".into() } else { line.to_owned() }
    };
    workspace.lines().map(|text| line(text) + "\n").collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_guest_crate_comes_whole_and_with_no_other_handler() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path()).unwrap();
        let read = |file: &str| fs::read_to_string(temp.path().join(FOLDER).join(file)).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for file in
            ["wit/handler.wit", "handlers/sdk/Cargo.toml", "handlers/sdk/src/lib.rs", "handlers/test/src/lib.rs"]
        {
            assert_eq!(read(file), fs::read_to_string(here.join(file)).unwrap(), "{file}");
        }
        let workspace: toml::Table = toml::from_str(&read(WORKSPACE)).unwrap();
        assert_eq!(workspace["workspace"]["members"].as_array().unwrap().len(), 2);

        let lock: toml::Table = toml::from_str(&lock()).unwrap();
        let names: Vec<_> = lock["package"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert!(
            names.contains(&"tidemill-sdk") && names.contains(&"tidemill-test") && names.contains(&"serde_json"),
            "{names:?}"
        );
        assert!(!names.contains(&"order") && !names.contains(&"billing"), "{names:?}");
    }
}
