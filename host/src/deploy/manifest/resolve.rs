//! Laying the common defaults, a manifest and the operator's overrides over each other.
//!
//! Pure: each value of the override replaces the manifest's, each of the manifest the default; `[publish]` and
//! `[settings]` are merged key by key, routes and schedules are replaced as a whole. What only several values together can get
//! wrong is found here.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::{
    CircuitPart, CompensationPart, ConsumerPart, DeadLetterPart, LimitsPart, Manifest, OutboundPart, ProbationPart,
    Retry, SendPart, Spec, Start,
};
use crate::deploy::secrets::{Secret, Secrets, Source};
use crate::kafka::sender;
use crate::outbound;
use crate::policy::{Backoff, Class, Policy, circuit, probation};
use crate::settings::{Consumer, DeadLetter, DeadLetterPartition, Defaults, Limits, Problem, Problems, Rates};

/// The configuration, and what the manifest asks for that the operator does not give.
pub(super) fn spec(
    manifest: &Manifest,
    defaults: &Defaults,
    over: Option<&Manifest>,
) -> Result<(Spec, Problems), Problems> {
    let nothing = Manifest::default();
    let over = over.unwrap_or(&nothing);
    let Some(name) = manifest.name.clone() else {
        return Err(Problems::one("manifest", "`name` is missing"));
    };
    let envelope = pick(&over.envelope, &manifest.envelope).unwrap_or_default();
    let retry = over.retry.over(manifest.retry.over(defaults.retry.clone()));
    let spec = Spec {
        group: pick(&over.group, &manifest.group).unwrap_or_else(|| name.clone()),
        store: pick(&over.store, &manifest.store).unwrap_or_else(|| name.clone()),
        topics: pick(&over.topics, &manifest.topics).unwrap_or_default(),
        pattern: pick(&over.pattern, &manifest.pattern),
        start: pick(&over.start, &manifest.start).unwrap_or(Start::Earliest),
        event_id: pick(&over.event_id, &manifest.event_id).unwrap_or_else(|| envelope.id()),
        event_type: pick(&over.event_type, &manifest.event_type).unwrap_or_else(|| envelope.event_type()),
        event_version: pick(&over.event_version, &manifest.event_version).unwrap_or_else(|| envelope.event_version()),
        event_source: pick(&over.event_source, &manifest.event_source).unwrap_or_else(|| format!("/{name}")),
        envelope,
        instances: pick(&over.instances, &manifest.instances).unwrap_or_default(),
        newer_schema: pick(&over.newer_schema, &manifest.newer_schema).unwrap_or(false),
        compensation: over.compensation.over(manifest.compensation.over(retry.clone())),
        retry,
        circuit: over.circuit.over(manifest.circuit.over(defaults.circuit)),
        probation: over.probation.over(defaults.probation),
        outbound: outbound::Settings {
            origins: pick(&over.origins, &manifest.origins).unwrap_or_default(),
            ..over.outbound.over(manifest.outbound.over(outbound::Settings::default()))
        },
        send: over.send.over(manifest.send.over(sender::Settings::default())),
        dead_letter: over.dead_letter.over(manifest.dead_letter.over(defaults.dead_letter.clone())),
        rates: Rates {
            per_address: over.rates.per_address.or(manifest.rates.per_address),
            per_user: over.rates.per_user.or(manifest.rates.per_user),
        },
        routes: pick(&over.routes, &manifest.routes).unwrap_or_default(),
        events: over.events.clone(),
        schedules: pick(&over.schedules, &manifest.schedules).unwrap_or_default(),
        publish: merge(&over.publish, &manifest.publish),
        time_zone: pick(&over.time_zone, &manifest.time_zone).unwrap_or(TimeZone::UTC),
        tables: over.tables.clone(),
        settings: merge(&over.settings, &manifest.settings),
        secrets: given(&manifest.secrets, &over.sources),
        limits: over.limits.over(manifest.limits.over(defaults.limits.clone())),
        consumer: over.consumer.over(manifest.consumer.over(defaults.consumer.clone())),
        name,
    };
    let mut problems = check(&spec);
    let missing = missing(&spec, manifest);
    if !problems.is_empty() {
        problems.extend(missing);
        return Err(problems);
    }
    Ok((spec, missing))
}

