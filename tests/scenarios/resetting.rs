//! S3.2, S3.4: where a group stands, and letting it go on elsewhere while it runs.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Out, Sandbox, Store, eventually};

use crate::rig::{Hostile, seen, told};

/// Ten records on each of three partitions, each with an id of its own.
const RECORDS: i64 = 30;

fn record(n: i64) -> Out {
    told(&format!("r{n:02}"), "insert").partition((n % 3) as i32).header("ce_id", format!("event-{n}"))
}

/// `tidemill groups` with these arguments: what it printed, or its error.
fn groups(sandbox: &Sandbox, arguments: &[&str]) -> Result<String, String> {
    let output = sandbox.tidemill(&[&["groups"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn json_of(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    serde_json::from_str(&groups(sandbox, &[arguments, &["--json"]].concat()).unwrap()).unwrap()
}

/// The handler with event ids, all of its records done.
fn done(kafka: &Kafka, more: &str) -> (Hostile, Daemon, Store) {
    let hostile = Hostile::new(kafka, &format!("event-id = \"ce_id\"\n{more}"));
    hostile.client.produce_all(&hostile.input, (0..RECORDS).map(record));
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", RECORDS);
    (hostile, daemon, store)
}

fn each(store: &Store, times: i64) {
    store.until("SELECT count(*) FROM seen", RECORDS * times);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), RECORDS);
    let all = store.lines("SELECT count(*) FROM seen GROUP BY id");
    assert!(all.iter().all(|count| *count == times.to_string()), "{:?}", seen(store));
}

#[test]
fn s3_4_a_running_group_goes_back_to_the_earliest_and_each_event_runs_once_more_or_not_at_all() {
    let (hostile, mut daemon, store) = done(Kafka::shared(), "");
    let group = &*hostile.group;
    let until_read = || store.until("SELECT sum(next_offset) FROM tm_offset", RECORDS);

    // Somebody has to say which of the two it is.
    let error = groups(&hostile.sandbox, &["reset", group, "--to", "earliest"]).unwrap_err();
    assert!(error.contains("\"run\"") && error.contains("\"drop\""), "{error}");
    // What it would do.
    let dry = groups(&hostile.sandbox, &["reset", group, "--to", "earliest", "--dry-run"]).unwrap();
    assert!(dry.contains("a dry run") && dry.contains("--duplicates"), "{dry}");
    assert_eq!(store.count("SELECT sum(next_offset) FROM tm_offset"), RECORDS);

    let told_so = groups(&hostile.sandbox, &["reset", group, "--to", "earliest", "--duplicates", "drop"]).unwrap();
    assert!(told_so.contains("only events run that were not done"), "{told_so}");
    until_read();
    each(&store, 1);

    groups(&hostile.sandbox, &["reset", group, "--to", "earliest", "--duplicates", "run"]).unwrap();
    until_read();
    each(&store, 2);
    // Inside that replay an event is done once, however often it comes; and after it what was done before is done.
    let twice = |n| [record(n), record(n)];
    hostile.client.produce_all(&hostile.input, (0..5).flat_map(twice));
    store.until("SELECT sum(next_offset) FROM tm_offset", RECORDS + 10);
    each(&store, 2);
    // A second one goes to where reading was, and finds the events of both places: each once.
    groups(&hostile.sandbox, &["reset", group, "--to", "earliest", "--duplicates", "run"]).unwrap();
    store.until("SELECT sum(next_offset) FROM tm_offset", RECORDS + 10);
    each(&store, 3);

    let acts: Vec<Value> = hostile.sandbox.audit().into_iter().filter(|line| line["action"] == "reset-group").collect();
    let ok: Vec<bool> = acts.iter().map(|line| line["ok"].as_bool().unwrap()).collect();
    assert_eq!(ok, [false, true, true, true], "{acts:?}");
    assert!(acts[2]["detail"].as_str().unwrap().ends_with("duplicates: run"), "{acts:?}");
    daemon.terminate();
}

#[test]
fn s3_4_a_replay_that_a_kill_interrupts_goes_on_and_runs_each_event_once() {
    let (hostile, mut daemon, store) = done(Kafka::shared(), "");
    const MORE: i64 = 3_000;
    let more = |n: i64| told(&format!("m{n}"), "insert").partition((n % 3) as i32).header("ce_id", format!("more-{n}"));
    hostile.client.produce_all(&hostile.input, (0..MORE).map(more));
    store.until("SELECT count(*) FROM seen", RECORDS + MORE);
    groups(&hostile.sandbox, &["reset", &hostile.group, "--to", "earliest", "--duplicates", "run"]).unwrap();
    for _ in 0..3 {
        eventually(LONG, "it is in the middle of the replay, or past it", || {
            store.count("SELECT count(*) FROM seen") > RECORDS + MORE
        });
        daemon.kill9();
        daemon = Daemon::start(&hostile.sandbox);
    }
    store.until("SELECT sum(next_offset) FROM tm_offset", RECORDS + MORE);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 2 * (RECORDS + MORE));
    assert_eq!(store.count("SELECT count(*) FROM (SELECT 1 FROM seen GROUP BY id HAVING count(*) <> 2)"), 0);
    daemon.terminate();
}

#[test]
fn s3_4_a_group_goes_to_an_offset_a_time_or_the_end_of_all_or_of_one_partition() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let day = |day: i64| 1_767_225_600_000 + (day - 1) * 86_400_000;
    let timed = hostile.sandbox.unique("timed");
    hostile.client.create_topic_with(&timed, 3, &[("retention.ms", "-1")]);
    let toml = std::fs::read_to_string(hostile.sandbox.toml()).unwrap().replace(&hostile.input, &timed);
    hostile.sandbox.write_toml(&toml);
    let record = |n: i64| told(&format!("r{n:02}"), "insert").partition((n % 3) as i32).timestamp(day(1 + n / 3));
    hostile.client.produce_all(&timed, (0..RECORDS).map(record));
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", RECORDS);
    let reset = |arguments: &[&str]| {
        let all = [&["reset", &hostile.group], arguments].concat();
        let done = json_of(&hostile.sandbox, &all);
        let places = done["partitions"].as_array().unwrap();
        places.iter().map(|p| (p["partition"].as_i64().unwrap(), p["to"].as_i64().unwrap())).collect::<Vec<_>>()
    };
    let mut total = RECORDS;
    let mut until = |more: i64| {
        total += more;
        store.until("SELECT count(*) FROM seen", total);
        store.until("SELECT sum(next_offset) FROM tm_offset", RECORDS);
    };
    // Without event ids an offset is all that says what was done, so it runs again.
    assert_eq!(reset(&["--to", "7"]), [(0, 7), (1, 7), (2, 7)]);
    until(9);
    assert_eq!(reset(&["--to", "2026-01-09T00:00:00Z"]), [(0, 8), (1, 8), (2, 8)]);
    until(6);
    assert_eq!(reset(&["--to", "2099-01-01T00:00:00Z"]), [(0, 10), (1, 10), (2, 10)], "no record is that late");
    assert_eq!(reset(&["--to", "4", "--partition", "2", "--topic", &timed]), [(2, 4)]);
    until(6);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE partition = 2 AND \"offset\" = 5"), 2);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE partition = 1 AND \"offset\" = 5"), 1);
    until(0);

    // What cannot be done for one partition is done for none, and says so.
    let refused =
        |arguments: &[&str]| groups(&hostile.sandbox, &[&["reset", &*hostile.group], arguments].concat()).unwrap_err();
    let error = refused(&["--to", "11"]);
    assert!(error.contains(&format!("offset 11 is not in {timed}/0, which goes from 0 to 10")), "{error}");
    let error = refused(&["--to", "earliest", "--partition", "3"]);
    assert!(error.contains("partition 3"), "{error}");
    let error = refused(&["--to", "earliest", "--topic", "another"]);
    assert!(error.contains("has not read another"), "{error}");
    let error = refused(&["--to", "yesterday"]);
    assert!(error.contains("\"yesterday\" is no place in a topic"), "{error}");
    let error = groups(&hostile.sandbox, &["reset", "nobody", "--to", "earliest"]).unwrap_err();
    assert!(error.contains("reads as group nobody") && error.contains(&hostile.group), "{error}");
    assert_eq!(store.count("SELECT sum(next_offset) FROM tm_offset"), RECORDS);
    daemon.terminate();
}

