//! H2: a version that takes the place of another is tried, before and after, and one that is worse does not stay.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Out, SOON, Sandbox, Service, Store, built, eventually};

use crate::deploying::{deploy, file_that_says, refused, versions, works, writes_as};
use crate::rig::told;

/// A record on which only this version traps.
fn traps(id: &str, version: &str, partition: i32) -> Out {
    Out::new(json!({ "do": "panic", "id": id, "version": version }).to_string()).partition(partition)
}

/// A daemon on which v1 has done a record, and v2 is live on these settings of its probation.
fn switched(probation: &str) -> (Sandbox, Daemon, Store, Client) {
    let sandbox = Sandbox::new();
    sandbox.write_toml(&format!("[handler.hostile.probation]\n{probation}\n"));
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let (store, client) = (Store::open(&sandbox, "hostile"), daemon.client());
    assert_eq!(writes_as(&daemon, &store, "before"), "v1");
    deploy(&sandbox, &file_that_says(&sandbox, "v2"));
    assert_eq!(writes_as(&daemon, &store, "after"), "v2");
    (sandbox, daemon, store, client)
}

/// A version with one more migration than the others.
fn file_that_migrates(sandbox: &Sandbox, name: &str, sql: &str) -> PathBuf {
    let file = file_that_says(sandbox, name);
    let folder = file.with_extension("migrations");
    fs::create_dir(&folder).unwrap();
    let own = tidemill_tests::sandbox::repository().join("tests/guests/hostile/migrations/0001_hostile.sql");
    fs::copy(own, folder.join("0001_hostile.sql")).unwrap();
    fs::write(folder.join("0002_more.sql"), sql).unwrap();
    file
}

fn row(sandbox: &Sandbox, version: i64) -> Value {
    let all: Value = serde_json::from_str(&works(sandbox, &["versions", "hostile", "--json"])).unwrap();
    all.as_array().unwrap().iter().find(|row| row["version"] == version).unwrap().clone()
}

/// Whether a record was given up on.
fn dead_letter(daemon: &Daemon) -> Option<String> {
    daemon.find(&["dead letter to"])
}

#[test]
fn h2_a_version_whose_first_records_trap_is_gone_back_from_and_no_record_is_lost() {
    let (sandbox, mut daemon, store, client) = switched("records = 20\ntrap-rate = 0.1");
    let file = fs::read(sandbox.handler("hostile.toml")).unwrap();
    client.produce_all("hostile-in", (0..30).map(|n| traps(&format!("r{n:02}"), "v2", n % 3)));
    store.until("SELECT count(*) FROM seen WHERE id LIKE 'r%' AND version = 'v1' AND attempt = 1", 30);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id LIKE 'r%'"), 30);
    assert_eq!(dead_letter(&daemon), None);

    assert_eq!(versions(&sandbox), ["3 live", "2 rolled-back", "1 replaced"]);
    let (gone, live) = (row(&sandbox, 2), row(&sandbox, 3));
    let why = gone["error"].as_str().unwrap();
    assert!(why.starts_with("3 of its first ") && why.contains("records trapped; the last, hostile-in/"), "{why}");
    assert_eq!((&live["who"], &live["instead_of"]), (&json!("tidemill"), &gone["artifact"]));
    assert!(works(&sandbox, &["versions", "hostile"]).contains("3 of its first "));
    daemon.says(&["WARN", "went back from version 2"]);
    let noted = |line: &Value| line["action"] == "go-back";
    eventually(SOON, "it is in the audit log", || sandbox.audit().iter().any(noted));
    let line = sandbox.audit().into_iter().find(noted).unwrap();
    assert_eq!((&line["who"], &line["ok"], &line["version"]), (&json!("tidemill"), &json!(true), &json!(3)));
    assert!(line["error"].as_str().unwrap().contains("records trapped"));

    // The file is held back, over a restart too, and other content ends that.
    assert_eq!(fs::read(sandbox.handler("hostile.toml")).unwrap(), file);
    daemon.terminate();
    drop(daemon);
    let daemon = Daemon::start(&sandbox);
    assert_eq!(writes_as(&daemon, &store, "again"), "v1");
    assert_eq!(versions(&sandbox).len(), 3);
    deploy(&sandbox, &file_that_says(&sandbox, "v3"));
    assert_eq!(writes_as(&daemon, &store, "mended"), "v3");
}