fn given(asked: &[String], sources: &BTreeMap<String, Source>) -> Secrets {
    let given = |name: &String| Some((name.clone(), Secret::of(sources.get(name)?.clone())));
    asked.iter().filter_map(given).collect()
}

fn missing(spec: &Spec, manifest: &Manifest) -> Problems {
    let mut problems = Problems::default();
    let mut wrong = |message: String| {
        problems.push(Problem { origin: format!("handler `{}`", spec.name), line: None, message });
    };
    let tables = spec.tables.missing(&manifest.tables);
    if !tables.is_empty() {
        wrong(format!(
            "it asks for tables of other handlers, which only the operator gives: add `[handler.{}.grant]` with \
             `tables = {tables}` to tidemill.toml, or leave it out",
            spec.name
        ));
    }
    for name in manifest.secrets.iter().filter(|name| !spec.secrets.contains_key(*name)) {
        wrong(format!(
            "it asks for the secret `{name}`, which only the operator gives: add `[handler.{}.secrets]` with \
             `{name} = {{ env = \"VARIABLE\" }}` or `{name} = {{ file = \"/path\" }}` to tidemill.toml",
            spec.name
        ));
    }
    problems
}

fn check(spec: &Spec) -> Problems {
    let mut problems = Problems::default();
    let mut wrong = |message: String| {
        problems.push(Problem { origin: format!("handler `{}`", spec.name), line: None, message });
    };
    if spec.topics.is_empty() && spec.pattern.is_none() && spec.routes.is_empty() && spec.schedules.is_empty() {
        wrong("nothing would ever reach it; give it `topics`, a `pattern`, a `[[route]]` or a `[[schedule]]`".into());
    }
    for name in spec.secrets.keys().filter(|name| spec.settings.contains_key(*name)) {
        wrong(format!("`{name}` is a secret and one of `[settings]` too; a handler finds both by name: rename one"));
    }
    for name in spec.events.destinations.iter().filter(|name| !spec.publish.contains_key(*name)) {
        wrong(format!(
            "`events.destinations` opens `{name}`, which `[publish]` does not name; it names {}",
            match spec.publish.is_empty() {
                true => "none".to_owned(),
                false => spec.publish.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            }
        ));
    }
    for topic in &spec.topics {
        if spec.dead_letter.topic.replace("{topic}", topic) == *topic {
            wrong(format!(
                "`dead-letter.topic` is \"{topic}\", which the handler reads: a dead letter would come back for ever; \
                 name another topic"
            ));
        }
    }
    if let DeadLetter { partition: DeadLetterPartition::Fixed(fixed), partitions: Some(partitions), .. } =
        spec.dead_letter
        && fixed >= partitions
    {
        wrong(format!(
            "`dead-letter.partition` is {fixed}, which a topic of {partitions} partitions does not have; the first is 0"
        ));
    }
    let (session, heartbeat) = (spec.consumer.session_timeout, spec.consumer.heartbeat_interval);
    if session.zip(heartbeat).is_some_and(|(session, heartbeat)| heartbeat * 2 > session) {
        wrong(
            "`consumer.heartbeat-interval` must be at most half of `consumer.session-timeout`: a third is usual".into(),
        );
    }
    problems
}

impl Retry {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: Policy) -> Policy {
        Policy {
            max_attempts: self.max_attempts.unwrap_or(below.max_attempts),
            backoff: self.backoff.unwrap_or(below.backoff),
            order: self.order.unwrap_or(below.order),
            max_pending: self.max_pending.unwrap_or(below.max_pending),
            max_pending_bytes: self.max_pending_bytes.map_or(below.max_pending_bytes, |bytes| bytes as u64),
            classes: self.classes.iter().fold(below.classes, |classes, (outcome, part)| {
                let class = classes.of(*outcome);
                let treatment = part.treatment.unwrap_or(class.treatment);
                classes.with(*outcome, Class { treatment, max_attempts: part.max_attempts.or(class.max_attempts) })
            }),
        }
    }
}

impl CompensationPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: Policy) -> Policy {
        Policy {
            max_attempts: self.max_attempts.unwrap_or(below.max_attempts),
            backoff: self.backoff.unwrap_or(below.backoff),
            ..below
        }
    }
}

