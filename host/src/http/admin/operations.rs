//! The operations of the admin API, one entry for each.
//!
//! A new one is an entry here and a method of the deployer's; its path, its role and its bounds stand nowhere else.

use anyhow::Context as _;
use std::time::Duration;

use hyper::Method;

use super::body::{EVENTS_MAX, Filter, NewEvent, Publish, Rollback, Upload};
use super::operation::{Body, Call, Operation, Parameter, Role, told};
use crate::deploy::Deployer;
use crate::deploy::artifact::Parts;
use crate::deploy::backup::Wanted;
use crate::deploy::dead_letters::{PAGE_MAX, Search};
use crate::deploy::groups::Reset;
use crate::deploy::pausing::Pausing;
use crate::deploy::smoke::MAX as SMOKE_MAX;
use crate::deploy::stored;
use crate::executor::Verb;
use crate::guest::engine::COMPONENT_MAX;
use crate::http::monitor::Told;
use crate::http::problem::Problem;
use crate::ledger::stored::Table;
use crate::metrics::gather::status::Status;
use crate::settings::units;

/// The longest time for which another filter is set.
const LOG_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const JSON: &str = "application/json";
/// A few words.
const WORDS: Body = Body { most: 64 << 10, large: false, media_types: &[JSON] };
/// Up to [`crate::deploy::dead_letters::PLACES_MAX`] places.
const PLACES: Body = Body { most: 1 << 20, large: false, media_types: &[JSON] };
/// Up to [`EVENTS_MAX`] events.
const EVENTS: Body = Body { most: 8 << 20, large: false, media_types: &[JSON] };
/// The largest component in base64, and some.
const COMPONENT: Body =
    Body { most: COMPONENT_MAX as usize / 10 * 14, large: true, media_types: &["application/wasm", JSON] };

/// Which rows of a store are listed.
const ROWS: &[Parameter] = &[
    Parameter { name: "handler", about: "of this handler" },
    Parameter { name: "topic", about: "to this topic, or of records of it" },
    Parameter { name: "key", about: "with this key" },
    Parameter { name: "error", about: "with this in what went wrong last, in any case of letters" },
    Parameter { name: "limit", about: "so many at most; 100 without it" },
    Parameter { name: "after", about: "goes on where another answer ended, as its `next` says" },
];

