//! The wasmtime engine: one for the process, with its instance pool, epoch ticker, linker and compiled-code cache.
//!
//! Its invariant: compiled code is taken from the cache only when it was made from the same bytes by the same
//! engine and settings. It never runs a component.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wasmtime::component::{self, HasSelf, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::Component;
use super::bindings::Handler;
use super::delivery::State;
use super::encode;
use super::wasi;

/// How long one tick of the epoch is: the grain of a delivery's time limit.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// Instances that can exist at once: one for each executor and each reader thread, and one while deploying.
const INSTANCES: u32 = 512;
/// Linear memory that a slot of the pool keeps resident between two deliveries, in bytes.
const KEEP_RESIDENT: usize = 1 << 20;
/// The largest file that is taken for a component, in bytes.
pub const COMPONENT_MAX: u64 = 128 << 20;

/// The engine.
pub struct Engine {
    engine: wasmtime::Engine,
    config: Config,
    linker: Linker<State>,
    cache: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// An engine that keeps compiled code in `cache`.
    pub fn new(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(INSTANCES)
            .total_core_instances(INSTANCES * 4)
            .total_memories(INSTANCES)
            .total_tables(INSTANCES * 4)
            .max_core_instances_per_component(64)
            .max_memories_per_component(4)
            .max_tables_per_component(16)
            .max_tables_per_module(16)
            .table_elements(65_536)
            .max_unused_warm_slots(
                u32::try_from(std::thread::available_parallelism().map_or(2, |n| n.get())).unwrap_or(2) * 2,
            )
            .linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(64 << 10)
            .pagemap_scan(Enabled::Auto);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).epoch_interruption(true);
        let engine =
            wasmtime::Engine::new(&config).map_err(anyhow::Error::from).context("set up the WebAssembly engine")?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker)?;
        Handler::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ticked, stopped) = (engine.weak(), stop.clone());
        crate::thread::spawn("epoch", move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                match ticked.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        })?;
        Ok(Self { engine, config, linker, cache: cache.to_owned(), stop })
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// Compiles a component, or a core module that names its component type, or takes the compiled code from the cache,
    /// and checks it against the contract.
    pub fn load(&self, bytes: &[u8], sha256: &str) -> Result<Component> {
        if !bytes.starts_with(b"\0asm") {
            bail!("this is not WebAssembly: build the handler for wasm32-wasip2");
        }
        let component = match self.cached(sha256) {
            Some(component) => component,
            None => self.compile(&encode::component(bytes)?, sha256)?,
        };
        Component::new(self, &self.linker, component)
    }

    fn path(&self, sha256: &str) -> PathBuf {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        self.cache.join(format!("{sha256}-{:016x}.cwasm", hasher.finish()))
    }

    fn cached(&self, sha256: &str) -> Option<component::Component> {
        let path = self.path(sha256);
        if !path.exists() {
            return None;
        }
        // SAFETY: the file was written by `compile` below into the daemon's own data folder, under the hash of its
        // source and of the engine; whoever can change it can change the daemon's stores as well.
        match unsafe { component::Component::deserialize_file(&self.engine, &path) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code cannot be used and is made anew");
                None
            }
        }
    }

    fn compile(&self, bytes: &[u8], sha256: &str) -> Result<component::Component> {
        // An engine for this alone, and threads of its own behind those that deliver records: a compiler keeps what it has worked with
        // for as long as its engine is there.
        let mut config = self.config.clone();
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        let compiler = wasmtime::Engine::new(&config).map_err(anyhow::Error::from).context("set up the compiler")?;
        let threads = rayon::ThreadPoolBuilder::new()
            .thread_name(|n| format!("compile-{n}"))
            .start_handler(|_| {
                // Linux takes the niceness for the calling thread's alone. Without it the others only wait longer.
                let _ = rustix::process::setpriority_process(None, 10);
            })
            .build()
            .context("start threads to compile with")?;
        let code = threads.install(|| compiler.precompile_component(bytes));
        drop((threads, compiler));
        give_back_memory();
        let code = code.map_err(anyhow::Error::from).context("compile the component")?;
        let path = self.path(sha256);
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        // On disk before it has its name: a torn file would be taken for code.
        let kept = fs::File::create(&partial)
            .and_then(|mut file| file.write_all(&code).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&partial, &path));
        match kept {
            // From the file, whose pages the system can drop and read again.
            // SAFETY: as for `cached`.
            Ok(()) => Ok(unsafe { component::Component::deserialize_file(&self.engine, &path) }?),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code cannot be kept: the next start compiles again");
                let _ = fs::remove_file(&partial);
                // SAFETY: `code` was made by this engine above.
                Ok(unsafe { component::Component::deserialize(&self.engine, &code) }?)
            }
        }
    }
}

/// A compiler leaves some 10 MiB free, which glibc would keep for the process, and as many of its own code mapped, which nothing else
/// runs.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and glibc locks what it looks at.
    unsafe {
        libc::malloc_trim(0)
    };
    for code in own_code() {
        let start = std::ptr::with_exposed_provenance_mut(code.start);
        // SAFETY: code is mapped from a file and never written to, so that a page that is dropped comes back as it was.
        let _ = unsafe { rustix::mm::madvise(start, code.len(), rustix::mm::Advice::LinuxDontNeed) };
    }
}

/// Where the executable's code is mapped, by proc(5).
fn own_code() -> Vec<Range<usize>> {
    let (Ok(maps), Ok(executable)) = (fs::read_to_string("/proc/self/maps"), std::env::current_exe()) else {
        return Vec::new();
    };
    let executable = executable.to_string_lossy();
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&*executable));
    code.filter_map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    })
    .collect()
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
