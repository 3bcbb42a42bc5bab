//! `tidemill doctor`: what endangers a daemon, found before it happens: settings, this machine, the stores, the handlers folder, Kafka.
//!
//! Each check stands by itself: one that cannot be made says so, and the others go on. It needs no daemon, asks one where it runs, and changes
//! nothing: no file, no topic, no offset. The exit code is that of the worst line.

mod settings;
mod machine;
mod certificates;
mod stores;
mod handlers;
mod kafka;

use anyhow::{Result, bail};
use clap::Args;
use reqwest::Method;
use serde::Serialize;

use super::progress::Progress;
use super::remote::{Remote, print_json};
use super::say;
use crate::deploy::report::Listed;
use crate::metrics::gather::status::Status;

/// Something should be looked at.
const LOOK: u8 = 3;
/// Something is bad.
const BAD: u8 = 4;

/// `tidemill doctor`
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is 0 where all is well, 3 where the worst is a warning, and 4 where something is bad."
)]
pub struct Arguments {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warn,
    Bad,
}

/// What one check saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    saw: String,
    /// What to do, where something is to be done.
    advice: Option<String>,
}

/// What all of them saw, in their order.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, saw: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Ok, saw: saw.into(), advice: None });
    }

    fn warn(&mut self, check: &'static str, saw: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Warn, saw: saw.into(), advice: Some(advice.into()) });
    }

    fn bad(&mut self, check: &'static str, saw: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Bad, saw: saw.into(), advice: Some(advice.into()) });
    }

    /// All is well with this, unless something was said of it.
    fn else_ok(&mut self, check: &'static str, saw: impl Into<String>) {
        if self.0.iter().all(|finding| finding.check != check) {
            self.ok(check, saw);
        }
    }

    fn worst(&self) -> Verdict {
        self.0.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
    }
}

/// The findings are printed, and this was the worst of them.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not all is well")]
pub(super) struct Worst(u8);

impl Worst {
    /// The exit code.
    pub(super) fn code(self) -> u8 {
        self.0
    }
}

/// Looks at everything.
///
/// # Errors
/// The settings are wrong; or not all is well.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Some(settings) = arguments.remote.here()? else {
        bail!("doctor looks at this machine: run it where the daemon runs, without --daemon");
    };
    let progress = Progress::begin("looking");
    let mut found = Findings::default();
    let daemon = daemon(&arguments.remote, &mut found);
    settings::check(&settings, &mut found);
    let (specs, files) = handlers::read(&settings, &mut found);
    machine::check(
        &settings,
        arguments.remote.config.file().as_deref(),
        daemon.as_ref().map(|(status, _)| status),
        &specs,
        &mut found,
    );
    certificates::check(&settings, &mut found);
    let read = stores::check(&settings, &mut found);
    handlers::compare(&files, daemon.as_ref().map(|(_, listed)| listed.as_slice()), &read, &mut found);
    kafka::check(&settings, &specs, &read, &mut found);
    drop(progress);
    if arguments.json {
        print_json(&found.0)?;
    } else {
        say(&text(&found))?;
    }
    match found.worst() {
        Verdict::Ok => Ok(()),
        Verdict::Warn => Err(Worst(LOOK).into()),
        Verdict::Bad => Err(Worst(BAD).into()),
    }
}

/// What a daemon says of itself, if one runs.
fn daemon(remote: &Remote, found: &mut Findings) -> Option<(Status, Vec<Listed>)> {
    let Ok(daemon) = remote.daemon() else {
        found.ok("daemon", "none runs on this data folder, and none is asked");
        return None;
    };
    if super::status::probe(remote).is_some_and(|readiness| readiness.stage != crate::metrics::health::Stage::Running) {
        found.ok("daemon", "it does not run yet, or does no more, and is not asked");
        return None;
    }
    let asked = daemon
        .ask::<Status>(Method::GET, "status", None)
        .and_then(|status| Ok((status, daemon.list::<Listed>("handlers")?)));
    match asked {
        Ok((status, listed)) => {
            for reason in &status.readiness.reasons {
                let about = reason.store.as_ref().or(reason.handler.as_ref());
                let about = about.map_or(String::new(), |about| format!("{about}: "));
                found.bad("daemon", format!("it is not ready: {about}{}", reason.reason), "its log says more");
            }
            found.else_ok("daemon", format!("version {} runs and is ready", status.version));
            Some((status, listed))
        }
        Err(error) => {
            found.warn(
                "daemon",
                format!("{error:#}"),
                "one that was killed leaves its address behind: start it, or go on without",
            );
            None
        }
    }
}

fn text(found: &Findings) -> String {
    let width = found.0.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let line = |Finding { check, verdict, saw, advice }: &Finding| {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Bad => "bad",
        };
        let advice = advice.as_ref().map_or(String::new(), |advice| format!(": {advice}"));
        // An error of several lines is one finding.
        format!("{verdict:<4}  {check:<width$}  {saw}{advice}").replace('\n', "; ")
    };
    found.0.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_it_is_what_was_seen_and_what_to_do() {
        let mut found = Findings::default();
        found.ok("disk", "there is room");
        assert_eq!(found.worst(), Verdict::Ok);
        found.warn("certificates", "one ends soon", "renew it");
        found.else_ok("disk", "said already");
        assert_eq!(found.worst(), Verdict::Warn);
        found.bad("stores", "a\nb", "restore it");
        assert_eq!(
            text(&found),
            "ok    disk          there is room\nwarn  certificates  one ends soon: renew it\nbad   stores        a; b: restore it"
        );
        assert_eq!(found.worst(), Verdict::Bad);
    }
}
