//! Everything at once: a seeded schedule of faults on three brokers, while records of every kind flow.
//!
//! What each record must end in follows from its number alone, so the checker can tell, whatever happened on the way.

use std::collections::{BTreeMap, HashMap};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill_tests::sandbox::with_section;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Rec, Service, Store, built, eventually};

use crate::dice::{Dice, pass, records, rounds};
use crate::rig::{KEYS, PARTITIONS, Rig, in_order_for_each_key, manifest, once_each};

/// How often a record is tried.
const ATTEMPTS: u64 = 3;
/// How long a round of faults may take until the daemon reads again.
const ROUND: Duration = Duration::from_secs(120);

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Writes a row and publishes an event.
    Fine,
    /// The same, after one or two failed attempts.
    Recovers(u64),
    /// Calls a service first, and then publishes.
    Calls,
    /// Fails until it is given up on, and is compensated.
    GivesUp,
    /// Panics each time.
    Panics,
    /// Is rejected.
    Rejected,
}

fn kind(n: u64) -> Kind {
    match mix(n) % 100 {
        0..=1 => Kind::GivesUp,
        2 => Kind::Panics,
        3..=4 => Kind::Rejected,
        5..=12 => Kind::Recovers(1 + n % 2),
        13..=17 => Kind::Calls,
        _ => Kind::Fine,
    }
}

fn mix(n: u64) -> u64 {
    let z = (n.wrapping_add(1)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33
}

fn key(n: u64) -> String {
    format!("k{}", mix(n ^ 0xabcd) % KEYS)
}

fn record(n: u64, service: &str) -> Out {
    let id = format!("r{n}");
    let publish = json!({ "do": "publish", "id": id });
    let failing = |what: Value| json!([publish, what, { "do": "insert", "row": false, "undo": [{ "do": "insert", "id": format!("u{n}") }] }]);
    let commands = match kind(n) {
        Kind::Fine => json!([publish]),
        Kind::Recovers(fails) => json!([publish, { "do": "fail-n", "until": fails + 1 }]),
        Kind::Calls => json!([{ "do": "call", "url": service, "body": id, "id": id, "row": false }, publish]),
        Kind::GivesUp => failing(json!({ "do": "fail-n", "until": 99 })),
        Kind::Panics => failing(json!({ "do": "panic" })),
        Kind::Rejected => failing(json!({ "do": "reject" })),
    };
    Out::new(commands.to_string()).key(key(n)).header("eid", format!("e{n}"))
}

/// What the schedule can pick.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    KillAt(&'static str),
    Terminate,
    BrokerKilled,
    BrokersPaused,
    RollingRestart,
    ForeignMember,
    Reload,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::KillAt("delivered"),
    Fault::KillAt("committing"),
    Fault::KillAt("committed"),
    Fault::KillAt("acknowledged"),
    Fault::KillAt("migrated"),
    Fault::KillAt("switched"),
    Fault::KillAt("set-aside"),
    Fault::Terminate,
    Fault::BrokerKilled,
    Fault::BrokersPaused,
    Fault::RollingRestart,
    Fault::ForeignMember,
    Fault::Reload,
];

