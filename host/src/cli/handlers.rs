//! `tidemill handlers`: the handlers that run, and those that did.

use clap::Args;

use super::remote::{Remote, print_json, table};
use super::say;
use crate::deploy::report::Listed;
use crate::id::short;

/// `tidemill handlers`
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Lists them.
///
/// # Errors
/// No daemon answers.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let all: Vec<Listed> = arguments.remote.daemon()?.list("handlers")?;
    if arguments.json {
        return print_json(&all);
    }
    if all.is_empty() {
        return say("no handler was ever live: send one with `tidemill deploy`");
    }
    let mut rows =
        vec![["HANDLER", "STATE", "VERSION", "ARTIFACT", "SINCE", "WHO", "SOURCE"].map(str::to_owned).to_vec()];
    rows.extend(all.into_iter().map(|listed| {
        let artifact = listed.artifact.as_deref().map_or("-", short).to_owned();
        let who = listed.who.unwrap_or_else(|| "-".into());
        vec![listed.handler, listed.state, listed.version.to_string(), artifact, listed.deployed_at, who, listed.source]
    }));
    say(&table(&rows))
}
