//! H2: a version that takes the place of another is tried, before and after, and one that is worse does not stay.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Out, SOON, Sandbox, Store, eventually};

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
    for (probation, passes) in [("records = 3\ntrap-rate = 0.5", true), ("records = 0", false)] {
        let (sandbox, daemon, store, client) = switched(probation);
        client.produce_all("hostile-in", (0..2).map(|n| told(&format!("a{n}"), "insert").partition(0)));
        store.until("SELECT count(*) FROM seen WHERE version = 'v2'", 3);
        if passes {
            daemon.says(&["INFO", "probation is over"]);
        }
        client.produce_all("hostile-in", (0..9).map(|n| traps(&format!("t{n}"), "v2", n % 3)));
        eventually(SOON, "nine dead letters", || client.consume_all("hostile-in.DLT").len() == 9);
        assert_eq!(versions(&sandbox), ["2 live", "1 replaced"], "{probation}");
    }
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
    let line = sandbox.audit().pop().unwrap();
    assert_eq!((&line["action"], &line["ok"], &line["version"]), (&json!("go-back"), &json!(false), &json!(2)));

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
    store.until("SELECT count(*) FROM seen WHERE id = 'b' AND version = 'v2'", 1);
    eventually(SOON, "it is held again", || works(&sandbox, &["handlers"]).contains("held"));
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id = 'a'"), 0);
    deploy(&sandbox, &file_that_migrates(&sandbox, "v3", "CREATE TABLE more (n);"));
    store.until("SELECT count(*) FROM seen WHERE id = 'a' AND version = 'v3' AND attempt = 1", 1);
    assert_eq!(versions(&sandbox), ["4 live", "3 replaced", "2 replaced", "1 replaced"]);
    assert_eq!(dead_letter(&daemon), None);
    assert!(refused(&sandbox, &["rollback", "hostile", "1"]).contains("0002_more.sql"));
}
