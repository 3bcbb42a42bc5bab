//! `tidemill log`: what a daemon logs.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;

use super::remote::{Remote, print_json};
use super::say;
use crate::http::admin::body::Filter;
use crate::settings::units;
use crate::telemetry::Logged;

/// `tidemill log`
#[derive(Debug, Args)]
pub struct Arguments {
    /// error, warn, info, debug or trace, or by module: `info,tidemill::kafka=debug`. Without it the present one is printed.
    filter: Option<String>,
    /// Go back to the one before after so long, like 10m.
    #[arg(long = "for", value_name = "TIME", value_parser = time, requires = "filter")]
    within: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

fn time(text: &str) -> Result<String, String> {
    units::duration(text).map(|_| text.to_owned())
}

/// Asks, or sets it.
///
/// # Errors
/// No daemon answers; or it is no filter.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let daemon = arguments.remote.daemon()?;
    let logged: Logged = match &arguments.filter {
        None => daemon.ask(Method::GET, "log", None)?,
        Some(filter) => {
            let asked = Filter { filter: filter.clone(), within: arguments.within.clone() };
            let body = serde_json::to_vec(&asked).context("write the request")?;
            daemon.ask(Method::PUT, "log", Some(("application/json", body)))?
        }
    };
    if arguments.json {
        return print_json(&logged);
    }
    say(&match logged.then {
        None => logged.filter,
        Some((usual, seconds)) => {
            let left = units::show_duration(Duration::from_secs(seconds));
            format!("{} (for {left}, then {usual})", logged.filter)
        }
    })
}