#[test]
fn h2_a_record_that_only_the_new_version_traps_on_is_never_a_dead_letter_and_one_that_both_do_blames_nobody() {
    let (sandbox, daemon, store, client) = switched("records = 100\ntrap-rate = 0.5");
    // What a handler decides, and what is wrong with the record itself, is no fault of the version's.
    let rejects = (0..10).map(|_| Out::new(json!({ "do": "reject" }).to_string()).partition(0));
    client.produce_all(
        "hostile-in",
        rejects.chain([told("poison", "panic").partition(0), told("a", "insert").partition(0)]),
    );
    store.until("SELECT count(*) FROM seen WHERE id = 'a' AND version = 'v2'", 1);
    daemon.says(&["trap", "dead letter to"]);
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
    client.produce_all("hostile-in", [traps("b", "v2", 0), told("c", "insert").partition(0)]);
    store.until("SELECT count(*) FROM seen WHERE id IN ('b', 'c') AND version = 'v1' AND attempt = 1", 2);
    assert_eq!(versions(&sandbox), ["3 live", "2 rolled-back", "1 replaced"]);
    let why = row(&sandbox, 2)["error"].as_str().unwrap().to_owned();
    assert!(why.contains("for a fault of its own: trap"), "{why}");
}

#[test]
fn h2_a_version_that_has_passed_its_probation_stays_and_one_without_is_not_looked_at() {
    let nine = || (0..9).map(|n| traps(&format!("t{n}"), "v2", n % 3));
    let (sandbox, daemon, store, client) = switched("records = 3\ntrap-rate = 0.5");
    client.produce_all("hostile-in", (0..2).map(|n| told(&format!("a{n}"), "insert").partition(0)));
    store.until("SELECT count(*) FROM seen WHERE version = 'v2'", 3);
    daemon.says(&["INFO", "probation is over"]);
    client.produce_all("hostile-in", nine());
    eventually(SOON, "nine dead letters", || client.consume_all("hostile-in.DLT").len() == 9);
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);

    let sandbox = Sandbox::new();
    sandbox.write_toml("[defaults.probation]\nrecords = 100\n[handler.hostile.probation]\nrecords = 0\n");
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    deploy(&sandbox, &file_that_says(&sandbox, "v2"));
    daemon.client().produce_all("hostile-in", nine());
    eventually(SOON, "nine dead letters", || daemon.client().consume_all("hostile-in.DLT").len() == 9);
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
}

#[test]
fn h2_a_verdict_outlives_a_kill_before_it_is_acted_on() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[handler.hostile.probation]\nrecords = 10\ntrap-rate = 0.0\n");
    // The third version that goes live is the one that is gone back to.
    let mut daemon = Daemon::start_with(&sandbox, |command| {
        command.env("TIDEMILL_TEST_KILL_AT", "migrated:3");
    });
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    deploy(&sandbox, &file_that_says(&sandbox, "v2"));
    let store = Store::open(&sandbox, "hostile");
    daemon.client().produce_all("hostile-in", [traps("a", "v2", 0), told("b", "insert").partition(0)]);
    daemon.wait_exit();
    drop(daemon);
    assert_eq!(store.line("SELECT status, probation FROM tm_deployment WHERE version = 2"), "live|failed");
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0);
    let daemon = Daemon::start(&sandbox);
    store.until("SELECT count(*) FROM seen WHERE version = 'v1' AND attempt = 1", 2);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 2);
    assert_eq!(versions(&sandbox), ["3 live", "2 rolled-back", "1 replaced"]);
    assert_eq!(dead_letter(&daemon), None);
}

