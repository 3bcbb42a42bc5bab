//! Telling of dead letters: what stands in them, and what the stores say was done with them.
//!
//! A look at one moment: nothing here keeps what it tells from changing. It never writes anything.

use std::sync::Arc;

use anyhow::{Result, anyhow};

use super::finding::Found;
use super::{Detail, Fated, Letter, Search};
use crate::deploy::Deployer;
use crate::deploy::command::Denied;
use crate::deploy::page::Page;
use crate::executor;
use crate::ledger::letter;
use crate::record::Place;
use crate::rig::wire;
use crate::settings::units;
use crate::store::Connection as Store;

impl Deployer {
    /// Looks for dead letters, the oldest first.
    ///
    /// # Errors
    /// The search makes no sense; or Kafka or a store cannot be read.
    pub fn dead_letters(&self, search: &Search) -> Result<Page<Letter>> {
        let sources = self.sources()?;
        let fates = self.fates()?;
        let (found, next) = self.search(&sources, &fates, search)?;
        let items = found.iter().map(|found| found.letter(&fates)).collect::<Result<_>>()?;
        Ok(Page { items, next })
    }

    /// One dead letter.
    ///
    /// # Errors
    /// There is no record at that place.
    pub fn dead_letter(&self, place: &str) -> Result<Detail> {
        let place: Place = place.parse().map_err(Denied::Conflict)?;
        let found = self.read_all(&self.sources()?, std::slice::from_ref(&place))?.into_iter().next();
        let found = found.unwrap_or_else(|| Err(anyhow!("it was not read").to_string()));
        let found = found.map_err(|why| Denied::Unknown(format!("{place}: {why}")))?;
        let letter = found.letter(&self.fates()?)?;
        let (record, attempts) = match &found.was {
            Ok(was) => (&was.record, was.attempts()),
            Err(_) => (&found.record, Vec::new()),
        };
        let value = record.value.as_deref();
        let json = value.and_then(|bytes| serde_json::from_slice(bytes).ok());
        Ok(Detail {
            letter,
            attempts,
            timestamp: record.timestamp.millis().map(units::show_time),
            headers: wire::headers(&record.headers),
            value: json.unwrap_or_else(|| wire::text(value)),
        })
    }

    pub(super) fn fates(&self) -> Result<Fates> {
        let open = |(handle, path): (executor::Handle, Arc<std::path::Path>)| {
            Ok((handle.name().clone(), Store::open_reader(&path)?))
        };
        Ok(Fates(self.stores.listed().into_iter().map(open).collect::<Result<_>>()?))
    }
}

/// Readers of all stores, each with its name.
pub(super) struct Fates(Vec<(Arc<str>, Store)>);

impl Fates {
    /// What was done with a dead letter, in all stores but one.
    pub(super) fn find(&self, letter: &letter::Letter, but: Option<&str>) -> Result<Option<letter::Done>> {
        for (_, store) in self.0.iter().filter(|(name, _)| but != Some(&**name)) {
            if let Some(done) = letter::find(store, letter)? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }
}

impl Found {
    pub(super) fn fated(&self, fates: &Fates) -> Result<Option<letter::Done>> {
        let topic_id = self.ends.topic_id.as_str().to_owned();
        fates.find(&letter::Letter { place: self.place.clone(), topic_id }, None)
    }

    fn letter(&self, fates: &Fates) -> Result<Letter> {
        let was = self.was.as_ref().ok();
        let fate = self.fated(fates)?.map(|done| {
            let letter::Done { fate, handler, who, at, .. } = done;
            Fated { fate, handler, who, at: units::show_time(at) }
        });
        Ok(Letter {
            place: self.place.to_string(),
            written: self.record.timestamp.millis().map(units::show_time),
            handler: self.handler.clone(),
            group: was.and_then(|was| was.group.clone()),
            of: was.map(|was| was.record.place().to_string()),
            key: wire::text(self.record.key.as_deref()),
            outcome: was.and_then(|was| was.outcome.clone()),
            message: was.and_then(|was| was.message.clone()),
            fate,
            problem: self.was.as_ref().err().cloned(),
        })
    }
}
