//! What must hold of a version, and between the versions and handlers of a daemon, before one goes live.
//!
//! Each check is a function of what it is told; nothing here reads a file or changes anything.

use std::path::Path;

use anyhow::{Result, bail};

use super::artifact::Artifact;
use super::manifest::Spec;
use crate::guest::{Component, Engine};
use crate::settings;

/// A version as it can run: compiled, tried out, and held against its manifest.
///
/// # Errors
/// Why it cannot run.
pub fn compile(engine: &Engine, artifact: &Artifact, spec: &Spec) -> Result<Component> {
    let component = engine.load(&artifact.bytes, &artifact.sha256)?;
    component.try_out(spec)?;
    check_exports(spec, &component)?;
    Ok(component)
}

/// A component must export what its manifest promises.
fn check_exports(spec: &Spec, component: &Component) -> Result<()> {
    if spec.reads() && !component.takes_records() {
        bail!("the manifest names topics, but the component does not export `records`");
    }
    if !spec.routes.is_empty() && !component.takes_requests() {
        bail!("the manifest names routes, but the component does not export `http`");
    }
    if !spec.schedules.is_empty() && !component.fires() {
        bail!("the manifest has a `[[schedule]]`, but the component does not export `timers`");
    }
    Ok(())
}

/// Names and consumer groups belong to one file each.
pub fn check_against<'a>(spec: &Spec, others: impl Iterator<Item = (&'a Path, &'a Spec)>) -> Result<()> {
    for (file, other) in others {
        let file = file.display();
        if other.name == spec.name {
            bail!(
                "handler {} comes from {file} already: remove one of the two files, or give one another name",
                spec.name
            );
        }
        if other.group == spec.group {
            bail!(
                "consumer group {} belongs to handler {} ({file}): give one of them another `group`",
                spec.group,
                other.name
            );
        }
    }
    Ok(())
}

/// Whether a consumer of the one reads what the other wants, and in the same way.
pub(super) fn reads_the_same(old: &Spec, new: &Spec) -> bool {
    let how = |spec: &Spec| {
        // How much is under way at once is the executor's business.
        let consumer = settings::Consumer { concurrency: 0, ..spec.consumer.clone() };
        (spec.topics.clone(), spec.pattern.clone(), spec.start, consumer)
    };
    how(old) == how(new)
}