/// Invariants 1 to 6 together: each record is applied once, or given up on exactly as its policy says and compensated
/// once; in order for its key; each event is on its topic, its first appearances in order; nothing is left over.
#[test]
fn s1_6_s3_3_whatever_happens_each_record_ends_as_its_policy_says() {
    let mut dice = Dice::new("chaos");
    let (rounds, records) = (rounds(8, 60), records(400, 1_000));
    let kafka = Kafka::start(3);
    let service = Service::start();
    let rig = Rig::bare(&kafka);
    let order = if dice.once_in(2) { "key" } else { "partition" };
    println!("order by {order}");
    let settings = |n: u64| {
        let more = format!(
            "event-id = \"eid\"\ngrant = {{ http = [\"{}\"] }}\nsettings = {{ version = \"v{n}\" }}\n[handler.hostile.retry]\norder = \"{order}\"\n\
             max-attempts = {ATTEMPTS}\nbackoff = {{ kind = \"exponential\", interval = \"20ms\", max = \"100ms\", jitter = 0.5 }}",
            service.url()
        );
        rig.settings(&more)
    };
    rig.sandbox.write_toml(&settings(0));
    rig.sandbox.deploy_bytes("hostile.toml", manifest().as_bytes());
    rig.sandbox.deploy("hostile");
    let mut daemon = rig.start();
    let store = rig.store();
    let mut produced = 0;
    for round in 0..rounds {
        let numbers = round * records..(round + 1) * records;
        let flow = produce(&rig, numbers, service.url(), dice.below(1_000));
        pass(dice.within(Duration::from_millis(800)));
        let fault = FAULTS[dice.below(FAULTS.len() as u64) as usize];
        let began = Instant::now();
        daemon = inject(fault, daemon, &mut dice, &rig, &kafka, round);
        produced += flow.join().expect("the producer goes on to its end");
        let done = || store.count("SELECT coalesce(sum(next_offset), 0) FROM tm_offset") as u64;
        eventually(ROUND, &format!("records are read on after {fault:?}"), || done() + records > produced);
        println!("round {round}: {fault:?} took {} ms; {} of {produced} read", began.elapsed().as_millis(), done());
    }
    let total = rounds * records;
    eventually(LONG * 2, "all records are read", || {
        store.count("SELECT sum(next_offset) FROM tm_offset") as u64 == produced
    });
    for table in ["tm_pending", "tm_outbox"] {
        store.until(&format!("SELECT count(*) FROM {table}"), 0);
    }
    check(&rig, &store, total);
    daemon.terminate();
}

/// Produces records, and some of them again; returns how many in all.
fn produce(rig: &Rig, numbers: std::ops::Range<u64>, service: &str, salt: u64) -> JoinHandle<u64> {
    let (client, topic, url): (Client, _, _) = (rig.client.clone(), rig.input.clone(), service.to_owned());
    std::thread::spawn(move || {
        let mut produced = 0;
        let chunk = (numbers.end - numbers.start) / 4;
        for start in numbers.clone().step_by(chunk as usize) {
            let chunk = start..(start + chunk).min(numbers.end);
            let applied = |n: &u64| matches!(kind(*n), Kind::Fine | Kind::Recovers(_) | Kind::Calls);
            let again: Vec<u64> = chunk.clone().filter(|n| mix(*n ^ salt).is_multiple_of(20)).filter(applied).collect();
            produced += chunk.end - chunk.start + again.len() as u64;
            client.produce_all(&topic, chunk.chain(again).map(|n| record(n, &url)));
            pass(Duration::from_millis(50));
        }
        produced
    })
}

/// Makes it happen, and brings the daemon back.
fn inject(fault: Fault, mut daemon: Daemon, dice: &mut Dice, rig: &Rig, kafka: &Kafka, round: u64) -> Daemon {
    let broker = 1 + dice.below(3) as u32;
    match fault {
        Fault::Kill => {
            daemon.kill9();
            rig.start()
        }
        Fault::KillAt(moment) => {
            daemon.terminate();
            let rare = matches!(moment, "migrated" | "switched");
            let nth = if rare { 1 } else { 1 + dice.below(100) };
            let mut killed = Daemon::launch(&rig.sandbox, |command| {
                command.env("TIDEMILL_TEST_KILL_AT", format!("{moment}:{nth}"));
            });
            let until = Instant::now() + Duration::from_secs(10);
            // So many such moments may not come: then it is killed at any.
            while killed.runs() && Instant::now() < until {
                pass(Duration::from_millis(10));
            }
            killed.kill9();
            rig.start()
        }
        Fault::Terminate => {
            daemon.terminate();
            rig.start()
        }
        Fault::BrokerKilled => {
            kafka.kill_one(broker);
            pass(dice.within(Duration::from_millis(3_000)));
            kafka.resume_one(broker);
            daemon
        }
        Fault::BrokersPaused => {
            kafka.pause();
            pass(dice.within(Duration::from_millis(3_000)));
            kafka.unpause();
            daemon
        }
        Fault::RollingRestart => {
            for broker in 1..=3 {
                kafka.kill_one(broker);
                kafka.resume_one(broker);
            }
            daemon
        }
        Fault::ForeignMember => {
            rig.client.visit_group(&rig.group, &rig.input, dice.within(Duration::from_millis(700)));
            daemon
        }
        Fault::Reload => {
            rig.sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), &format!("round {round}")));
            daemon
        }
    }
}

