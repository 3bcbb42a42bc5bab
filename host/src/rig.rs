//! The rig: one handler's `.wasm` on the host's own executor, without Kafka and without a daemon, for its tests.
//!
//! Its invariant: whatever happens to a record or a request here happens by the code of the daemon. The rig stands only for what lies
//! around that: it is Kafka, the relay, the services outside, and the clock, which stands still until the test lets it go on. It
//! decides nothing.

pub mod wire;
pub(crate) mod kafka;
pub(crate) mod services;
mod lines;
mod look;
mod plan;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use self::kafka::Kafka;
use self::lines::Lines;
pub use self::plan::Plan;
use self::services::Services;
use self::wire::{Command, Fed, Place, Sent};
use crate::deploy::artifact::Artifact;
use crate::deploy::manifest::Spec;
use crate::deploy::{self, targets};
use crate::executor::readers::Readers;
use crate::executor::{self, Handle, Keep, Open, Opened, Outside, Version};
use crate::fault::{self, Moment};
use crate::guest::Engine;
use crate::host::folder::Folder;
use crate::http::jwt::Verifier;
use crate::http::routes::Routes;
use crate::http::server;
use crate::kafka::sender::{Sender, Way};
use crate::lane::opening::Seen;
use crate::lane::{Meter, Token};
use crate::ledger::deployment::Status;
use crate::ledger::outbox::{self, Event};
use crate::ledger::schema;
use crate::outbound::{Call, Outbound};
use crate::record::Record;
use crate::settings::{Settings, units};
use crate::store::Connection;
use crate::trace::Tracer;
use crate::{cli, clock};

/// The rig's own file in its data folder.
const FILE: &str = "rig.jsonl";
/// How long the executor may take until nothing is left to do.
const REST_WITHIN: Duration = Duration::from_secs(60);
/// How often in a row something new may be published before nothing is left to do.
const ROUNDS: usize = 10_000;
/// How long the token of a request is valid.
const TOKEN: Duration = Duration::from_secs(3_600);

/// A handler that is tried.
pub struct Rig {
    settings: Settings,
    engine: Engine,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    address: SocketAddr,
    secret: Vec<u8>,
    routes: Arc<Routes>,
    readers: Readers,
    kafka: Arc<Mutex<Kafka>>,
    services: Arc<Mutex<Services>>,
    lines: Lines,
    path: Arc<Path>,
    artifact: Artifact,
    spec: Spec,
    topic_id: String,
    open: Option<Running>,
    _folder: Folder,
}

/// The store while it is open.
struct Running {
    handle: Handle,
    thread: JoinHandle<()>,
    reader: Connection,
    lanes: BTreeMap<(String, i32), (Token, Arc<Meter>)>,
}

