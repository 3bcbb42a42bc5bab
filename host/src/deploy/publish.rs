//! Events that are published by command, in the name of a handler that runs.
//!
//! They are committed to its outbox and in the audit log before the command is answered. No deployment is waited for: what is live
//! when they commit says where they go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use uuid::Uuid;

use super::Deployer;
use super::audit::{Action, Caller, Told};
use super::command::{Denied, unknown};
use super::report::{Enqueued, Published};
use crate::executor::Publication;
use crate::http::admin::BASE;
use crate::ledger::outbox;
use crate::record::{Event, Refusal, Request, Response};

/// How long the events may wait for their turn.
const WITHIN: Duration = Duration::from_secs(60);

impl Deployer {
    /// Puts events into a handler's outbox, all of them or none.
    ///
    /// # Errors
    /// The handler does not run; one of the events was refused; or its store takes none. Nothing was published.
    pub fn publish(&self, name: &str, events: Vec<Event>, caller: &Caller) -> Result<Published> {
        self.around.audit.noted(caller, Action::Publish, Told::of(name), |told| {
            let published = self.try_publish(name, events, caller)?;
            let ids: Vec<&str> = published.events.iter().map(|event| event.event_id.as_str()).collect();
            told.detail = Some(ids.join(" "));
            Ok(published)
        })
    }

    fn try_publish(&self, name: &str, events: Vec<Event>, caller: &Caller) -> Result<Published> {
        let seen = self.stores.last_seen(name).and_then(|seen| self.stores.handle(&seen.store));
        let store = seen.ok_or_else(|| unknown(name))?;
        let path = format!("{BASE}/handlers/{name}/events");
        let request = Request {
            method: "POST".to_owned(),
            path: path.clone(),
            route: path,
            params: Vec::new(),
            query: None,
            headers: Vec::new(),
            body: Bytes::new(),
            user: Some(caller.name().to_owned()),
            idempotency_key: None,
            id: Uuid::new_v4(),
            deadline: Instant::now() + WITHIN,
        };
        let answer = store.publish(&name.into(), request, Publication { events, answer: list });
        match answer.blocking_recv().context("the store's executor has stopped")? {
            Ok(response) => {
                let events = serde_json::from_slice(&response.body).context("read the answer")?;
                Ok(Published { handler: name.to_owned(), events })
            }
            Err(Refusal::Gone) => Err(Denied::Conflict(format!("handler {name} does not run")).into()),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

fn list(events: &[outbox::Event]) -> Response {
    let enqueued = events.iter().map(|event| Enqueued { event_id: event.event_id.clone(), topic: event.topic.clone() });
    // Strings always become JSON.
    let body = serde_json::to_vec(&enqueued.collect::<Vec<_>>()).unwrap_or_default().into();
    Response { status: 200, headers: Vec::new(), body }
}
