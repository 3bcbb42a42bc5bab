//! One delivery: an instance, its input, its limits, and how it ended.
//!
//! Its invariant: whatever the guest does, the connection comes back, the call ends within the time limit (and what it may
//! wait for Kafka), and the clock and the random numbers it saw depend on nothing but the input. It opens and ends no transaction.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_sdk::trace::SpanData;
use rand_chacha::ChaCha12Rng;
use wasmtime::component::Instance;
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use super::bindings::tidemill::handler::{log::Level, types};
use super::engine::TICK;
use super::wasi::Wasi;
use super::{Answers, Component, convert, envelope};
use crate::deploy::manifest::{Instances, Spec};
use crate::deploy::secrets;
use crate::id::{Seed, Stream};
use crate::kafka::sender::{self, Sender};
use crate::ledger::outbox;
use crate::ledger::pending::Refused;
use crate::outbound::Call;
use crate::policy::{Failure, Outcome};
use crate::record::{Record, Request, Response};
use crate::store::rights::Rights;
use crate::store::{Connection, Error, Value};
use crate::trace::Place;

/// What a response's header counts besides its bytes, as in HTTP/2 (RFC 9113, 10.5.1).
const FIELD: usize = 32;
/// Spans of what one delivery does, at most.
pub(super) const SPANS: usize = 200;
/// Deliveries that one instance serves at most: what it has leaked goes with it.
const RUNS: u32 = 1_000;

/// What stays the same for all deliveries of a handler's version.
pub struct Environment {
    /// The handler's configuration.
    pub spec: Spec,
    /// Tells the handlers of a store apart in its statement cache.
    pub owner: u32,
    /// What its SQL may do.
    pub rights: Arc<Rights>,
}

/// What one delivery is given.
pub struct Context {
    /// The handler's.
    pub environment: Arc<Environment>,
    /// The source of its ids and random numbers.
    pub seed: Seed,
    /// Its standing clock: the attempt's start, milliseconds since the Unix epoch.
    pub now: i64,
    /// The input's own time, with which its event ids begin, and of which its events' topics have their dates; 0 if it has none.
    pub input_time: i64,
    /// From 1.
    pub attempt: u32,
    /// The id by which the inbox knows the input.
    pub event_id: Option<String>,
    /// The record, which says the type and the version of its event.
    pub record: Option<Arc<Record>>,
    /// Names the input in the outbox.
    pub source: String,
    /// The id of the next outbox row, or `None` where nothing may be published (reads).
    pub next_outbox_id: Option<i64>,
    /// What its calls to the outside were answered, in their order.
    pub answers: Answers,
    /// The moment at which a request's client is given up; records have none.
    pub deadline: Option<Instant>,
    /// By which it sends and waits, if it has its transaction for itself.
    pub sender: Option<Sender>,
    /// An instance of the same component that has served before, if it is to serve again.
    pub warm: Option<Warm>,
    /// Where its statements are noted, if somebody wants to see them.
    pub trace: Option<Trace>,
    /// Where it stands in a trace.
    pub place: Place,
}

/// Takes down a delivery's statements, in their order.
pub type Trace = Arc<Mutex<Vec<Statement>>>;

/// A statement of a guest's, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// What was bound.
    pub params: Vec<Value>,
    /// What came of it.
    pub effect: Effect,
}

/// What came of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Rows were inserted, updated or deleted.
    Changed(u64),
    /// Rows were returned.
    Returned(u64),
    /// The guest was given an error.
    Refused(String),
    /// It ended the delivery.
    Ended,
}

/// An instance that has served a delivery that ended well.
pub struct Warm {
    store: Store<State>,
    instance: Instance,
    runs: u32,
}

/// An event that is sent once its delivery has committed.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The name in `[publish]`.
    pub destination: String,
    /// The event.
    pub event: outbox::Event,
    /// The source of ids and random numbers for the delivery that is told what became of it.
    pub seed: Seed,
    /// Names the input that it was sent for.
    pub source: String,
}