#[test]
fn h2_where_a_migration_lies_between_the_circuit_stays_open_until_another_version_is_deployed() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[handler.hostile.probation]\nrecords = 10\ntrap-rate = 0.0\n");
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(writes_as(&daemon, &store, "before"), "v1");
    let next = file_that_migrates(&sandbox, "v2", "CREATE TABLE more (n);");
    deploy(&sandbox, &next);
    let two = || [traps("a", "v2", 0), told("b", "insert").partition(1)];
    daemon.client().produce("hostile-in", &two()[0]);
    let said = daemon.says(&["ERROR", "cannot be gone back from"]);
    assert!(said.contains("0002_more.sql") && said.contains("deploy a version that mends it"), "{said}");
    let noted = |line: &Value| line["action"] == "go-back" && line["ok"] == false && line["version"] == 2;
    eventually(SOON, "it is in the audit log", || sandbox.audit().iter().any(noted));

    for _ in 0..2 {
        assert!(works(&sandbox, &["handlers"]).contains("held"));
        assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
        assert_eq!(store.count("SELECT count(*) FROM tm_pending WHERE attempts = 1"), 1, "the record waits");
        daemon.terminate();
        drop(daemon);
        daemon = Daemon::start(&sandbox);
        daemon.says(&["ERROR", "cannot be gone back from"]);
    }
    daemon.client().produce("hostile-in", &two()[1]);
    // Requests are answered all the same.
    daemon.call("POST", "/hostile").body(&json!({ "do": "insert", "id": "r" }).to_string()).send().expect_status(200);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id IN ('a', 'b')"), 0);
    // The same file once more begins anew, and fails again.
    assert_eq!(deploy(&sandbox, &next)["version"], json!(3));
    store.until("SELECT count(*) FROM tm_deployment WHERE version = 3 AND probation = 'failed'", 1);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id = 'a'"), 0);
    deploy(&sandbox, &file_that_migrates(&sandbox, "v3", "CREATE TABLE more (n);"));
    store.until("SELECT count(*) FROM seen WHERE id = 'a' AND version = 'v3' AND attempt = 1", 1);
    store.until("SELECT count(*) FROM seen WHERE id = 'b'", 1);
    assert_eq!(versions(&sandbox), ["4 live", "3 replaced", "2 replaced", "1 replaced"]);
    assert_eq!(dead_letter(&daemon), None);
    assert!(refused(&sandbox, &["rollback", "hostile", "1"]).contains("0002_more.sql"));
}

/// A daemon with these settings on which v1 has done a record.
fn on_a_copy(settings: &str) -> (Sandbox, Daemon, Store) {
    let sandbox = Sandbox::new();
    sandbox.write_toml(settings);
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(writes_as(&daemon, &store, "before"), "v1");
    (sandbox, daemon, store)
}

fn copies(sandbox: &Sandbox) -> Vec<PathBuf> {
    let all = fs::read_dir(sandbox.data().join("rehearsal"));
    all.map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[test]
fn h2_migrations_run_on_a_copy_first_and_one_that_fails_there_has_kept_nobody_waiting() {
    let (sandbox, daemon, store) = on_a_copy("");
    let slow =
        "CREATE TABLE slow AS WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 15000000)
                SELECT count(*) AS n FROM n; INSERT INTO nowhere VALUES (1);";
    let file = file_that_migrates(&sandbox, "v2", slow);
    let file = file.to_str().unwrap();
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| refused(&sandbox, &["deploy", file]));
        eventually(SOON, "a copy is made", || !copies(&sandbox).is_empty());
        assert_eq!(writes_as(&daemon, &store, "meanwhile"), "v1");
        assert!(!deploying.is_finished(), "the migration is still under way");
        let why = deploying.join().unwrap();
        assert!(why.contains("on a copy of store hostile") && why.contains("0002_more.sql"), "{why}");
        assert!(why.contains("no such table"), "{why}");
    });
    let dangles = file_that_migrates(&sandbox, "v3", "INSERT INTO child (id, parent) VALUES ('x', 'nobody');");
    let why = refused(&sandbox, &["deploy", dangles.to_str().unwrap()]);
    assert!(why.contains("table child has rows whose foreign key finds nothing in parent"), "{why}");
    assert!(store.line("SELECT error FROM tm_deployment WHERE version = 3").contains("table child"));
    assert_eq!(versions(&sandbox), ["3 failed", "2 failed", "1 live"]);

    let good = file_that_migrates(&sandbox, "v4", "CREATE TABLE more (n);");
    let dry = works(&sandbox, &["deploy", "--dry-run", good.to_str().unwrap()]);
    assert!(dry.contains("0002_more.sql (which took ") && dry.contains(" ms on a copy of the store)"), "{dry}");
    assert_eq!(store.count("SELECT count(*) FROM sqlite_schema WHERE name IN ('more', 'slow')"), 0);
    let done = deploy(&sandbox, &good);
    assert!(done["migrations_ms"].is_number() && done["migrations"] == json!(["0002_more.sql"]), "{done}");
    daemon.says(&["INFO", "the migrations ran on a copy", "0002_more.sql"]);
    assert_eq!(writes_as(&daemon, &store, "after"), "v4");
    assert_eq!(copies(&sandbox), Vec::<PathBuf>::new());
}

