//! `tidemill inspect`: what is in a handler's file, or in the version of a handler that is live.
//!
//! A file is only read: nothing of it runs or is compiled, and no daemon is asked.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;

use super::remote::{Remote, name, print_json};
use super::{say, versions};
use crate::deploy::artifact::Artifact;
use crate::deploy::report::{Ask, Description, Report};
use crate::id::short;
use crate::settings::units;

/// `tidemill inspect`
#[derive(Debug, Args)]
pub struct Arguments {
    /// A handler's file, or the name of a handler that the daemon has.
    #[arg(value_name = "FILE|NAME")]
    what: String,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Says what is in it.
///
/// # Errors
/// The file cannot be read as a handler; or there is no such handler.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let what = &arguments.what;
    let path = Path::new(what);
    if path.is_file() || name(what).is_err() {
        let artifact = Artifact::read(path).with_context(|| what.clone())?;
        let (spec, _) = artifact.lay_out(&arguments.remote.config.load()?).with_context(|| what.clone())?;
        let description = Description::of(&artifact, &spec).with_context(|| what.clone())?;
        return if arguments.json { print_json(&description) } else { say(&text(&description)) };
    }
    let report: Report = arguments.remote.daemon()?.ask(Method::GET, &format!("handlers/{what}"), None)?;
    if arguments.json {
        return print_json(&report);
    }
    let mut parts = vec![format!("{:<12} {}", "state", report.state)];
    if let Some(file) = &report.file {
        let held = report
            .instead_of
            .as_deref()
            .map_or(String::new(), |held| format!(", which holds {} and is held back", short(held)));
        parts.push(format!("{:<12} {file}{held}", "file"));
    }
    parts.extend(report.description.as_ref().map(text));
    parts.push(format!("\n{}", versions::lines(&report.versions)));
    say(&parts.join("\n"))
}

fn ask(ask: &Ask) -> String {
    let given = if ask.given { "given" } else { "not given" };
    ask.how.as_ref().map_or_else(|| format!("{}: {given}", ask.what), |how| format!("{}: {given}, {how}", ask.what))
}

fn schedules(of: &Description) -> Vec<String> {
    let fires = of.exports.iter().any(|name| name.starts_with("tidemill:handler/timers@"));
    match of.schedules.is_empty() && fires {
        true => vec!["none, though it exports `timers`: add a `[[schedule]]`".to_owned()],
        false => of.schedules.clone(),
    }
}

pub(super) fn text(of: &Description) -> String {
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>()
    };
    let migrations: Vec<String> = of
        .migrations
        .iter()
        .map(|m| format!("{} ({}, {})", m.name, units::show_size(m.bytes), short(&m.sha256)))
        .collect();
    let one = |value: &str| vec![value.to_owned()];
    let reads: Vec<String> =
        of.topics.iter().cloned().chain(of.pattern.iter().map(|pattern| format!("pattern {pattern}"))).collect();
    let parts = [
        ("handler", one(&of.handler)),
        ("artifact", one(&of.artifact)),
        ("component", vec![format!("{} ({} bytes)", of.sha256, of.bytes)]),
        ("exports", of.exports.clone()),
        ("imports", of.imports.clone()),
        ("wasi", of.wasi.clone()),
        ("reads", reads),
        ("group", one(&of.group)),
        ("start", one(&of.start)),
        ("event-id", one(&of.event_id)),
        ("store", one(&of.store)),
        ("routes", of.routes.clone()),
        ("rate", if of.rate.is_empty() { Vec::new() } else { one(&of.rate) }),
        ("events", of.events.clone()),
        ("schedules", schedules(of)),
        ("publish", pairs(&of.publish)),
        ("grant http", of.http.clone()),
        ("settings", of.settings.clone()),
        ("asks for", of.asks.iter().map(ask).collect()),
        ("instances", one(&of.instances)),
        ("limits", vec![pairs(&of.limits).join(", ")]),
        ("retry", vec![pairs(&of.retry).join(", ")]),
        ("dead-letter", vec![pairs(&of.dead_letter).join(", ")]),
        ("newer-schema", one(if of.newer_schema { "true" } else { "false" })),
        ("migrations", migrations),
    ];
    let mut out = Vec::new();
    for (label, values) in parts {
        let values = if values.is_empty() { vec!["none".to_owned()] } else { values };
        for (n, value) in values.iter().enumerate() {
            out.push(format!("{:<12} {value}", if n == 0 { label } else { "" }));
        }
    }
    out.join("\n")
}
