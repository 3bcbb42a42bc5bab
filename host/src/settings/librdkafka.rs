//! `[kafka.librdkafka]`: whatever else librdkafka can be told, except what the host's guarantees rest on.
//!
//! librdkafka itself says whether it knows a name and takes the value, without starting a client.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::reader::Section;
use super::value::Value;
use crate::kafka::config::check_property;

/// The properties that the host owns, and what to write instead or why there is nothing to write.
const OWNED: [(&str, &str); 33] = [
    ("bootstrap.servers", "set `kafka.bootstrap`"),
    ("metadata.broker.list", "set `kafka.bootstrap`"),
    ("group.id", "every handler has a group of its own: set `group` in its manifest or under [handler.NAME]"),
    ("group.instance.id", "it comes from the data folder, so that a restarted host gets its partitions back"),
    ("group.protocol", "static members rely on the classic protocol"),
    ("group.remote.assignor", "static members rely on the classic protocol"),
    ("client.id", "it names the handler"),
    ("enable.auto.commit", "offsets follow the store's commits"),
    ("auto.commit.enable", "offsets follow the store's commits"),
    ("auto.commit.interval.ms", "offsets follow the store's commits"),
    ("enable.auto.offset.store", "offsets follow the store's commits"),
    ("auto.offset.reset", "the store knows the next offset: set `start` in the manifest or under [handler.NAME]"),
    ("partition.assignment.strategy", "assignment is cooperative-sticky"),
    ("session.timeout.ms", "set `consumer.session-timeout` in the manifest or under [handler.NAME]"),
    ("heartbeat.interval.ms", "it follows the session's time-out"),
    ("queued.max.messages.kbytes", "one budget is divided among the handlers"),
    ("fetch.queue.backoff.ms", "it goes with that budget"),
    ("topic.metadata.propagation.max.ms", "the relay waits for new topics itself"),
    ("enable.partition.eof", "the host does not read it"),
    ("enable.idempotence", "the relay's producer is idempotent"),
    ("acks", "the relay waits for all in-sync replicas"),
    ("request.required.acks", "the relay waits for all in-sync replicas"),
    ("message.timeout.ms", "the relay never gives up on an event: the outbox keeps it"),
    ("delivery.timeout.ms", "the relay never gives up on an event: the outbox keeps it"),
    ("message.send.max.retries", "the relay never gives up on an event: the outbox keeps it"),
    ("retries", "the relay never gives up on an event: the outbox keeps it"),
    ("max.in.flight", "more would break the order of a key"),
    ("max.in.flight.requests.per.connection", "more would break the order of a key"),
    ("transactional.id", "effects commit in the store, not in a Kafka transaction"),
    ("queuing.strategy", "the relay publishes in commit order"),
    ("enable.gapless.guarantee", "the relay handles gaps itself"),
    ("partitioner", "a key must stay on its partition"),
    ("test.mock.num.brokers", "set `kafka.bootstrap = \"embedded\"`"),
];

/// Reads the table. A name may be quoted or not: `linger.ms = 5` and `"linger.ms" = 5` are the same.
pub(super) fn read(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in section.entries() {
        let mut add = |name: String, line: usize, value: &DeValue<'_>| {
            let text = Value::File(value).scalar().and_then(|text| check(&name, text));
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
        match check(&name, text.to_owned()) {
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
fn check(name: &str, value: String) -> Result<String, String> {
    // A topic property may also be written with this prefix.
    let bare = name.strip_prefix("topic.").unwrap_or(name);
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == bare || *owned == name) {
        return Err(format!("belongs to the host: {instead}"));
    }
    check_property(name, &value).map_err(|reason| format!("librdkafka refuses it: {}", reason.trim())).map(|()| value)
}