/// A line that a handler logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its level.
    pub level: tracing::Level,
    /// Its text.
    pub message: String,
}

/// How a delivery ended when it did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The handler failed; its policy decides.
    Failed(Failure),
    /// A statement of the guest's ended the transaction, and with it the work of its whole group.
    Broken(Failure),
    /// It has changed nothing, and calls a service: to be run again with the answer. The number is the call's position.
    Asks(Box<Call>, usize),
    /// It sends and waits, for which it has to be alone: to be run again so. Nothing was sent.
    Sends,
    /// The store failed; nobody is to blame.
    Store(Error),
}

/// What is left of a delivery.
pub struct Finished<T> {
    /// The connection, as it was given.
    pub connection: Box<Connection>,
    /// How it ended.
    pub result: Result<T, Ended>,
    /// What the guest logged.
    pub log: Vec<LogLine>,
    /// The id of the next outbox row.
    pub next_outbox_id: Option<i64>,
    /// What is to be sent if the delivery is kept.
    pub sends: Vec<Sending>,
    /// Its instance, if that may serve again, once the delivery is kept.
    pub warm: Option<Warm>,
    /// Linear memory that it had at the end, bytes.
    pub memory: usize,
    /// Whether an instance was made for it.
    pub made: bool,
    /// What it did, where its trace is recorded.
    pub spans: Vec<SpanData>,
}

/// The store's data while a guest runs.
pub(super) struct State {
    pub(super) connection: Option<Box<Connection>>,
    pub(super) context: Context,
    pub(super) rng: ChaCha12Rng,
    pub(super) wasi: Wasi,
    pub(super) log: Vec<LogLine>,
    pub(super) log_bytes: usize,
    /// Calls to the outside that were answered.
    pub(super) called: usize,
    /// Whether it has changed anything in the store, or failed to and may have.
    pub(super) has_written: bool,
    /// Statements run.
    pub(super) statements: usize,
    /// Events enqueued and sent.
    pub(super) published: u32,
    pub(super) published_bytes: usize,
    pub(super) sends: Vec<Sending>,
    /// Whether anything was sent past the outbox already.
    pub(super) sent: bool,
    /// What it did, where its trace is recorded.
    pub(super) spans: Vec<SpanData>,
    /// How long it has waited for that.
    pub(super) waited: Duration,
    /// When it is cut off.
    deadline: Instant,
    /// Set by an import that ends the delivery; says more than the trap that follows.
    pub(super) ended: Option<Ended>,
    /// Whether an import has refused something for its number or size.
    pub(super) over_effects: bool,
    memory: usize,
    over_memory: bool,
    table_elements: usize,
    over_tables: bool,
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.over_memory = false;
        let total = self.memory + desired.saturating_sub(current);
        if total > self.context.environment.spec.limits.memory {
            self.over_memory = true;
            return Ok(false);
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements + desired.saturating_sub(current);
        self.over_tables = total > self.context.environment.spec.limits.table_elements;
        if !self.over_tables {
            self.table_elements = total;
        }
        Ok(!self.over_tables)
    }

    fn instances(&self) -> usize {
        self.context.environment.spec.limits.core_instances
    }

    fn tables(&self) -> usize {
        self.context.environment.spec.limits.tables
    }
}

/// Gives one record to an instance.
pub fn handle_record(
    component: &Component,
    connection: Box<Connection>,
    context: Context,
    record: &Record,
) -> Finished<()> {
    let record = match envelope::open(context.environment.spec.envelope, record) {
        Ok(record) => record,
        Err(why) => return rejected(connection, context, why),
    };
    run(
        component,
        connection,
        context,
        |store, instance| {
            let Some(indices) = &component.records else {
                return Ok(Err(types::Failure::Reject("the component does not export `records`".into())));
            };
            let guest = indices.load(&mut *store, instance)?;
            guest.call_handle(store, &convert::record(&record))
        },
        |answer| answer.map_err(|failure| Ended::Failed(convert::failure(failure))),
    )
}