fn check(rig: &Rig, store: &Store, total: u64) {
    let of = |wanted: fn(Kind) -> bool| (0..total).filter(move |n| wanted(kind(*n)));
    let applied: fn(Kind) -> bool = |kind| matches!(kind, Kind::Fine | Kind::Recovers(_));
    let published: fn(Kind) -> bool = |kind| matches!(kind, Kind::Fine | Kind::Recovers(_) | Kind::Calls);
    let given_up: fn(Kind) -> bool = |kind| matches!(kind, Kind::GivesUp | Kind::Panics | Kind::Rejected);

    let rows = store.lines("SELECT id FROM seen ORDER BY seq");
    once_each(&rows, of(applied).map(|n| format!("r{n}")).chain(of(given_up).map(|n| format!("u{n}"))));
    let called = store.lines("SELECT id FROM once");
    once_each(&called, of(|kind| kind == Kind::Calls).map(|n| format!("r{n}: 200 r{n}")));
    let mut last: HashMap<String, u64> = HashMap::new();
    for id in &rows {
        let number: u64 = id[1..].parse().unwrap();
        let before = last.insert(key(number), number);
        assert!(before.is_none_or(|before| before < number), "key {}: {id} ran after {before:?}", key(number));
    }
    let events = rig.client.consume_all(&rig.output);
    once_each(&in_order_for_each_key(&events), of(published).map(|n| format!("r{n}")));
    let letters = dead_letters(&rig.client.consume_all(&format!("{}.DLT", rig.input)));
    let expected: BTreeMap<u64, (Vec<u64>, String)> = of(given_up)
        .map(|n| {
            let (attempts, outcome) = match kind(n) {
                Kind::GivesUp => (ATTEMPTS, "retry"),
                Kind::Panics => (2, "trap"),
                _ => (1, "reject"),
            };
            (n, ((1..=attempts).collect(), outcome.to_owned()))
        })
        .collect();
    assert_eq!(letters, expected);
    for table in ["tm_pending", "tm_fallback", "tm_crash"] {
        assert_eq!(store.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    let committed: i64 = (0..PARTITIONS)
        .map(|partition| store.count(&format!("SELECT next_offset FROM tm_offset WHERE partition = {partition}")))
        .sum();
    println!(
        "{total} records and {} repeated; {} events for {} ids; {} given up on, each after its attempts, and compensated; 0 violations",
        committed as u64 - total,
        events.len(),
        of(published).count(),
        expected.len()
    );
}

/// The attempts and the last outcome of each record that was given up on. What appears twice must say the same.
fn dead_letters(records: &[Rec]) -> BTreeMap<u64, (Vec<u64>, String)> {
    let mut letters = BTreeMap::new();
    for record in records {
        let number: u64 = record.header_text("eid").unwrap()[1..].parse().unwrap();
        let errors: Vec<Value> =
            serde_json::from_str(&record.header_text("kafka_dlt-exception-stacktrace").unwrap()).unwrap();
        let attempts: Vec<u64> = errors.iter().map(|error| error["attempt"].as_u64().unwrap()).collect();
        let outcome = errors.last().unwrap()["outcome"].as_str().unwrap().to_owned();
        let letter = (attempts, outcome);
        let before = letters.insert(number, letter.clone());
        assert!(before.is_none_or(|before| before == letter), "record {number} was given up on twice");
    }
    letters
}