/// All of them.
pub static OPERATIONS: &[Operation] = &[
    Operation {
        method: Method::GET,
        path: "status",
        role: Role::Read,
        summary: "Say how the daemon, its handlers and its stores are",
        query: &[],
        body: None,
        run: |_, call| told(status(&call.monitor)),
    },
    Operation {
        method: Method::GET,
        path: "handlers",
        role: Role::Read,
        summary: "List the handlers",
        query: &[],
        body: None,
        run: |deployer, _| told(deployer.list()),
    },
    Operation {
        method: Method::POST,
        path: "handlers",
        role: Role::Deploy,
        summary: "Make a version of a handler live",
        query: &[
            Parameter { name: "dry-run", about: "`true` tries it on a copy of the store and changes nothing" },
            Parameter { name: "smoke", about: "runs it on so many of the last records first, on a copy" },
        ],
        body: Some(COMPONENT),
        run: deploy,
    },
    Operation {
        method: Method::GET,
        path: "handlers/{handler}",
        role: Role::Read,
        summary: "Say what is in the live version of a handler",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.report(call.param("handler"))),
    },
    Operation {
        method: Method::DELETE,
        path: "handlers/{handler}",
        role: Role::Deploy,
        summary: "End a handler and take its file out of the handlers folder",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.undeploy(call.param("handler"), &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "handlers/{handler}/versions",
        role: Role::Read,
        summary: "List the versions of a handler, the newest first",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.history(call.param("handler"))),
    },
    Operation {
        method: Method::POST,
        path: "handlers/{handler}/rollback",
        role: Role::Deploy,
        summary: "Make an earlier version of a handler live",
        query: &[],
        body: Some(WORDS),
        run: rollback,
    },
    Operation {
        method: Method::POST,
        path: "handlers/{handler}/events",
        role: Role::Operate,
        summary: "Publish events in the name of a handler, all of them or none",
        query: &[],
        body: Some(EVENTS),
        run: publish,
    },
    Operation {
        method: Method::GET,
        path: "groups",
        role: Role::Read,
        summary: "List the handlers' consumer groups with their offsets and lags",
        query: &[],
        body: None,
        run: |deployer, _| told(deployer.groups()),
    },
    Operation {
        method: Method::GET,
        path: "groups/{group}",
        role: Role::Read,
        summary: "Say where a consumer group stands in each partition",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.group(call.param("group"))),
    },
    Operation {
        method: Method::POST,
        path: "groups/{group}/reset",
        role: Role::Operate,
        summary: "Let a consumer group go on at other offsets",
        query: &[],
        body: Some(WORDS),
        run: |deployer, call| told(deployer.reset(call.param("group"), &call.json::<Reset>()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "groups/{group}/pause",
        role: Role::Operate,
        summary: "Let a consumer group, a topic of it or a partition stand still",
        query: &[],
        body: Some(WORDS),
        run: |deployer, call| told(deployer.pause(call.param("group"), &pausing(&call)?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "groups/{group}/resume",
        role: Role::Operate,
        summary: "Let a consumer group, or a part of it, that was paused go on",
        query: &[],
        body: Some(WORDS),
        run: |deployer, call| told(deployer.resume(call.param("group"), &pausing(&call)?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "dead-letters",
        role: Role::Read,
        summary: "List dead letters, the oldest first",
        query: &[
            Parameter { name: "handler", about: "given up by this handler" },
            Parameter { name: "topic", about: "on this dead letter topic, or from this topic" },
            Parameter { name: "error", about: "with this in the outcome or the message, in any case of letters" },
            Parameter { name: "since", about: "written at this time or later, like `2026-01-31T12:00:00Z`" },
            Parameter { name: "until", about: "written before this time" },
            Parameter { name: "key", about: "with this key" },
            Parameter { name: "headers", about: "with these headers, `NAME=VALUE`, one a line" },
            Parameter {
                name: "all",
                about: "`true` lists also those that were replayed, published again or discarded",
            },
            Parameter { name: "limit", about: "so many at most; 100 without it" },
            Parameter { name: "after", about: "goes on where another answer ended, as its `next` says" },
        ],
        body: None,
        run: |deployer, call| told(deployer.dead_letters(&search(&call)?)),
    },
    Operation {
        method: Method::GET,
        path: "dead-letters/{place}",
        role: Role::Read,
        summary: "Show a dead letter, by its TOPIC/PARTITION@OFFSET",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.dead_letter(call.param("place"))),
    },
    Operation {
        method: Method::POST,
        path: "dead-letters/replay",
        role: Role::Operate,
        summary: "Put the records of dead letters back to handlers, or publish them again",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.replay(&call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "dead-letters/discard",
        role: Role::Operate,
        summary: "Note that nothing is to be done with dead letters any more",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.discard(&call.json()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "log",
        role: Role::Read,
        summary: "Say what is logged",
        query: &[],
        body: None,
        run: |deployer, _| told(Ok(deployer.levels().logged())),
    },
    Operation {
        method: Method::PUT,
        path: "log",
        role: Role::Operate,
        summary: "Log by another filter, for good or for a while",
        query: &[],
        body: Some(WORDS),
        run: log,
    },
    Operation {
        method: Method::POST,
        path: "reload",
        role: Role::Deploy,
        summary: "Read the settings again, and let hold what can",
        query: &[],
        body: Some(WORDS),
        run: |deployer, call| told(deployer.reload(&call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "trace/{id}",
        role: Role::Read,
        summary: "Say what an event or a record caused, across handlers and stores",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.trace(call.param("id"))),
    },
    Operation {
        method: Method::POST,
        path: "backup",
        // Its files hold every secret of the data folder.
        role: Role::Deploy,
        summary: "Write a backup of the data folder into a folder of it",
        query: &[],
        body: Some(WORDS),
        run: |deployer, call| told(deployer.back_up(&call.json::<Wanted>()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "fallback",
        role: Role::Read,
        summary: "List what even its destination refused, or could not be compensated",
        query: ROWS,
        body: None,
        run: |deployer, call| told(deployer.stored(Table::Fallback, &rows(&call)?)),
    },
    Operation {
        method: Method::GET,
        path: "fallback/{row}",
        role: Role::Read,
        summary: "Show one row of the fallback, by its STORE/NUMBER-CHECK",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.stored_row(Table::Fallback, call.param("row"))),
    },
    Operation {
        method: Method::POST,
        path: "fallback/replay",
        role: Role::Operate,
        summary: "Put rows of the fallback back to their handlers or their topics",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.tend(Table::Fallback, Verb::Replay, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "fallback/discard",
        role: Role::Operate,
        summary: "Take rows out of the fallback for good",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.tend(Table::Fallback, Verb::Discard, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "outbox",
        role: Role::Read,
        summary: "List events that wait for their destination",
        query: ROWS,
        body: None,
        run: |deployer, call| told(deployer.stored(Table::Outbox, &rows(&call)?)),
    },
    Operation {
        method: Method::GET,
        path: "outbox/{row}",
        role: Role::Read,
        summary: "Show one row of the outbox, by its STORE/NUMBER-CHECK",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.stored_row(Table::Outbox, call.param("row"))),
    },
    Operation {
        method: Method::POST,
        path: "outbox/retry",
        role: Role::Operate,
        summary: "Try events of the outbox now",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.tend(Table::Outbox, Verb::Retry, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "outbox/discard",
        role: Role::Operate,
        summary: "Take events out of the outbox, into the fallback",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.tend(Table::Outbox, Verb::Discard, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "pending",
        role: Role::Read,
        summary: "List records that wait for their next attempt",
        query: ROWS,
        body: None,
        run: |deployer, call| told(deployer.stored(Table::Pending, &rows(&call)?)),
    },
    Operation {
        method: Method::GET,
        path: "pending/{row}",
        role: Role::Read,
        summary: "Show one record that waits, by its STORE/NUMBER-CHECK",
        query: &[],
        body: None,
        run: |deployer, call| told(deployer.stored_row(Table::Pending, call.param("row"))),
    },
    Operation {
        method: Method::POST,
        path: "pending/retry",
        role: Role::Operate,
        summary: "Try records now that wait for their next attempt",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.tend(Table::Pending, Verb::Retry, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "pending/discard",
        role: Role::Operate,
        summary: "Give records up that wait for their next attempt",
        query: &[],
        body: Some(PLACES),
        run: |deployer, call| told(deployer.tend(Table::Pending, Verb::Discard, &call.json()?, &call.caller)),
    },
];

fn search(call: &Call) -> Result<Search, Problem> {
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
        limit: call.number("limit", PAGE_MAX)?,
        after: text("after"),
    })
}

fn rows(call: &Call) -> Result<stored::Search, Problem> {
    let text = |name: &str| call.asked(name).map(str::to_owned);
    Ok(stored::Search {
        handler: text("handler"),
        topic: text("topic"),
        key: text("key"),
        error: text("error"),
        limit: call.number("limit", PAGE_MAX)?,
        after: text("after"),
    })
}

fn deploy(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
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

fn status(monitor: &Told) -> anyhow::Result<Status> {
    let gatherer = monitor.gatherer.get().context("the daemon does not run yet")?;
    Ok(gatherer.status(monitor.now.get()))
}

/// With nothing said it is all of the group.
fn pausing(call: &Call) -> Result<Pausing, Problem> {
    if call.body.is_empty() { Ok(Pausing::default()) } else { call.json() }
}

fn rollback(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let Rollback { version } = if call.body.is_empty() { Rollback::default() } else { call.json()? };
    told(deployer.rollback(call.param("handler"), version, &call.caller))
}

fn log(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let Filter { filter, within } = call.json()?;
    let within = within.as_deref().map(units::duration).transpose().map_err(Problem::bad_request)?;
    if within.is_some_and(|within| within > LOG_MAX) {
        return Err(Problem::bad_request("a filter is for a day at most, or for good"));
    }
    deployer.levels().set(&filter, within).map_err(|error| Problem::bad_request(format!("{error:#}")))?;
    told(Ok(deployer.levels().logged()))
}

fn publish(deployer: &Deployer, call: Call) -> Result<Vec<u8>, Problem> {
    let Publish { events } = call.json()?;
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        return Err(Problem::bad_request(format!("a request publishes from 1 to {EVENTS_MAX} events")));
    }
    let events = events.into_iter().map(NewEvent::event).collect::<Result<_, _>>()?;
    told(deployer.publish(call.param("handler"), events, &call.caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h4_an_operation_has_its_method_and_path_to_itself() {
        let shape = |path: &str| {
            path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
        };
        for (n, one) in OPERATIONS.iter().enumerate() {
            let others = || OPERATIONS.iter().take(n);
            assert!(!others().any(|o| o.method == one.method && shape(o.path) == shape(one.path)), "{}", one.path);
            assert!(one.role > Role::Read || one.method == Method::GET, "{} {} changes nothing?", one.method, one.path);
            let sends = matches!(one.method, Method::POST | Method::PUT);
            assert_eq!(one.body.is_some(), sends, "{} {}", one.method, one.path);
        }
    }

    #[test]
    fn h4_a_path_is_matched_part_by_part_and_its_parameters_are_decoded() {
        let matches = |path: &str| {
            let found = OPERATIONS.iter().find_map(|o| Some((o.path, o.params(path)?)));
            found.map(|(pattern, params)| (pattern, params.into_iter().map(|(_, value)| value).collect::<Vec<_>>()))
        };
        assert_eq!(matches("handlers"), Some(("handlers", vec![])));
        assert_eq!(matches("groups/a%2Fb%20c"), Some(("groups/{group}", vec!["a/b c".to_owned()])));
        assert_eq!(matches("groups/g/reset"), Some(("groups/{group}/reset", vec!["g".to_owned()])));
        for nowhere in ["", "/", "handler", "handlers/", "handlers/a/b", "groups/g/reset/", "groups/%ff", "Handlers"] {
            assert!(matches(nowhere).is_none_or(|(_, params)| params == [""]), "{nowhere}");
        }
    }
}
