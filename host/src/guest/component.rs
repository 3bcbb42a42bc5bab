//! A compiled component with its imports linked and its exports found.
//!
//! Its invariant: what is here can be instantiated; a component that asks for an import the host lacks, or that
//! exports nothing the host can call, was refused when it was loaded.

use std::sync::Arc;

use anyhow::{Result, bail};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{self, InstancePre, Linker};

use super::Engine;
use super::bindings::exports::tidemill::handler as exports;
use super::delivery::{Context, Environment, State};
use crate::deploy::manifest::Spec;
use crate::id::{InputId, Seed};

/// The version of the contract in `wit/`.
pub const CONTRACT: &str = "tidemill:handler@0.1.0";

/// Ticks of the epoch that an instance may take to come up when it is tried out.
const TRY_OUT_TICKS: u64 = 1_000;

/// A component that is ready to be instantiated.
pub struct Component {
    pub(super) pre: InstancePre<State>,
    pub(super) records: Option<exports::records::GuestIndices>,
    pub(super) http: Option<exports::http::GuestIndices>,
    pub(super) compensation: Option<exports::compensation::GuestIndices>,
    pub(super) sends: Option<exports::sends::GuestIndices>,
    pub(super) timers: Option<exports::timers::GuestIndices>,
}

impl Component {
    pub(super) fn new(engine: &Engine, linker: &Linker<State>, component: component::Component) -> Result<Self> {
        let names: Vec<String> =
            component.component_type().exports(engine.wasmtime()).map(|(name, _)| name.to_owned()).collect();
        let pre = match linker.instantiate_pre(&component) {
            Ok(pre) => pre,
            Err(error) => bail!("{}", explain(engine, &component, &error)),
        };
        let exported =
            |interface: &str| names.iter().any(|name| name.starts_with(&format!("tidemill:handler/{interface}@")));
        let records = exported("records").then(|| exports::records::GuestIndices::new(&pre)).transpose();
        let http = exported("http").then(|| exports::http::GuestIndices::new(&pre)).transpose();
        let compensation = exported("compensation").then(|| exports::compensation::GuestIndices::new(&pre)).transpose();
        let sends = exported("sends").then(|| exports::sends::GuestIndices::new(&pre)).transpose();
        let timers = exported("timers").then(|| exports::timers::GuestIndices::new(&pre)).transpose();
        let (Ok(records), Ok(http), Ok(compensation), Ok(sends), Ok(timers)) =
            (records, http, compensation, sends, timers)
        else {
            bail!("it exports {}, but this daemon speaks {CONTRACT}: build it against that version", names.join(", "));
        };
        if records.is_none() && http.is_none() && timers.is_none() {
            bail!(
                "it exports neither `records` nor `http` nor `timers` of {CONTRACT} (it exports: {}): nothing could call it",
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            );
        }
        Ok(Self { pre, records, http, compensation, sends, timers })
    }

    /// Instantiates it once under the limits of `spec` and throws the instance away: a component that asks for more
    /// memory, or that fails as it starts, would fail on each record.
    pub fn try_out(&self, spec: &Spec) -> Result<()> {
        let input = InputId::Request { route: String::new(), user: String::new(), key: String::new() };
        let context = Context {
            environment: Arc::new(Environment { spec: spec.clone(), owner: 0, rights: Arc::default() }),
            seed: Seed::derive(&[], &spec.name, &input),
            now: 0,
            input_time: 0,
            attempt: 1,
            event_id: None,
            record: None,
            source: String::new(),
            next_outbox_id: None,
            answers: Arc::default(),
            deadline: None,
            sender: None,
            warm: None,
            trace: None,
            place: Default::default(),
        };
        let mut store = wasmtime::Store::new(self.pre.engine(), State::new(None, context));
        store.limiter(|state| state);
        store.set_epoch_deadline(TRY_OUT_TICKS);
        match self.pre.instantiate(&mut store) {
            Ok(instance) => self.check_types(store, &instance),
            Err(error) => bail!(
                "it cannot be instantiated with {} bytes of memory (limits.memory), {} tables (limits.tables) of {} elements (limits.table-elements) and {} core instances (limits.core-instances): {error:#}",
                spec.limits.memory,
                spec.limits.tables,
                spec.limits.table_elements,
                spec.limits.core_instances,
            ),
        }
    }

    /// That each export is of the contract's type, which the engine looks at where it is called.
    fn check_types(&self, mut store: wasmtime::Store<State>, instance: &component::Instance) -> Result<()> {
        let mut load = || -> wasmtime::Result<()> {
            if let Some(indices) = &self.records {
                indices.load(&mut store, instance)?;
            }
            if let Some(indices) = &self.http {
                indices.load(&mut store, instance)?;
            }
            if let Some(indices) = &self.compensation {
                indices.load(&mut store, instance)?;
            }
            if let Some(indices) = &self.sends {
                indices.load(&mut store, instance)?;
            }
            if let Some(indices) = &self.timers {
                indices.load(&mut store, instance)?;
            }
            Ok(())
        };
        load().map_err(|error| anyhow::anyhow!("its exports are not of the types of {CONTRACT}: {error:#}"))
    }

    /// The names of what it exports, for example `tidemill:handler/records@0.1.0`.
    pub fn exports(&self) -> Vec<String> {
        let kind = self.pre.component().component_type();
        kind.exports(self.pre.engine()).map(|(name, _)| name.to_owned()).collect()
    }

    /// The names of what it imports, WASI's interfaces included.
    pub fn imports(&self) -> Vec<String> {
        let kind = self.pre.component().component_type();
        kind.imports(self.pre.engine()).map(|(name, _)| name.to_owned()).collect()
    }

    /// Whether it can be given records.
    pub fn takes_records(&self) -> bool {
        self.records.is_some()
    }

    /// Whether it makes good what it was given up on.
    pub fn compensates(&self) -> bool {
        self.compensation.is_some()
    }

    /// Whether it is told what became of what it has sent.
    pub fn hears_of_sends(&self) -> bool {
        self.sends.is_some()
    }

    /// Whether its timers can be fired.
    pub fn fires(&self) -> bool {
        self.timers.is_some()
    }

    /// Whether it can be given requests.
    pub fn takes_requests(&self) -> bool {
        self.http.is_some()
    }
}

/// Why the imports do not fit, in terms of the contract's version where that is the reason.
fn explain(engine: &Engine, component: &component::Component, error: &wasmtime::Error) -> String {
    let foreign: Vec<String> = component
        .component_type()
        .imports(engine.wasmtime())
        .filter(|(name, item)| {
            matches!(item.ty, ComponentItem::ComponentInstance(_))
                && name.starts_with("tidemill:handler/")
                && !name.ends_with("@0.1.0")
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    if foreign.is_empty() {
        format!("its imports do not fit this daemon ({CONTRACT} and WASI 0.2): {error:#}")
    } else {
        format!(
            "it was built against another contract ({}), but this daemon speaks {CONTRACT}: build it against that version",
            foreign.join(", ")
        )
    }
}
