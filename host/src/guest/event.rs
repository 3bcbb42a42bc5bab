//! An event on its way out: from what was given to what its topic will hold.
//!
//! Pure. Who publishes and by which way makes no difference: a handler that enqueues or sends, and code outside that publishes in a
//! handler's name, come through here, and have the same topic, envelope, limits and delay.

use crate::deploy::manifest::Spec;
use crate::ledger::outbox::{self, EventKind};
use crate::record::{Event, Fault, Unpublished};

use super::envelope;

/// The longest event id and event type, in bytes.
const NAME_MAX: usize = 1024;
/// How long after the delivery an event may be due, in milliseconds: what is further away is rather a mistake.
const DELAY_MAX_MS: i64 = 365 * DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The delivery that an event belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Within {
    /// The delivery's clock, in milliseconds since the Unix epoch.
    pub(crate) now: i64,
    /// The input's own time, of which the topic has its date; 0 if it has none.
    pub(crate) input_time: i64,
    /// How many events it has published before this one.
    pub(crate) events: usize,
    /// How many bytes those have.
    pub(crate) bytes: usize,
}

/// The event as it is published, under its own id or the next one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn accept(
    spec: &Spec,
    event: Event,
    within: Within,
    next_id: impl FnOnce() -> String,
) -> Result<outbox::Event, Unpublished> {
    let refuse = |fault, message| Err(Unpublished { fault, message });
    let now = within.now;
    let not_before = event.due.map(|due| due.time(now));
    if let Some(due) = not_before.filter(|due| due.saturating_sub(now) > DELAY_MAX_MS) {
        let message = format!(
            "an event may be due {} days after the delivery at most, and this one is due at {due} (milliseconds since 1970), which is {} days away",
            DELAY_MAX_MS / DAY_MS,
            due.saturating_sub(now) / DAY_MS
        );
        return refuse(Fault::Due, message);
    }
    let Some(topic) = spec.publish.get(&event.destination) else {
        let message = format!("[publish] of handler {} names no destination `{}`", spec.name, event.destination);
        return refuse(Fault::Destination, message);
    };
    // The input's own time, so that the event has the same topic whenever it is run again.
    let at = if within.input_time == 0 { now } else { within.input_time };
    let event_id = match event.id {
        Some(id) if id.trim().is_empty() || id.len() > NAME_MAX => {
            return refuse(Fault::Id, format!("an event id has 1 to {NAME_MAX} bytes"));
        }
        Some(id) => id,
        None => next_id(),
    };
    let mut event = outbox::Event {
        event_id,
        event_type: event.event_type,
        topic: topic.topic(at, &spec.time_zone),
        partition: None,
        key: event.key,
        value: event.value,
        headers: event.headers,
        kind: EventKind::Event,
        not_before: not_before.filter(|due| *due > now),
    };
    if let Err(message) = envelope::close(spec, &mut event, now) {
        return refuse(Fault::Envelope, message);
    }
    if within.events >= spec.limits.events
        || within.bytes + event.size() > spec.limits.event_bytes
        || event.event_type.len() > NAME_MAX
    {
        let message = format!(
            "one delivery may publish {} events (limits.events) of {} bytes in all (limits.event-bytes), with types of up to {NAME_MAX} bytes",
            spec.limits.events, spec.limits.event_bytes
        );
        return refuse(Fault::Size, message);
    }
    Ok(event)
}

/// What is said where the outbox has the event's id already.
pub(crate) fn duplicate(event: &outbox::Event) -> Unpublished {
    let message = format!("the outbox has an event with the id {} already", event.event_id);
    Unpublished { fault: Fault::Duplicate, message }
}
