//! What a live handler is reached by: its topics, its consumer, its routes.
//!
//! It connects, and knows nothing of versions: which one is live is decided before. It reads no record and answers no request.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::oneshot;

use super::checks::reads_the_same;
use super::manifest::{Route, Spec};
use super::{Deployed, Deployer};
use crate::executor::readers::Readers;
use crate::executor::{self, Joined, Publication};
use crate::http::events;
use crate::http::routes::{Dispatch, Target};
use crate::kafka::consumer::{self, Consumer};
use crate::kafka::template::Template;
use crate::kafka::topics::Ensured;

/// Partitions of a topic that nobody configured, on the embedded broker.
pub(crate) const EMBEDDED_PARTITIONS: i32 = 3;
/// Kilobytes that all consumers together may prefetch.
const PREFETCH_KBYTES: usize = 128 << 10;
/// Kilobytes that one consumer may prefetch at least.
const PREFETCH_MIN_KBYTES: usize = 2 << 10;

impl Deployed {
    /// Whether it reads, if it is to.
    pub(super) fn serves(&self) -> bool {
        self.consumer.is_some() == self.spec.reads()
    }
}

impl Deployer {
    /// The embedded broker gets every topic that a handler names; a cluster only those under `[[topic]]`.
    pub(super) fn prepare_topics(&self, spec: &Spec) -> Result<()> {
        if !self.around.kafka.is_embedded() {
            return Ok(());
        }
        let settings = self.settings();
        let plain = spec.publish.values().filter(|topic| !topic.is_dated()).map(Template::as_str);
        let published = plain.filter(|topic| settings.destinations.http(topic).is_none());
        for topic in spec.topics.iter().map(String::as_str).chain(published) {
            let configured = settings.topics.iter().find(|t| t.name.matches(topic));
            let partitions = configured.map_or(EMBEDDED_PARTITIONS, |t| t.partitions);
            if self.around.admin.ensure(topic, partitions, 1)? == Ensured::Created {
                tracing::info!(topic, partitions, "topic created");
            }
        }
        Ok(())
    }

    pub(super) fn route(&self, spec: &Spec, store: &executor::Handle, path: &Arc<Path>, joined: &Joined) -> Result<()> {
        Ok(self.around.routes.set(&spec.name, targets(spec, store, path, joined, &self.around.readers))?)
    }

    /// The consumer that runs is kept where it would read the same in the same way.
    pub(super) fn consume(
        &self,
        before: Option<Deployed>,
        spec: &Spec,
        store: &executor::Handle,
        joined: Joined,
        handlers: usize,
    ) -> Result<Option<Consumer>> {
        if let Some(Deployed { spec: old, consumer: Some(consumer), .. }) = before {
            if reads_the_same(&old, spec) {
                return Ok(Some(consumer));
            }
            // Closed before the new one opens: they share a `group.instance.id`.
            consumer.stop();
        }
        if !spec.reads() {
            return Ok(None);
        }
        let kbytes = (PREFETCH_KBYTES / handlers.max(1)).max(PREFETCH_MIN_KBYTES);
        let plan = consumer::Plan {
            connection: self.around.kafka.clone(),
            spec: spec.clone(),
            executor: store.clone(),
            positions: joined.positions,
            host_id: self.around.host_id.clone(),
            prefetch_kbytes: u32::try_from(kbytes).unwrap_or(u32::MAX),
        };
        Consumer::start(plan).map(Some)
    }
}

/// Where a live handler's routes lead: what reads to the readers, all else to its store's executor. What others publish in its
/// name goes there too, and the host answers it.
pub fn targets(
    spec: &Spec,
    store: &executor::Handle,
    path: &Arc<Path>,
    joined: &Joined,
    readers: &Readers,
) -> Vec<Target> {
    let handler: Arc<str> = spec.name.as_str().into();
    let target = |route: &Route| {
        let send: Dispatch = if route.reads() {
            let (readers, slot) = (readers.clone(), joined.slot.clone());
            let (path, identity) = (path.clone(), store.identity().clone());
            Arc::new(move |request| readers.request(&slot, &path, &identity, request))
        } else {
            let (store, handler) = (store.clone(), handler.clone());
            Arc::new(move |request| store.request(&handler, request))
        };
        Target { route: route.clone(), rates: spec.rates, handler: handler.clone(), send }
    };
    let mut targets: Vec<Target> = spec.routes.iter().map(target).collect();
    targets.extend(spec.events.route(&spec.name).map(|route| {
        let (store, name, open) = (store.clone(), handler.clone(), spec.events.destinations.clone());
        let send = move |request| match events::read(&request, &open) {
            Ok(event) => store.publish(&name, request, Publication { events: vec![event], answer: events::accepted }),
            Err(refusal) => {
                let (reply, answer) = oneshot::channel();
                let _ = reply.send(Err(refusal));
                answer
            }
        };
        Target { route, rates: spec.rates, handler, send: Arc::new(send) }
    }));
    targets
}
