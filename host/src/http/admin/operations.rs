//! The operations of the admin API, one entry for each.
//!
//! A new one is an entry here and a method of the deployer's; its path, its role and its bounds stand nowhere else.

use hyper::Method;
use schemars::json_schema;
use serde_json::{Map, Value};

use super::body::{Filter, Publish, Reload, Rollback, Upload};
use super::openapi::{self, Shape, of};
use super::operation::{Body, CURSOR, LIMIT, Operation, Parameter, Role, seen, told};
use super::running::{deploy, log, pausing, publish, reload, rollback, rows, search, status};
use crate::deploy::backup::{Backup, Wanted};
use crate::deploy::dead_letters::{Detail, Handled, Letter, Order};
use crate::deploy::groups::{Done as Moved, Group, Reset};
use crate::deploy::page::{self, Page};
use crate::deploy::pausing::{Paused, Pausing};
use crate::deploy::report::{Done, Entry, Listed, Published, Report};
use crate::deploy::smoke::MAX as SMOKE_MAX;
use crate::deploy::{Reloaded, stored};
use crate::executor::Verb;
use crate::guest::engine::COMPONENT_MAX;
use crate::ledger::stored::Table;
use crate::lineage::told::Traced;
use crate::metrics::gather::status::Status;
use crate::telemetry::Logged;

pub(super) const JSON: &str = "application/json";

/// A few words, and what they are.
const fn words(shape: Shape) -> Body {
    Body { most: 64 << 10, large: false, media_types: &[JSON], required: true, shape }
}

/// Up to [`crate::deploy::many::NAMED_MAX`] places.
const PLACES: Body = Body { most: 1 << 20, large: false, media_types: &[JSON], required: true, shape: of::<Order> };
/// Up to [`EVENTS_MAX`](super::body::EVENTS_MAX) events.
const EVENTS: Body = Body { most: 8 << 20, large: false, media_types: &[JSON], required: true, shape: of::<Publish> };
/// The largest component in base64, and some.
const COMPONENT: Body = Body {
    most: COMPONENT_MAX as usize / 10 * 14,
    large: true,
    media_types: &["application/wasm", JSON],
    required: true,
    shape: of::<Upload>,
};
/// How much of a listing is told.
const AT_MOST: Parameter = Parameter {
    name: LIMIT,
    about: "How many entries are told at most; 100 where nothing is said.",
    shape: |_| json_schema!({ "type": "integer", "minimum": 1, "maximum": page::MAX }),
};
/// Where it goes on.
const BEHIND: Parameter = Parameter {
    name: CURSOR,
    about: "Goes on behind an earlier part: its `next`, as it is.",
    shape: |_| json_schema!({ "type": "string", "minLength": 1 }),
};
/// What stands in the query of each listing.
const PART: &[Parameter] = &[AT_MOST, BEHIND];

