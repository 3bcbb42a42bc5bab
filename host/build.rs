//! Lists the files of the guest crate and of the crate for its tests, which `tidemill new` writes beside a project: `$OUT_DIR/sdk.rs` holds each one's path
//! in the repository and its text.
//!
//! It reads only files of the repository, and writes only that one.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What a project needs to build against those crates, from the repository's folder.
const PLACES: [&str; 5] = ["wit", "handlers/sdk", "handlers/test", "handlers/Cargo.toml", "handlers/Cargo.lock"];

fn main() -> io::Result<()> {
    let repository = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    let mut files = Vec::new();
    for place in PLACES {
        let path = repository.join(place);
        writeln!(io::stdout(), "cargo::rerun-if-changed={}", path.display())?;
        find(&path, &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&repository).map_err(io::Error::other)?;
        list += &format!("    ({:?}, include_str!({:?})),\n", name.display().to_string(), file.display().to_string());
    }
    list += "]\n";
    fs::write(Path::new(&variable("OUT_DIR")?).join("sdk.rs"), list)
}

fn variable(name: &str) -> io::Result<String> {
    std::env::var(name).map_err(io::Error::other)
}

/// The files at or below `path`; what cargo builds there is none of them.
fn find(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != "target" && !name.to_string_lossy().starts_with('.') {
            find(&entry.path(), files)?;
        }
    }
    Ok(())
}
