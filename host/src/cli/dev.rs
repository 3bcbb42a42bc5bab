//! `tidemill dev`: a project that runs while it is written.
//!
//! One process: the daemon, on an embedded broker and a folder of its own, and beside it a thread that builds whenever a
//! file is saved and puts what came out into the handlers folder, from where the daemon reloads it like any other. What
//! does not build leaves what runs alone.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;

use super::Config;
use crate::host::folder::Folder;
use crate::project::cargo::{self, Profile, TARGET};
use crate::project::watch::Sources;
use crate::project::{Project, put};
use crate::settings::{Bootstrap, units};
use crate::{host, telemetry};

/// Where a project's own daemon keeps its data, from the project's folder.
pub(super) const DATA: &str = ".tidemill/dev/data";
const HANDLERS: &str = ".tidemill/dev/handlers";

/// What to run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The project's folder.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where its routes are served; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Begin with empty tables: forget what earlier runs have kept.
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    config: Config,
}

/// Builds, runs, and goes on until SIGINT or SIGTERM.
///
/// # Errors
/// There is no project; its daemon runs already, or cannot start.
pub(super) fn run(mut arguments: Arguments) -> Result<()> {
    let project = Project::open(&arguments.path)?;
    if let Some(file) = &mut arguments.config.config {
        *file = std::path::absolute(&*file).context("find the settings")?;
    }
    // So that the project's own `tidemill.toml` is found, and what is printed is short.
    std::env::set_current_dir(&arguments.path).with_context(|| format!("go to {}", arguments.path.display()))?;
    let project = Project { folder: PathBuf::from("."), ..project };
    let (mut settings, text) = arguments.config.load_with_text()?;
    settings.data = DATA.into();
    settings.handlers = HANDLERS.into();
    settings.kafka.bootstrap = Bootstrap::Embedded { keep: false };
    settings.http.listen = arguments.http;
    let levels = telemetry::init(&settings.log)?;
    make_room(arguments.fresh)?;

    let config = arguments.config.clone();
    let read = Box::new(move || config.load_with_text());
    let stop = Arc::new(AtomicBool::new(false));
    let mut seen = Sources::look(&project.folder);
    while !build(&project, &stop) {
        match seen.wait(&project.folder, &stop) {
            Some(now) => seen = now,
            None => return Ok(()),
        }
    }
    let builder = crate::thread::spawn("build", {
        let stop = stop.clone();
        move || {
            while let Some(now) = seen.wait(&project.folder, &stop) {
                seen = now;
                build(&project, &stop);
            }
        }
    })?;
    let ran = host::run(host::Start { settings, text, read, levels, standby: false });
    stop.store(true, Ordering::Relaxed);
    let _ = builder.join();
    ran
}

/// Empties what an earlier run has left, once no other one holds it.
fn make_room(fresh: bool) -> Result<()> {
    let held = Folder::open(Path::new(DATA))?;
    let clear = |folder: &str| match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("empty {folder}"))
        }
        _ => Ok(()),
    };
    clear(HANDLERS)?;
    if fresh {
        clear(DATA)?;
    }
    drop(held);
    Ok(())
}

/// Whether there is something new to run.
fn build(project: &Project, stop: &AtomicBool) -> bool {
    let begun = Instant::now();
    tracing::info!("building {}", project.name);
    let built = cargo::build(project, TARGET, Profile::Quick, stop).and_then(|made| {
        let bytes = fs::read(&made).with_context(|| format!("read {}", made.display()))?;
        put(&Path::new(HANDLERS).join(format!("{}.wasm", project.name)), &bytes)
    });
    match built {
        Ok(()) => {
            let took = std::time::Duration::from_millis(begun.elapsed().as_millis() as u64);
            tracing::info!("built in {}", units::show_duration(took));
            true
        }
        Err(_) if stop.load(Ordering::Relaxed) => false,
        Err(error) => {
            tracing::error!("{error:#}; the next save builds again");
            false
        }
    }
}
