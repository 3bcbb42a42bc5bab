//! The command line: one file for each subcommand.
//!
//! This file reads the arguments, loads the settings and turns an error into lines and an exit code. Results go to
//! standard output, everything else to standard error.

pub mod new;
pub mod build;
pub mod dev;
pub mod run;
pub mod check;
pub mod deploy;
pub mod handlers;
pub mod versions;
pub mod rollback;
pub mod undeploy;
pub mod inspect;
pub mod log;
pub mod reload;
pub mod remote;
mod terminal;
mod trust;
mod many;
pub mod groups;
pub mod dlt;
pub mod stored;
pub mod adopt;
pub mod plan;
pub mod rig;
pub mod replay;
pub mod records;
pub mod trace;
pub mod backup;
pub mod restore;
pub mod export;
pub mod produce;
pub mod publish;
pub mod broker;
pub mod token;
pub mod admin;
pub mod version;
pub mod status;
pub mod doctor;
pub mod completions;
pub mod man;
mod progress;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::ledger::stored::Table;
use crate::settings::{FILE, Problems, Settings};

/// It did not work.
const FAILED: u8 = 1;
/// The arguments or the settings are wrong (clap uses the same number).
const USAGE: u8 = 2;

/// What stands below the help: `docs/commands.md` says the same.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it did not work
  2  the arguments or the settings are wrong
  3  `doctor` alone: something should be looked at
  4  `doctor` alone: something is bad";

/// Runs business logic as WebAssembly components on Kafka records.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version = version::TEXT, max_term_width = 100, after_help = EXIT_CODES)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a handler's project, ready to be built and tested.
    New(new::Arguments),
    /// Build a project into one `.wasm` file, and check that a daemon can run it.
    Build(build::Arguments),
    /// Run a project on an embedded broker, and build and reload it whenever a file is saved.
    Dev(dev::Arguments),
    /// Run the daemon.
    Run(run::Arguments),
    /// Check the settings and the handlers, or one file that is to be a handler, and start nothing.
    Check(check::Arguments),
    /// Send a handler's file to the daemon, which makes it live and puts it into its handlers folder.
    Deploy(deploy::Arguments),
    /// Show the daemon on one screen: handlers, lag, failures, outbox, stores, disk.
    Status(status::Arguments),
    /// Check the settings, this machine, the stores and Kafka, each by itself, with or without a daemon.
    Doctor(doctor::Arguments),
    /// List the handlers.
    Handlers(handlers::Arguments),
    /// List the versions of a handler.
    Versions(versions::Arguments),
    /// Make an earlier version of a handler live; the file in the handlers folder is held back until it changes.
    Rollback(rollback::Arguments),
    /// End a handler and take its file out of the handlers folder; tables, offsets and versions stay.
    Undeploy(undeploy::Arguments),
    /// Say what is in a handler's file, without running it, or in the live version of a handler.
    Inspect(inspect::Arguments),
    /// Say what the daemon logs, or let it log something else.
    Log(log::Arguments),
    /// Let the daemon read its settings again, and say what of them holds now.
    Reload(reload::Arguments),
    /// Print a bearer token for a user, signed with the daemon's own secret.
    Token(token::Arguments),
    /// Say who may call the admin API, by tokens with a name and a role, and what it can be asked.
    Admin(admin::Arguments),
    /// List the handlers' consumer groups, say where they stand, let one go on at other offsets, or pause one.
    Groups(groups::Arguments),
    /// List dead letters, look at one, put their records back to handlers, or discard them.
    Dlt(dlt::Arguments),
    /// List what is kept in the stores for a person, since nothing took it, put it back, or take it out.
    Fallback(stored::Fallback),
    /// List events that wait for Kafka or an HTTP destination, try them now, or take them out.
    Outbox(stored::Waiting),
    /// List records that wait for their next attempt, try them now, or give them up.
    Pending(stored::Waiting),
    /// Let a handler start again on a topic that was made anew, or in a group that another store had.
    Adopt(adopt::Arguments),
    /// Send a record to a topic.
    Produce(produce::Arguments),
    /// Publish an event in the name of a handler of the daemon, through its outbox.
    Publish(publish::Arguments),
    /// Look at records in Kafka.
    Records(records::Arguments),
    /// Say what one event caused: what became of it with each handler, what those published, and so on.
    Trace(trace::Arguments),
    /// Run one record on any version and a copy of the store, and show what it would cause.
    Replay(replay::Arguments),
    /// Copy a data folder to where a daemon can go on from it, while the daemon runs; or check such a copy.
    Backup(backup::Arguments),
    /// Make a data folder of a backup.
    Restore(restore::Arguments),
    /// Print what the stores of a data folder hold beside the handlers' tables, or the audit log, as JSON lines.
    Export(export::Arguments),
    /// Recommend a number of partitions.
    Plan(plan::Arguments),
    /// Try a handler's .wasm without Kafka and without a daemon, for its tests.
    Rig(rig::Arguments),
    /// Print a script by which a shell completes this program's arguments.
    Completions(completions::Arguments),
    /// Write the manual's pages.
    Man(man::Arguments),
    /// Print the version.
    Version,
    /// Run the embedded broker; the daemon starts it.
    #[command(hide = true)]
    Broker(broker::Args),
}

/// Which settings to use.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// The file with the settings; without it `tidemill.toml` in the current folder, if there is one.
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<PathBuf>,
}

