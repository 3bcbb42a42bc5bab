//! `tidemill completions`: a script by which a shell completes this program's arguments.

use clap::Args;
use clap_complete::Shell;

use super::say;

/// `tidemill completions`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output is closed.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "tidemill", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}