impl OutboundPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: outbound::Settings) -> outbound::Settings {
        outbound::Settings {
            timeout: self.timeout.unwrap_or(below.timeout),
            max_attempts: self.max_attempts.unwrap_or(below.max_attempts),
            backoff: self.backoff.unwrap_or(below.backoff),
            retry_status: self.retry_status.clone().unwrap_or(below.retry_status),
            body_limit: self.body_limit.unwrap_or(below.body_limit),
            max_calls: self.max_calls.unwrap_or(below.max_calls),
            origins: below.origins,
        }
    }
}

impl SendPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: sender::Settings) -> sender::Settings {
        sender::Settings {
            timeout: self.timeout.unwrap_or(below.timeout),
            max_attempts: self.max_attempts.unwrap_or(below.max_attempts),
        }
    }
}

impl CircuitPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: circuit::Settings) -> circuit::Settings {
        let interval = self.wait.unwrap_or(below.wait.interval);
        circuit::Settings {
            wait: Backoff { interval, max: self.max_wait.unwrap_or(below.wait.max).max(interval), ..below.wait },
            probes: self.probes.unwrap_or(below.probes),
            failure_rate: self.failure_rate.or(below.failure_rate),
            window: self.window.unwrap_or(below.window),
        }
    }
}

impl ProbationPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: probation::Settings) -> probation::Settings {
        probation::Settings {
            records: self.records.unwrap_or(below.records),
            trap_rate: self.trap_rate.unwrap_or(below.trap_rate),
            smoke_records: self.smoke_records.unwrap_or(below.smoke_records),
            copy_limit: self.copy_limit.unwrap_or(below.copy_limit),
        }
    }
}

impl DeadLetterPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: DeadLetter) -> DeadLetter {
        DeadLetter {
            topic: self.topic.clone().unwrap_or(below.topic),
            partition: self.partition.unwrap_or(below.partition),
            partitions: self.partitions.or(below.partitions),
            replicas: self.replicas.or(below.replicas),
            answers: self.answers.unwrap_or(below.answers),
        }
    }
}

impl LimitsPart {
    /// `below`, with what this sets in its place.
    pub fn over(&self, below: Limits) -> Limits {
        Limits {
            time: self.time.unwrap_or(below.time),
            cpu: self.cpu.unwrap_or(below.cpu),
            failing_cpu: self.failing_cpu.unwrap_or(below.failing_cpu),
            memory: self.memory.unwrap_or(below.memory),
            table_elements: self.table_elements.unwrap_or(below.table_elements),
            tables: self.tables.unwrap_or(below.tables),
            core_instances: self.core_instances.unwrap_or(below.core_instances),
            sql_statements: self.sql_statements.unwrap_or(below.sql_statements),
            sql_rows: self.sql_rows.unwrap_or(below.sql_rows),
            sql_bytes: self.sql_bytes.unwrap_or(below.sql_bytes),
            events: self.events.unwrap_or(below.events),
            event_bytes: self.event_bytes.unwrap_or(below.event_bytes),
            log_bytes: self.log_bytes.unwrap_or(below.log_bytes),
            response_bytes: self.response_bytes.unwrap_or(below.response_bytes),
        }
    }
}

impl ConsumerPart {
    /// `below`, with what this sets in its place; librdkafka's properties are merged key by key.
    pub fn over(&self, below: Consumer) -> Consumer {
        Consumer {
            session_timeout: self.session_timeout.or(below.session_timeout),
            heartbeat_interval: self.heartbeat_interval.or(below.heartbeat_interval),
            assignment: self.assignment.unwrap_or(below.assignment),
            static_membership: self.static_membership.unwrap_or(below.static_membership),
            isolation: self.isolation.unwrap_or(below.isolation),
            discovery_interval: self.discovery_interval.unwrap_or(below.discovery_interval),
            high_mark: self.high_mark.unwrap_or(below.high_mark),
            commit_interval: self.commit_interval.unwrap_or(below.commit_interval),
            concurrency: self.concurrency.unwrap_or(below.concurrency),
            librdkafka: merge(&self.librdkafka, &below.librdkafka),
        }
    }
}

fn pick<T: Clone>(over: &Option<T>, below: &Option<T>) -> Option<T> {
    over.as_ref().or(below.as_ref()).cloned()
}