/// A delivery that ends before its guest runs.
fn rejected<T>(connection: Box<Connection>, context: Context, why: String) -> Finished<T> {
    let Context { next_outbox_id, warm, .. } = context;
    let result = Err(Ended::Failed(Failure::new(Outcome::Reject, why)));
    let (log, sends, spans) = Default::default();
    Finished { connection, result, log, next_outbox_id, sends, warm, memory: 0, made: false, spans }
}

/// Fires a timer: a record of the partition `TIMERS`.
pub fn fire(component: &Component, connection: Box<Connection>, context: Context, timer: &Record) -> Finished<()> {
    run(
        component,
        connection,
        context,
        |store, instance| {
            let Some(indices) = &component.timers else {
                return Ok(Err(types::Failure::Reject("the component does not export `timers`".into())));
            };
            let guest = indices.load(&mut *store, instance)?;
            guest.call_fire(store, &convert::timer(timer))
        },
        |answer| answer.map_err(|failure| Ended::Failed(convert::failure(failure))),
    )
}

/// Lets an instance compensate a record, a timer, or an event that Kafka has refused.
pub fn compensate(
    component: &Component,
    connection: Box<Connection>,
    context: Context,
    record: &Record,
    event: Option<&Refused>,
    reason: &str,
) -> Finished<()> {
    // What could not be opened is compensated as it came.
    let opened = event.is_none().then(|| envelope::open(context.environment.spec.envelope, record).ok()).flatten();
    let record = opened.as_deref().unwrap_or(record);
    run(
        component,
        connection,
        context,
        |store, instance| {
            let Some(indices) = &component.compensation else {
                return Ok(Err(types::Failure::Reject("the component does not export `compensation`".into())));
            };
            let guest = indices.load(&mut *store, instance)?;
            guest.call_compensate(store, &convert::compensation(record, event), reason)
        },
        |answer| answer.map_err(|failure| Ended::Failed(convert::failure(failure))),
    )
}

/// Tells an instance what became of an event that was sent.
pub fn completed(
    component: &Component,
    connection: Box<Connection>,
    context: Context,
    sending: &Sending,
    outcome: &sender::Outcome,
) -> Finished<()> {
    run(
        component,
        connection,
        context,
        |store, instance| {
            let Some(indices) = &component.sends else {
                return Ok(Err(types::Failure::Reject("the component does not export `sends`".into())));
            };
            let guest = indices.load(&mut *store, instance)?;
            let (event, outcome) = convert::sent(sending, outcome);
            guest.call_completed(store, &event, outcome.as_ref().map_err(String::as_str))
        },
        |answer| answer.map_err(|failure| Ended::Failed(convert::failure(failure))),
    )
}

/// Gives one request to an instance.
pub fn handle_request(
    component: &Component,
    connection: Box<Connection>,
    context: Context,
    request: &Request,
) -> Finished<Response> {
    let most = context.environment.spec.limits.response_bytes;
    run(
        component,
        connection,
        context,
        |store, instance| {
            let Some(indices) = &component.http else { wasmtime::bail!("the component does not export `http`") };
            let guest = indices.load(&mut *store, instance)?;
            guest.call_handle(store, &convert::request(request))
        },
        |response| {
            let fields = response.headers.iter().map(|field| field.name.len() + field.value.len() + FIELD);
            let bytes = fields.sum::<usize>() + response.body.len();
            if bytes > most {
                let message = format!("the handler's response has {bytes} bytes, of {most} (limits.response-bytes)");
                return Err(Ended::Failed(Failure::new(Outcome::EffectsLimit, message)));
            }
            let response = Response {
                status: response.status,
                headers: response.headers.into_iter().map(|f| (f.name, Bytes::from(f.value))).collect(),
                body: Bytes::from(response.body),
            };
            crate::http::response::check(&response).map_err(|what| {
                Ended::Failed(Failure::new(Outcome::Trap, format!("the handler's response has {what}")))
            })?;
            Ok(response)
        },
    )
}

