//! The daemon: everything started in order, and stopped in the opposite one.
//!
//! Its invariant: when it says that it is ready, the handlers run; when it has stopped in order, nothing is under
//! way. It waits for no broker: what needs one waits by itself.

pub mod folder;
pub mod admin;
pub mod monitor;
mod address;
mod greeting;
mod notify;
mod stop;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::folder::Folder;
use self::monitor::Post;
use self::notify::Notify;
use self::stop::{Progress, Signals, Step};
use crate::broker::Embedded;
use crate::deploy::audit::{Audit, Caller};
use crate::deploy::stores::Stores;
use crate::deploy::versions::Versions;
use crate::deploy::watch::Watch;
use crate::deploy::{Control, Deployer, Read, Surroundings};
use crate::executor::Outside;
use crate::executor::readers::Readers;
use crate::guest::Engine;
use crate::http::jwt::Verifier;
use crate::http::routes::Routes;
use crate::http::server;
use crate::kafka::config::Connection;
use crate::kafka::login::Login;
use crate::kafka::sender::Sender;
use crate::kafka::topics::{Admin, Ensured};
use crate::metrics::Gatherer;
use crate::metrics::gather::Parts;
use crate::metrics::health::Stage;
use crate::outbound::Outbound;
use crate::relay;
use crate::settings::{Acks, Bootstrap, Settings, Topic};
use crate::telemetry::Levels;
use crate::trace::Tracer;

/// How long to wait before topics are looked after again while Kafka does not answer.
const TOPICS_AGAIN: Duration = Duration::from_secs(2);
/// How long a standby that takes over tries to get the port, and how often.
const PORT_WITHIN: Duration = Duration::from_secs(5);
const PORT_AGAIN: Duration = Duration::from_millis(20);
/// How long what is under way besides may go on once all is stopped.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// What the daemon is started with.
pub struct Start {
    /// The settings.
    pub settings: Settings,
    /// The text of their file.
    pub text: String,
    /// Reads them again.
    pub read: Read,
    /// What is logged.
    pub levels: Levels,
    /// Whether it waits while another one holds the data folder.
    pub standby: bool,
}

