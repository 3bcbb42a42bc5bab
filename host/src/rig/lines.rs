//! Log lines of a rig, kept until its test is told: a handler's at every level, the host's from INFO up.
//!
//! It writes nothing anywhere.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value as Json, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The lines since they were last taken.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<Json>>>);

impl Lines {
    /// Begins to keep the lines of the whole process.
    pub(super) fn start() -> Result<Self> {
        let lines = Self::default();
        tracing_subscriber::registry().with(lines.clone()).try_init().context("start logging")?;
        Ok(lines)
    }

    /// Takes them.
    pub(super) fn take(&self) -> Vec<Json> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The fields of an event or a span.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Json>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.others.insert(field.name().into(), format!("{value:?}").into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(field.name().into(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.others.insert(field.name().into(), value.into());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (target, level) = (event.metadata().target(), *event.metadata().level());
        let host = target.starts_with("tidemill");
        let wanted = if host { Level::INFO } else { Level::WARN };
        if target != "handler" && level > wanted {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.others.extend(of_span.others.clone());
            }
        }
        let line = json!({
            "level": level.to_string().to_lowercase(), "by": if target == "handler" { "handler" } else { "host" },
            "message": fields.message, "fields": fields.others,
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
