//! Finds what compiles a handler: rustup's target, or Debian's rustc-web, which has the standard library as source only
//! and builds it. `.ci/wasm-cargo` does the same for this repository.
//!
//! It installs nothing: what is missing is one line that says what to install.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// What handlers are built for: a component with no further tool.
pub const TARGET: &str = "wasm32-wasip2";
/// The other target: a core module, which is made a component afterwards.
pub const BARE_TARGET: &str = "wasm32-unknown-unknown";

const DEBIAN_PACKAGES: &str = "rustc-web cargo-web rust-web-src rust-web-llvm lld-22 wasi-libc";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22/bin";
const DEBIAN_WASI: &str = "/usr/lib/wasm32-wasi";

/// `cargo build` for `target`, in `folder`, with what it needs around it.
///
/// # Errors
/// Cargo or the target is missing.
pub(super) fn cargo_build(folder: &Path, target: &str) -> Result<Command> {
    let mut command;
    if on_path("cargo").is_none() {
        bail!("cargo is not on the PATH: install Rust by https://rustup.rs, or Debian's rustc-web and cargo-web");
    } else if installed(folder, target) {
        command = Command::new("cargo");
        command.args(["build", "--target", target]);
    } else if from_debian() {
        command = Command::new(DEBIAN_CARGO);
        command
            .args(["build", "--target", target, "-Zbuild-std=std,panic_abort"])
            .env("RUSTC", DEBIAN_RUSTC)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", format!("-L {DEBIAN_WASI}"))
            .env("PATH", llvm_first());
    } else {
        bail!(
            "Rust's target {target} is missing: run `rustup target add {target}`; without rustup, on Debian, `apt-get install {DEBIAN_PACKAGES}`"
        );
    }
    command.current_dir(folder).stdin(Stdio::null());
    Ok(command)
}

/// Whether the compiler that the folder's project uses has the target's standard library.
fn installed(folder: &Path, target: &str) -> bool {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    let Ok(answer) = asked else { return false };
    let libraries = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    let is_std = |name: OsString| {
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    };
    answer.status.success()
        && fs::read_dir(libraries).is_ok_and(|mut files| files.any(|file| file.is_ok_and(|f| is_std(f.file_name()))))
}

fn from_debian() -> bool {
    let there = [DEBIAN_RUSTC, DEBIAN_CARGO, "/usr/lib/llvm-22/bin/lld", "/usr/lib/wasm32-wasi/libc.a"];
    if !there.iter().all(|file| Path::new(file).exists()) {
        return false;
    }
    let asked = Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]).stdin(Stdio::null()).output();
    asked.is_ok_and(|answer| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
        answer.status.success() && sysroot.join("lib/rustlib/src/rust/library/std").is_dir()
    })
}

fn llvm_first() -> OsString {
    let mut path = OsString::from(DEBIAN_LLVM);
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