/// Runs the daemon until it is told to stop. A standby first waits until nobody else holds the data folder; a signal that stops it
/// ends it as it ends any process, since it has nothing to put in order yet.
pub fn run(start: Start) -> Result<()> {
    let Start { settings, text, read, levels, standby } = start;
    survive_large_files();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the HTTP server")?;
    // From here on it ends no process.
    let hangup = runtime.block_on(async { signal(SignalKind::hangup()).context("listen for SIGHUP") })?;
    let notify = Notify::of_environment();
    let mut post = Post::new(&settings, runtime.handle())?;
    notify.watch(post.told(), runtime.handle());
    let (folder, waited) = if standby {
        post.stand_by();
        notify.ready("standing by: another daemon holds the data folder");
        Folder::wait(&settings.data)?
    } else {
        (Folder::open(&settings.data)?, false)
    };
    if waited {
        tracing::info!("the other daemon has ended: taking over");
    }
    post.take(&settings.data, waited)?;
    let bound = take_port(waited, || server::bind(&settings.http))?;
    let address = bound.local_addr();
    let door = admin::Door::open(&settings, waited)?;
    let verifier = Verifier::new(&settings)?;
    let engine = Engine::new(&settings.data.join("compiled"))?;
    let embedded = match settings.kafka.bootstrap {
        Bootstrap::Embedded { keep } => Some(Arc::new(Embedded::start(&settings.data, keep)?)),
        Bootstrap::Servers(_) => None,
    };
    let kafka = connection(&settings, embedded.as_deref())?;
    if kafka.acks == Acks::Leader {
        tracing::warn!(
            "kafka.acks is 1: an event that a broker has acknowledged is lost if that broker fails before others have it"
        );
    }
    let admin = Admin::new(kafka.clone(), embedded.clone());
    let outbound = Outbound::new(runtime.handle().clone())?;
    let destinations = settings.destinations.clone().with_secrets()?;
    let sender = Sender::new(kafka.clone(), destinations.clone());
    let tracer = Tracer::start(&settings.traces, folder.id(), runtime.handle())?;
    let (relay, relay_threads) = relay::start(relay::Plan {
        connection: kafka.clone(),
        admin: admin.clone(),
        topics: settings.topics.clone(),
        destinations,
        outbound: outbound.clone(),
        sweep: settings.outbox.sweep,
        read_back: settings.outbox.read_back.then(|| format!("tidemill-{}-relay", folder.id())),
        tracer: tracer.clone(),
    })?;
    let stopping = Arc::new(AtomicBool::new(false));
    look_after_topics(admin.clone(), settings.topics.clone(), stopping.clone())?;
    let routes = Arc::new(Routes::default());
    let around = Surroundings {
        settings: settings.clone(),
        host_id: folder.id().to_owned(),
        engine,
        routes: routes.clone(),
        readers: Readers::start(&tracer)?,
        kafka: kafka.clone(),
        admin,
        versions: Versions::open(&settings.data, settings.versions.keep)?,
        audit: Arc::new(Audit::new(&settings.data)),
        control: Control { read, text, levels, tracer: tracer.clone() },
    };
    let outside = Outside { outbound, sender, tracer: tracer.clone() };
    let deployer = Arc::new(Deployer::new(around, Stores::open_all(&settings, relay.clone(), outside)?));
    let watch = Watch::begin(&settings.handlers, deployer.clone())?.start(stopping.clone())?;
    post.run(Gatherer::new(Parts {
        deployer: deployer.clone(),
        relay: relay.clone(),
        routes: routes.clone(),
        kafka: kafka.clone(),
        tracer: tracer.clone(),
        data: settings.data.clone(),
        stuck_after: settings.metrics.stuck_after,
    })?);
    let told = post.told();
    greeting::say(&settings, address, &kafka, embedded.as_deref(), &deployer.specs())?;

    let progress = Progress::default();
    let served = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut signals = Signals::listen()?;
        let (stop, signalled, ends) = (cancel.clone(), told.clone(), stopping.clone());
        let (deployer_of, progress, notify_of) = (deployer.clone(), progress.clone(), notify.clone());
        tokio::spawn(async move {
            signals.next().await;
            let within = deployer_of.settings().stop_within;
            signalled.now.set(Stage::Stopping);
            notify_of.stopping(within);
            tracing::info!("stopping: requests under way are answered, what is committed is published");
            stop.cancel();
            // Nothing new is read while that lasts.
            ends.store(true, Ordering::Relaxed);
            let (reading, counting) = (deployer_of.clone(), deployer_of);
            tokio::task::spawn_blocking(move || reading.stop_consumers());
            signals.enforce(within, progress, move || unpublished(&counting)).await;
        });
        tokio::spawn(reload_on(hangup, deployer.clone(), notify.clone()));
        notify.ready(&format!("running: {} handlers, {address}", deployer.specs().len()));
        // Where either cannot be served, the daemon stops.
        let stop = cancel.clone();
        let api = async {
            let served = door.serve(deployer.clone(), told.clone(), stop.clone()).await;
            stop.cancel();
            served
        };
        let (served, api) = tokio::join!(bound.serve(routes, verifier, tracer.clone(), cancel), api);
        served.and(api)
    });
    if let Err(error) = &served {
        tracing::error!(error = format!("{error:#}"), "the HTTP server has failed: stopping");
    }

    told.now.set(Stage::Stopping);
    notify.stopping(deployer.settings().stop_within);
    stopping.store(true, Ordering::Relaxed);
    deployer.stop_backup();
    progress.at(Step::Consumers);
    let _ = watch.join();
    deployer.stop_consumers();
    progress.at(Step::Relay);
    relay.stop();
    for thread in relay_threads {
        let _ = thread.join();
    }
    progress.at(Step::Stores);
    deployer.stop_stores();
    progress.at(Step::Broker);
    runtime.block_on(tracer.flush(STOP_WITHIN));
    if let Some(embedded) = embedded
        && let Err(error) = embedded.stop()
    {
        tracing::warn!(error = format!("{error:#}"), "stop the embedded broker");
    }
    post.close();
    tracing::info!("stopped");
    // A scrape may be under way.
    runtime.shutdown_timeout(STOP_WITHIN);
    served
}

