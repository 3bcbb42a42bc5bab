//! What the ledger keeps of a version that was refused: which one, who wanted it, and why it is not live.
//!
//! It changes nothing else, and makes no store for that.

use super::{Candidate, Deployer, Store};
use crate::ledger::deployment::{self, New};
use crate::settings::Settings;

/// What is noted of a version that was refused.
pub(super) struct Refused {
    handler: String,
    sha256: String,
    manifest: String,
    source: String,
    artifact: String,
    who: String,
    /// Store and group, if its settings are not what is wrong.
    place: Option<(String, String)>,
}

impl Refused {
    pub(super) fn of(new: &Candidate, settings: &Settings) -> Self {
        Self {
            place: new.artifact.lay_out(settings).ok().map(|(spec, _)| (spec.store, spec.group)),
            handler: new.artifact.name().to_owned(),
            sha256: new.artifact.sha256.clone(),
            manifest: new.artifact.manifest_text.clone(),
            source: new.source.clone(),
            artifact: new.artifact.version.clone(),
            who: new.who.clone(),
        }
    }
}

impl Deployer {
    /// Notes in the handler's store that a version was refused. A store is not made for that.
    pub(super) fn note(&self, refused: Refused, error: String) {
        let last = self.stores.last_seen(&refused.handler).map(|seen| (seen.store, seen.group));
        let Some((store, group)) = last.or_else(|| refused.place.clone()) else { return };
        if self.stores.path(&store).is_none() {
            return;
        }
        let handler = refused.handler.clone();
        let write = move |connection: &Store| {
            let new = New {
                handler: &refused.handler,
                group: &group,
                sha256: &refused.sha256,
                manifest: &refused.manifest,
                source: &refused.source,
                artifact: &refused.artifact,
                instead_of: None,
                who: &refused.who,
            };
            deployment::note_failed(connection, new, &error, crate::clock::now())
        };
        let noted = self.stores.open(&store).and_then(|(store, _)| store.note(write));
        if let Err(error) = noted {
            tracing::warn!(handler, error = format!("{error:#}"), "note a failed deployment");
        }
    }
}
