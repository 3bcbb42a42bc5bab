//! What is told, on its way to a collector: by OTLP, in batches, beside everything else.
//!
//! Its invariant: whoever tells a span never waits. What the queue has no room for, and what the collector does not take, is counted and
//! forgotten; that the collector is away is said once, and once that it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use opentelemetry::KeyValue;
use opentelemetry::trace::TraceId;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::Context;
use crate::settings::{Sampling, Traces};

/// 1 of a ratio, as traces are told apart: by the last 63 bits of their ids, as OpenTelemetry's `TraceIdRatioBased` has it.
const ALL: u64 = 1 << 63;
/// How long a collector may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);

/// Takes spans. Without settings it takes none, and costs nothing.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    sampled: Sampled,
    queue: Option<mpsc::Sender<Item>>,
    counts: Counts,
}

/// Which traces are told, as it is now.
pub(super) struct Sampled {
    below: AtomicU64,
    parent_based: AtomicBool,
}

impl Sampled {
    pub(super) fn takes(&self, trace: TraceId, parent: Option<Context>) -> bool {
        if let Some(parent) = parent.filter(|_| self.parent_based.load(Ordering::Relaxed)) {
            return parent.is_sampled();
        }
        let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.below.load(Ordering::Relaxed)
    }

    fn set(&self, sampling: Sampling) {
        self.below.store((sampling.ratio * ALL as f64) as u64, Ordering::Relaxed);
        self.parent_based.store(sampling.parent_based, Ordering::Relaxed);
    }
}

enum Item {
    Span(Box<SpanData>),
    /// Answered once all before it are out.
    Flush(oneshot::Sender<()>),
}

#[derive(Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What became of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The collector has taken them.
    pub exported: u64,
    /// The queue had no room for them.
    pub dropped: u64,
    /// The collector was away, or refused them.
    pub failed: u64,
}

impl Tracer {
    /// Tells spans to a collector, on this runtime. `host_id` names the data folder.
    ///
    /// # Errors
    /// A secret header has no value; or the client cannot be set up.
    pub fn start(settings: &Traces, host_id: &str, runtime: &Handle) -> Result<Self> {
        let Some(endpoint) = &settings.endpoint else { return Ok(Self::default()) };
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        for (name, secret) in &settings.secret_headers {
            let mut secret = secret.clone();
            let value = secret.read().and_then(|()| {
                HeaderValue::from_str(secret.expose())
                    .map_err(|_| format!("is in {}, and is no text that a header can carry", secret.source()))
            });
            let value = value.map_err(|wrong| anyhow::anyhow!("traces: the secret header `{name}` {wrong}"))?;
            headers.insert(name.clone(), value);
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(settings.timeout)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .build()
            .context("set up the client for traces")?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(settings.timeout)
            .build()
            .context("set up the exporter of traces")?;
        exporter.set_resource(
            &Resource::builder_empty()
                .with_attributes([
                    KeyValue::new("service.name", settings.service_name.clone()),
                    KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                    KeyValue::new("service.instance.id", host_id.to_owned()),
                ])
                .build(),
        );
        let (sender, receiver) = mpsc::channel(settings.queue);
        let inner = Inner::new(settings.sampling, Some(sender));
        let courier = Courier {
            exporter,
            endpoint: endpoint.to_string(),
            inner: inner.clone(),
            batch: settings.batch,
            interval: settings.interval,
            away: false,
        };
        runtime.spawn(courier.run(receiver));
        Ok(Self(Some(inner)))
    }

    /// Tells nobody, and decides as one that does: for a replay.
    pub fn deciding(sampling: Sampling) -> Self {
        Self(Some(Inner::new(sampling, None)))
    }

    /// For a replay with these settings.
    pub fn rehearsing(settings: &Traces) -> Self {
        match settings.endpoint {
            Some(_) => Self::deciding(settings.sampling),
            None => Self::default(),
        }
    }

    /// Samples otherwise from now on.
    pub fn sample(&self, sampling: Sampling) {
        if let Some(inner) = &self.0 {
            inner.sampled.set(sampling);
        }
    }

    pub(super) fn sampling(&self) -> Option<&Sampled> {
        self.0.as_deref().map(|inner| &inner.sampled)
    }

    /// Whether it tells anybody.
    pub fn tells(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.queue.is_some())
    }

    /// Tells a span. Never blocks.
    pub fn tell(&self, span: SpanData) {
        let Some(inner) = &self.0 else { return };
        let Some(queue) = &inner.queue else { return };
        if queue.try_send(Item::Span(Box::new(span))).is_err() {
            inner.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of the spans so far.
    pub fn count(&self) -> Count {
        let of = |count: fn(&Counts) -> &AtomicU64| {
            self.0.as_deref().map_or(0, |inner| count(&inner.counts).load(Ordering::Relaxed))
        };
        Count { exported: of(|c| &c.exported), dropped: of(|c| &c.dropped), failed: of(|c| &c.failed) }
    }

    /// Waits until what was told is out, for this long at most.
    pub async fn flush(&self, within: Duration) {
        let Some(queue) = self.0.as_ref().and_then(|inner| inner.queue.as_ref()) else { return };
        let (done, told) = oneshot::channel();
        let _ = timeout(within, async {
            if queue.send(Item::Flush(done)).await.is_ok() {
                let _ = told.await;
            }
        })
        .await;
    }
}

impl Inner {
    fn new(sampling: Sampling, queue: Option<mpsc::Sender<Item>>) -> Arc<Self> {
        let sampled = Sampled { below: AtomicU64::new(0), parent_based: AtomicBool::new(true) };
        sampled.set(sampling);
        Arc::new(Self { sampled, queue, counts: Counts::default() })
    }
}

/// Carries batches to the collector.
struct Courier {
    exporter: SpanExporter,
    endpoint: String,
    inner: Arc<Inner>,
    batch: usize,
    interval: Duration,
    /// Whether the collector did not take the last batch.
    away: bool,
}

impl Courier {
    async fn run(mut self, mut receiver: mpsc::Receiver<Item>) {
        let (mut batch, mut due) = (Vec::new(), None);
        loop {
            let next = match due {
                None => Ok(receiver.recv().await),
                Some(at) => timeout_at(at, receiver.recv()).await,
            };
            match next {
                Ok(Some(Item::Span(span))) => {
                    batch.push(*span);
                    due.get_or_insert_with(|| Instant::now() + self.interval);
                    if batch.len() < self.batch {
                        continue;
                    }
                    self.send(std::mem::take(&mut batch)).await;
                }
                Ok(Some(Item::Flush(done))) => {
                    self.send(std::mem::take(&mut batch)).await;
                    let _ = done.send(());
                }
                Ok(None) => return self.send(batch).await,
                Err(_) => self.send(std::mem::take(&mut batch)).await,
            }
            due = None;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let spans = batch.len() as u64;
        let counts = &self.inner.counts;
        match self.exporter.export(batch).await {
            Ok(()) => {
                counts.exported.fetch_add(spans, Ordering::Relaxed);
                if std::mem::take(&mut self.away) {
                    tracing::info!(endpoint = self.endpoint, "the collector takes traces again");
                }
            }
            Err(error) => {
                counts.failed.fetch_add(spans, Ordering::Relaxed);
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(endpoint = self.endpoint, %error,
                        "the collector does not take traces: they are thrown away until it does, and counted (tidemill_trace_spans_total); deliveries go on");
                }
            }
        }
    }
}
