//! `tidemill adopt`: the operator's word that a handler may start again where Tidemill would not guess.
//!
//! It forgets the handler's offsets on a topic, so that `start` applies, and marks its Kafka offsets as its own. It
//! needs the daemon to be stopped, and never touches a handler's tables.

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Config, say};
use crate::deploy::stores;
use crate::host::folder::Folder;
use crate::ledger::{deployment, offset, schema};
use crate::store::Connection;

/// Which handler, and which topic.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The handler's name.
    handler: String,
    /// Only this topic; without it all of the handler's topics.
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    config: Config,
}

/// Forgets the offsets.
///
/// # Errors
/// The daemon runs; the handler was never live here.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let settings = arguments.config.load()?;
    let _held = Folder::open(&settings.data).context("adopt needs the daemon to be stopped")?;
    for (_, path) in stores::files(&settings.data)? {
        let connection = Connection::open_writer(&path, true)?;
        schema::prepare(&connection)?;
        if !deployment::last_live(&connection)?.iter().any(|live| live.handler == arguments.handler) {
            continue;
        }
        let forgotten = offset::adopt(&connection, &arguments.handler, arguments.topic.as_deref())?;
        return say(&format!(
            "handler {} starts again on {}: {forgotten} offsets forgotten. The next run goes on from Kafka's committed offsets where there are some, and else from its `start`",
            arguments.handler,
            arguments.topic.as_deref().unwrap_or("all its topics"),
        ));
    }
    bail!("handler {} was never live in {}: check its name and `data`", arguments.handler, settings.data.display())
}
