//! Traces: to which one a delivery belongs, how that goes on with what it publishes and calls, and what is told of it.
//!
//! The context comes and goes in the headers `traceparent` and `tracestate` (W3C Trace Context), whether anything is exported or not.
//! Its invariant: what ends in an event follows from the input, the settings and the delivery's seed, so a replay writes the
//! same; and nothing is told of a delivery before its group has committed. It holds nothing up.

mod export;
pub mod span;
mod state;

use bytes::Bytes;
use opentelemetry::trace::{SpanId, TraceId};
use sha2::{Digest, Sha256};

pub use self::export::{Count, Tracer};
use crate::id::Seed;
use crate::record::{Header, last_header};

/// The header that names the trace and the span.
pub const PARENT: &str = "traceparent";
/// The header in which tracing systems pass on what is their own.
pub const STATE: &str = "tracestate";

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;
/// Flags that are passed on: sampled, and random (W3C Trace Context, level 2).
const FLAGS: u8 = 3;

/// A span, and the trace that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    flags: u8,
}

impl Context {
    /// Reads a `traceparent`; `None` if it is malformed, as one that is all zeros is.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (known, rest) = header.split_at_checked(55)?;
        let text = std::str::from_utf8(known).ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lengths = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
        let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        // A later version may have more behind another dash.
        let whole = match version {
            "ff" => false,
            "00" => rest.is_empty(),
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !lengths || !whole || ![version, trace, span, flags].into_iter().all(digits) {
            return None;
        }
        let trace = TraceId::from_bytes(u128::from_str_radix(trace, 16).ok()?.to_be_bytes());
        let span = SpanId::from_bytes(u64::from_str_radix(span, 16).ok()?.to_be_bytes());
        let flags = u8::from_str_radix(flags, 16).ok()? & FLAGS;
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span, flags })
    }

    /// As it stands in a `traceparent`.
    pub fn header(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }

    /// Whether whoever made it records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// A span below this one: the same for the same `name`.
    pub fn child(&self, name: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.trace.to_bytes());
        hash.update(self.span.to_bytes());
        hash.update(name);
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self { span: SpanId::from_bytes([a, b, c, d, e, f, g, h]), ..*self }
    }
}

/// What an input says of its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Where it comes from.
    pub context: Context,
    state: Option<Bytes>,
}

impl Incoming {
    /// Of a record or an event: the last `traceparent` counts. `None` where there is none, or a malformed one.
    pub fn of_record(headers: &[Header]) -> Option<Self> {
        let context = Context::parse(last_header(headers, PARENT)?)?;
        let states = headers.iter().filter(|header| header.name == STATE).filter_map(|header| header.value.as_ref());
        Some(Self { context, state: state::join(states) })
    }

    /// Of a request, whose header names are in lower case: more than one `traceparent` is malformed.
    pub fn of_request(headers: &[(String, Bytes)]) -> Option<Self> {
        let of = |wanted: &'static str| headers.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value);
        let mut parents = of(PARENT);
        let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
        Some(Self { context: Context::parse(parent)?, state: state::join(of(STATE)) })
    }
}

/// Where a delivery stands in a trace, if it stands in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    parent: Option<Context>,
    /// What is passed on: the delivery's own span where that is told, else what came.
    current: Option<Context>,
    state: Option<Bytes>,
    recorded: bool,
}

impl Place {
    /// The span that its log lines name, and that those below it have as their parent.
    pub fn current(&self) -> Option<Context> {
        self.current
    }

    /// Its own span and the one above it, where its trace is recorded.
    pub fn recorded(&self) -> Option<(Context, Option<Context>)> {
        self.current.filter(|_| self.recorded).map(|current| (current, self.parent))
    }

    /// The headers that take the context on, for `current` or a span below it.
    pub fn headers(&self, current: Context) -> impl Iterator<Item = (&'static str, Bytes)> {
        let state = self.state.clone().map(|state| (STATE, state));
        std::iter::once((PARENT, Bytes::from(current.header()))).chain(state)
    }

    /// Puts the context into headers that say none themselves.
    pub fn mark(&self, headers: &mut Vec<Header>) {
        let Some(current) = self.current else { return };
        if !headers.iter().any(|header| header.name.eq_ignore_ascii_case(PARENT)) {
            self.append(current, headers);
        }
    }

    /// Puts it behind all that is there, where the trace is recorded.
    pub fn mark_last(&self, headers: &mut Vec<Header>) {
        if let Some((current, _)) = self.recorded() {
            self.append(current, headers);
        }
    }

    fn append(&self, current: Context, headers: &mut Vec<Header>) {
        headers.extend(self.headers(current).map(|(name, value)| Header { name: name.to_owned(), value: Some(value) }));
    }
}

/// Of what a delivery is, for its place.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'s> {
    /// The seed of the input's first delivery: that of a compensation is another one, and its trace is the same.
    pub root: &'s Seed,
    /// Its own seed.
    pub seed: &'s Seed,
    /// From 1.
    pub attempt: u32,
}

impl<'s> Origin<'s> {
    /// The first attempt at what has this seed.
    pub fn of(seed: &'s Seed) -> Self {
        Self { root: seed, seed, attempt: 1 }
    }
}

