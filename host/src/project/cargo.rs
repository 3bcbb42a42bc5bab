//! Runs cargo in a project and finds the `.wasm` file that it made.
//!
//! The compiler's own words go straight to standard error; nothing here changes what cargo wrote.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

pub use super::toolchain::{BARE_TARGET, TARGET};
use super::{Project, sdk, toolchain};

/// How often a build that may be stopped is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Small and fast, as the project says.
    Release,
    /// Built soon: the project's own code is compiled piece by piece and not optimised as a whole.
    Quick,
}

impl Profile {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Release => &["--release"],
            Self::Quick => &[
                "--profile=tidemill-dev",
                "--config=profile.tidemill-dev.inherits='release'",
                "--config=profile.tidemill-dev.opt-level=1",
                "--config=profile.tidemill-dev.lto=false",
                "--config=profile.tidemill-dev.codegen-units=16",
                "--config=profile.tidemill-dev.incremental=true",
                "--config=profile.tidemill-dev.debug=false",
            ],
        }
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Builds the project, and returns the `.wasm` file that cargo made. `stop` ends the build.
///
/// # Errors
/// The toolchain is incomplete; the project does not compile; `stop` was set.
pub fn build(project: &Project, target: &str, profile: Profile, stop: &AtomicBool) -> Result<PathBuf> {
    let mut command = toolchain::cargo_build(&project.folder, target)?;
    sdk::restore(&project.folder)?;
    command.args(profile.arguments()).arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().context("start cargo")?;
    let stdout = child.stdout.take().context("read what cargo says")?;
    let reader = std::thread::Builder::new()
        .name("cargo".to_owned())
        .spawn(|| wasm_files(stdout))
        .context("read what cargo says")?;
    let status = loop {
        if stop.load(Ordering::Relaxed) {
            // Not reaped yet, so the process is still ours.
            let _ = child.kill();
        }
        match child.try_wait().context("wait for cargo")? {
            Some(status) => break status,
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    let built = reader.join().unwrap_or_default();
    if !status.success() {
        bail!("{} does not compile: see above; nothing was written", project.name);
    }
    let own = project.folder.join("Cargo.toml").canonicalize().context("find Cargo.toml")?;
    let made = built.into_iter().find(|(manifest, _)| manifest.canonicalize().is_ok_and(|path| path == own));
    made.map(|(_, file)| file).with_context(|| format!("cargo made no `.wasm` file of {}", own.display()))
}

/// Each package's `Cargo.toml`, and the `.wasm` file that was made of it.
fn wasm_files(stdout: ChildStdout) -> Vec<(PathBuf, PathBuf)> {
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let messages = lines.filter_map(|line| serde_json::from_str::<Message>(&line).ok());
    messages
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| {
            let wasm = message.filenames.into_iter().find(|file| file.extension().is_some_and(|e| e == "wasm"))?;
            Some((message.manifest_path?, wasm))
        })
        .collect()
}