impl Rig {
    /// Opens the store, makes the handler live, and goes on with what a rig on the same folder has left behind.
    pub fn open(plan: &Plan) -> Result<Self> {
        let lines = Lines::start()?;
        let artifact = Artifact::read(&plan.file).with_context(|| plan.file.display().to_string())?;
        let settings = plan.settings(&artifact)?;
        let readers = Readers::start(&Tracer::rehearsing(&settings.traces))?;
        let file = settings.data.join(FILE);
        if settings.data.join("stores").exists() && !file.exists() {
            bail!(
                "data folder {} is a daemon's, and a rig would change it: name a folder that is new, or a rig's",
                settings.data.display()
            );
        }
        let folder = Folder::open(&settings.data)?;
        let mut kafka = Kafka::open(&file)?;
        clock::hold(kafka.now().unwrap_or(plan.now));
        kafka.note(clock::now())?;
        let spec = artifact.resolve(&settings)?;
        let stores = settings.data.join("stores");
        std::fs::create_dir_all(&stores).with_context(|| format!("create {}", stores.display()))?;
        let path: Arc<Path> = stores.join(format!("{}.db", spec.store)).into();
        if !path.exists() {
            let store = Connection::open_writer(&path, false)?;
            schema::prepare(&store)?;
            schema::set_secret(&store, &plan.seed)?;
        }
        let engine = Engine::new(plan.compiled.as_deref().unwrap_or(&settings.data.join("compiled")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("start the HTTP server")?;
        let routes = Arc::new(Routes::default());
        let bound = server::bind(&settings.http)?;
        let address = bound.local_addr();
        let verifier = Verifier::new(&settings)?;
        let served = routes.clone();
        runtime.spawn(async move { bound.serve(served, verifier, Tracer::default(), CancellationToken::new()).await });
        let redirects = reqwest::redirect::Policy::none();
        let client = reqwest::Client::builder().redirect(redirects).build().context("set up the HTTP client")?;
        let mut rig = Self {
            secret: crate::http::secret::load_or_create(&settings)?,
            settings,
            engine,
            runtime,
            client,
            address,
            routes,
            readers,
            kafka: Arc::new(Mutex::new(kafka)),
            services: Arc::default(),
            lines,
            path,
            artifact,
            spec,
            topic_id: plan.topic_id.clone(),
            open: None,
            _folder: folder,
        };
        for answer in &plan.answers {
            let answer = serde_json::from_str(answer).with_context(|| format!("--answer {answer}"))?;
            rig.services().expect(answer)?;
        }
        rig.start()?;
        Ok(rig)
    }

    /// What a test is told first.
    pub fn greeting(&self) -> Json {
        let Spec { name, group, store, topics, pattern, publish, .. } = &self.spec;
        let publish: BTreeMap<&String, &str> = publish.iter().map(|(name, topic)| (name, topic.as_str())).collect();
        json!({
            "handler": name, "group": group, "store": store, "topics": topics, "pattern": pattern, "publish": publish,
        })
    }

    /// What a reply carries besides its answer: what has happened since the last one.
    pub fn news(&self) -> Json {
        let mut services = self.services();
        json!({
            "now": clock::now(), "lines": self.lines.take(), "calls": std::mem::take(&mut services.calls),
            "used": std::mem::take(&mut services.used), "unexpected": std::mem::take(&mut services.unexpected),
        })
    }

    /// Does what a test asks for.
    ///
    /// # Errors
    /// It cannot be done. Nothing was changed then, unless a store or a file failed.
    pub fn run(&mut self, command: Command) -> Result<Json> {
        match command {
            Command::Record(fed) => self.feed(fed),
            Command::Ended(Place { topic, partition, offset }) => {
                let offset = offset.unwrap_or_else(|| self.kafka().end(&topic, partition) - 1);
                look::ended(&self.running()?.reader, &self.kafka(), &self.spec, (&topic, partition, offset), false)
            }
            Command::Request(sent) => self.send(sent),
            Command::Advance(advance) => {
                let by = units::duration(&advance.by).map_err(|wrong| anyhow!("`by`: {wrong}"))?;
                self.advance(by)
            }
            Command::Kafka(state) => {
                self.kafka().set_away(state.away)?;
                self.settle().map(|_| Json::Null)
            }
            Command::Refuse(refuse) => {
                self.kafka().refuse(&refuse.topic, refuse.reason.as_deref())?;
                self.settle().map(|_| Json::Null)
            }
            Command::Answer(expected) => self.services().expect(expected).map(|()| Json::Null),
            Command::Query(query) => {
                let params = query.params.into_iter().map(wire::value).collect::<Result<Vec<_>>>()?;
                Ok(wire::rows(self.running()?.reader.rows(&query.sql, &params)?))
            }
            Command::Prepare(prepare) => {
                // Whose tables there are is known from its start.
                self.stop()?;
                let store = Connection::open_writer(&self.path, false)?;
                let prepared = store.batch(&format!("BEGIN IMMEDIATE; {}\n; COMMIT", prepare.sql));
                drop(store);
                self.start()?;
                Ok(prepared.map(|()| Json::Null)?)
            }
            Command::Events(_) => {
                let mut events = self.kafka().events().to_vec();
                events.extend(look::waiting(&self.running()?.reader)?);
                Ok(events.into())
            }
            Command::Pending(_) => look::pending(&self.running()?.reader),
            Command::Fallback(_) => look::fallback(&self.running()?.reader),
            Command::Restart(_) => {
                self.stop()?;
                self.start().map(|()| Json::Null)
            }
            Command::KillAt(at) => match Moment::of_name(&at.moment) {
                Some(moment) => {
                    fault::arm(moment);
                    Ok(Json::Null)
                }
                None => {
                    let names = Moment::ALL.map(Moment::name).join(", ");
                    bail!("there is no moment \"{}\": it is one of {names}", at.moment)
                }
            },
            Command::Deploy(deploy) => self.deploy(&deploy.file),
        }
    }

    /// Closes the store in order, if it is open.
    pub fn stop(&mut self) -> Result<()> {
        let Some(running) = self.open.take() else { return Ok(()) };
        running.handle.stop();
        running.thread.join().map_err(|_| anyhow!("the executor has panicked: this is a bug in Tidemill"))
    }

    fn start(&mut self) -> Result<()> {
        let (kafka, services) = (self.kafka.clone(), self.services.clone());
        let outside = Outside {
            outbound: Outbound::scripted(Arc::new(move |call: &Call| lock(&services).call(call))),
            sender: Sender::scripted(Arc::new(move |event: &Event, way: Way| lock(&kafka).send(event, way))),
            tracer: Tracer::rehearsing(&self.settings.traces),
        };
        let keep = Keep { inbox: self.settings.inbox.keep, answers: self.settings.http.idempotency_keep };
        let (store, outbox) = (&self.settings.store, &self.settings.outbox);
        let (handle, thread) =
            executor::spawn(&self.spec.store, &self.path, store, outbox, keep, Box::new(|| {}), outside)?;
        let reader = Connection::open_reader(&self.path)?;
        self.open = Some(Running { handle, thread, reader, lanes: BTreeMap::new() });
        self.go_live()?;
        let partitions = self.kafka().partitions();
        for (topic, partition) in partitions {
            self.lane(&topic, partition)?;
        }
        self.settle().map(drop)
    }

    /// Makes the version live, as a deployment does.
    fn go_live(&self) -> Result<()> {
        let Artifact { sha256, manifest_text, migrations, .. } = &self.artifact;
        let component = deploy::compile(&self.engine, &self.artifact, &self.spec)?;
        self.routes.check(&self.spec.name, &self.spec.served())?;
        let store = &self.running()?.handle;
        let joined = store.switch(Version {
            spec: self.spec.clone(),
            component,
            migrations: migrations.clone(),
            sha256: sha256.clone(),
            manifest: manifest_text.clone(),
            source: "rig".into(),
            artifact: self.artifact.version.clone(),
            instead_of: None,
            who: "rig".into(),
            before: Status::Replaced,
            probation: None,
        })?;
        let targets = targets(&self.spec, store, &self.path, &joined, &self.readers);
        Ok(self.routes.set(&self.spec.name, targets)?)
    }

    fn deploy(&mut self, file: &Path) -> Result<Json> {
        let artifact = Artifact::read(file).with_context(|| file.display().to_string())?;
        let spec = artifact.resolve(&self.settings)?;
        if (&spec.name, &spec.store) != (&self.spec.name, &self.spec.store) {
            bail!(
                "{} is handler {} with store {}; this rig has {} with store {}",
                file.display(),
                spec.name,
                spec.store,
                self.spec.name,
                self.spec.store
            );
        }
        let before = (std::mem::replace(&mut self.artifact, artifact), std::mem::replace(&mut self.spec, spec));
        if let Err(error) = self.go_live() {
            (self.artifact, self.spec) = before;
            return Err(error);
        }
        self.settle().map(|_| self.greeting())
    }

    fn feed(&mut self, fed: Fed) -> Result<Json> {
        let Spec { name, topics, pattern, .. } = &self.spec;
        if pattern.is_none() && !topics.contains(&fed.topic) {
            bail!("handler {name} does not read topic \"{}\": it reads {topics:?}", fed.topic);
        }
        if fed.partition < 0 {
            bail!("`partition` is {}: the first is 0", fed.partition);
        }
        let end = self.kafka().end(&fed.topic, fed.partition);
        let record = fed.into_record(end, clock::now())?;
        let (topic, partition, offset) = (record.topic.to_string(), record.partition, record.offset);
        let (token, meter) = self.lane(&topic, partition)?;
        let known = look::is_known(&self.running()?.reader, &self.spec, &record)?;
        self.kafka().add(&record)?;
        self.hand_over(token, &meter, vec![record])?;
        self.settle()?;
        let running = self.running()?;
        let mut ended = look::ended(&running.reader, &self.kafka(), &self.spec, (&topic, partition, offset), known)?;
        if let Json::Object(fields) = &mut ended {
            fields.insert("partition".into(), partition.into());
            fields.insert("offset".into(), offset.into());
        }
        Ok(ended)
    }

    /// The lane of a partition, opened where it is not, with the records that the store has not done.
    fn lane(&mut self, topic: &str, partition: i32) -> Result<(Token, Arc<Meter>)> {
        let place = (topic.to_owned(), partition);
        if let Some(lane) = self.running()?.lanes.get(&place) {
            return Ok(lane.clone());
        }
        let meter = Arc::new(Meter::default());
        let seen = Seen {
            topic_id: self.topic_id.clone(),
            cluster_id: "rig".into(),
            low: 0,
            high: self.kafka().end(topic, partition),
            timed: None,
            committed: None,
            embedded: false,
        };
        let open = Open { topic: topic.into(), partition, seen, meter: meter.clone() };
        let handler: Arc<str> = self.spec.name.as_str().into();
        let opened = self.running()?.handle.open(&handler, vec![open], true)?;
        let Some(Opened::At { token, next }) = opened.first() else {
            bail!("{topic}/{partition} is not read: the lines of the log say why")
        };
        let (token, records) = (*token, self.kafka().from(topic, partition, *next));
        self.hand_over(token, &meter, records)?;
        if let Some(running) = &mut self.open {
            running.lanes.insert(place, (token, meter.clone()));
        }
        Ok((token, meter))
    }

    fn hand_over(&self, token: Token, meter: &Meter, records: Vec<Record>) -> Result<()> {
        records.iter().for_each(|record| meter.add(record.size()));
        self.running()?.handle.records(token, records)
    }

    fn send(&mut self, sent: Sent) -> Result<Json> {
        let method = reqwest::Method::from_bytes(sent.method.as_bytes())
            .map_err(|_| anyhow!("\"{}\" is not a method", sent.method))?;
        if !sent.path.starts_with('/') {
            bail!("`path` is \"{}\": it begins with `/`", sent.path);
        }
        let mut request = self.client.request(method, format!("http://{}{}", self.address, sent.path));
        for (name, value) in sent.headers {
            request = request.header(name, value.bytes()?.to_vec());
        }
        if let Some(user) = &sent.user {
            // A token's time is that of the wall clock.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            request = request.bearer_auth(cli::token::sign(&self.secret, &self.settings.http.jwt, user, TOKEN, now)?);
        }
        if let Some(body) = wire::bytes(sent.body)? {
            request = request.body(body);
        }
        let answer = self.runtime.block_on(async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let headers: Vec<Json> = response
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), wire::text(Some(value.as_bytes()))]))
                .collect();
            let body = response.bytes().await?;
            Ok::<_, reqwest::Error>(json!({ "status": status, "headers": headers, "body": wire::text(Some(&body)) }))
        });
        let answer = answer.context("send the request")?;
        self.settle()?;
        Ok(answer)
    }

    /// Lets time pass, from one due time to the next, as if somebody had waited.
    fn advance(&mut self, by: Duration) -> Result<Json> {
        let by = i64::try_from(by.as_millis()).context("so long does nobody wait")?;
        let until = clock::now().saturating_add(by);
        loop {
            let next = self.settle()?;
            let event = outbox::next_due(&self.running()?.reader, clock::now())?;
            let next = next.into_iter().chain(event).filter(|at| *at > clock::now()).min();
            let Some(at) = next.filter(|at| *at <= until) else { break };
            self.pass(at)?;
        }
        self.pass(until)?;
        self.settle().map(|_| Json::Null)
    }

    fn pass(&self, at: i64) -> Result<()> {
        // Noted first: a process that is killed then finds no later time in the store.
        self.kafka().note(at)?;
        clock::hold(at);
        Ok(())
    }

    /// Waits until nothing is left to do now, and publishes what is to be published. Returns when something is due next.
    fn settle(&mut self) -> Result<Option<i64>> {
        for _ in 0..ROUNDS {
            let next = self.running()?.handle.rest(REST_WITHIN)?;
            if !self.publish()? {
                return Ok(next);
            }
        }
        bail!("after {ROUNDS} rounds there is still something to publish: the handler keeps itself busy")
    }

    /// Acknowledges what waits in the outbox, as the relay does once Kafka has it. `false` if there is nothing.
    fn publish(&self) -> Result<bool> {
        let running = self.running()?;
        let mut kafka = self.kafka();
        if kafka.is_away() {
            return Ok(false);
        }
        let rows = look::ready(&running.reader, clock::now())?;
        for row in &rows {
            match kafka.refuses(&row.event.topic) {
                Some(reason) => running.handle.refused(row.id, format!("{reason} (topic {})", row.event.topic))?,
                None => {
                    kafka.publish(&row.event, "outbox", &look::source(&running.reader, row.id)?)?;
                    running.handle.published(vec![(row.id, row.id)])?;
                }
            }
        }
        Ok(!rows.is_empty())
    }

    fn running(&self) -> Result<&Running> {
        self.open.as_ref().context("the store is closed, since it could not be opened again")
    }

    fn kafka(&self) -> MutexGuard<'_, Kafka> {
        lock(&self.kafka)
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        lock(&self.services)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
