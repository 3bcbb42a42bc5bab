//! `tidemill new`: a handler's project, ready to be built and tested.

use std::path::PathBuf;

use clap::Args;

use super::say;
use crate::project::template;

/// What to call it, and where to put it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The handler's name: up to 63 of a-z, 0-9 and -, starting with a letter.
    name: String,
    /// What it is written in.
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// The project's folder, which is made or is empty; without it one of the handler's name.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Language {
    Rust,
}

/// Writes the project.
///
/// # Errors
/// The name is not valid; the folder has something in it, or cannot be written.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Language::Rust = arguments.lang;
    let folder = arguments.path.clone().unwrap_or_else(|| PathBuf::from(&arguments.name));
    template::write(&arguments.name, &folder)?;
    let (name, folder) = (&arguments.name, folder.display());
    say(&format!(
        "{folder} is a handler that reads the topic {name}-in:\n  cd {folder}\n  cargo test         # its logic, with no broker and no daemon\n  \
         tidemill build     # target/{name}.wasm\n  tidemill dev       # runs it, and reloads it whenever a file is saved"
    ))
}
