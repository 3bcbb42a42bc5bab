//! The conversation with a rig: what it was told, what it has said, and how it goes on when its process dies.
//!
//! Its invariant: a process that was started again knows the calls that are still expected; all else is in its folder.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::Value as Json;
use tidemill_sdk::log::Level;
use tidemill_sdk::outbound;

use crate::Moment;
use crate::process::{Died, Process};
use crate::wire::{self, number, string};

/// The process, and what it has said so far.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) process: Process,
    binary: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) greeting: Json,
    pub(crate) now: i64,
    /// Whether it was told to end at a moment.
    pub(crate) armed: Option<Moment>,
    pub(crate) kills: u32,
    /// Calls that are expected, and not made, by number.
    pub(crate) expected: Vec<(u64, Json)>,
    pub(crate) next: u64,
    pub(crate) lines: Vec<(bool, Level, String)>,
    pub(crate) calls: Vec<outbound::Request>,
}

impl Line {
    /// Starts the process.
    #[track_caller]
    pub(crate) fn start(binary: PathBuf, arguments: Vec<OsString>) -> Self {
        let (process, first) = Process::start(&binary, &arguments);
        let (expected, lines, calls) = Default::default();
        let mut line = Self {
            process,
            binary,
            arguments,
            greeting: first["ok"].clone(),
            now: 0,
            armed: None,
            kills: 0,
            expected,
            next: 0,
            lines,
            calls,
        };
        line.hear(&first);
        line
    }

    /// Asks; the process may die of it if it was told to.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &Json) -> Result<Json, Died> {
        match self.process.ask(command) {
            Ok(answer) => {
                self.hear(&answer);
                match answer.get("error").and_then(Json::as_str) {
                    Some(error) => panic!("{error}"),
                    None => Ok(answer["ok"].clone()),
                }
            }
            Err(Died) if self.armed.is_some() => {
                self.revive();
                Err(Died)
            }
            Err(Died) => panic!("`tidemill rig` has ended: {}", self.process.last_words()),
        }
    }

    /// Asks what no process dies of; one that does is asked again.
    #[track_caller]
    pub(crate) fn must(&mut self, command: &Json) -> Json {
        let asked = self.ask(command).or_else(|Died| self.ask(command));
        asked.expect("the process is killed once")
    }

    /// Tells it what it has done also where it dies of that.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: &Json) {
        let _ = self.ask(command);
    }

    /// Starts the process again, on the same folder.
    #[track_caller]
    pub(crate) fn revive(&mut self) {
        self.armed = None;
        self.kills += 1;
        let mut arguments = self.arguments.clone();
        for (_, answer) in &self.expected {
            arguments.extend(["--answer".into(), answer.to_string().into()]);
        }
        let (process, first) = Process::start(&self.binary, &arguments);
        self.process = process;
        self.hear(&first);
    }

    /// Takes in what has happened besides.
    fn hear(&mut self, answer: &Json) {
        self.now = number(answer, "now");
        let list = |key: &str| answer[key].as_array().into_iter().flatten();
        for line in list("lines") {
            let level = match string(line, "level").as_str() {
                "error" => Level::Error,
                "warn" => Level::Warn,
                "info" => Level::Info,
                "debug" => Level::Debug,
                _ => Level::Trace,
            };
            self.lines.push((line["by"] == "host", level, string(line, "message")));
        }
        self.expected.retain(|(known, _)| !list("used").any(|used| used.as_u64() == Some(*known)));
        self.calls.extend(list("calls").map(|call| outbound::Request {
            method: string(call, "method"),
            url: string(call, "url"),
            headers: wire::pairs(&call["headers"]),
            body: wire::bytes(&call["body"]).unwrap_or_default(),
            timeout: None,
        }));
        if let Some(call) = list("unexpected").next() {
            let (method, url) = (string(call, "method"), string(call, "url"));
            let body = wire::bytes(&call["body"]).unwrap_or_default();
            let left = self.expected.iter().map(|(_, c)| format!("\n  {} {}", string(c, "method"), string(c, "url")));
            let left: String = left.collect();
            let left = if left.is_empty() { "none".to_owned() } else { left };
            panic!(
                "the handler calls what the test does not expect: {method} {url}\nwith the body: {}\nexpected calls that are left: {left}",
                String::from_utf8_lossy(&body)
            );
        }
    }
}
