//! Invariant 7: a delivery is a function of its input, the store and a seed; its clock stands still.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, Out, SOON, Sandbox, Service, Store, eventually};

use crate::rig::{Hostile, first_on};

const DRAWN: &str = "SELECT random, hash_seed, event_id, next_id, sql_random, monotonic FROM drawn ORDER BY rowid";

#[test]
fn invariant_7_sql_and_wasi_have_the_deliverys_clock_and_it_stands_still() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let records = (0..5).map(|n| Out::new(json!({ "do": "clock", "id": format!("r{n}") }).to_string()));
    daemon.client().produce_all("hostile-in", records);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM drawn", 5);
    let one_clock = "SELECT count(*) FROM drawn WHERE system_now = now AND monotonic = 0
                     AND sql_now = datetime(now / 1000, 'unixepoch') AND abs(now / 1000 - unixepoch()) < 60";
    assert_eq!(store.count(one_clock), 5, "{:?}", store.lines("SELECT * FROM drawn"));
    for column in ["random", "hash_seed", "next_id", "sql_random"] {
        assert_eq!(store.count(&format!("SELECT count(DISTINCT {column}) FROM drawn")), 5, "{column}");
    }
    // The host's own idea of the time is the real one.
    assert_eq!(store.count("SELECT count(*) FROM tm_deployment WHERE abs(deployed_at / 1000 - unixepoch()) < 60"), 1);
}

#[test]
fn invariant_7_a_delivery_that_called_a_service_has_the_clock_of_its_first_run() {
    let service = Service::start();
    service.close();
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("[handler.hostile.grant]\nhttp = [\"{}\"]\n", service.url()));
    let daemon = Daemon::start(&sandbox);
    let commands = json!([{ "do": "call", "url": service.url(), "row": false }, { "do": "clock" }]);
    daemon.client().produce("hostile-in", &Out::new(commands.to_string()));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    eventually(SOON, "it waits", || service.waiting().0 == 1);
    let waiting = now();
    eventually(SOON, "time has passed", || now() > waiting + 100);
    service.open();
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM drawn", 1);
    let drawn = store.count("SELECT now FROM drawn");
    assert!(drawn <= waiting, "the clock says {drawn}, and it was set aside before {waiting}");
}

#[test]
fn invariant_7_a_group_that_breaks_is_run_again_with_one_row_for_each_delivery() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let clocks = |from: usize, to: usize| {
        (from..to).map(|n| Out::new(json!([{ "do": "clock", "id": format!("r{n}") }, { "do": "publish" }]).to_string()))
    };
    // All waiting when the daemon comes, so that they are in groups, which the offenders break.
    let offender = || std::iter::once(Out::new(r#"{"do":"insert-or-rollback","id":"bad"}"#));
    let records = clocks(0, 20).chain(offender()).chain(clocks(20, 40)).chain(offender()).chain(clocks(40, 60));
    hostile.client.produce_all(&hostile.input, records.map(|record| record.partition(0)));
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM drawn", 60);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), 60);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 60);
    assert_eq!(store.count("SELECT count(DISTINCT random) FROM drawn"), 60);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    // `clock` enqueues an event of its own beside the published one.
    let events = hostile.client.consume_all(&hostile.output);
    let mut ids: Vec<String> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    assert_eq!(ids.len(), 120);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 120);
    drop(daemon);
}

#[test]
fn invariant_7_the_same_record_on_a_copy_of_the_store_draws_the_same() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let mut daemon = Daemon::start(&hostile.sandbox);
    hostile.send(&json!({ "do": "insert", "id": "first" }));
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 1);
    daemon.terminate();
    drop(store);

    let copy = Sandbox::with(&["hostile"]);
    copy_folder(&hostile.sandbox.data(), &copy.data());
    copy.write_toml(&fs::read_to_string(hostile.sandbox.toml()).unwrap());
    hostile.send(&json!([{ "do": "clock", "id": "again" }, { "do": "publish", "count": 2 }]));
    let [first, second] = [&hostile.sandbox, &copy].map(|sandbox| {
        let mut daemon = Daemon::start(sandbox);
        let store = Store::open(sandbox, "hostile");
        store.until("SELECT count(*) FROM drawn", 1);
        store.until("SELECT count(*) FROM tm_outbox", 0);
        daemon.terminate();
        (store.lines(DRAWN), store.count("SELECT now FROM drawn"))
    });
    assert_eq!(first.0, second.0);
    assert!(second.1 > first.1, "each run has its own clock");
    // What it published has the same ids, so consumers know the second run for what it is.
    let events = hostile.client.consume_all(&hostile.output);
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event.header_text("event-id")).collect();
    assert_eq!((events.len(), ids.len()), (6, 3));
}

#[test]
fn invariant_7_a_retry_has_a_new_clock_and_the_same_random_numbers() {
    let sandbox = Sandbox::with(&["hostile"]);
    // A failed attempt leaves nothing behind but its error, so a trigger puts what was drawn into the error.
    let folder = sandbox.handler("hostile.migrations");
    fs::create_dir(&folder).unwrap();
    let first = tidemill_tests::sandbox::repository().join("tests/guests/hostile/migrations/0001_hostile.sql");
    fs::copy(first, folder.join("0001_hostile.sql")).unwrap();
    let tattle = "CREATE TABLE tattle (n);
        CREATE TRIGGER tell BEFORE INSERT ON tattle BEGIN
          SELECT RAISE(ABORT, (SELECT json_object('now', now, 'drawn', random || hash_seed || next_id || sql_random,
            'sql', unixepoch('now'), 'late', random()) FROM drawn));
        END;";
    fs::write(folder.join("0002_tattle.sql"), tattle).unwrap();
    sandbox.write_toml(
        "[handler.hostile.retry]\nmax-attempts = 3\nbackoff = { kind = \"fixed\", interval = \"1100ms\" }\n",
    );
    let daemon = Daemon::start(&sandbox);
    let record = json!([{ "do": "clock" }, { "do": "sql", "statements": ["INSERT INTO tattle VALUES (1)"] }]);
    daemon.client().produce("hostile-in", &Out::new(record.to_string()));
    let dead = first_on(&daemon.client(), "hostile-in.DLT");
    let history: Value = serde_json::from_str(&dead.header_text("kafka_dlt-exception-stacktrace").unwrap()).unwrap();
    let told: Vec<Value> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| {
            let message = attempt["message"].as_str().unwrap();
            let json = &message[message.find('{').unwrap_or_else(|| panic!("{message}"))..];
            serde_json::Deserializer::from_str(json).into_iter().next().unwrap().unwrap()
        })
        .collect();
    assert_eq!(told.len(), 3);
    for pair in told.windows(2) {
        assert_eq!(pair[0]["drawn"], pair[1]["drawn"]);
        assert_eq!(pair[0]["late"], pair[1]["late"]);
        assert!(pair[1]["now"].as_i64() >= pair[0]["now"].as_i64().map(|now| now + 1100), "{told:?}");
    }
    for one in &told {
        assert_eq!(one["sql"].as_i64(), one["now"].as_i64().map(|now| now / 1000));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