/// Reads the settings again whenever SIGHUP comes.
async fn reload_on(mut hangup: Signal, deployer: Arc<Deployer>, notify: Notify) {
    while hangup.recv().await.is_some() {
        notify.reloading();
        let deployer_of = deployer.clone();
        // What came of it is in the log.
        let done = tokio::task::spawn_blocking(move || deployer_of.reload(&Caller::SIGNAL).map(drop)).await;
        let well = matches!(done, Ok(Ok(())));
        notify.ready(if well {
            "running with the settings read again"
        } else {
            "running; the settings cannot be read again"
        });
    }
}

/// Events of all outboxes that wait.
fn unpublished(deployer: &Deployer) -> u64 {
    let stores = deployer.stores().listed();
    stores.iter().map(|(store, _)| store.meter().outbox_rows.load(Ordering::Relaxed)).sum()
}

/// Takes a port. A daemon that was killed gives up its lock and its port one after the other.
fn take_port<T>(after_another: bool, bind: impl Fn() -> Result<T>) -> Result<T> {
    let until = Instant::now() + PORT_WITHIN;
    loop {
        match bind() {
            Err(_) if after_another && Instant::now() < until => std::thread::sleep(PORT_AGAIN),
            bound => return bound,
        }
    }
}

/// Stores, consumers and HTTP connections may need more files than the soft limit allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "raise the limit of open files");
    }
}

/// A file that reaches the limit on its size (`ulimit -f`) is an error like a full disk, and no reason to be killed.
pub(crate) fn survive_large_files() {
    // SAFETY: ignoring a signal runs no handler, and nothing here waits for this one.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn connection(settings: &Settings, embedded: Option<&Embedded>) -> Result<Connection> {
    let bootstrap = match (&settings.kafka.bootstrap, embedded) {
        (Bootstrap::Servers(servers), _) => servers.clone(),
        (Bootstrap::Embedded { .. }, embedded) => embedded.map_or(String::new(), |e| e.bootstrap().to_owned()),
    };
    Ok(Connection {
        bootstrap,
        librdkafka: settings.kafka.librdkafka.clone(),
        security: settings.kafka.security.read()?,
        acks: settings.kafka.acks,
        login: settings.kafka.security.oauth().map(Login::start).transpose()?,
        incarnation: embedded.map(|e| e.incarnation().to_owned()),
    })
}

/// Creates the topics under `[[topic]]` that are missing, as soon as Kafka answers.
fn look_after_topics(admin: Admin, topics: Vec<Topic>, stopping: Arc<AtomicBool>) -> Result<()> {
    let run = move || {
        for topic in topics.iter().filter(|topic| !topic.name.is_dated()) {
            let name = topic.name.as_str();
            while !stopping.load(Ordering::Relaxed) {
                match admin.ensure(name, topic.partitions, topic.replicas) {
                    Ok(Ensured::Created) => {
                        tracing::info!(
                            topic = name,
                            partitions = topic.partitions,
                            replicas = topic.replicas,
                            "topic created"
                        );
                        break;
                    }
                    Ok(Ensured::Present { partitions }) if partitions != topic.partitions => {
                        tracing::warn!(
                            topic = name,
                            partitions,
                            configured = topic.partitions,
                            "the topic has another number of partitions than configured, and is left alone"
                        );
                        break;
                    }
                    Ok(Ensured::Present { .. }) => break,
                    Err(error) if error.is_transient() => {
                        tracing::warn!(topic = name, %error, "the topic cannot be looked after yet");
                        std::thread::sleep(TOPICS_AGAIN);
                    }
                    Err(error) => {
                        tracing::error!(topic = name, %error, "the topic is missing and cannot be created");
                        break;
                    }
                }
            }
        }
    };
    std::thread::Builder::new().name("topics".into()).spawn(run)?;
    Ok(())
}
