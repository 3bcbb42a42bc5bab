//! WASI 0.2 for guests: linked whole, with nothing granted but the delivery's own clock and random numbers.
//!
//! Its invariant: no WASI call waits. Time stands still, so a sleep is over at once; there is no network, no
//! file, no environment, and standard input is closed. What a guest prints is kept for its log, up to a limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::delivery::State;
use crate::id::{Seed, Stream};

const MONOTONIC_CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.12";

/// A delivery's WASI state; made only when the guest first uses it.
pub(super) struct Wasi {
    now: i64,
    seed: Seed,
    output_limit: usize,
    pub(super) made: Option<Made>,
}

/// What an instance holds of WASI.
pub(super) struct Made {
    ctx: WasiCtx,
    table: ResourceTable,
    output: Output,
}

/// What a guest prints, up to a limit. The surplus is dropped: a write that fails would panic most guests.
#[derive(Clone)]
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl Output {
    fn kept(&self) -> MutexGuard<'_, Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut kept = self.kept();
        let room = self.limit.saturating_sub(kept.len());
        kept.extend(bytes.iter().take(room));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this one, and it is not linked.
        Box::new(tokio::io::sink())
    }
}

struct Standing(Duration);

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl HostMonotonicClock for Standing {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

impl Wasi {
    pub(super) fn new(now: i64, seed: Seed, output_limit: usize) -> Self {
        Self { now, seed, output_limit, made: None }
    }

    /// For an instance that holds this from a delivery before: its handles stay good, its clock and random numbers are
    /// this delivery's.
    pub(super) fn with(self, made: Option<Made>) -> Self {
        let made = made.map(|Made { table, output, .. }| Made { ctx: self.ctx(&output), table, output });
        Self { made, ..self }
    }

    fn ctx(&self, output: &Output) -> WasiCtx {
        let now = Duration::from_millis(u64::try_from(self.now).unwrap_or(0));
        WasiCtxBuilder::new()
            .stdout(output.clone())
            .stderr(output.clone())
            .wall_clock(Standing(now))
            .monotonic_clock(Standing(now))
            .secure_random(self.seed.rng(Stream::Wasi))
            .insecure_random(self.seed.rng(Stream::WasiInsecure))
            .insecure_random_seed(u128::from_le_bytes(*self.seed.event_id(u32::MAX, 0).as_bytes()))
            .max_random_size(1 << 20)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build()
    }

    fn view(&mut self) -> WasiCtxView<'_> {
        let made = self.made.take().unwrap_or_else(|| {
            let output = Output { kept: Arc::default(), limit: self.output_limit };
            Made { ctx: self.ctx(&output), table: ResourceTable::new(), output }
        });
        let Made { ctx, table, .. } = self.made.insert(made);
        WasiCtxView { ctx, table }
    }

    /// What the guest printed in this delivery.
    pub(super) fn take_output(&mut self) -> String {
        let printed = self.made.as_ref().map(|made| std::mem::take(&mut *made.output.kept()));
        String::from_utf8_lossy(&printed.unwrap_or_default()).into_owned()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.view()
    }
}

/// Links WASI, with sleeps that are over at once.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    let mut clock = linker.instance(MONOTONIC_CLOCK)?;
    for name in ["subscribe-duration", "subscribe-instant"] {
        clock.func_wrap(name, |mut store: wasmtime::StoreContextMut<'_, State>, (_,): (u64,)| {
            let ready: Resource<DynPollable> =
                monotonic_clock::Host::subscribe_duration(&mut store.data_mut().clocks(), 0)?;
            Ok((ready,))
        })?;
    }
    linker.allow_shadowing(false);
    Ok(())
}
