//! Events that code outside of any handler publishes in a handler's name.
//!
//! They are rows of the handler's outbox like those that it enqueues itself, and commit in a group like a request of its own, but
//! none of its code runs. Those that were given together are published together, or none of them is.

use std::sync::Arc;

use super::Executor;
use super::group::{Abort, Group};
use super::request::input;
use super::run::Left;
use crate::deploy::manifest::{Envelope, Spec};
use crate::guest::event::{Within, accept, duplicate};
use crate::id::Seed;
use crate::ledger::outbox;
use crate::record::{Answer, Event, Fault, Request, Response, Unpublished};
use crate::store::Error;
use crate::trace::{Incoming, Origin, Tracer};

/// Events that are published for a request, all of them or none.
pub struct Publication {
    /// In their order.
    pub events: Vec<Event>,
    /// Writes the answer, which is given once they have committed.
    pub answer: fn(&[outbox::Event]) -> Response,
}

impl Executor {
    /// Publishes what a request brings, inside the open group, which it has entered.
    pub(super) fn publish(
        &mut self,
        group: &mut Group,
        handler: &Arc<str>,
        spec: &Spec,
        request: &Request,
        publication: &Publication,
    ) -> Result<Answer, Abort> {
        match self.enqueue(spec, request, &publication.events, group.next_outbox_id)? {
            Ok((events, next_outbox_id)) => {
                let response = (publication.answer)(&events);
                self.keep_answer(handler, request, &publication.events, &response)?;
                self.keep(group, handler, &mut Left::enqueued(next_outbox_id))?;
                Ok(Ok(response))
            }
            Err(unpublished) => {
                self.undo(group)?;
                Ok(Err(unpublished.into()))
            }
        }
    }

    /// Writes the rows, from this id on: the events as they are published, and the id of the next row.
    fn enqueue(
        &self,
        spec: &Spec,
        request: &Request,
        given: &[Event],
        mut row_id: i64,
    ) -> Result<Result<(Vec<outbox::Event>, i64), Unpublished>, Error> {
        let (input, now) = (input(request), crate::clock::now());
        let seed = Seed::derive(self.identity.secret.as_bytes(), &spec.name, &input);
        let source = input.describe("");
        // Nothing of a handler's runs: what came is passed on.
        let place = Tracer::default().place(Incoming::of_request(&request.headers), Origin::of(&seed));
        let mut events = Vec::with_capacity(given.len());
        for (event, n) in given.iter().zip(0..) {
            let accepted = check(spec, event)
                .and_then(|()| accept(spec, event.clone(), alone(now), || seed.event_id(n, now).to_string()));
            let accepted = accepted.map(|mut event| {
                place.mark(&mut event.headers);
                event
            });
            let inserted = match accepted {
                Ok(event) if outbox::insert(self.connection(), row_id, &event, &spec.name, &source, now)? => Ok(event),
                Ok(event) => Err(duplicate(&event)),
                Err(unpublished) => Err(unpublished),
            };
            match inserted {
                Ok(event) => events.push(event),
                Err(unpublished) => return Ok(Err(of_many(unpublished, n, given.len()))),
            }
            row_id += 1;
        }
        Ok(Ok((events, row_id)))
    }
}

/// Each event has the limits of a delivery that publishes no other.
fn alone(now: i64) -> Within {
    Within { now, input_time: now, events: 0, bytes: 0 }
}

/// What a handler's code cannot forget, a command line can.
fn check(spec: &Spec, event: &Event) -> Result<(), Unpublished> {
    if event.event_type.is_empty() && spec.envelope != Envelope::None {
        let message = "the event has no type, which the envelope of the manifest says: give it one".to_owned();
        return Err(Unpublished { fault: Fault::Envelope, message });
    }
    Ok(())
}

fn of_many(unpublished: Unpublished, n: u32, all: usize) -> Unpublished {
    if all == 1 {
        return unpublished;
    }
    let message = format!("event {} of {all}: {}; none of them was published", n + 1, unpublished.message);
    Unpublished { message, ..unpublished }
}