#[test]
fn h2_where_no_copy_can_be_made_the_version_is_refused_and_the_one_before_goes_on() {
    let (sandbox, mut daemon, store) = on_a_copy("");
    let large = "INSERT INTO loose (n) SELECT zeroblob(100000) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]')";
    let fill = json!({ "do": "sql", "statements": [large, large], "row": false }).to_string();
    daemon.call("POST", "/hostile").body(&fill).send().expect_status(200);
    // Whoever closes the store last brings what is in its log into its file.
    drop(store);
    daemon.terminate();
    drop(daemon);
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let limit = |current: Option<u64>| {
        let pid = Pid::from_raw(daemon.pid() as i32);
        prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    };
    let next = file_that_migrates(&sandbox, "v2", "CREATE TABLE more (n);");
    limit(Some(2 << 20));
    let why = refused(&sandbox, &["deploy", next.to_str().unwrap()]);
    assert!(why.contains("copy store hostile into") && why.contains("rehearsal"), "{why}");
    assert_eq!(copies(&sandbox), Vec::<PathBuf>::new());
    assert_eq!(writes_as(&daemon, &store, "meanwhile"), "v1");
    limit(None);
    deploy(&sandbox, &next);
    assert_eq!(writes_as(&daemon, &store, "after"), "v2");
}

#[test]
fn h2_copies_that_a_killed_process_has_left_go_at_the_next_start() {
    let sandbox = Sandbox::new();
    let left = sandbox.data().join("rehearsal");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("hostile.db-wal"), "half").unwrap();
    let _daemon = Daemon::start(&sandbox);
    assert!(!left.exists());
}

#[test]
fn h2_of_a_store_beyond_the_limit_no_copy_is_made_and_no_smoke_test() {
    let (sandbox, daemon, store) = on_a_copy("[defaults.probation]\ncopy-limit = \"1KiB\"\n");
    let file = file_that_migrates(&sandbox, "v2", "CREATE TABLE more (n);");
    let why = refused(&sandbox, &["deploy", "--smoke", "3", file.to_str().unwrap()]);
    assert!(why.contains("probation.copy-limit is 1KiB") && why.contains("deploy without the test"), "{why}");
    assert_eq!(deploy(&sandbox, &file)["migrations_ms"], Value::Null);
    daemon.says(&["WARN", "not tried on a copy first", "1KiB"]);
    assert_eq!(writes_as(&daemon, &store, "after"), "v2");
}

