//! The daemon: everything started in order, and stopped in the opposite one.
//!
//! Its invariant: when it says that it is ready, the handlers run; when it has stopped in order, nothing is under
//! way. It waits for no broker: what needs one waits by itself.

pub mod folder;
pub mod admin;
pub mod monitor;
mod address;
mod greeting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::folder::Folder;
use self::monitor::Post;
use crate::broker::Embedded;
use crate::deploy::audit::Audit;
use crate::deploy::stores::Stores;
use crate::deploy::versions::Versions;
use crate::deploy::watch::Watch;
use crate::deploy::{Deployer, Surroundings};
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

/// How long to wait before topics are looked after again while Kafka does not answer.
const TOPICS_AGAIN: Duration = Duration::from_secs(2);
/// How long a standby that takes over tries to get the port, and how often.
const PORT_WITHIN: Duration = Duration::from_secs(5);
const PORT_AGAIN: Duration = Duration::from_millis(20);
/// How long what is under way besides may go on once all is stopped.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop. A standby first waits until nobody else holds the data folder; a signal
/// ends it as it ends any process, since it has nothing to put in order yet.
pub fn run(settings: Settings, standby: bool) -> Result<()> {
    survive_large_files();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the HTTP server")?;
    let mut post = Post::new(&settings, runtime.handle())?;
    let (folder, waited) = if standby {
        post.stand_by();
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
    let (relay, relay_threads) = relay::start(relay::Plan {
        connection: kafka.clone(),
        admin: admin.clone(),
        topics: settings.topics.clone(),
        destinations,
        outbound: outbound.clone(),
        sweep: settings.outbox.sweep,
        read_back: settings.outbox.read_back.then(|| format!("tidemill-{}-relay", folder.id())),
    })?;
    let stopping = Arc::new(AtomicBool::new(false));
    look_after_topics(admin.clone(), settings.topics.clone(), stopping.clone())?;
    let routes = Arc::new(Routes::default());
    let around = Surroundings {
        settings: settings.clone(),
        host_id: folder.id().to_owned(),
        engine,
        routes: routes.clone(),
        readers: Readers::start()?,
        kafka: kafka.clone(),
        admin,
        versions: Versions::open(&settings.data, settings.versions.keep)?,
        audit: Audit::new(&settings.data),
    };
    let outside = Outside { outbound, sender };
    let deployer = Arc::new(Deployer::new(around, Stores::open_all(&settings, relay.clone(), outside)?));
    let watch = Watch::begin(&settings.handlers, deployer.clone())?.start(stopping.clone())?;
    post.run(Gatherer::new(Parts {
        deployer: deployer.clone(),
        relay: relay.clone(),
        routes: routes.clone(),
        kafka: kafka.clone(),
        data: settings.data.clone(),
        stuck_after: settings.metrics.stuck_after,
    })?);
    let told = post.told();
    greeting::say(&settings, address, &kafka, embedded.as_deref(), &deployer.specs())?;

    let served = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let signalled = told.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            signalled.now.set(Stage::Stopping);
            tracing::info!("stopping: requests under way are answered, what is committed is published");
            stop.cancel();
        });
        // Where either cannot be served, the daemon stops.
        let stop = cancel.clone();
        let api = async {
            let served = door.serve(deployer.clone(), told.clone(), stop.clone()).await;
            stop.cancel();
            served
        };
        let (served, api) = tokio::join!(bound.serve(routes, verifier, cancel), api);
        served.and(api)
    });
    if let Err(error) = &served {
        tracing::error!(error = format!("{error:#}"), "the HTTP server has failed: stopping");
    }

    told.now.set(Stage::Stopping);
    stopping.store(true, Ordering::Relaxed);
    let _ = watch.join();
    deployer.stop_consumers();
    relay.stop();
    for thread in relay_threads {
        let _ = thread.join();
    }
    deployer.stop_stores();
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
fn survive_large_files() {
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
