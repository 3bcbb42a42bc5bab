//! `tidemill undeploy`: a handler ends, and its file leaves the handlers folder.

use clap::Args;
use reqwest::Method;

use super::remote::{Remote, name, print_json};
use super::say;
use crate::deploy::report::Done;
use crate::id::short;

/// `tidemill undeploy`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The handler.
    #[arg(value_parser = name)]
    name: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Takes the handler away.
///
/// # Errors
/// It does not run, or its file cannot be taken away.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let done: Done = arguments.remote.daemon()?.ask(Method::DELETE, &format!("handlers/{}", arguments.name), None)?;
    if arguments.json {
        return print_json(&done);
    }
    let (name, file, artifact) = (&done.handler, &done.file, short(&done.artifact));
    say(&format!(
        "handler {name} has ended, and {file} is gone; its tables and offsets stay, and `tidemill rollback {name}` brings {artifact} back"
    ))
}
