//! What runs for an operation, where a line of the table does not say it: a call, as the deployer takes it.
//!
//! It reads what was sent, and refuses what makes no sense before anything is done. It decides nothing.

use std::time::Duration;

use anyhow::Context as _;

use super::body::{EVENTS_MAX, Filter, NewEvent, Publish, Reload, Rollback, Upload};
use super::operation::{Call, told};
use super::operations::JSON;
use crate::deploy::artifact::Parts;
use crate::deploy::dead_letters::{self, Search};
use crate::deploy::pausing::Pausing;
use crate::deploy::smoke::MAX as SMOKE_MAX;
use crate::deploy::{Deployer, stored};
use crate::http::monitor::Told;
use crate::http::problem::Problem;
use crate::ledger::stored::Table;
use crate::metrics::gather::status::Status;
use crate::settings::units;

/// The longest time for which another filter is set.
const LOG_MAX: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn search(call: &Call) -> Result<Search, Problem> {
    let text = |name: &str| call.asked(name).map(str::to_owned);
    Ok(Search {
        handler: text("handler"),
        topic: text("topic"),
        error: text("error"),
        since: text("since"),
        until: text("until"),
        key: text("key"),
        headers: call.asked("headers").unwrap_or_default().lines().map(str::to_owned).collect(),
        all: call.flag("all")?,
        limit: Some(call.limit()?),
        cursor: call.cursor(dead_letters::LISTING)?,
    })
}

pub(super) fn rows(of: Table, call: &Call) -> Result<stored::Search, Problem> {
    let text = |name: &str| call.asked(name).map(str::to_owned);
    Ok(stored::Search {
        handler: text("handler"),
        topic: text("topic"),
        key: text("key"),
        error: text("error"),
        limit: Some(call.limit()?),
        cursor: call.cursor(of.name())?,
    })
}

pub(super) fn deploy(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let (rehearsal, smoke) = (call.flag("dry-run")?, call.number("smoke", SMOKE_MAX)?);
    let sent = match call.media_type {
        JSON => call.json::<Upload>()?.parts()?,
        _ => Parts { wasm: call.body.into(), ..Parts::default() },
    };
    told(match rehearsal {
        true => deployer.rehearse(sent, smoke),
        false => deployer.upload(sent, smoke, &call.caller),
    })
}

pub(super) fn status(monitor: &Told) -> anyhow::Result<Status> {
    let gatherer = monitor.gatherer.get().context("the daemon does not run yet")?;
    Ok(gatherer.status(monitor.now.get()))
}

/// With nothing said it is all of the group.
pub(super) fn pausing(call: &Call) -> Result<Pausing, Problem> {
    if call.body.is_empty() { Ok(Pausing::default()) } else { call.json() }
}

pub(super) fn rollback(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let Rollback { version } = if call.body.is_empty() { Rollback::default() } else { call.json()? };
    told(deployer.rollback(call.param("handler"), version, &call.caller))
}

pub(super) fn log(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let Filter { filter, within } = call.json()?;
    let within = within.as_deref().map(units::duration).transpose().map_err(Problem::unprocessable)?;
    if within.is_some_and(|within| within > LOG_MAX) {
        return Err(Problem::unprocessable("a filter is for a day at most, or for good"));
    }
    deployer.levels().set(&filter, within).map_err(|error| Problem::unprocessable(format!("{error:#}")))?;
    told(Ok(deployer.levels().logged()))
}

pub(super) fn reload(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    if !call.body.is_empty() {
        let Reload {} = call.json()?;
    }
    told(deployer.reload(&call.caller))
}

pub(super) fn publish(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let Publish { events } = call.json()?;
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        return Err(Problem::unprocessable(format!("a request publishes from 1 to {EVENTS_MAX} events")));
    }
    let events = events.into_iter().map(NewEvent::event).collect::<Result<_, _>>()?;
    told(deployer.publish(call.param("handler"), events, &call.caller))
}