#[test]
fn s3_4_a_reset_throws_away_what_waits_for_another_attempt_and_the_partition_goes_on() {
    let (hostile, mut daemon, store) =
        done(Kafka::shared(), "retry = { max-attempts = 1000, backoff = { interval = \"200ms\" } }\n");
    let poison = json!({ "do": "fail-n", "until": 999, "id": "poison" }).to_string();
    hostile.client.produce(&hostile.input, &Out::new(poison).partition(1).header("ce_id", "poison"));
    store.until("SELECT count(*) FROM tm_pending WHERE attempts > 1", 1);
    let behind = told("behind", "insert").partition(1).header("ce_id", "behind");
    hostile.client.produce(&hostile.input, &behind);
    let lag = || json_of(&hostile.sandbox, &["describe", &hostile.group])["partitions"][1].clone();
    eventually(LONG, "what stands behind it is lag", || lag()["lag"] == 1 && lag()["pending"] == 1);
    let told_so = groups(&hostile.sandbox, &["reset", &hostile.group, "--to", "latest", "--partition", "1"]).unwrap();
    assert!(told_so.contains("1 records that waited for another attempt were thrown away"), "{told_so}");
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
    // It stands behind both, and goes on from there.
    let next = told("next", "insert").partition(1).header("ce_id", "next");
    hostile.client.produce(&hostile.input, &next);
    store.until("SELECT count(*) FROM seen WHERE id = 'next'", 1);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id IN ('poison', 'behind')"), 0);
    daemon.terminate();
}

