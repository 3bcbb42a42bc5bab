//! Streams in which some records fail or wait for a service, beside the same stream in which none does.
//!
//! The work is that of `tests/guests/hostile`, which does what each record says: a row and an event. A run ends when the broker holds the
//! event of each record, and is checked: one row each, and nothing left to be done.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value as Json, json};
use tidemill_tests::{Daemon, Kafka, Sandbox, Service, Store};

use crate::load;
use crate::report::{Report, median, say};
use crate::throughput::{self, PARTITIONS};

/// Records of a run.
const RECORDS: u64 = 50_000;
const ROUNDS: usize = 3;
/// How long a failed record waits for its next attempt.
const BACKOFF: &str = "50ms";

/// A stream.
struct Mix {
    name: &'static str,
    /// `retry.order`.
    order: &'static str,
    /// What a record does that is not like the others, before its event.
    other: Option<Other>,
}

#[derive(Clone, Copy)]
enum Other {
    /// One in a hundred fails once before it has written anything.
    Fails,
    /// One in a hundred fails once after it has written its row.
    FailsLate,
    /// One in ten calls a service first.
    Calls,
}

impl Other {
    /// Whether record `n` is one of them: of any key, here and there.
    fn takes(self, n: u64) -> bool {
        let each = if matches!(self, Self::Calls) { 10 } else { 100 };
        load::mix(n).is_multiple_of(each)
    }

    fn command(self, service: &Service) -> Json {
        match self {
            Self::Fails => json!({ "do": "fail-n", "until": 2, "row": false }),
            Self::FailsLate => json!({ "do": "fail-n", "until": 2 }),
            Self::Calls => json!({ "do": "call", "url": service.url(), "row": false }),
        }
    }
}

const MIXES: [Mix; 7] = [
    Mix { name: "all pass, order by partition", order: "partition", other: None },
    Mix { name: "all pass, order by key", order: "key", other: None },
    Mix { name: "1 % fail once before they write, order by partition", order: "partition", other: Some(Other::Fails) },
    Mix { name: "1 % fail once before they write, order by key", order: "key", other: Some(Other::Fails) },
    Mix { name: "1 % fail once after they wrote, order by key", order: "key", other: Some(Other::FailsLate) },
    Mix { name: "10 % call a service, order by key", order: "key", other: Some(Other::Calls) },
    Mix { name: "10 % call a service, no order", order: "none", other: Some(Other::Calls) },
];

/// Measures, and writes what it found into the report.
pub(crate) fn measure(kafka: &Kafka, report: &mut Report) -> Result<()> {
    report.section("records that fail or wait, among others");
    let service = Service::start();
    let mut rates = MIXES.each_ref().map(|_| Vec::new());
    for round in 1..=ROUNDS {
        for (n, (mix, rates)) in (1..).zip(MIXES.iter().zip(&mut rates)) {
            let rate = run(kafka, &service, mix, &format!("mix-{n}-{round}"))
                .with_context(|| format!("{}, round {round}", mix.name))?;
            say(&format!("mixes, round {round}, {}: {rate:.0} records/s", mix.name));
            rates.push(rate);
        }
    }
    let [base, ..] = rates.each_ref().map(|rates| median(rates));
    for (mix, rates) in MIXES.iter().zip(&rates) {
        let rate = median(rates);
        let text = format!("{rate:>7.0} records/s   {:.2} of the first", rate / base);
        report.line(mix.name, text, json!({ "rate": rate, "ratio": rate / base, "rounds": rates }));
    }
    Ok(())
}

/// Records a second.
fn run(kafka: &Kafka, service: &Service, mix: &Mix, name: &str) -> Result<f64> {
    let (input, output) = (format!("{name}-in"), format!("{name}-out"));
    [&input, &output].iter().for_each(|topic| kafka.client().create_topic(topic, PARTITIONS));
    let producer = load::producer(kafka.bootstrap(), "5")?;
    for n in 1..=RECORDS {
        let publish = json!({ "do": "publish", "id": format!("r{n}") });
        let value = match mix.other {
            Some(other) if other.takes(n) => json!([other.command(service), publish]),
            _ => json!([publish]),
        };
        load::send(&producer, &input, &load::user(n), &value.to_string())?;
    }
    load::flush(&producer)?;
    let sandbox = Sandbox::new();
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[handler.hostile]\ngroup = \"{name}\"\ntopics = [\"{input}\"]\npublish = {{ out = \"{output}\" }}\n\
         retry = {{ order = \"{}\", backoff = {{ kind = \"fixed\", interval = \"{BACKOFF}\" }} }}\nconsumer = {{ concurrency = 1000 }}\n\
         grant = {{ http = [\"{}\"] }}\n",
        kafka.bootstrap(),
        mix.order,
        service.url()
    ));
    sandbox.deploy("hostile");
    let mut daemon = Daemon::start(&sandbox);
    let run = throughput::watch(kafka, &output, RECORDS, daemon.pid())?;
    daemon.terminate();
    let store = Store::open(&sandbox, "hostile");
    let left = store.count("SELECT (SELECT count(*) FROM tm_pending) + (SELECT count(*) FROM tm_outbox)");
    ensure!(left == 0, "{left} rows are left in tm_pending and tm_outbox");
    Ok(run.rate(RECORDS))
}
