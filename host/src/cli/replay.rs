//! `tidemill replay`: one record, or one dead letter, on any version and a copy of the store, with nothing changed.
//!
//! It needs no daemon and no broker, and may be used beside a daemon: what it reads is copied. Two versions are compared by
//! what they would cause.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::json;
use similar::TextDiff;

use super::remote::{name, print_json};
use super::{Config, say};
use crate::deploy;
use crate::deploy::artifact::Artifact;
use crate::deploy::stores;
use crate::deploy::versions::Versions;
use crate::guest::Engine;
use crate::kafka::dead_letter;
use crate::ledger::deployment::{self, Status};
use crate::record::Record;
use crate::replay::{self, Plan, Version};
use crate::rig::wire::{Expected, Fed};
use crate::scratch::Scratch;
use crate::settings::{Settings, units};
use crate::store::Connection;
use crate::trace::Tracer;

/// `tidemill replay`
#[derive(Debug, Args)]
pub struct Arguments {
    /// The record as JSON, as `tidemill records show --json` prints it; `-` reads standard input. A dead letter is replayed as the record
    /// that it was.
    #[arg(value_name = "RECORD.json")]
    record: PathBuf,
    /// The version: a handler's file, or the name of a handler of the data folder, with `@` and a number for an earlier one.
    #[arg(long, value_name = "FILE.wasm|NAME[@VERSION]")]
    on: String,
    /// Another version, to see what it would do differently.
    #[arg(long, value_name = "FILE.wasm|NAME[@VERSION]")]
    compare: Option<String>,
    /// The store to copy; without it the handler's in the data folder.
    #[arg(long, value_name = "FILE.db")]
    store: Option<PathBuf>,
    /// The delivery's clock, like 2026-01-31T09:30:00Z; without it that of its last attempt, as far as anybody knows it.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<i64>,
    /// The attempt, from 1; without it the last one that was made.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// What a call is answered, once: {"method": "GET", "url": "https://..", "then": {"answer": {"status": 200, "body": ".."}}};
    /// `then` may be "timeout" or "unreachable" too. May be given several times.
    #[arg(long, value_name = "JSON")]
    answer: Vec<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: Config,
}

fn time(text: &str) -> Result<i64, String> {
    units::time(text).ok_or_else(|| "write it like 2026-01-31T09:30:00Z".to_owned())
}

/// Runs it, and prints what came of it.
///
/// # Errors
/// The record, the version or the store cannot be read, or the version cannot run.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let settings = arguments.config.load()?;
    let (record, errors) = record(&arguments.record)?;
    let answers = arguments.answer.iter().map(|text| answer(text)).collect::<Result<_>>()?;
    let tracer = Tracer::rehearsing(&settings.traces);
    let plan = Plan { record, errors, at: arguments.at, attempt: arguments.attempt, answers, tracer };
    let scratch = Scratch::new()?;
    let one = |on: &str| {
        let version = version(on, &settings, scratch.path()).with_context(|| on.to_owned())?;
        let spec = &version.spec;
        if spec.pattern.is_none() && !spec.topics.iter().any(|topic| **topic == *plan.record.topic) {
            bail!(
                "handler {} does not read topic {}: it reads {}",
                spec.name,
                plan.record.topic,
                spec.topics.join(", ")
            );
        }
        let own = settings.data.join("stores").join(format!("{}.db", spec.store));
        let store = arguments.store.clone().or_else(|| Some(own).filter(|own| own.exists()));
        replay::run(&version, store.as_deref(), &plan)
    };
    match (one(&arguments.on)?, arguments.compare.as_deref().map(one).transpose()?) {
        (told, None) if arguments.json => print_json(&told),
        (told, None) => say(&told.text()),
        (told, Some(other)) => {
            let (before, after) = (told.effects() + "\n", other.effects() + "\n");
            let same = before == after;
            if arguments.json {
                return print_json(&json!({ "same": same, "on": told, "compare": other }));
            }
            let names = (arguments.on.as_str(), arguments.compare.as_deref().unwrap_or_default());
            let rest = match same {
                true => format!("\nboth do the same: {} and {}", names.0, names.1),
                false => TextDiff::from_lines(&before, &after)
                    .unified_diff()
                    .context_radius(usize::MAX)
                    .header(names.0, names.1)
                    .to_string(),
            };
            say(&format!("{}\n\n{}", told.text(), rest.trim()))
        }
    }
}

/// The record of a file, and how its attempts ended if it is a dead letter.
fn record(file: &Path) -> Result<(Record, Option<String>)> {
    let origin = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let text = match file == Path::new("-") {
        true => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        false => std::fs::read_to_string(file),
    };
    let text = text.with_context(|| format!("read {origin}"))?;
    let fed: Fed = serde_json::from_str(&text).with_context(|| {
        format!(
            "{origin} is no record: write {{\"topic\": \"orders\", \"partition\": 0, \"offset\": 7, \"timestamp\": 1769851800000, \
             \"key\": \"42\", \"value\": \"..\", \"headers\": [[\"name\", \"value\"]]}}, or let `tidemill records show --json` write it"
        )
    })?;
    // Without a timestamp it has none: the hour of the replay is not the record's.
    let record = fed.into_record(0, -1).with_context(|| origin.clone())?;
    match dead_letter::original(&record).map_err(|wrong| anyhow!("{origin}: {wrong}"))? {
        Some(original) => Ok((original.record, original.errors)),
        None => Ok((record, None)),
    }
}

fn answer(text: &str) -> Result<Expected> {
    serde_json::from_str(text).with_context(|| format!("--answer {text}"))
}

/// A version, by its file or by its handler's name.
fn version(on: &str, settings: &Settings, scratch: &Path) -> Result<Version> {
    let path = Path::new(on);
    let (handler, number) = on.split_once('@').map_or((on, None), |(handler, number)| (handler, Some(number)));
    let artifact = match number.map(str::parse) {
        _ if path.is_file() || name(handler).is_err() => Artifact::read(path)?,
        Some(Err(_)) => bail!("write a handler's version as {handler}@3: `tidemill versions {handler}` lists them"),
        Some(Ok(number)) => kept(handler, Some(number), settings)?,
        None => kept(handler, None, settings)?,
    };
    let spec = artifact.resolve(settings)?;
    let component = deploy::compile(&Engine::new(scratch)?, &artifact, &spec)?;
    Ok(Version { artifact, spec, component })
}

/// A version that the data folder keeps: the one of this number, or the one that was live last.
fn kept(handler: &str, number: Option<i64>, settings: &Settings) -> Result<Artifact> {
    let files = stores::files(&settings.data).with_context(|| {
        format!("there is no file {handler}, and the data folder has no stores to look for a handler in")
    })?;
    for (_, file) in files {
        let rows = deployment::history(&Connection::open_reader(&file)?, handler)?;
        if rows.is_empty() {
            continue;
        }
        let row = rows.into_iter().find(|row| match number {
            Some(number) => row.version == number,
            None => row.status != Status::Failed,
        });
        let row = row.with_context(|| {
            format!("handler {handler} has no such version: `tidemill versions {handler}` lists them")
        })?;
        let artifact =
            row.artifact.with_context(|| format!("version {} is from before versions were kept", row.version))?;
        return Versions::of(&settings.data).read(&artifact);
    }
    bail!("there is no file {handler}, and no store in {} knows a handler of that name", settings.data.display())
}
