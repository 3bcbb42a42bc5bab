//! What the operator does with dead letters: putting their records back, publishing them again, discarding them.
//!
//! Its invariant: no deployment and no other operator comes in between a look at what was done before and what is done now, and what
//! was done is in the audit log. It never writes to Kafka or to a store itself: that is the executors'.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;

use super::finding::{Found, Sources};
use super::telling::Fates;
use super::{Handled, Order, Outcome, Search};
use crate::deploy::Deployer;
use crate::deploy::audit::{Action, Caller};
use crate::deploy::command::{Denied, unknown};
use crate::deploy::many::NAMED_MAX;
use crate::executor::{self, Errand};
use crate::ledger::letter::{self, Fate};
use crate::record::Place;
use crate::settings::units;

impl Deployer {
    /// Puts records back to their handlers, or publishes them again.
    ///
    /// # Errors
    /// The order makes no sense; Kafka or a store fails. What cannot be done with one letter is told of that one.
    pub fn replay(&self, order: &Order, caller: &Caller) -> Result<Handled> {
        let fate = if order.to_topic { Fate::Published } else { Fate::Replayed };
        self.handle(Action::ReplayDeadLetters, fate, order, caller)
    }

    /// Notes that nothing is to be done with dead letters any more.
    ///
    /// # Errors
    /// As for [`Deployer::replay`].
    pub fn discard(&self, order: &Order, caller: &Caller) -> Result<Handled> {
        if order.on.is_some() || order.to_topic {
            return Err(Denied::Conflict("what is discarded goes nowhere: leave `on` and `to-topic` out".into()).into());
        }
        self.handle(Action::DiscardDeadLetters, Fate::Discarded, order, caller)
    }

    fn handle(&self, action: Action, fate: Fate, order: &Order, caller: &Caller) -> Result<Handled> {
        if order.dry_run {
            return self.try_handle(fate, order, caller);
        }
        let handle = || self.try_handle(fate, order, caller);
        self.note_many(action, order.on.as_deref(), caller, handle, Handled::summary)
    }

    fn try_handle(&self, fate: Fate, order: &Order, caller: &Caller) -> Result<Handled> {
        if order.on.is_some() && order.to_topic {
            let why = "a record goes to one handler (`on`) or to its topic (`to-topic`), not both";
            return Err(Denied::Conflict(why.into()).into());
        }
        let sources = self.sources()?;
        if let Some(name) = &order.on {
            sources.get(name).ok_or_else(|| unknown(name))?;
        }
        let (found, next) = match (&order.matching, order.places.len()) {
            (Some(search), 0) => {
                let search = Search { all: search.all || order.again, ..search.clone() };
                let (found, next) = self.search(&sources, &self.fates()?, &search)?;
                (found.into_iter().map(|found| (found.place.to_string(), Ok(found))).collect(), next)
            }
            (None, 1..=NAMED_MAX) => {
                let places = order.places.iter().map(|text| text.parse().map_err(Denied::Conflict));
                let places: Vec<Place> = places.collect::<Result<_, _>>()?;
                let found = self.read_all(&sources, &places)?;
                (places.iter().map(ToString::to_string).zip(found).collect::<Vec<_>>(), None)
            }
            _ => {
                let why = format!("say which dead letters: 1 to {NAMED_MAX} `places`, or `matching`");
                return Err(Denied::Conflict(why).into());
            }
        };
        // From here to the end nobody else does anything with a dead letter, and no handler comes or goes.
        let _handlers = self.lock();
        let fates = self.fates()?;
        let mut outcomes = Vec::with_capacity(found.len());
        // By stores, each with its place among the outcomes.
        type Errands = (executor::Handle, Vec<(usize, Errand)>);
        let mut errands: HashMap<Arc<str>, Errands> = HashMap::new();
        for (place, found) in found {
            let was = found.as_ref().ok().and_then(|found| found.was.as_ref().ok());
            let of = was.map(|was| was.record.place().to_string());
            let outcome = Outcome { place, of, handler: None, error: None, note: None };
            let planned = found.and_then(|found| plan(&sources, &fates, found, fate, order, caller));
            outcomes.push(match planned {
                Ok((store, errand)) => {
                    let handler = Some(errand.handler.to_string());
                    let entry = errands.entry(store.name().clone()).or_insert_with(|| (store, Vec::new()));
                    entry.1.push((outcomes.len(), errand));
                    Outcome { handler, ..outcome }
                }
                Err(error) => Outcome { error: Some(error), ..outcome },
            });
        }
        for (store, errands) in errands.into_values() {
            let (numbers, errands): (Vec<usize>, Vec<Errand>) = errands.into_iter().unzip();
            // Another store may have done its own already.
            let disposed = store.dispose(errands, order.dry_run);
            let disposed = disposed.unwrap_or_else(|error| vec![Err(format!("{error:#}")); numbers.len()]);
            for (number, disposed) in numbers.into_iter().zip(disposed) {
                let Some(outcome) = outcomes.get_mut(number) else { continue };
                match disposed {
                    Ok(note) => outcome.note = note.map(str::to_owned),
                    Err(why) => outcome.error = Some(why),
                }
            }
        }
        Ok(Handled { letters: outcomes, next })
    }
}