#[test]
fn h2_the_last_records_run_on_a_copy_nothing_of_it_is_kept_and_a_trap_turns_the_version_away() {
    let service = Service::start();
    let (sandbox, daemon, store) = on_a_copy(&format!(
        "[handler.hostile]\nevent-id = \"/id\"\n[handler.hostile.grant]\nhttp = [\"{}\"]\n[handler.hostile.outbound]\nmax-attempts = 1\n",
        service.url()
    ));
    let client = daemon.client();
    let send = |partition: i32, command: Value| Out::new(command.to_string()).partition(partition);
    let records = [
        send(0, json!({ "do": "insert", "id": "a" })),
        send(0, json!({ "do": "publish", "id": "b" })),
        send(1, json!({ "do": "publish", "id": "c", "send": "now" })),
        send(1, json!({ "do": "call", "id": "d", "url": service.url(), "row": false })),
        send(2, json!({ "do": "reject", "id": "e" })),
        traps("f", "v3", 2),
    ];
    client.produce_all("hostile-in", records);
    let done = "SELECT count(*) FROM seen WHERE id IN ('a', 'b', 'c', 'f')";
    store.until(done, 4);
    store.until("SELECT count(*) FROM once WHERE id LIKE 'd: 200%'", 1);
    eventually(SOON, "what was published is there", || client.consume_all("hostile-out").len() == 2);
    eventually(SOON, "the dead letter is there", || client.consume_all("hostile-in.DLT").len() == 1);
    let calls = service.asked().len();

    let next = file_that_says(&sandbox, "v2");
    let next = next.to_str().unwrap();
    let dry = works(&sandbox, &["deploy", "--dry-run", "--smoke", "50", next]);
    // The one from before is among them; the call finds nobody, and is rejected by the handler.
    assert!(dry.ends_with("; the last 7 records: 5 done, 2 reject\n"), "{dry}");
    let two: Value =
        serde_json::from_str(&works(&sandbox, &["deploy", "--dry-run", "--json", "--smoke", "2", next])).unwrap();
    assert_eq!(two["smoke"]["records"], json!(2), "{two}");
    assert_eq!(versions(&sandbox), ["1 live"]);
    let bad = file_that_says(&sandbox, "v3");
    let why = refused(&sandbox, &["deploy", "--smoke", "50", bad.to_str().unwrap()]);
    assert!(why.contains("smoke test: record hostile-in/2@") && why.contains(" makes it end in trap"), "{why}");
    assert_eq!(versions(&sandbox), ["2 failed", "1 live"]);
    let said = works(&sandbox, &["deploy", "--smoke", "50", next]);
    assert!(said.starts_with("smoke test on a copy of the store: 7 records: 5 done, 2 reject\nversion 3 "), "{said}");
    assert_eq!(writes_as(&daemon, &store, "after"), "v2");

    assert_eq!((store.count(done), service.asked().len()), (4, calls));
    assert_eq!((client.consume_all("hostile-out").len(), client.consume_all("hostile-in.DLT").len()), (2, 1));
    assert_eq!(copies(&sandbox), Vec::<PathBuf>::new());
    assert_eq!(daemon.find(&["client=\"smoke\""]), None, "it reads without a word");
    for wrong in ["-1", "10001", "x"] {
        assert_eq!(sandbox.tidemill(&["deploy", next, "--smoke", wrong]).status.code(), Some(2));
    }
    let sent = sandbox.admin("POST", "handlers?smoke=x").bytes("application/wasm", built("hostile"));
    sent.send().expect_status(400);
}

#[test]
fn h2_what_comes_by_the_folder_is_smoke_tested_too_where_the_settings_say_so_and_a_restart_is_not() {
    let (sandbox, mut daemon, store) = on_a_copy("[handler.hostile.probation]\nsmoke-records = 20\n");
    daemon.client().produce("hostile-in", &traps("a", "v3", 0));
    store.until("SELECT count(*) FROM seen WHERE id = 'a'", 1);
    let toml = fs::read_to_string(sandbox.handler("hostile.toml")).unwrap();
    let says = |version: &str| sandbox.deploy_bytes("hostile.toml", toml.replace("v1", version).as_bytes());
    says("v3");
    let said = daemon.says(&["ERROR", "handler refused"]);
    assert!(said.contains("smoke test: record hostile-in/0@") && said.contains("trap"), "{said}");
    assert_eq!(writes_as(&daemon, &store, "b"), "v1");
    says("v2");
    daemon.says(&["smoke test: 3 records: 3 done"]);
    assert_eq!(writes_as(&daemon, &store, "c"), "v2");
    daemon.terminate();
    drop(daemon);
    let daemon = Daemon::start(&sandbox);
    assert_eq!(writes_as(&daemon, &store, "d"), "v2");
    assert_eq!(daemon.find(&["smoke test"]), None);
}
