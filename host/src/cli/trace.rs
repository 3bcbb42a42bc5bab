//! `tidemill trace`: what one event caused, as a tree.

use anyhow::Result;
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;

use super::remote::{Remote, print_json};
use super::say;
use crate::lineage::told::Traced;

/// `tidemill trace`
#[derive(Debug, Args)]
pub struct Arguments {
    /// An event's id, or a record's place as TOPIC/PARTITION@OFFSET.
    #[arg(value_name = "ID")]
    asked: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Asks the daemon, which knows its handlers and stores.
///
/// # Errors
/// No daemon answers; or nobody knows the event, and where it was looked for.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let path = format!("trace/{}", utf8_percent_encode(&arguments.asked, NON_ALPHANUMERIC));
    let traced: Traced = arguments.remote.daemon()?.ask(Method::GET, &path, None)?;
    if arguments.json { print_json(&traced) } else { say(&traced.text()) }
}