impl Config {
    /// The file, if there is one.
    fn file(&self) -> Option<PathBuf> {
        let file = self.config.clone().unwrap_or_else(|| FILE.into());
        file.exists().then_some(file)
    }

    /// The settings of the file, with the environment's on top.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(&self) -> Result<Settings, Problems> {
        self.load_with_text().map(|(settings, _)| settings)
    }

    /// The same, with the file's text.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load_with_text(&self) -> Result<(Settings, String), Problems> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Settings::load_with_text(self.config.as_deref(), std::env::vars_os().filter_map(text))
    }
}

/// Runs the subcommand that the process was called with.
pub fn main() -> ExitCode {
    let ended = match Line::parse().command {
        Command::New(arguments) => new::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Dev(arguments) => dev::run(arguments),
        Command::Produce(arguments) => produce::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Records(arguments) => records::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Groups(arguments) => groups::run(&arguments),
        Command::Dlt(arguments) => dlt::run(&arguments),
        Command::Fallback(arguments) => stored::fallback(&arguments),
        Command::Outbox(arguments) => stored::waiting(Table::Outbox, &arguments),
        Command::Pending(arguments) => stored::waiting(Table::Pending, &arguments),
        Command::Adopt(arguments) => adopt::run(&arguments),
        Command::Deploy(arguments) => deploy::run(&arguments),
        Command::Handlers(arguments) => handlers::run(&arguments),
        Command::Versions(arguments) => versions::run(&arguments),
        Command::Rollback(arguments) => rollback::run(&arguments),
        Command::Undeploy(arguments) => undeploy::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Admin(arguments) => admin::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Rig(arguments) => rig::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::Version => version::run(),
        Command::Broker(arguments) => broker::run(arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (lines, code) = explain(&error);
            for line in lines {
                eprintln!("error: {}", terminal::plain(&line));
            }
            ExitCode::from(code)
        }
    }
}

/// The command line as clap knows it.
fn command() -> clap::Command {
    Line::command()
}

/// Writes one line to standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let line = terminal::lines(line);
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write to standard output")
}

/// The same for one of many lines: `false` where nobody reads them any more, as behind `head`.
///
/// # Errors
/// They cannot be written.
pub(crate) fn say_more(line: &str) -> anyhow::Result<bool> {
    match say(line) {
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {
            Ok(false)
        }
        said => said.map(|()| true),
    }
}

/// An error as lines for people, and the exit code.
fn explain(error: &anyhow::Error) -> (Vec<String>, u8) {
    if let Some(worst) = error.downcast_ref::<doctor::Worst>() {
        return (Vec::new(), worst.code());
    }
    match error.downcast_ref::<Problems>() {
        Some(problems) => (problems.iter().map(ToString::to_string).collect(), USAGE),
        None => (format!("{error:#}").lines().map(str::to_owned).collect(), FAILED),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;

    /// clap looks for this by itself only where debug assertions are on.
    #[test]
    fn no_command_has_two_arguments_of_one_name() {
        fn look(command: &clap::Command) {
            let mut names: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}: {names:?}", command.get_name());
            command.get_subcommands().for_each(look);
        }
        look(&Line::command());
    }

    #[test]
    fn the_arguments_fit_together() {
        Line::command().debug_assert();
    }

    /// Each command that does something, as it is typed, with what its help says first.
    fn leaves(of: &clap::Command, typed: &str, found: &mut Vec<(String, clap::Command)>) {
        for command in of.get_subcommands().filter(|command| !command.is_hide_set()) {
            let typed = format!("{typed} {}", command.get_name());
            match command.has_subcommands() {
                true => leaves(command, &typed, found),
                false => found.push((typed, command.clone())),
            }
        }
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        leaves(&command(), "tidemill", &mut found);
        found
    }

    /// One row of the table for each command, word for word.
    #[test]
    fn the_documentation_lists_each_command() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        let text = std::fs::read_to_string(path).unwrap();
        let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `tidemill ")).collect();
        let row = |(typed, command): &(String, clap::Command)| {
            format!("| `{typed}` | {} |", command.get_about().map(ToString::to_string).unwrap_or_default())
        };
        let rows: Vec<String> = all().iter().map(row).collect();
        assert_eq!(documented, rows, "docs/commands.md should have:\n{}", rows.join("\n"));
    }

    #[test]
    fn what_lists_or_says_something_does_so_as_json_too() {
        let says = ["List", "Say", "Show", "Check the settings, this machine"];
        let mut listings = 0;
        for (typed, command) in all() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            if says.iter().any(|verb| about.starts_with(verb)) {
                listings += 1;
                assert!(command.get_arguments().any(|argument| argument.get_id() == "json"), "{typed} has no --json");
            }
        }
        assert!(listings >= 7, "{listings}");
    }

    #[test]
    fn settings_problems_are_told_apart_from_failures() {
        let problems = Settings::parse("a = 1\nb = 2", "x.toml").unwrap_err();
        let (lines, code) = explain(&anyhow::Error::from(problems));
        assert_eq!((lines.len(), code), (2, USAGE));

        let failed = std::fs::read("/nowhere/at/all").context("read it").unwrap_err();
        let (lines, code) = explain(&failed);
        assert_eq!(code, FAILED);
        assert!(lines[0].starts_with("read it: No such file"), "{lines:?}");
    }
}