fn run<A, T>(
    component: &Component,
    connection: Box<Connection>,
    mut context: Context,
    call: impl FnOnce(&mut Store<State>, &Instance) -> wasmtime::Result<A>,
    convert: impl FnOnce(A) -> Result<T, Ended>,
) -> Finished<T> {
    let reused = context.environment.spec.instances == Instances::Reused;
    let (mut store, instance, runs) = match context.warm.take() {
        Some(Warm { mut store, instance, runs }) => {
            store.data_mut().renew(connection, context);
            (store, Some(instance), runs)
        }
        None => {
            let mut store = Store::new(component.pre.engine(), State::new(Some(connection), context));
            store.limiter(|state| state);
            let most = store.data().context.environment.spec.limits.memory;
            // Lists can say the same bytes again and again, and the host would have a copy of each.
            store.set_hostcall_fuel(most);
            store.epoch_deadline_callback(|store| match store.data().ticks_left() {
                // The one tick that is always left.
                ..=1 => Err(Trap::Interrupt.into()),
                more => Ok(UpdateDeadline::Continue(more)),
            });
            (store, None, 0)
        }
    };
    let state = store.data();
    if let Some(connection) = &state.connection {
        let rights = state.context.environment.rights.clone();
        connection.enter_delivery(rights, state.context.now, state.context.seed.rng(Stream::Sql), state.deadline);
    }
    let ticks = state.ticks_left();
    store.set_epoch_deadline(ticks);
    let instance = instance.map_or_else(|| component.pre.instantiate(&mut store), Ok);
    let (instance, answer) = match instance {
        Ok(instance) => (Some(instance), call(&mut store, &instance)),
        Err(error) => (None, Err(error)),
    };
    let finished = finish(store.data_mut(), answer, convert);
    let warm = instance.filter(|_| reused && finished.result.is_ok() && runs + 1 < RUNS);
    let warm = warm.map(|instance| Warm { store, instance, runs: runs + 1 });
    Finished { warm, made: runs == 0, ..finished }
}

fn finish<A, T>(
    state: &mut State,
    answer: wasmtime::Result<A>,
    convert: impl FnOnce(A) -> Result<T, Ended>,
) -> Finished<T> {
    let printed = state.wasi.take_output();
    let mut result = match (state.ended.take(), answer) {
        // What an import has found outweighs the guest's answer: its transaction is gone, or its limit passed.
        (Some(ended), _) => Err(ended),
        (None, Ok(answer)) => convert(answer),
        (None, Err(error)) => Err(Ended::Failed(trapped(state, &error, &printed))),
    };
    if let Err(Ended::Failed(failure)) = &mut result
        && state.over_effects
        && matches!(failure.outcome, Outcome::Retry | Outcome::Reject | Outcome::Trap)
    {
        failure.outcome = Outcome::EffectsLimit;
    }
    if let Err(Ended::Failed(failure) | Ended::Broken(failure)) = &mut result {
        let said = std::mem::take(&mut failure.message);
        failure.message = secrets::hide(&state.context.environment.spec.secrets, said);
    }
    for line in printed.lines().filter(|line| !line.is_empty()) {
        state.push_log(Level::Info, line.to_owned());
    }
    // The connection is taken only by `run`, which put it there.
    let connection = match state.connection.take() {
        Some(connection) => connection,
        None => unreachable!("a delivery keeps its connection"),
    };
    connection.leave_delivery();
    Finished {
        connection,
        result,
        log: std::mem::take(&mut state.log),
        next_outbox_id: state.context.next_outbox_id,
        sends: std::mem::take(&mut state.sends),
        warm: None,
        memory: state.memory,
        made: false,
        spans: std::mem::take(&mut state.spans),
    }
}

