//! Kafka: whether it answers, and whether its topics are such that what the handlers read and publish is safe there.
//!
//! It asks, and changes nothing. What a cluster does not let this client ask is said, and left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::metadata::Metadata;

use super::Findings;
use super::stores::Read;
use crate::cli::produce;
use crate::clock;
use crate::deploy::manifest::{EventId, Spec};
use crate::kafka::config::{Connection, Reporter};
use crate::kafka::release::{self, OLDEST, Release};
use crate::kafka::template::Template;
use crate::kafka::{ends, topics};
use crate::settings::units::{show_duration, show_time};
use crate::settings::{Acks, Bootstrap, DeadLetterPartition, Settings};

/// How long Kafka may take for an answer.
const WITHIN: Duration = Duration::from_secs(10);
/// librdkafka's own `message.max.bytes`.
const MESSAGE_MAX: i64 = 1_000_000;
/// What a record may have around it.
const AROUND: i64 = 64 << 10;
/// A record's time may be ahead of this machine's clock by so much, in milliseconds; and by so much where nobody can mean it.
const AHEAD: i64 = 60_000;
const FAR_AHEAD: i64 = 3_600_000;

/// What topics are for.
#[derive(Default)]
struct Topics<'a> {
    /// Those that handlers read.
    read: BTreeMap<String, Vec<&'a Spec>>,
    /// Those that they publish to through Kafka.
    published: BTreeMap<String, Vec<&'a Spec>>,
    /// The dead letter topic of each that is read.
    dead_letters: BTreeMap<String, Vec<(&'a Spec, String)>>,
}

/// A topic's partitions, as the cluster has them.
struct Partitions {
    count: usize,
    /// The fewest copies that one has, and the fewest that are up to date.
    replicas: usize,
    in_sync: usize,
    leaderless: Option<i32>,
}

/// A topic's settings by their names.
type Configs = HashMap<String, String>;

pub(super) fn check(settings: &Settings, specs: &[Spec], read: &Read, found: &mut Findings) {
    let connection = match produce::connection(settings, None) {
        Ok(connection) => connection,
        Err(_) if is_embedded(settings) => {
            found.ok("kafka", "the embedded broker does not run; it is started with the daemon");
            return;
        }
        Err(error) => {
            found.bad("kafka", format!("{error:#}"), "put it right, since no client can be opened");
            return;
        }
    };
    let asked = Instant::now();
    let away = |error: &dyn std::fmt::Display| format!("{} does not answer ({error})", connection.bootstrap);
    let client = match topics::open(&connection) {
        Ok(client) => client,
        Err(error) => return found.bad("kafka", error.to_string(), "check [kafka.librdkafka] and [kafka.security]"),
    };
    let cluster = match client.fetch_metadata(None, WITHIN) {
        Ok(cluster) => cluster,
        Err(error) => {
            return found.bad("kafka", away(&error), "check kafka.bootstrap, the network, and that a broker runs");
        }
    };
    let (brokers, took) = (cluster.brokers().len(), asked.elapsed().as_millis());
    found.ok("kafka", format!("{} answers in {took} ms, a cluster of {brokers} brokers", connection.bootstrap));
    let used = used(settings, specs, read);
    let there = there(&cluster);
    exist(settings, &used, &there, found);
    partitions(settings, &used, &there, found);
    // The embedded broker keeps one copy of everything, has no settings of topics, and is of no release.
    if connection.is_embedded() {
        return;
    }
    release(&connection, found);
    let all: BTreeSet<&str> = used.all().filter(|topic| there.contains_key(*topic)).collect();
    let configs = match topics::configs(&client, &all.into_iter().collect::<Vec<_>>(), WITHIN) {
        Ok(configs) => configs,
        Err(error) => {
            found.warn(
                "topics",
                format!("their settings cannot be asked for ({error})"),
                "grant this client's user DESCRIBE_CONFIGS on its topics",
            );
            HashMap::new()
        }
    };
    replication(settings, &used, &there, &configs, brokers, found);
    compaction(&used, &configs, found);
    sizes(&connection, &used, &configs, found);
    inbox(settings, &used, &configs, found);
    retention(&client, &connection, read, &there, &configs, found);
    times(&client, &used, &there, found);
}

