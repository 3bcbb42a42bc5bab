//! What orders on many dead letters and those on many rows of the stores have in common: their bounds, and how they are noted.
//!
//! It does nothing with any of them itself.

use anyhow::Result;

use super::Deployer;
use super::audit::{Action, Caller, Told};

/// Those that are named in one request at most.
pub const NAMED_MAX: usize = 1_000;

impl Deployer {
    /// Does something with many of one kind, and notes it by its `summary`. Where that is empty a search has found nothing more, and
    /// nothing was asked for either.
    ///
    /// # Errors
    /// It was not done; or it was, and could not be noted.
    pub(super) fn note_many<T>(
        &self,
        action: Action,
        handler: Option<&str>,
        caller: &Caller,
        act: impl FnOnce() -> Result<T>,
        summary: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        let by = caller.name();
        let told = Told { handler: handler.map(str::to_owned), ..Told::default() };
        self.around.audit.noted(caller, action, told, |told| {
            let handled = act().inspect_err(|error| {
                tracing::warn!(by, error = format!("{error:#}"), "{action} refused");
            })?;
            let done = summary(&handled);
            told.nothing = done.is_empty();
            if !told.nothing {
                tracing::info!(by, done, "{action}");
            }
            told.detail = Some(done);
            Ok(handled)
        })
    }
}