/// Which rows of a store are listed.
const ROWS: &[Parameter] = &[
    Parameter { name: "handler", about: "Of this handler.", shape: of::<String> },
    Parameter { name: "topic", about: "To this topic, or of records of it.", shape: of::<String> },
    Parameter { name: "key", about: "With this key.", shape: of::<String> },
    Parameter {
        name: "error",
        about: "With this in what went wrong last, in any case of letters.",
        shape: of::<String>,
    },
    AT_MOST,
    BEHIND,
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
        answer: of::<Status>,
        run: |_, call| seen(status(&call.monitor)),
    },
    Operation {
        method: Method::GET,
        path: "handlers",
        role: Role::Read,
        summary: "List the handlers",
        query: PART,
        body: None,
        answer: of::<Page<Listed>>,
        run: |deployer, call| seen(deployer.list(&call.window("handlers")?)),
    },
    Operation {
        method: Method::POST,
        path: "handlers",
        role: Role::Deploy,
        summary: "Make a version of a handler live",
        query: &[
            Parameter {
                name: "dry-run",
                about: "`true` tries it on a copy of the store and changes nothing.",
                shape: of::<bool>,
            },
            Parameter {
                name: "smoke",
                about: "Runs it on so many of the last records first, on a copy of the store.",
                shape: |_| json_schema!({ "type": "integer", "minimum": 0, "maximum": SMOKE_MAX }),
            },
        ],
        body: Some(COMPONENT),
        answer: of::<Done>,
        run: deploy,
    },
    Operation {
        method: Method::GET,
        path: "handlers/{handler}",
        role: Role::Read,
        summary: "Say what is in the live version of a handler",
        query: &[],
        body: None,
        answer: of::<Report>,
        run: |deployer, call| seen(deployer.report(call.param("handler"))),
    },
    Operation {
        method: Method::DELETE,
        path: "handlers/{handler}",
        role: Role::Deploy,
        summary: "End a handler and take its file out of the handlers folder",
        query: &[],
        body: None,
        answer: of::<Done>,
        run: |deployer, call| told(deployer.undeploy(call.param("handler"), &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "handlers/{handler}/versions",
        role: Role::Read,
        summary: "List the versions of a handler, the newest first",
        query: PART,
        body: None,
        answer: of::<Page<Entry>>,
        run: |deployer, call| seen(deployer.history(call.param("handler"), &call.window("versions")?)),
    },
    Operation {
        method: Method::POST,
        path: "handlers/{handler}/rollback",
        role: Role::Deploy,
        summary: "Make an earlier version of a handler live",
        query: &[],
        body: Some(Body { required: false, ..words(of::<Rollback>) }),
        answer: of::<Done>,
        run: rollback,
    },
    Operation {
        method: Method::POST,
        path: "handlers/{handler}/events",
        role: Role::Operate,
        summary: "Publish events in the name of a handler, all of them or none",
        query: &[],
        body: Some(EVENTS),
        answer: of::<Published>,
        run: publish,
    },
    Operation {
        method: Method::GET,
        path: "openapi.json",
        role: Role::Read,
        summary: "Describe this API",
        query: &[],
        body: None,
        answer: of::<Map<String, Value>>,
        run: |_, _| seen(Ok(openapi::document())),
    },
    Operation {
        method: Method::GET,
        path: "groups",
        role: Role::Read,
        summary: "List the handlers' consumer groups with their offsets and lags",
        query: PART,
        body: None,
        answer: of::<Page<Group>>,
        run: |deployer, call| seen(deployer.groups(&call.window("groups")?)),
    },
    Operation {
        method: Method::GET,
        path: "groups/{group}",
        role: Role::Read,
        summary: "Say where a consumer group stands in each partition",
        query: &[],
        body: None,
        answer: of::<Group>,
        run: |deployer, call| seen(deployer.group(call.param("group"))),
    },
    Operation {
        method: Method::POST,
        path: "groups/{group}/reset",
        role: Role::Operate,
        summary: "Let a consumer group go on at other offsets",
        query: &[],
        body: Some(words(of::<Reset>)),
        answer: of::<Moved>,
        run: |deployer, call| told(deployer.reset(call.param("group"), &call.json::<Reset>()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "groups/{group}/pause",
        role: Role::Operate,
        summary: "Let a consumer group, a topic of it or a partition stand still",
        query: &[],
        body: Some(Body { required: false, ..words(of::<Pausing>) }),
        answer: of::<Paused>,
        run: |deployer, call| told(deployer.pause(call.param("group"), &pausing(&call)?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "groups/{group}/resume",
        role: Role::Operate,
        summary: "Let a consumer group, or a part of it, that was paused go on",
        query: &[],
        body: Some(Body { required: false, ..words(of::<Pausing>) }),
        answer: of::<Paused>,
        run: |deployer, call| told(deployer.resume(call.param("group"), &pausing(&call)?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "dead-letters",
        role: Role::Read,
        summary: "List dead letters, the oldest first",
        query: &[
            Parameter { name: "handler", about: "Given up by this handler.", shape: of::<String> },
            Parameter { name: "topic", about: "On this dead letter topic, or from this topic.", shape: of::<String> },
            Parameter {
                name: "error",
                about: "With this in the outcome or the message, in any case of letters.",
                shape: of::<String>,
            },
            Parameter {
                name: "since",
                about: "Written at this time or later, like `2026-01-31T12:00:00Z`.",
                shape: of::<String>,
            },
            Parameter { name: "until", about: "Written before this time.", shape: of::<String> },
            Parameter { name: "key", about: "With this key.", shape: of::<String> },
            Parameter { name: "headers", about: "With these headers, `NAME=VALUE`, one a line.", shape: of::<String> },
            Parameter {
                name: "all",
                about: "`true` lists also those that were replayed, published again or discarded.",
                shape: of::<bool>,
            },
            AT_MOST,
            BEHIND,
        ],
        body: None,
        answer: of::<Page<Letter>>,
        run: |deployer, call| told(deployer.dead_letters(&search(&call)?)),
    },
    Operation {
        method: Method::GET,
        path: "dead-letters/{place}",
        role: Role::Read,
        summary: "Show a dead letter, by its TOPIC/PARTITION@OFFSET",
        query: &[],
        body: None,
        answer: of::<Detail>,
        run: |deployer, call| told(deployer.dead_letter(call.param("place"))),
    },
    Operation {
        method: Method::POST,
        path: "dead-letters/replay",
        role: Role::Operate,
        summary: "Put the records of dead letters back to handlers, or publish them again",
        query: &[],
        body: Some(PLACES),
        answer: of::<Handled>,
        run: |deployer, call| told(deployer.replay(&call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "dead-letters/discard",
        role: Role::Operate,
        summary: "Note that nothing is to be done with dead letters any more",
        query: &[],
        body: Some(PLACES),
        answer: of::<Handled>,
        run: |deployer, call| told(deployer.discard(&call.json()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "log",
        role: Role::Read,
        summary: "Say what is logged",
        query: &[],
        body: None,
        answer: of::<Logged>,
        run: |deployer, _| seen(Ok(deployer.levels().logged())),
    },
    Operation {
        method: Method::PUT,
        path: "log",
        role: Role::Operate,
        summary: "Log by another filter, for good or for a while",
        query: &[],
        body: Some(words(of::<Filter>)),
        answer: of::<Logged>,
        run: log,
    },
    Operation {
        method: Method::POST,
        path: "reload",
        role: Role::Deploy,
        summary: "Read the settings again, and let hold what can",
        query: &[],
        body: Some(Body { required: false, ..words(of::<Reload>) }),
        answer: of::<Reloaded>,
        run: reload,
    },
    Operation {
        method: Method::GET,
        path: "trace/{id}",
        role: Role::Read,
        summary: "Say what an event or a record caused, across handlers and stores",
        query: &[],
        body: None,
        answer: of::<Traced>,
        run: |deployer, call| told(deployer.trace(call.param("id"))),
    },
    Operation {
        method: Method::POST,
        path: "backup",
        // Its files hold every secret of the data folder.
        role: Role::Deploy,
        summary: "Begin to write a backup of the data folder into a folder of it",
        query: &[],
        body: Some(words(of::<Wanted>)),
        answer: of::<Backup>,
        run: |deployer, call| told(deployer.back_up(&call.json::<Wanted>()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "backup/{name}",
        role: Role::Read,
        summary: "Say how far a backup is, or what is in it",
        query: &[],
        body: None,
        answer: of::<Backup>,
        run: |deployer, call| seen(deployer.backup(call.param("name"))),
    },
    Operation {
        method: Method::GET,
        path: "fallback",
        role: Role::Read,
        summary: "List what even its destination refused, or could not be compensated",
        query: ROWS,
        body: None,
        answer: of::<Page<stored::Entry>>,
        run: |deployer, call| told(deployer.stored(Table::Fallback, &rows(Table::Fallback, &call)?)),
    },
    Operation {
        method: Method::GET,
        path: "fallback/{row}",
        role: Role::Read,
        summary: "Show one row of the fallback, by its STORE/NUMBER-CHECK",
        query: &[],
        body: None,
        answer: of::<stored::Detail>,
        run: |deployer, call| told(deployer.stored_row(Table::Fallback, call.param("row"))),
    },
    Operation {
        method: Method::POST,
        path: "fallback/replay",
        role: Role::Operate,
        summary: "Put rows of the fallback back to their handlers or their topics",
        query: &[],
        body: Some(Body { shape: of::<stored::Order>, ..PLACES }),
        answer: of::<stored::Handled>,
        run: |deployer, call| told(deployer.tend(Table::Fallback, Verb::Replay, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "fallback/discard",
        role: Role::Operate,
        summary: "Take rows out of the fallback for good",
        query: &[],
        body: Some(Body { shape: of::<stored::Order>, ..PLACES }),
        answer: of::<stored::Handled>,
        run: |deployer, call| told(deployer.tend(Table::Fallback, Verb::Discard, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "outbox",
        role: Role::Read,
        summary: "List events that wait for their destination",
        query: ROWS,
        body: None,
        answer: of::<Page<stored::Entry>>,
        run: |deployer, call| told(deployer.stored(Table::Outbox, &rows(Table::Outbox, &call)?)),
    },
    Operation {
        method: Method::GET,
        path: "outbox/{row}",
        role: Role::Read,
        summary: "Show one row of the outbox, by its STORE/NUMBER-CHECK",
        query: &[],
        body: None,
        answer: of::<stored::Detail>,
        run: |deployer, call| told(deployer.stored_row(Table::Outbox, call.param("row"))),
    },
    Operation {
        method: Method::POST,
        path: "outbox/retry",
        role: Role::Operate,
        summary: "Try events of the outbox now",
        query: &[],
        body: Some(Body { shape: of::<stored::Order>, ..PLACES }),
        answer: of::<stored::Handled>,
        run: |deployer, call| told(deployer.tend(Table::Outbox, Verb::Retry, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "outbox/discard",
        role: Role::Operate,
        summary: "Take events out of the outbox, into the fallback",
        query: &[],
        body: Some(Body { shape: of::<stored::Order>, ..PLACES }),
        answer: of::<stored::Handled>,
        run: |deployer, call| told(deployer.tend(Table::Outbox, Verb::Discard, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::GET,
        path: "pending",
        role: Role::Read,
        summary: "List records that wait for their next attempt",
        query: ROWS,
        body: None,
        answer: of::<Page<stored::Entry>>,
        run: |deployer, call| told(deployer.stored(Table::Pending, &rows(Table::Pending, &call)?)),
    },
    Operation {
        method: Method::GET,
        path: "pending/{row}",
        role: Role::Read,
        summary: "Show one record that waits, by its STORE/NUMBER-CHECK",
        query: &[],
        body: None,
        answer: of::<stored::Detail>,
        run: |deployer, call| told(deployer.stored_row(Table::Pending, call.param("row"))),
    },
    Operation {
        method: Method::POST,
        path: "pending/retry",
        role: Role::Operate,
        summary: "Try records now that wait for their next attempt",
        query: &[],
        body: Some(Body { shape: of::<stored::Order>, ..PLACES }),
        answer: of::<stored::Handled>,
        run: |deployer, call| told(deployer.tend(Table::Pending, Verb::Retry, &call.json()?, &call.caller)),
    },
    Operation {
        method: Method::POST,
        path: "pending/discard",
        role: Role::Operate,
        summary: "Give records up that wait for their next attempt",
        query: &[],
        body: Some(Body { shape: of::<stored::Order>, ..PLACES }),
        answer: of::<stored::Handled>,
        run: |deployer, call| told(deployer.tend(Table::Pending, Verb::Discard, &call.json()?, &call.caller)),
    },
];

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