/// From which release on the brokers are, as far as it can be told.
fn release(connection: &Connection, found: &mut Findings) {
    const CHECK: &str = "version";
    match release::ask(connection, WITHIN) {
        Ok(Release::From(release)) => {
            found.ok(CHECK, format!("a broker understands what came with Kafka {release}: it is that, or later"));
        }
        Ok(Release::Older) => found.warn(
            CHECK,
            format!(
                "a broker understands nothing that came with Kafka {OLDEST}: it is older, and its topics have no ids"
            ),
            "upgrade it: a topic that is made again there is taken for the one before, at its offsets",
        ),
        Ok(Release::Unknown) => found.ok(CHECK, "the broker does not say what it understands"),
        Err(error) => found.warn(CHECK, format!("no broker could be asked for its version ({error})"), "ask again"),
    }
}

fn is_embedded(settings: &Settings) -> bool {
    matches!(settings.kafka.bootstrap, Bootstrap::Embedded { .. })
}

impl Topics<'_> {
    /// All that are named.
    fn all(&self) -> impl Iterator<Item = &str> {
        let dead_letters = self.dead_letters.keys();
        self.read.keys().chain(self.published.keys()).chain(dead_letters).map(String::as_str)
    }
}

/// By pattern a handler reads what it has read already.
fn used<'a>(settings: &Settings, specs: &'a [Spec], read: &Read) -> Topics<'a> {
    let mut used = Topics::default();
    for spec in specs {
        let by_pattern = read.offsets.iter().filter(|(handler, ..)| spec.pattern.is_some() && *handler == spec.name);
        let topics: BTreeSet<&str> =
            spec.topics.iter().map(String::as_str).chain(by_pattern.map(|(_, topic, ..)| topic.as_str())).collect();
        for topic in topics {
            used.read.entry(topic.to_owned()).or_default().push(spec);
            let dead_letter = spec.dead_letter.topic.replace("{topic}", topic);
            used.dead_letters.entry(dead_letter).or_default().push((spec, topic.to_owned()));
        }
        let plain = spec.publish.values().filter(|topic| !topic.is_dated()).map(Template::as_str);
        for topic in plain.filter(|topic| settings.destinations.http(topic).is_none()) {
            used.published.entry(topic.to_owned()).or_default().push(spec);
        }
    }
    used
}

fn there(cluster: &Metadata) -> HashMap<String, Partitions> {
    let topic = |topic: &rdkafka::metadata::MetadataTopic| {
        let partitions = topic.partitions();
        let fewest = |count: fn(&rdkafka::metadata::MetadataPartition) -> usize| partitions.iter().map(count).min();
        Partitions {
            count: partitions.len(),
            replicas: fewest(|partition| partition.replicas().len()).unwrap_or(0),
            in_sync: fewest(|partition| partition.isr().len()).unwrap_or(0),
            leaderless: partitions.iter().find(|partition| partition.leader() < 0).map(|partition| partition.id()),
        }
    };
    let known = cluster.topics().iter().filter(|found| !found.partitions().is_empty());
    known.map(|found| (found.name().to_owned(), topic(found))).collect()
}

