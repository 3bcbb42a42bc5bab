//! The handlers folder: whether its files can be read, and whether what lies there is what runs.

use std::path::PathBuf;

use super::Findings;
use super::stores::Read;
use crate::cli::check;
use crate::deploy::artifact::Artifact;
use crate::deploy::manifest::Spec;
use crate::deploy::report::Listed;
use crate::id::short;
use crate::ledger::deployment::Status;
use crate::settings::Settings;

const CHECK: &str = "handlers";

/// A handler's file.
pub(super) struct File {
    path: PathBuf,
    handler: String,
    artifact: String,
}

/// The files that can be read, and what they come to under the settings.
pub(super) fn read(settings: &Settings, found: &mut Findings) -> (Vec<Spec>, Vec<File>) {
    let (mut specs, mut files) = (Vec::new(), Vec::new());
    let listed = check::handlers(&settings.handlers).unwrap_or_else(|error| {
        found.bad(CHECK, format!("{error:#}"), "let this user read the folder");
        Vec::new()
    });
    for path in listed {
        let read = Artifact::read(&path).and_then(|artifact| Ok((artifact.lay_out(settings)?, artifact)));
        match read {
            Ok(((spec, missing), artifact)) => {
                for problem in missing.iter() {
                    found.bad(CHECK, format!("{}: {problem}", path.display()), "it is refused until then");
                }
                files.push(File { handler: spec.name.clone(), artifact: artifact.version, path });
                specs.push(spec);
            }
            Err(error) => found.bad(
                CHECK,
                format!("{}: {error:#}", path.display()),
                "put a file there that `tidemill check` takes, or take it away",
            ),
        }
    }
    (specs, files)
}

/// Holds them up to what runs, or, without a daemon, to what ran last.
pub(super) fn compare(files: &[File], runs: Option<&[Listed]>, read: &Read, found: &mut Findings) {
    match runs {
        Some(listed) => running(files, listed, found),
        None => stopped(files, read, found),
    }
    let runs = if runs.is_some() {
        "what runs is what lies in the folder"
    } else {
        "what ran last is what lies in the folder"
    };
    found.else_ok(CHECK, format!("{} files; {runs}", files.len()));
}

fn running(files: &[File], listed: &[Listed], found: &mut Findings) {
    for File { path, handler, artifact } in files {
        let live = listed.iter().find(|live| live.handler == *handler && live.state != "stopped");
        let name = path.display();
        match live {
            Some(live) if live.artifact.as_ref() == Some(artifact) => {}
            Some(live) if live.instead_of.as_ref() == Some(artifact) => found.warn(
                CHECK,
                format!(
                    "version {} of handler {handler} runs in place of {name}, which was gone back from",
                    live.version
                ),
                "deploy a file that mends it",
            ),
            Some(live) => found.bad(
                CHECK,
                format!(
                    "{name} ({}) is not what runs of handler {handler}, which is version {}",
                    short(artifact),
                    live.version
                ),
                format!("it was refused: `tidemill versions {handler}` says why"),
            ),
            None => found.bad(
                CHECK,
                format!("{name} lies there, and handler {handler} does not run"),
                format!("it was refused: `tidemill versions {handler}` or the log says why"),
            ),
        }
    }
    for live in listed.iter().filter(|live| live.state != "stopped") {
        let handler = &live.handler;
        if live.state == "held" {
            let saw =
                format!("version {} of handler {handler} has failed its probation, and reads nothing", live.version);
            found.bad(CHECK, saw, format!("deploy another one, or `tidemill rollback {handler}`"));
        }
        if files.iter().all(|file| file.handler != *handler) {
            let saw = format!("handler {handler} runs, and no file of it that can be read lies in the folder");
            found.bad(CHECK, saw, "put its file back: it is not there after the next start");
        }
    }
}

fn stopped(files: &[File], read: &Read, found: &mut Findings) {
    for last in read.deployments.iter().filter(|last| last.status == Status::Live) {
        let handler = &last.handler;
        match files.iter().find(|file| file.handler == *handler) {
            None => found.warn(
                CHECK,
                format!("handler {handler} was live, and its file does not lie in the folder"),
                "it does not run at the next start: put its file back, unless that is meant",
            ),
            Some(file) if ![&last.artifact, &last.instead_of].contains(&&Some(file.artifact.clone())) => found.warn(
                CHECK,
                format!("{} is another version of handler {handler} than was live", file.path.display()),
                "it goes live at the next start",
            ),
            Some(_) => {}
        }
    }
}
