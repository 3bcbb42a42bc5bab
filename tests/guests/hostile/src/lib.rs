//! Does, right or wrong, what each record tells it to: the handler that the end-to-end tests deploy.
//!
//! A record's value, or the body of `POST /hostile`, is one [`Command`] as JSON, or a list of them to be run in order:
//! `{"do":"insert","id":"a"}`, `[{"do":"insert"},{"do":"panic"}]`. A tombstone, whose value is null, carries it in the
//! header `commands`, if it is to succeed. Whatever is asked for, the delivery first writes a
//! row into `seen`, unless the first command says `"row": false`; so a delivery that was kept has exactly one row.
//! The timers `tick` and `tock` do what the setting `timer` says. `GET /hostile?command=...` runs commands on the read-only store, where `"row": false` is implied.

mod command;

use serde::Deserialize;
use serde_json::json;
use tidemill_sdk::compensation::Input as Lost;
use tidemill_sdk::http::{self, Request, Response};
use tidemill_sdk::publisher::Receipt;
use tidemill_sdk::sends::Sent;
use tidemill_sdk::timers::Timer;
use tidemill_sdk::{Failure, Record, config, delivery, handler, info, params, sql};

use command::{Command, Input};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_hostile.sql"],
    records: handle,
    compensate: make_good,
    sends: completed,
    timers: {
        "tick" => fire,
        "tock" => fire,
    },
    http: {
        "POST /hostile" => post,
        "GET /hostile" => get,
        "GET /hostile/seen" => seen,
    },
}

/// Written into every row: the setting `version`, else `HOSTILE_VERSION` at the time of the build, else `1`. With the
/// variable one source makes several files.
fn version() -> String {
    config::get("version").unwrap_or_else(|| option_env!("HOSTILE_VERSION").unwrap_or("1").to_owned())
}

/// One command, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Commands {
    Several(Vec<Command>),
    One(Box<Command>),
}

impl Commands {
    fn into_vec(self) -> Vec<Command> {
        match self {
            Self::Several(commands) => commands,
            Self::One(command) => vec![*command],
        }
    }
}

fn handle(record: &Record) -> Result<(), Failure> {
    let commands = match (&record.value, record.header("commands")) {
        (None, Some(commands)) => serde_json::from_slice::<Commands>(commands)?,
        _ => record.json()?,
    };
    run(record, &commands.into_vec())
}

/// Runs what the setting `timer` says; without it, writes the row.
fn fire(timer: &Timer) -> Result<(), Failure> {
    let commands = match config::get("timer") {
        Some(commands) => serde_json::from_str::<Commands>(&commands)?.into_vec(),
        None => Vec::new(),
    };
    run(&as_record(timer), &commands)
}

/// Its name is the topic, its due time the offset.
fn as_record(timer: &Timer) -> Record {
    Record { topic: timer.name.clone(), offset: timer.due.millis(), ..Record::default() }
}

fn run(record: &Record, commands: &[Command]) -> Result<(), Failure> {
    let place = format!("{}-{}-{}", record.topic, record.partition, record.offset);
    let id = commands.iter().find_map(|command| command.id.clone()).unwrap_or(place);
    if commands.first().is_none_or(|command| command.row) {
        sql::execute(
            "INSERT INTO seen (id, topic, partition, \"offset\", attempt, version) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![&id, &record.topic, record.partition, record.offset, delivery::attempt(), version()],
        )?;
    }
    let input = Input { id, key: record.key.clone() };
    commands.iter().try_for_each(|command| command.run(&input))
}

/// Runs what the record's commands say under `undo`. An event or a timer that was lost is noted in `once`, an event after what the
/// setting `lost` says.
fn make_good(input: &Lost, reason: &str) -> Result<(), Failure> {
    match input {
        Lost::Record(record) => {
            let Ok(commands) = record.json::<Commands>() else { return Ok(()) };
            let undo: Vec<Command> = commands.into_vec().into_iter().flat_map(|command| command.undo).collect();
            if !undo.is_empty() {
                info!("made good, since {reason}");
                run(record, &undo)?;
            }
            Ok(())
        }
        Lost::Timer(timer) => {
            let lost = format!("lost {} {}: {reason}", timer.name, timer.due);
            sql::execute("INSERT INTO once (id) VALUES (?1)", params![lost])?;
            Ok(())
        }
        Lost::Event(event) => {
            let key = event.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let lost = format!("lost {key} {} {}: {reason}", event.event_type, event.source);
            if let Some(commands) = config::get("lost") {
                let input = Input { id: event.id.clone(), key: event.key.clone() };
                serde_json::from_str::<Commands>(&commands)?.into_vec().iter().try_for_each(|c| c.run(&input))?;
            }
            sql::execute("INSERT INTO once (id) VALUES (?1)", params![lost])?;
            Ok(())
        }
        _ => Err(Failure::reject("told nothing about it")),
    }
}

/// Notes in `once` what became of an event. One whose key is `panic` is a trap.
fn completed(sent: &Sent, outcome: Result<Receipt, String>) -> Result<(), Failure> {
    let told = match outcome {
        Ok(receipt) => format!("told {} {}: in partition {}", sent.destination, sent.id, receipt.partition),
        Err(reason) => format!("told {} {}: {reason}", sent.destination, sent.id),
    };
    info!("{told}");
    sql::execute("INSERT INTO once (id) VALUES (?1)", params![told])?;
    if sent.key.as_deref() == Some(b"panic") {
        command::panic();
    }
    Ok(())
}

fn post(request: &Request) -> http::Result {
    let commands = request.json::<Commands>()?.into_vec();
    let id = commands.iter().find_map(|command| command.id.clone()).unwrap_or_else(|| "request".to_owned());
    if commands.first().is_none_or(|command| command.row) {
        sql::execute(
            "INSERT INTO seen (id, attempt, version) VALUES (?1, ?2, ?3)",
            params![&id, delivery::attempt(), version()],
        )?;
    }
    let input = Input { id, key: None };
    commands.iter().try_for_each(|command| command.run(&input))?;
    Ok(Response::ok(&json!({ "id": input.id, "version": version() })))
}

fn get(request: &Request) -> http::Result {
    let text = request.query_param("command").unwrap_or_default();
    let commands: Commands = serde_json::from_str(&text).map_err(Failure::from)?;
    let input = Input { id: "request".to_owned(), key: None };
    commands.into_vec().iter().try_for_each(|command| command.run(&input))?;
    Ok(Response::ok(&json!({ "version": version() })))
}

fn seen(_: &Request) -> http::Result {
    let count: i64 = sql::query_one("SELECT count(*) FROM seen", params![])?;
    Ok(Response::ok(&json!({ "count": count, "version": version() })))
}

#[cfg(test)]
mod tests;