impl Tracer {
    /// The place of a delivery whose input came so. It begins a trace where there is none and traces are told.
    pub fn place(&self, incoming: Option<Incoming>, origin: Origin<'_>) -> Place {
        let Some(sampling) = self.sampling() else {
            let current = incoming.as_ref().map(|incoming| incoming.context);
            return Place { parent: current, current, state: incoming.and_then(|i| i.state), recorded: false };
        };
        let parent = incoming.as_ref().map(|incoming| incoming.context);
        let trace = parent.map_or_else(|| TraceId::from_bytes(origin.root.trace_id()), |parent| parent.trace);
        let recorded = sampling.takes(trace, parent);
        let own = |flags| Context { trace, span: SpanId::from_bytes(origin.seed.span_id(origin.attempt)), flags };
        let current = match (parent, recorded) {
            // Nobody would find a span that is not told.
            (Some(parent), false) => parent,
            (parent, true) => own(parent.map_or(0, |parent| parent.flags) | SAMPLED),
            // What comes after it is not recorded either.
            (None, false) => own(0),
        };
        Place { parent, current: Some(current), state: incoming.and_then(|i| i.state), recorded }
    }

    /// The context that an event carries, if what becomes of the event is told.
    pub fn record_of(&self, headers: &[Header]) -> Option<Context> {
        let sampling = self.sampling()?;
        let context = Context::parse(last_header(headers, PARENT)?)?;
        sampling.takes(context.trace, Some(context)).then_some(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::id::InputId;
    use crate::settings::Sampling;

    const PARENT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn seed(n: i64) -> Seed {
        Seed::derive(b"secret", "order", &InputId::Record { topic_id: "t".into(), partition: 0, offset: n })
    }

    fn place(tracer: &Tracer, parent: Option<&str>, n: i64, attempt: u32) -> Place {
        let incoming =
            parent.map(|parent| Incoming { context: Context::parse(parent.as_bytes()).unwrap(), state: None });
        let seed = seed(n);
        tracer.place(incoming, Origin { root: &seed, seed: &seed, attempt })
    }

    #[test]
    fn a_context_is_read_as_the_w3c_says() {
        assert_eq!(Context::parse(PARENT_SAMPLED.as_bytes()).unwrap().header(), PARENT_SAMPLED);
        let later = format!("cc{}-what-comes", PARENT_SAMPLED.strip_prefix("00").unwrap());
        assert_eq!(Context::parse(later.as_bytes()).unwrap().header(), PARENT_SAMPLED);
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Context::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_fail(header in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(context) = Context::parse(&header) {
                prop_assert_eq!(Context::parse(context.header().as_bytes()), Some(context));
            }
        }

        #[test]
        fn the_ratio_is_of_traces_and_the_same_for_the_same_trace(ratio in 0.0f64..=1.0) {
            let tracer = Tracer::deciding(Sampling { ratio, parent_based: true });
            let taken = (0..400).filter(|n| place(&tracer, None, *n, 1).recorded().is_some()).count() as f64 / 400.0;
            prop_assert!((taken - ratio).abs() < 0.15, "{} of {}", taken, ratio);
            prop_assert_eq!(place(&tracer, None, 7, 1).recorded().is_some(), place(&tracer, None, 7, 2).recorded().is_some());
        }
    }

    #[test]
    fn what_is_not_told_is_passed_on_as_it_came() {
        let off = Tracer::default();
        assert_eq!(place(&off, None, 1, 1).current(), None);
        let never = Tracer::deciding(Sampling { ratio: 0.0, parent_based: false });
        for tracer in [off, never] {
            let passed = place(&tracer, Some(PARENT_SAMPLED), 1, 1);
            assert_eq!((passed.current().unwrap().header(), passed.recorded()), (PARENT_SAMPLED.to_owned(), None));
        }
    }

    #[test]
    fn the_parents_flag_counts_unless_the_operator_says_otherwise() {
        let unsampled = PARENT_SAMPLED.replace("-01", "-00");
        for (parent, ratio, parent_based, recorded) in [
            (PARENT_SAMPLED, 0.0, true, true),
            (PARENT_SAMPLED, 0.0, false, false),
            (&unsampled, 1.0, true, false),
            (&unsampled, 1.0, false, true),
        ] {
            let tracer = Tracer::deciding(Sampling { ratio, parent_based });
            let place = place(&tracer, Some(parent), 1, 1);
            assert_eq!(place.recorded().is_some(), recorded, "{parent} {ratio} {parent_based}");
            assert_eq!(place.current().unwrap().is_sampled(), recorded || parent == PARENT_SAMPLED);
        }
    }

    #[test]
    fn attempts_are_spans_of_one_trace_and_the_same_ones_each_time() {
        let tracer = Tracer::deciding(Sampling { ratio: 1.0, parent_based: true });
        let [first, again, second] = [1, 1, 2].map(|attempt| place(&tracer, None, 7, attempt).current().unwrap());
        assert_eq!(first, again);
        assert_eq!(first.trace, second.trace);
        assert_ne!(first.span, second.span);
        assert_ne!(first.child(b"a"), first.child(b"b"));
    }

    #[test]
    fn a_header_of_the_handlers_own_wins() {
        let tracer = Tracer::deciding(Sampling { ratio: 1.0, parent_based: true });
        let place = place(&tracer, Some(PARENT_SAMPLED), 1, 1);
        let mut own = vec![Header { name: "Traceparent".into(), value: None }];
        place.mark(&mut own);
        assert_eq!(own.len(), 1);
        let mut none = Vec::new();
        place.mark(&mut none);
        assert_eq!(Incoming::of_record(&none).unwrap().context, place.current().unwrap());
    }
}
