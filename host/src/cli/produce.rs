//! `tidemill produce`: records to a topic, for trying things out.
//!
//! It prints where each record is once the broker has it, and makes no topic.

use std::io::BufRead as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::{Config, dev, say};
use crate::broker::STATE_FILE;
use crate::broker::state::State;
use crate::kafka::Kept;
use crate::kafka::config::Connection;
use crate::kafka::login::Login;
use crate::settings::{Bootstrap, Settings};

/// How long a broker is waited for.
const WITHIN: Duration = Duration::from_secs(10);
/// How long the issuer of its token is waited for.
const LOGIN_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

/// What to send, and where.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The topic.
    topic: String,
    /// The record's value; `-` reads standard input, of which each line is a record.
    value: String,
    /// The record's key: records of one key stay in order.
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// A header of the record; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The brokers; without it those of the settings, or the embedded broker of a daemon or of `tidemill dev` in this folder.
    #[arg(long, value_name = "HOST:PORT,..")]
    bootstrap: Option<String>,
    #[command(flatten)]
    config: Config,
}

/// Sends the records, and prints where they are.
///
/// # Errors
/// No broker is found or answers; it refuses a record.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let settings = arguments.config.load()?;
    let connection = connection(&settings, arguments.bootstrap.as_deref())?;
    let mut outlet = Outlet::open(&connection, arguments)?;
    if arguments.value == "-" {
        for line in std::io::stdin().lock().split(b'\n') {
            outlet.send(&line.context("read standard input")?)?;
        }
    } else {
        outlet.send(arguments.value.as_bytes())?;
    }
    outlet.finish()
}

/// Reads a header as it is given on the command line.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "write it as NAME=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Where the broker is. An embedded one is known by the file in its daemon's data folder.
pub(super) fn connection(settings: &Settings, bootstrap: Option<&str>) -> Result<Connection> {
    let librdkafka = settings.kafka.librdkafka.clone();
    let security = settings.kafka.security.read()?;
    // A command has nothing else to do than to wait for its token.
    let login = |embedded: bool| {
        let login = settings.kafka.security.oauth().filter(|_| !embedded).map(Login::start).transpose()?;
        login.iter().try_for_each(|login| login.wait(LOGIN_WITHIN))?;
        anyhow::Ok(login)
    };
    let to = |bootstrap: &str, incarnation: Option<String>| {
        anyhow::Ok(Connection {
            login: login(incarnation.is_some())?,
            bootstrap: bootstrap.to_owned(),
            librdkafka: librdkafka.clone(),
            security: security.clone(),
            acks: settings.kafka.acks,
            incarnation,
        })
    };
    match (bootstrap, &settings.kafka.bootstrap) {
        (Some(named), _) => return to(named, None),
        (None, Bootstrap::Servers(named)) => return to(named, None),
        (None, Bootstrap::Embedded { .. }) => {}
    }
    for data in [settings.data.as_path(), Path::new(dev::DATA)] {
        if let Some(state) = State::read(&data.join(STATE_FILE))? {
            return to(&state.bootstrap, Some(state.incarnation));
        }
    }
    bail!(
        "no embedded broker runs in {} or {}: start `tidemill run` or `tidemill dev`, go to its folder, or name a broker with --bootstrap",
        settings.data.display(),
        dev::DATA
    )
}

/// Sends, and hears what became of it.
struct Outlet<'a> {
    producer: Kept<BaseProducer<Context>>,
    reports: Receiver<Report>,
    waiting: usize,
    bootstrap: &'a str,
    arguments: &'a Arguments,
}

/// Where a record is, or why it is nowhere.
type Report = Result<(i32, i64), KafkaError>;

struct Context(Sender<Report>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let report = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody listens any more once one has failed.
        let _ = self.0.send(report);
    }
}

impl<'a> Outlet<'a> {
    fn open(connection: &'a Connection, arguments: &'a Arguments) -> Result<Self> {
        let (sender, reports) = channel();
        let mut config = connection.client("produce");
        config
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", WITHIN.as_millis().to_string())
            .set("topic.metadata.propagation.max.ms", "1000")
            .set("linger.ms", "0")
            // Kafka's own clients choose a key's partition so, and the daemon too.
            .set("partitioner", "murmur2_random");
        connection.acknowledge(&mut config);
        let producer = config.create_with_context(Context(sender)).context("open the Kafka producer")?;
        let producer = connection.keep(producer);
        Ok(Self { producer, reports, waiting: 0, bootstrap: &connection.bootstrap, arguments })
    }

    fn send(&mut self, value: &[u8]) -> Result<()> {
        let headers = self.arguments.header.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        });
        let mut record = BaseRecord::to(&self.arguments.topic).payload(value).headers(headers);
        if let Some(key) = &self.arguments.key {
            record = record.key(key.as_str());
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(POLL);
                }
                Err((error, _)) => return Err(self.explain(&error)),
            }
        }
        self.waiting += 1;
        self.producer.poll(Duration::ZERO);
        self.tell()
    }

    /// Waits for what is under way; librdkafka gives up on it after [`WITHIN`].
    fn finish(&mut self) -> Result<()> {
        while self.waiting > 0 {
            self.producer.poll(POLL);
            self.tell()?;
        }
        Ok(())
    }

    fn tell(&mut self) -> Result<()> {
        while let Ok(report) = self.reports.try_recv() {
            self.waiting = self.waiting.saturating_sub(1);
            match report {
                Ok((partition, offset)) => say(&format!("{}/{partition}@{offset}", self.arguments.topic))?,
                Err(error) => return Err(self.explain(&error)),
            }
        }
        Ok(())
    }

    fn explain(&self, error: &KafkaError) -> anyhow::Error {
        let (topic, bootstrap) = (&self.arguments.topic, self.bootstrap);
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => anyhow!(
                "there is no topic {topic} at {bootstrap}: check its name, or add it under [[topic]] in tidemill.toml"
            ),
            Some(Code::MessageTimedOut | Code::AllBrokersDown) => {
                anyhow!("{bootstrap} has not taken the record within {WITHIN:?}: is a broker there?")
            }
            _ => anyhow!("{bootstrap} refuses a record for {topic}: {error}"),
        }
    }
}

impl Drop for Outlet<'_> {
    fn drop(&mut self) {
        // What is still under way after a failure is given up.
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}