fn names(specs: &[&Spec]) -> String {
    let names: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn exist(settings: &Settings, used: &Topics<'_>, there: &HashMap<String, Partitions>, found: &mut Findings) {
    const CHECK: &str = "topics";
    let ways = [(&used.read, "reads"), (&used.published, "publishes to")];
    for (topics, verb) in ways {
        for (topic, specs) in topics.iter().filter(|(topic, _)| !there.contains_key(*topic)) {
            let saw = format!("{topic}, which {} {verb}, is not there", names(specs));
            if is_embedded(settings) || settings.topics.iter().any(|made| made.name.matches(topic)) {
                found.warn(CHECK, saw, "the daemon makes it when it starts");
            } else {
                found.bad(CHECK, saw, "create it, or name it under [[topic]]");
            }
        }
    }
    for (topic, partitions) in used.all().collect::<BTreeSet<_>>().into_iter().filter_map(|t| Some((t, there.get(t)?)))
    {
        if let Some(partition) = partitions.leaderless {
            found.bad(
                CHECK,
                format!("{topic}/{partition} has no leader"),
                "bring its brokers back: it is neither read nor written",
            );
        }
    }
    let missing = used.dead_letters.keys().filter(|topic| !there.contains_key(*topic)).count();
    found.else_ok(
        CHECK,
        format!(
            "{} that are read and {} that are published to are there; {missing} dead letter topics are made when they are needed",
            used.read.len(),
            used.published.len()
        ),
    );
}

fn partitions(settings: &Settings, used: &Topics<'_>, there: &HashMap<String, Partitions>, found: &mut Findings) {
    const CHECK: &str = "partitions";
    for (topic, specs) in &used.read {
        let Some(Partitions { count, .. }) = there.get(topic) else { continue };
        for spec in specs.iter().filter(|spec| spec.consumer.concurrency < *count) {
            let concurrency = spec.consumer.concurrency;
            let saw =
                format!("{topic} has {count} partitions, and handler {} may be at {concurrency} at once", spec.name);
            found.warn(CHECK, saw, "raise its consumer.concurrency to the partitions, unless that is meant");
        }
    }
    for (topic, readers) in &used.dead_letters {
        let Some(Partitions { count, .. }) = there.get(topic) else { continue };
        for (spec, source) in readers {
            let wanted = match spec.dead_letter.partition {
                DeadLetterPartition::Same => there.get(source).map_or(0, |source| source.count),
                DeadLetterPartition::Fixed(partition) => usize::try_from(partition).unwrap_or(0) + 1,
            };
            if *count < wanted {
                let saw = format!("{topic} has {count} partitions, and dead letters of {source} go to one of {wanted}");
                found.bad(CHECK, saw, "give it as many: the others would only be kept in the store's fallback");
            }
        }
    }
    for made in settings.topics.iter().filter(|made| !made.name.is_dated()) {
        let name = made.name.as_str();
        if let Some(Partitions { count, .. }) = there.get(name)
            && usize::try_from(made.partitions) != Ok(*count)
        {
            let saw = format!("{name} has {count} partitions, and [[topic]] says {}", made.partitions);
            found.warn(CHECK, saw, "it is left alone: say there what is so, or change the topic by hand");
        }
    }
    found.else_ok(CHECK, "there are as many as the handlers and their dead letters need");
}

fn number(configs: &HashMap<String, Configs>, topic: &str, name: &str) -> Option<i64> {
    configs.get(topic)?.get(name)?.parse().ok()
}

fn replication(
    settings: &Settings,
    used: &Topics<'_>,
    there: &HashMap<String, Partitions>,
    configs: &HashMap<String, Configs>,
    brokers: usize,
    found: &mut Findings,
) {
    const CHECK: &str = "replication";
    for topic in used.all().collect::<BTreeSet<_>>() {
        let Some(Partitions { replicas, in_sync, .. }) = there.get(topic) else { continue };
        let least = number(configs, topic, "min.insync.replicas").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        let saw =
            format!("{topic} has {replicas} copies, {in_sync} of them up to date, and min.insync.replicas is {least}");
        let all = settings.kafka.acks == Acks::All;
        if all && (least > *replicas || least > *in_sync) {
            found.bad(
                CHECK,
                saw,
                "nothing can be published to it: give it more copies, bring brokers back, or lower the setting",
            );
        } else if *replicas == 1 && brokers > 1 {
            found.warn(CHECK, saw, "what it holds goes with one broker: give it more copies");
        } else if *replicas > 1 && least == 1 {
            found.warn(CHECK, saw, "what one broker alone has counts as published: set it to 2");
        } else if in_sync < replicas {
            found.warn(CHECK, saw, "a broker is away or behind: bring it back");
        }
    }
    found.else_ok(CHECK, format!("copies and min.insync.replicas go together, on {brokers} brokers"));
}

fn compaction(used: &Topics<'_>, configs: &HashMap<String, Configs>, found: &mut Findings) {
    const CHECK: &str = "compaction";
    let compacts = |topic: &str| {
        let policy = configs.get(topic).and_then(|configs| configs.get("cleanup.policy"));
        policy.is_some_and(|policy| policy.contains("compact"))
    };
    for (topic, specs) in used.read.iter().filter(|(topic, _)| compacts(topic)) {
        let saw = format!("{topic} is compacted, and {} reads it", names(specs));
        found.warn(
            CHECK,
            saw,
            "of a key that is written again while a handler is behind, only the last record is handled",
        );
    }
    for topic in used.dead_letters.keys().filter(|topic| compacts(topic)) {
        let saw = format!("dead letter topic {topic} is compacted");
        found.bad(
            CHECK,
            saw,
            "set its cleanup.policy to delete: it takes none without a key, and keeps one of each key",
        );
    }
    found.else_ok(CHECK, "nothing that is read, and no dead letter, is compacted away");
}

fn sizes(connection: &Connection, used: &Topics<'_>, configs: &HashMap<String, Configs>, found: &mut Findings) {
    const CHECK: &str = "sizes";
    let sends =
        connection.librdkafka.get("message.max.bytes").and_then(|text| text.parse().ok()).unwrap_or(MESSAGE_MAX);
    let takes = |topic: &str| number(configs, topic, "max.message.bytes");
    for (topic, specs) in &used.published {
        let Some(takes) = takes(topic).filter(|takes| *takes < sends) else { continue };
        let most = specs.iter().map(|spec| spec.limits.event_bytes).max().unwrap_or(0);
        let saw =
            format!("{topic} takes {takes} bytes, the daemon sends up to {sends}, and a delivery may enqueue {most}");
        found.warn(CHECK, saw, "what is in between is kept in the fallback: raise its max.message.bytes");
    }
    for (dead_letter, readers) in &used.dead_letters {
        for (_, source) in readers {
            let Some(brings) = takes(source) else { continue };
            // One that is made on demand takes what the cluster's topics do.
            let most = takes(dead_letter).map_or(sends, |takes| takes.min(sends));
            if most + AROUND < brings {
                let saw = format!("{source} brings up to {brings} bytes, and {dead_letter} gets {most} at most");
                found.warn(CHECK, saw, "a larger dead letter is kept in the fallback: raise max.message.bytes there, and message.max.bytes under [kafka.librdkafka]");
            }
        }
    }
    found.else_ok(CHECK, format!("what is sent, up to {sends} bytes, is taken"));
}

fn inbox(settings: &Settings, used: &Topics<'_>, configs: &HashMap<String, Configs>, found: &mut Findings) {
    const CHECK: &str = "inbox";
    let Some(keep) = settings.inbox.keep else {
        return found.ok(CHECK, "ids of events are known for ever");
    };
    let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    for (topic, specs) in &used.read {
        let by_id: Vec<&Spec> = specs.iter().copied().filter(|spec| spec.event_id != EventId::Offset).collect();
        let Some(retention) = number(configs, topic, "retention.ms").filter(|_| !by_id.is_empty()) else { continue };
        if retention < 0 || retention > keep_ms {
            let saw =
                format!("{topic} keeps records for {}, and inbox.keep is {}", lasting(retention), show_duration(keep));
            let advice =
                format!("one that {} reads again after that is done a second time: raise inbox.keep", names(&by_id));
            found.warn(CHECK, saw, advice);
        }
    }
    found.else_ok(
        CHECK,
        format!("ids of events are known for {}, as long as Kafka has their records", show_duration(keep)),
    );
}

fn lasting(retention: i64) -> String {
    match u64::try_from(retention) {
        Ok(retention) => show_duration(Duration::from_millis(retention)),
        Err(_) => "ever".to_owned(),
    }
}

/// Whether what a handler has not done is about to be deleted, or was.
fn retention(
    client: &Client<Reporter>,
    connection: &Connection,
    read: &Read,
    there: &HashMap<String, Partitions>,
    configs: &HashMap<String, Configs>,
    found: &mut Findings,
) {
    const CHECK: &str = "retention";
    let rows = read.offsets.iter().filter(|(_, topic, partition, _)| {
        there.get(topic).is_some_and(|found| usize::try_from(*partition).is_ok_and(|partition| partition < found.count))
    });
    let mut topics: BTreeMap<&str, Vec<(&str, i32, i64)>> = BTreeMap::new();
    for (handler, topic, partition, stored) in rows {
        topics.entry(topic).or_default().push((handler, *partition, stored.next_offset));
    }
    for (topic, rows) in topics {
        let places: Vec<(&str, i32)> = rows.iter().map(|(_, partition, _)| (topic, *partition)).collect();
        let retention = number(configs, topic, "retention.ms").filter(|retention| *retention >= 0);
        let at = |time: i64| ends::look_with(client, connection, &places, Some(time));
        let now = clock::now();
        // The first records that are younger than all, and than half, of what is kept.
        let asked = match retention {
            Some(retention) => at(now - retention).and_then(|old| Ok((old, at(now - retention / 2)?))),
            None => at(now).map(|all| (all.clone(), all)),
        };
        let (old, half) = match asked {
            Ok(asked) => asked,
            Err(error) => {
                found.warn(CHECK, format!("{topic}: {error:#}"), "ask again");
                continue;
            }
        };
        for (handler, partition, next) in rows {
            let key = (topic.to_owned(), partition);
            let (Some(old), Some(half)) = (old.get(&key), half.get(&key)) else { continue };
            let place = format!("handler {handler} is at {topic}/{partition}@{next}");
            if next < old.low {
                let saw =
                    format!("{place}, and Kafka has nothing before {}: {} records are gone", old.low, old.low - next);
                found.bad(
                    CHECK,
                    saw,
                    "records were deleted that were not done: raise retention.ms, and publish them again",
                );
            } else if next >= old.high || retention.is_none() {
                // Nothing waits, or nothing is ever deleted for its age.
            } else if next < old.at {
                let saw = format!(
                    "{place}, whose record is older than {topic} keeps one ({})",
                    lasting(retention.unwrap_or(-1))
                );
                found.bad(CHECK, saw, "raise its retention.ms now: it can be deleted at any time");
            } else if next < half.at {
                let saw = format!(
                    "{place}, whose record is older than half of what {topic} keeps ({})",
                    lasting(retention.unwrap_or(-1))
                );
                found.warn(CHECK, saw, "let the handler catch up, or raise its retention.ms");
            }
        }
    }
    found.else_ok(CHECK, "no record that waits is near to being deleted");
}

/// Whether records are from a time that is to come, which says that clocks differ.
fn times(client: &Client<Reporter>, used: &Topics<'_>, there: &HashMap<String, Partitions>, found: &mut Findings) {
    const CHECK: &str = "times";
    let count = |topic: &str| there.get(topic).map_or(0, |found| i32::try_from(found.count).unwrap_or(i32::MAX));
    let mut places: Vec<(&str, i32)> = Vec::new();
    for topic in used.read.keys() {
        places.extend((0..count(topic)).map(|partition| (topic.as_str(), partition)));
    }
    let newest = match ends::newest(client, &places) {
        Ok(newest) => newest,
        Err(error) => return found.warn(CHECK, format!("{error:#}"), "a broker older than Kafka 3.0 cannot say it"),
    };
    let now = clock::now();
    let late = newest.iter().filter(|(_, time)| **time > now + AHEAD).max_by_key(|(_, time)| **time);
    if let Some(((topic, partition), time)) = late {
        let saw =
            format!("a record of {topic}/{partition} is of {}, and it is {} here", show_time(*time), show_time(now));
        let advice =
            "set the clocks right, of this machine, the brokers and who produces: Kafka deletes by these times";
        if *time > now + FAR_AHEAD { found.bad(CHECK, saw, advice) } else { found.warn(CHECK, saw, advice) }
    }
    found.else_ok(CHECK, "no record is from a time that is to come");
}
