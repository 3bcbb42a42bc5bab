//! `tidemill rig`: tries a handler's `.wasm` without Kafka and without a daemon, one JSON object a line.
//!
//! It answers each line of standard input with one of standard output, and ends with its input. The crate `tidemill-test`
//! speaks to it; any other language can.

use std::io::BufRead as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value as Json, json};

use super::say;
use crate::rig::{Plan, Rig};

/// 2026-01-31T09:30:00.000Z, as on the SDK's bench.
const BEGINNING: &str = "1769851800000";

/// What to try.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The handler.
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The folder of its store, which a later rig can go on with; without it a new one that is removed at the end.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Where compiled code is kept; without it in the data folder.
    #[arg(long, value_name = "FOLDER")]
    compiled: Option<PathBuf>,
    /// The operator's settings; without it the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One value of `handler.toml` in place of the manifest's: `retry.max-attempts=2`, `settings.language=ko`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The secret of a new store, from which ids and random numbers follow: another store's is in its tm_meta.
    #[arg(long, value_name = "TEXT", default_value = "rig", allow_hyphen_values = true)]
    seed: String,
    /// The id of its topics, from which they follow too: another store's are in its tm_offset.
    #[arg(long, value_name = "ID", default_value = "rig", allow_hyphen_values = true)]
    topic_id: String,
    /// A call that is expected from the beginning, as the command `answer` has it.
    #[arg(long, value_name = "JSON")]
    answer: Vec<String>,
    /// When it begins, in milliseconds since 1970-01-01T00:00:00Z.
    #[arg(long, value_name = "MILLISECONDS", default_value = BEGINNING)]
    now: i64,
}

/// Answers until its input ends.
///
/// # Errors
/// The handler cannot go live, or standard input or output fails.
pub(super) fn run(arguments: Arguments) -> Result<()> {
    let temporary = arguments.data.is_none();
    let own = || std::env::temp_dir().join(format!("tidemill-rig-{}", uuid::Uuid::new_v4().simple()));
    let plan = Plan {
        file: arguments.file,
        data: arguments.data.unwrap_or_else(own),
        compiled: arguments.compiled,
        config: arguments.config,
        set: arguments.set,
        seed: arguments.seed,
        topic_id: arguments.topic_id,
        answers: arguments.answer,
        now: arguments.now,
    };
    let served = serve(&plan);
    if temporary {
        let _ = std::fs::remove_dir_all(&plan.data);
    }
    served
}

fn serve(plan: &Plan) -> Result<()> {
    let mut rig = Rig::open(plan)?;
    reply(&rig, Ok(rig.greeting()))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        let done = serde_json::from_str(&line).context("this is no command").and_then(|command| rig.run(command));
        reply(&rig, done)?;
    }
    rig.stop()
}

fn reply(rig: &Rig, done: Result<Json>) -> Result<()> {
    let mut line = rig.news();
    if let Json::Object(fields) = &mut line {
        match done {
            Ok(value) => fields.insert("ok".into(), value),
            Err(error) => fields.insert("error".into(), json!(format!("{error:#}"))),
        };
    }
    say(&line.to_string())
}