#[test]
fn s3_2_a_groups_offsets_and_lag_are_those_of_kafkas_own_tool() {
    let kafka = Kafka::shared();
    // Its records wait, so that there is a lag.
    let (hostile, mut daemon, _) =
        done(kafka, "circuit = { wait = \"60s\" }\nconsumer = { commit-interval = \"0s\" }\n");
    let down = json!({ "do": "unavailable", "id": "down" }).to_string();
    hostile.client.produce(&hostile.input, &Out::new(down).partition(0).header("ce_id", "down"));
    eventually(LONG, "the circuit is open", || daemon.find(&["circuit"]).is_some());
    hostile.client.produce_all(&hostile.input, (100..105).map(record));
    let ours = || {
        let group = json_of(&hostile.sandbox, &["describe", &hostile.group]);
        assert_eq!(group["warning"], Value::Null);
        let all = group["partitions"].as_array().unwrap().clone();
        let row = |p: &Value| ["partition", "offset", "end", "lag"].map(|field| p[field].as_i64().unwrap());
        all.iter().map(row).collect::<Vec<_>>()
    };
    let theirs = || {
        let text = kafka.tool("consumer-groups", &["--describe", "--group", &hostile.group]);
        let of_group = text.lines().filter(|line| line.starts_with(&*hostile.group));
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...
        let row = |line: &str| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            [2, 3, 4, 5].map(|cell| cells[cell].parse::<i64>().unwrap_or(-1))
        };
        let mut rows: Vec<_> = of_group.map(row).collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!(ours().iter().map(|row| row[3]).sum::<i64>(), 5);
    eventually(LONG, "Kafka was told", || theirs() == ours());
    let listed = groups(&hostile.sandbox, &["list"]).unwrap();
    let line = listed.lines().find(|line| line.starts_with(&*hostile.group)).unwrap();
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>()[..3], ["hostile", "3", "5"], "{listed}");
    daemon.terminate();
}

/// Of two operators who say different things at once, both are heard, one after the other, and nothing is half done.
#[test]
fn s3_4_two_operators_at_once_move_all_partitions_of_a_group_one_after_the_other() {
    let (hostile, mut daemon, store) = done(Kafka::shared(), "");
    std::thread::scope(|scope| {
        for to in ["3", "8"] {
            let hostile = &hostile;
            scope.spawn(move || {
                groups(&hostile.sandbox, &["reset", &hostile.group, "--to", to, "--duplicates", "run"]).unwrap()
            });
        }
    });
    store.until("SELECT sum(next_offset) FROM tm_offset", RECORDS);
    assert_eq!(store.count("SELECT count(DISTINCT replay_round) FROM tm_offset"), 1);
    let acts = hostile.sandbox.audit().into_iter().filter(|line| line["action"] == "reset-group");
    let moved: Vec<String> = acts.map(|line| line["detail"].as_str().unwrap().to_owned()).collect();
    let all_to = |detail: &String, to: &str| detail.matches(&format!("-> {to}")).count() == 3;
    assert!(
        moved.len() == 2 && moved.iter().any(|d| all_to(d, "3")) && moved.iter().any(|d| all_to(d, "8")),
        "{moved:?}"
    );
    daemon.terminate();
}

#[test]
fn s3_4_a_group_on_the_embedded_broker_is_reset_and_a_time_is_not_known_there() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile]\nevent-id = \"ce_id\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    daemon.client().produce_all("hostile-in", (0..RECORDS).map(record));
    store.until("SELECT count(*) FROM seen", RECORDS);
    groups(&sandbox, &["reset", "hostile", "--to", "earliest", "--duplicates", "run"]).unwrap();
    each(&store, 2);
    let error = groups(&sandbox, &["reset", "hostile", "--to", "2026-01-01T00:00:00Z"]).unwrap_err();
    assert!(error.contains("the embedded broker looks up no times"), "{error}");
    daemon.terminate();
}
