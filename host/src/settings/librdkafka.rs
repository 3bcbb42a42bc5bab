//! `[kafka.librdkafka]` and `[consumer.librdkafka]`: whatever else librdkafka can be told, except what the host's
//! guarantees rest on.
//!
//! A manifest comes with the handler's file, so it may set only how records are read: a property can name a file of
//! this machine, load a library or run a command, and that is the operator's to grant.
//! librdkafka itself says whether it knows a name and takes the value, without starting a client.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::reader::Section;
use super::value::Value;
use crate::kafka::config::check_property;

/// The properties that the host owns, and what to write instead or why there is nothing to write.
const OWNED: [(&str, &str); 36] = [
    ("bootstrap.servers", "set `kafka.bootstrap`"),
    ("metadata.broker.list", "set `kafka.bootstrap`"),
    ("group.id", "every handler has a group of its own: set `group` in its manifest or under [handler.NAME]"),
    ("group.instance.id", "it comes from the data folder; whether there is one says `consumer.static-membership`"),
    ("group.protocol", "static members rely on the classic protocol"),
    ("group.remote.assignor", "static members rely on the classic protocol"),
    ("client.id", "it names the handler"),
    ("enable.auto.commit", "offsets follow the store's commits; how soon says `consumer.commit-interval`"),
    ("auto.commit.enable", "offsets follow the store's commits"),
    ("auto.commit.interval.ms", "set `consumer.commit-interval` in the manifest or under [handler.NAME]"),
    ("enable.auto.offset.store", "offsets follow the store's commits"),
    ("auto.offset.reset", "the store knows the next offset: set `start` in the manifest or under [handler.NAME]"),
    ("partition.assignment.strategy", "set `consumer.assignment` in the manifest or under [handler.NAME]"),
    ("session.timeout.ms", "set `consumer.session-timeout` in the manifest or under [handler.NAME]"),
    ("heartbeat.interval.ms", "set `consumer.heartbeat-interval` in the manifest or under [handler.NAME]"),
    ("isolation.level", "set `consumer.isolation` in the manifest or under [handler.NAME]"),
    ("queued.max.messages.kbytes", "one budget is divided among the handlers"),
    ("fetch.queue.backoff.ms", "it goes with that budget"),
    ("topic.metadata.propagation.max.ms", "the relay waits for new topics itself"),
    ("enable.partition.eof", "the host does not read it"),
    ("enable.idempotence", "the relay's producer is idempotent unless `kafka.acks` is 1"),
    ("acks", "set `kafka.acks`"),
    ("request.required.acks", "set `kafka.acks`"),
    ("message.timeout.ms", "the relay never gives up on an event: the outbox keeps it"),
    ("delivery.timeout.ms", "the relay never gives up on an event: the outbox keeps it"),
    ("message.send.max.retries", "the relay never gives up on an event: the outbox keeps it"),
    ("retries", "the relay never gives up on an event: the outbox keeps it"),
    ("max.in.flight", "more than one could break the order of a key"),
    ("max.in.flight.requests.per.connection", "more than one could break the order of a key"),
    ("transactional.id", "effects commit in the store, not in a Kafka transaction"),
    ("queuing.strategy", "the relay publishes in commit order"),
    ("queue.buffering.max.ms", "set `linger.ms`"),
    ("delivery.report.only.error", "the host hears of each event"),
    ("enable.gapless.guarantee", "the relay handles gaps itself"),
    ("partitioner", "a key must stay on its partition"),
    ("test.mock.num.brokers", "set `kafka.bootstrap = \"embedded\"`"),
];

/// What a manifest may set: nothing that reaches beyond the records which the handler reads.
const READING: [&str; 9] = [
    "check.crcs",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "max.poll.interval.ms",
    "queued.min.messages",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
];

/// Which properties may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By the operator: all but the host's own.
    Client,
    /// By a manifest.
    Reading,
}

/// Reads the table. A name may be quoted or not: `linger.ms = 5` and `"linger.ms" = 5` are the same.
pub(crate) fn read(section: &Section<'_>, reach: Reach) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in section.entries() {
        let mut add = |name: String, line: usize, value: &DeValue<'_>| {
            let text = Value::File(value).scalar().and_then(|text| check(&name, text, reach));
            match text.map(|text| found.insert(name.clone(), text)) {
                Ok(None) => {}
                Ok(Some(_)) => section.problem_at(line, format!("`{}` stands here twice", section.dotted(&name))),
                Err(wrong) => section.problem_at(line, format!("`{}`: {wrong}", section.dotted(&name))),
            }
        };
        flatten(section, entry.name, entry.line, entry.value, &mut add);
    }
    for (rest, variable, text) in section.variables() {
        // No dots in the names of variables: `SASL_PASSWORD` is `sasl.password`.
        let name = rest.to_ascii_lowercase().replace('_', ".");
        match check(&name, text.to_owned(), reach) {
            Ok(text) => {
                found.insert(name, text);
            }
            Err(wrong) => section.variable_problem(variable, wrong),
        }
    }
    found
}

/// Unquoted dots make tables of tables; this calls `add` with the whole name of each value inside.
fn flatten(
    section: &Section<'_>,
    name: &str,
    line: usize,
    value: &DeValue<'_>,
    add: &mut impl FnMut(String, usize, &DeValue<'_>),
) {
    match value {
        DeValue::Table(table) if !table.is_empty() => {
            for (inner, value) in table {
                let line = section.line_of(&inner.span());
                flatten(section, &format!("{name}.{}", inner.get_ref()), line, value.get_ref(), add);
            }
        }
        value => add(name.to_owned(), line, value),
    }
}

/// The value, if the property is the operator's to set and librdkafka takes it.
fn check(name: &str, value: String, reach: Reach) -> Result<String, String> {
    // A topic property may also be written with this prefix.
    let bare = name.strip_prefix("topic.").unwrap_or(name);
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == bare || *owned == name) {
        return Err(format!("belongs to the host: {instead}"));
    }
    if reach == Reach::Reading && !READING.contains(&name) {
        return Err(format!(
            "is the operator's to set, under [handler.NAME.consumer.librdkafka]; a manifest may set {}",
            READING.join(", ")
        ));
    }
    check_property(name, &value).map_err(|reason| format!("librdkafka refuses it: {}", reason.trim())).map(|()| value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::deploy::manifest::Manifest;

    #[test]
    fn h5_a_manifest_sets_how_records_are_read_and_nothing_else() {
        let parse =
            |line: &str| Manifest::parse(&format!("name = \"t\"\n[consumer.librdkafka]\n{line}"), "handler.toml");
        parse("fetch.min.bytes = 5").unwrap();
        for line in [
            "ssl.key.location = \"/etc/shadow\"",
            "plugin.library.paths = \"./here.so\"",
            "sasl.kerberos.kinit.cmd = \"touch x\"",
            "debug = \"all\"",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("is the operator's to set"), "{line}: {error}");
        }
        assert!(parse("group.id = \"x\"").unwrap_err().to_string().contains("belongs to the host"));
    }
}