fn merge<V: Clone>(over: &BTreeMap<String, V>, below: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    let both = below.iter().chain(over);
    both.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    use std::time::Duration;

    use super::*;
    use crate::deploy::manifest::EventId;
    use crate::settings::{Assignment, Isolation, Settings};

    fn resolve(manifest: &str, settings: &str) -> Result<Spec, Problems> {
        let settings = Settings::parse(settings, "tidemill.toml")?;
        let manifest = Manifest::parse(manifest, "handler.toml")?;
        let over = manifest.name.as_ref().and_then(|name| settings.overrides.get(name));
        Spec::resolve(&manifest, &settings.defaults, over)
    }

    #[test]
    fn a_small_manifest_takes_every_default() {
        let spec = resolve("name = \"mail\"\ntopics = [\"a\"]", "").unwrap();
        assert_eq!((spec.group.as_str(), spec.store.as_str(), spec.start), ("mail", "mail", Start::Earliest));
        assert_eq!((spec.event_id, spec.consumer), (EventId::Offset, Consumer::default()));
        assert_eq!(spec.retry, Policy::default());
        assert_eq!(spec.dead_letter.topic, "{topic}.DLT");
        assert_eq!(spec.limits, Limits::default());
    }

    #[test]
    fn s0_2_a_handler_that_names_no_policy_gets_the_common_one_and_may_override_parts_of_it() {
        let common = "[defaults.retry]\nmax-attempts = 9\nbackoff = { interval = \"2s\" }\n";
        let manifest = "name = \"mail\"\ntopics = [\"a\"]\n";
        let fixed = |seconds| Backoff::fixed(Duration::from_secs(seconds));
        let policy = |max_attempts, backoff| Policy { max_attempts, backoff, ..Policy::default() };
        let retry = |manifest: &str, settings: &str| resolve(manifest, settings).unwrap().retry;

        assert_eq!(retry(manifest, common), policy(9, fixed(2)));
        let own = format!("{manifest}[retry]\nmax-attempts = 3");
        assert_eq!(retry(&own, common), policy(3, fixed(2)));
        let over = format!("{common}[handler.mail.retry]\nbackoff = {{ kind = \"fixed\", interval = \"7s\" }}");
        assert_eq!(retry(&own, &over), policy(3, fixed(7)));
    }

    #[test]
    fn s0_1_the_operator_replaces_topics_and_merges_publish_and_settings() {
        let manifest = r#"
            name = "mail"
            topics = ["a", "b"]
            publish = { done = "mail-done", failed = "mail-failed" }
            settings = { from = "a@b", copies = 2, html = true, rate = 0.5 }
            [[route]]
            method = "GET"
            path = "/a"
        "#;
        let over = r#"
            [handler.mail]
            topics = ["c"]
            publish = { done = "test-done" }
            settings = { copies = "3" }
            dead-letter = { topic = "dead", partition = 0, replicas = 2 }
            [[handler.mail.route]]
            method = "POST"
            path = "/b"
        "#;
        let spec = resolve(manifest, &format!("[defaults.dead-letter]\npartitions = 7\n{over}")).unwrap();
        assert_eq!(spec.topics, ["c"]);
        let publish: Vec<String> = spec.publish.iter().map(|(name, topic)| format!("{name}={topic}")).collect();
        assert_eq!(publish, ["done=test-done", "failed=mail-failed"]);
        let settings: Vec<String> = spec.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(settings, ["copies=3", "from=a@b", "html=true", "rate=0.5"]);
        assert_eq!(spec.routes.len(), 1);
        assert_eq!(spec.routes[0].path, "/b");
        assert_eq!(spec.dead_letter.partition, DeadLetterPartition::Fixed(0));
        assert_eq!((spec.dead_letter.partitions, spec.dead_letter.replicas), (Some(7), Some(2)));
        assert!(!spec.routes[0].reads());
    }

    #[test]
    fn s0_12_how_a_handler_reads_is_set_in_common_in_its_manifest_and_by_the_operator() {
        let manifest = r#"
            name = "mail"
            topics = ["a"]
            [consumer]
            session-timeout = "10s"
            assignment = "eager"
            librdkafka = { fetch.min.bytes = 2, "check.crcs" = true }
        "#;
        let settings = r#"
            [defaults.consumer]
            session-timeout = "20s"
            static-membership = false
            isolation = "read-uncommitted"
            librdkafka = { fetch.min.bytes = 1, "client.rack" = "a" }
            [handler.mail.consumer]
            assignment = "cooperative"
            heartbeat-interval = "2s"
            librdkafka.fetch.min.bytes = 3
        "#;
        let consumer = resolve(manifest, settings).unwrap().consumer;
        let property = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let expected = Consumer {
            session_timeout: Some(Duration::from_secs(10)),
            heartbeat_interval: Some(Duration::from_secs(2)),
            assignment: Assignment::Cooperative,
            static_membership: false,
            isolation: Isolation::ReadUncommitted,
            librdkafka: [("check.crcs", "true"), ("client.rack", "a"), ("fetch.min.bytes", "3")].map(property).into(),
            ..Consumer::default()
        };
        assert_eq!(consumer, expected);
    }

    #[test]
    fn h5_secrets_are_those_that_are_asked_for_and_given() {
        let asks = "name = \"mail\"\ntopics = [\"a\"]\nsecrets = [\"key\"]\n";
        let given = "[handler.mail.secrets]\nkey = { env = \"KEY\" }\nother = { file = \"/other\" }\n";
        let spec = resolve(asks, given).unwrap();
        assert_eq!(format!("{:?}", spec.secrets), "{\"key\": Secret(the variable KEY)}");
        let missing = resolve(asks, "").unwrap_err().to_string();
        assert!(missing.contains("`[handler.mail.secrets]` with `key = { env = "), "{missing}");
        let twice = resolve(&format!("{asks}[settings]\nkey = 1\n"), given).unwrap_err().to_string();
        assert!(twice.contains("`key` is a secret and one of `[settings]` too"), "{twice}");
        for wrong in
            ["key = \"the value\"", "key = { }", "key = { env = \"A\", file = \"b\" }", "key = { value = \"x\" }"]
        {
            let error = resolve(asks, &format!("[handler.mail.secrets]\n{wrong}\n")).unwrap_err().to_string();
            assert!(error.starts_with("tidemill.toml:2:"), "{error}");
        }
        let twice = resolve("name = \"mail\"\ntopics = [\"a\"]\nsecrets = [\"key\", \"key\"]\n", given)
            .unwrap_err()
            .to_string();
        assert!(twice.contains("stands here twice"), "{twice}");
    }

    #[test]
    fn s1_3_the_operator_opens_destinations_that_the_handler_has() {
        let manifest = "name = \"shop\"\ntopics = [\"a\"]\npublish = { orders = \"order-events\" }\n";
        let opened = |open: &str| resolve(manifest, &format!("[handler.shop.events]\n{open}"));
        assert_eq!(resolve(manifest, "").unwrap().served(), []);
        let route = |open: &str| opened(open).unwrap().served().remove(0);
        let jwt = route("destinations = [\"orders\"]");
        assert_eq!((&*jwt.method, &*jwt.path, jwt.jwt), ("POST", "/events/shop/{destination}", true));
        assert!(!route("destinations = [\"orders\"]\nauth = \"none\"").jwt);
        let unknown = opened("destinations = [\"orders\", \"mails\"]").unwrap_err().to_string();
        assert!(
            unknown.contains("`events.destinations` opens `mails`") && unknown.ends_with("it names `orders`"),
            "{unknown}"
        );
    }

    #[test]
    fn what_only_the_whole_shows_is_refused() {
        let nothing = resolve("name = \"mail\"", "").unwrap_err().to_string();
        assert!(nothing.starts_with("handler `mail`: nothing would ever reach it"), "{nothing}");
        let over = "[handler.mail.dead-letter]\ntopic = \"a\"";
        let circle = resolve("name = \"mail\"\ntopics = [\"a\"]", over).unwrap_err().to_string();
        assert!(circle.contains("come back for ever"), "{circle}");
        let beyond = "[defaults.dead-letter]\npartitions = 3\n[handler.mail.dead-letter]\npartition = 3";
        let beyond = resolve("name = \"mail\"\ntopics = [\"a\"]", beyond).unwrap_err().to_string();
        assert!(beyond.contains("a topic of 3 partitions does not have"), "{beyond}");
        let settings = "[defaults.consumer]\nsession-timeout = \"6s\"";
        let own = "name = \"mail\"\ntopics = [\"a\"]\nconsumer.heartbeat-interval = \"4s\"";
        let beats = resolve(own, settings).unwrap_err().to_string();
        assert!(beats.contains("at most half of `consumer.session-timeout`"), "{beats}");
    }
}
