//! `tidemill versions`: what was deployed of a handler, by whom, and what became of it.

use clap::Args;

use super::remote::{Remote, name, print_json, table};
use super::say;
use crate::deploy::report::Entry;
use crate::id::short;

/// `tidemill versions`
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

/// Lists them, the newest first.
///
/// # Errors
/// There is no such handler.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = format!("handlers/{}/versions", arguments.name);
    let all: Vec<Entry> = arguments.remote.daemon()?.list(&path)?;
    if arguments.json { print_json(&all) } else { say(&lines(&all)) }
}

/// As a table.
pub(super) fn lines(all: &[Entry]) -> String {
    let head = ["VERSION", "ARTIFACT", "COMPONENT", "WHEN", "WHO", "STATUS", "SOURCE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|entry| {
        let mut status = entry.status.clone();
        if !entry.kept && status != "failed" {
            status += ", not kept";
        }
        let source = match &entry.error {
            // The first line says what; a manifest may have several.
            Some(error) => format!("{}: {}", entry.source, error.lines().next().unwrap_or_default()),
            None => entry.source.clone(),
        };
        vec![
            entry.version.to_string(),
            entry.artifact.as_deref().map_or("-", short).to_owned(),
            short(&entry.sha256).to_owned(),
            entry.deployed_at.clone(),
            entry.who.clone().unwrap_or_else(|| "-".into()),
            status,
            source,
        ]
    }));
    table(&rows)
}
