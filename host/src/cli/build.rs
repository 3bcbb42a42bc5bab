//! `tidemill build`: a project into one `.wasm` file that a daemon takes.
//!
//! The file appears whole and checked, or stays as it was.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Args;

use super::{Config, say};
use crate::guest::encode;
use crate::project::cargo::{self, BARE_TARGET, Profile, TARGET};
use crate::project::{Project, put, report, strip};

/// What to build.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The project's folder.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where to write it; without it `target/NAME.wasm` in the project's folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What Rust compiles it for: with WASI, or without anything of a system (smaller).
    #[arg(long, value_name = "TARGET", default_value = TARGET, value_parser = [TARGET, BARE_TARGET])]
    target: String,
    #[command(flatten)]
    config: Config,
}

/// Builds, checks and writes.
///
/// # Errors
/// The toolchain is incomplete, the project does not compile, or no daemon would take what was built.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load()?;
    let project = Project::open(&arguments.path)?;
    let made = cargo::build(&project, &arguments.target, Profile::Release, &AtomicBool::new(false))?;
    let bytes = fs::read(&made).with_context(|| format!("read {}", made.display()))?;
    let component = strip::strip(&encode::component(&bytes)?)?;
    let origin = project.folder.join("handler.toml").display().to_string();
    let report = report::check(component.clone(), &origin, &settings)?;
    let file = arguments.out.clone();
    let file = file.unwrap_or_else(|| project.folder.join("target").join(format!("{}.wasm", project.name)));
    put(&file, &component)?;
    say(&format!("{:<10} {}\n{}", "wrote", file.display(), report.lines().trim_end()))
}