/// What is to be done with a dead letter, and in which store.
fn plan(
    sources: &Sources,
    fates: &Fates,
    found: Found,
    fate: Fate,
    order: &Order,
    caller: &Caller,
) -> Result<(executor::Handle, Errand), String> {
    let Found { place, was, handler, ends, .. } = found;
    // Where nobody is known who gave it up, it is kept by whom its topic belongs to.
    let owner = || sources.values().find(|source| source.owns(&place.topic)).map(|source| source.spec.name.clone());
    let group = was.as_ref().ok().and_then(|was| was.group.clone());
    let was = match (was, fate) {
        (Ok(was), _) => Some(was),
        (Err(_), Fate::Discarded) => None,
        (Err(problem), _) => return Err(problem),
    };
    let name = match (fate, order.on.clone().or(handler)) {
        (_, Some(name)) => name,
        (Fate::Replayed, None) => {
            return Err(format!(
                "no handler here has read as group {}, which gave it up: say which is to have it (--on)",
                group.unwrap_or_else(|| "-".into())
            ));
        }
        (_, None) => owner().ok_or("no handler here has this dead letter topic, so nothing can note it")?,
    };
    let source = sources.get(&name).ok_or_else(|| unknown(&name).to_string())?;
    if fate == Fate::Replayed && !source.runs {
        return Err(format!("handler {name} does not run: deploy it, or say which one is to have it (--on)"));
    }
    let letter = letter::Letter { place, topic_id: ends.topic_id.as_str().to_owned() };
    let elsewhere = fates.find(&letter, Some(source.store.name())).map_err(|error| format!("{error:#}"))?;
    if let Some(done) = elsewhere.filter(|_| !order.again) {
        let (what, at) = (done.fate.name(), units::show_time(done.at));
        return Err(format!("it was {what} at {at} by {}, for handler {}", done.who, done.handler));
    }
    let handler = name.as_str().into();
    let (again, who) = (order.again, caller.name().to_owned());
    Ok((source.store.clone(), Errand { letter, low: ends.low, fate, handler, was, again, who }))
}

impl Handled {
    /// For the audit log; empty where there was none.
    fn summary(&self) -> String {
        let mut text = String::new();
        for (n, outcome) in self.letters.iter().enumerate() {
            let Outcome { place, handler, error, .. } = outcome;
            // Writing to a string does not fail.
            let _ = write!(text, "{}{place}", if n == 0 { "" } else { ", " });
            let _ = match (error, handler) {
                (Some(error), _) => write!(text, " (not done: {error})"),
                (None, Some(handler)) => write!(text, " ({handler})"),
                (None, None) => Ok(()),
            };
        }
        text
    }
}