fn trapped(state: &State, error: &wasmtime::Error, printed: &str) -> Failure {
    let limits = &state.context.environment.spec.limits;
    if state.over_memory {
        let message = format!("memory limit of {} bytes (limits.memory)", limits.memory);
        return Failure::new(Outcome::MemoryLimit, message);
    }
    if state.over_tables {
        let message = format!("limit of {} elements in tables (limits.table-elements)", limits.table_elements);
        return Failure::new(Outcome::MemoryLimit, message);
    }
    // The engine has no type for it.
    if error.root_cause().to_string().contains("fuel allocated for hostcalls") {
        let message = format!("memory limit of {} bytes (limits.memory), in what one call passes on", limits.memory);
        return Failure::new(Outcome::MemoryLimit, message);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => {
            Failure::new(Outcome::TimeLimit, format!("time limit of {:?} (limits.time)", limits.time))
        }
        Some(Trap::StackOverflow) => Failure::new(Outcome::MemoryLimit, "call stack exhausted"),
        _ => {
            let cause = error.root_cause().to_string();
            // One line, without Rust's advice to set a variable that no guest has.
            let lines = printed.lines().filter(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_"));
            let said = lines.collect::<Vec<_>>().join(" ");
            Failure::new(
                Outcome::Trap,
                convert::shorten(if said.is_empty() { cause } else { format!("{said} ({cause})") }),
            )
        }
    }
}

impl State {
    /// `connection` is absent only where a component is merely instantiated.
    pub(super) fn new(connection: Option<Box<Connection>>, context: Context) -> Self {
        let limit = Instant::now() + context.environment.spec.limits.time;
        Self {
            deadline: context.deadline.map_or(limit, |client| client.min(limit)),
            rng: context.seed.rng(Stream::Delivery),
            wasi: Wasi::new(context.now, context.seed.clone(), context.environment.spec.limits.log_bytes),
            has_written: false,
            statements: 0,
            connection,
            context,
            log: Vec::new(),
            log_bytes: 0,
            called: 0,
            published: 0,
            published_bytes: 0,
            sends: Vec::new(),
            sent: false,
            spans: Vec::new(),
            waited: Duration::ZERO,
            ended: None,
            over_effects: false,
            memory: 0,
            over_memory: false,
            table_elements: 0,
            over_tables: false,
        }
    }

    /// The instance serves another delivery: it keeps its memory, and what it holds of WASI.
    fn renew(&mut self, connection: Box<Connection>, context: Context) {
        let fresh = Self::new(Some(connection), context);
        let wasi = std::mem::take(&mut self.wasi.made);
        *self = Self { wasi: fresh.wasi.with(wasi), memory: self.memory, table_elements: self.table_elements, ..fresh };
    }

    /// How many ticks of the epoch are left to it, the one under way included.
    fn ticks_left(&self) -> u64 {
        let ticks = self.deadline.saturating_duration_since(Instant::now()).as_millis() / TICK.as_millis();
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// It has waited so long for Kafka, which does not count against its time limit.
    pub(super) fn has_waited(&mut self, time: Duration) {
        self.waited += time;
        let deadline = self.deadline + time;
        self.deadline = self.context.deadline.map_or(deadline, |client| client.min(deadline));
        if let Some(connection) = &self.connection {
            connection.set_deadline(self.deadline);
        }
    }

    pub(super) fn push_log(&mut self, level: Level, message: String) {
        let room = self.context.environment.spec.limits.log_bytes.saturating_sub(self.log_bytes);
        if room == 0 {
            return;
        }
        let mut message = secrets::hide(&self.context.environment.spec.secrets, message);
        if message.len() > room {
            let end = (0..=room).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
            message.truncate(end);
            message.push_str(" ... (cut: limits.log-bytes)");
            self.log_bytes = usize::MAX;
        } else {
            self.log_bytes += message.len() + 32;
        }
        let level = match level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
            Level::Trace => tracing::Level::TRACE,
        };
        self.log.push(LogLine { level, message });
    }
}
