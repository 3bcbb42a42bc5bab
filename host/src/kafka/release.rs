//! From which release of Kafka on a broker is, by the requests that it understands (KIP-35, KIP-511).
//!
//! A broker does not tell its release. librdkafka asks it for the versions of its requests and tells them nobody but its log, with
//! `debug=feature`: so one question is asked by a client of its own, whose log is read. It says the least that is certain: a later
//! release understands the same, and another maker's broker what a release of Kafka's does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext};

use super::config::Connection;

/// Requests by their numbers, with the first version that came with a release; the newest release first.
const SINCE: [(i16, i16, &str); 11] = [
    (3, 13, "4.0"),
    (1, 17, "3.9"),
    (0, 11, "3.8"),
    (1, 16, "3.7"),
    (24, 4, "3.6"),
    (1, 15, "3.5"),
    (29, 3, "3.3"),
    (11, 9, "3.2"),
    (1, 13, "3.1"),
    (2, 7, "3.0"),
    (0, 9, OLDEST),
];
/// The first release with topic ids.
pub(crate) const OLDEST: &str = "2.8";

/// Lines of a log that are read; a broker has some hundred requests.
const LINES_MAX: usize = 2_000;

/// What is known of a broker's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// It is this one, or a later one.
    From(&'static str),
    /// It is older than [`OLDEST`].
    Older,
    /// The broker did not say.
    Unknown,
}

/// Asks the broker that answers first.
///
/// # Errors
/// None answers in time, or no client can be opened.
pub(crate) fn ask(connection: &Connection, within: Duration) -> KafkaResult<Release> {
    let mut config = connection.client("release");
    config.set("debug", "feature").set_log_level(RDKafkaLogLevel::Debug);
    let producer: BaseProducer<Listener> = config.create_with_context(Listener::default())?;
    let producer = connection.keep(producer);
    producer.client().fetch_metadata(None, within)?;
    // The lines came before that answer. Each of these takes one that waits.
    for _ in 0..LINES_MAX {
        producer.poll(Duration::ZERO);
    }
    let understood = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(judge(&understood))
}

/// Keeps the highest version of each request that the log tells of.
#[derive(Default)]
struct Listener(Mutex<BTreeMap<i16, i16>>);

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some((request, most)) = (facility == "APIVERSION").then(|| read(message)).flatten() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(request, most);
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    // Who asks is told by the question's end.
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext<NoCustomPartitioner> for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// The number of a request and its highest version, of a line like `ApiKey Fetch (1) Versions 4..17`.
fn read(message: &str) -> Option<(i16, i16)> {
    let (before, versions) = message.rsplit_once(") Versions ")?;
    let (_, request) = before.rsplit_once('(')?;
    let (_, most) = versions.split_once("..")?;
    Some((request.parse().ok()?, most.parse().ok()?))
}

fn judge(understood: &BTreeMap<i16, i16>) -> Release {
    if understood.is_empty() {
        return Release::Unknown;
    }
    let has = |request: &i16, version: &i16| understood.get(request).is_some_and(|most| most >= version);
    let newest = SINCE.iter().find(|(request, version, _)| has(request, version));
    newest.map_or(Release::Older, |(.., release)| Release::From(release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_at_least_of_the_release_whose_requests_it_understands() {
        let of = |lines: &[&str]| judge(&lines.iter().filter_map(|line| read(line)).collect());
        let line = "[thrd:a:9092/1]: a:9092/1:   ApiKey";
        let [fetch, produce] = [16, 15].map(|most| format!("{line} Fetch (1) Versions 0..{most}")).map(|fetch| {
            let produce = format!("{line} Produce (0) Versions 0..10");
            of(&[&fetch, &produce])
        });
        assert_eq!((fetch, produce), (Release::From("3.7"), Release::From("3.5")));
        assert_eq!(of(&[&format!("{line} ApiKey-68? (3) Versions 0..13")]), Release::From("4.0"));
        // As Kafka 2.7 says.
        let older = [format!("{line} Fetch (1) Versions 0..12"), format!("{line} Produce (0) Versions 0..8")];
        assert_eq!(of(&[&older[0], &older[1]]), Release::Older);
        assert_eq!(
            of(&["Broker API support:", "Feature IdempotentProducer: Produce (4..4) supported by broker"]),
            Release::Unknown
        );
    }
}
