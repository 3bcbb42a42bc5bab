//! H2: a version goes live between two records, or the one before it goes on as if nothing had happened.

use std::sync::atomic::{AtomicBool, Ordering};

use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Daemon, Sandbox, Store};

use crate::rig::{manifest, put_beside, seen, told};

/// The hostile handler's manifest with the setting that it writes into its rows.
fn version(name: &str) -> String {
    format!("{}[settings]\nversion = \"{name}\"\n", manifest("hostile", &[]))
}

/// Waits until the version of this number is live.
fn live(store: &Store, number: i64) {
    store.until("SELECT max(version) FROM tm_deployment WHERE status = 'live'", number);
}

#[test]
fn h2_a_reload_between_two_records_loses_none_and_doubles_none() {
    let sandbox = Sandbox::with(&["hostile"]);
    put_beside(&sandbox, "hostile.toml", &version("v1"));
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let store = Store::open(&sandbox, "hostile");
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) && sent < 8000 {
                let next = sent + 20;
                client.produce_all("hostile-in", (sent..next).map(|n| told(&format!("r{n}"), "insert")));
                sent = next;
            }
            sent
        });
        for number in 2..=5 {
            // Another manifest, or another file, or both at once.
            put_beside(&sandbox, "hostile.toml", &version(&format!("v{number}")));
            if number % 2 == 0 {
                sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), &format!("build {number}")));
            }
            store.until(&format!("SELECT count(*) > 0 FROM seen WHERE version = 'v{number}'"), 1);
        }
        stop.store(true, Ordering::Relaxed);
        producer.join().unwrap()
    });
    store.until("SELECT count(DISTINCT id) FROM seen", sent);
    assert_eq!(store.count("SELECT count(*) FROM seen"), sent);
    let versions = store.lines("SELECT DISTINCT version FROM seen ORDER BY version");
    assert!(["v1", "v5"].iter().all(|v| versions.contains(&(*v).to_owned())), "{versions:?}");
    // On one partition no record of an older version comes after one of a newer.
    let back = "SELECT count(*) FROM seen a JOIN seen b ON a.partition = b.partition AND a.seq + 1 = b.seq AND a.version > b.version";
    assert_eq!(store.count(back), 0);
    assert_eq!(store.count("SELECT count(*) FROM tm_deployment WHERE status = 'live'"), 1);
}

#[test]
fn h2_a_broken_file_never_replaces_a_working_one() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let store = Store::open(&sandbox, "hostile");
    client.produce("hostile-in", &told("before", "insert"));
    store.until("SELECT count(*) FROM seen", 1);
    let good = built("hostile");
    let half = &good[..good.len() / 2];
    for (n, (bytes, why)) in
        [(half, "cut off"), (&b"#!/bin/sh"[..], "not WebAssembly"), (&b""[..], "empty")].iter().enumerate()
    {
        sandbox.deploy_bytes("hostile.wasm", bytes);
        daemon.says(&["ERROR", "hostile.wasm", "refused, and what ran before goes on", why]);
        client.produce("hostile-in", &told(&format!("during{n}"), "insert"));
        store.until("SELECT count(*) FROM seen", n as i64 + 2);
    }
    daemon.call("GET", "/hostile/seen").send().expect_status(200);
    sandbox.deploy_bytes("hostile.wasm", &with_section(&good, "mended"));
    live(&store, 2);
    client.produce("hostile-in", &told("mended", "insert"));
    store.until("SELECT count(*) FROM seen WHERE id = 'mended'", 1);
}

#[test]
fn h2_migrations_run_once_in_order_with_the_switch() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    live(&store, 1);
    daemon.client().produce("hostile-in", &told("a", "insert"));
    store.until("SELECT count(*) FROM seen", 1);

    let folder = sandbox.handler("hostile.migrations");
    let first = tidemill_tests::sandbox::repository().join("tests/guests/hostile/migrations/0001_hostile.sql");
    let next = sandbox.root().join("next");
    std::fs::create_dir(&next).unwrap();
    std::fs::copy(&first, next.join("0001_hostile.sql")).unwrap();
    // They depend on each other's order, and running one again would fail.
    std::fs::write(next.join("0003_row.sql"), "INSERT INTO extra (n) VALUES (1);").unwrap();
    std::fs::write(next.join("0002_table.sql"), "CREATE TABLE extra (n INTEGER PRIMARY KEY) STRICT;").unwrap();
    std::fs::rename(&next, &folder).unwrap();
    sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), "second"));
    live(&store, 2);
    assert_eq!(store.lines("SELECT n FROM extra"), ["1"]);
    let names = "SELECT name FROM tm_migration ORDER BY name";
    assert_eq!(store.lines(names), ["0001_hostile.sql", "0002_table.sql", "0003_row.sql"]);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 1, "what was there stays");

    // One that fails half way leaves nothing behind, and the version before it goes on.
    std::fs::write(folder.join("0004_bad.sql"), "CREATE TABLE half (n); INSERT INTO nowhere VALUES (1);").unwrap();
    sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), "third"));
    daemon.says(&["ERROR", "hostile.wasm", "0004_bad.sql", "nowhere"]);
    assert_eq!(store.count("SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), 0);
    assert_eq!(store.lines(names).len(), 3);
    daemon.client().produce("hostile-in", &told("b", "insert"));
    store.until("SELECT count(*) FROM seen", 2);
    std::fs::remove_file(folder.join("0004_bad.sql")).unwrap();

    // One that was changed after it ran is refused.
    std::fs::write(folder.join("0003_row.sql"), "INSERT INTO extra (n) VALUES (2);").unwrap();
    sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), "fourth"));
    daemon.says(&["ERROR", "hostile.wasm", "0003_row.sql", "add a new migration"]);
    std::fs::write(folder.join("0003_row.sql"), "INSERT INTO extra (n) VALUES (1);").unwrap();

    daemon.terminate();
    drop(daemon);
    let _daemon = Daemon::start(&sandbox);
    store.until("SELECT count(*) FROM seen", 2);
    assert_eq!(store.lines("SELECT n FROM extra"), ["1"]);
}

#[test]
fn h2_a_version_that_changes_store_or_group_is_refused_and_state_survives() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    daemon.client().produce("hostile-in", &told("a", "insert"));
    store.until("SELECT count(*) FROM seen", 1);
    let name = "name = \"hostile\"";
    for (key, why) in [("store", "would lose them"), ("group", "would read everything again")] {
        let changed = manifest("hostile", &[(name, &format!("{name}\n{key} = \"another\""))]);
        put_beside(&sandbox, "hostile.toml", &changed);
        let line = daemon.says(&["ERROR", "hostile.wasm", "refused", &format!("{key} = \"another\""), why]);
        assert!(line.contains("Change it back"), "{line}");
        daemon.client().produce("hostile-in", &told(key, "insert"));
        store.until(&format!("SELECT count(*) FROM seen WHERE id = '{key}'"), 1);
    }
    assert!(!sandbox.store_file("another").exists());

    // A restart is no way around it.
    daemon.terminate();
    let mut daemon = Daemon::start(&sandbox);
    daemon.says(&["ERROR", "hostile.wasm", "refused", "group = \"another\""]);
    put_beside(&sandbox, "hostile.toml", &version("mended"));
    store.until("SELECT count(*) FROM tm_deployment WHERE status = 'live' AND manifest LIKE '%mended%'", 1);
    daemon.client().produce("hostile-in", &told("z", "insert"));
    store.until("SELECT count(*) FROM seen WHERE version = 'mended'", 1);
    assert_eq!(seen(&store), ["a|1", "group|1", "store|1", "z|1"]);
    daemon.terminate();
}

#[test]
fn h2_a_file_that_becomes_another_handler_is_refused_while_the_first_runs() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    put_beside(&sandbox, "hostile.toml", &manifest("hostile", &[("name = \"hostile\"", "name = \"other\"")]));
    daemon.says(&["ERROR", "hostile.wasm", "this file is handler hostile", "remove it first"]);
    daemon.client().produce("hostile-in", &told("a", "insert"));
    store.until("SELECT count(*) FROM seen", 1);
    assert!(!sandbox.store_file("other").exists());

    for file in ["hostile.wasm", "hostile.toml"] {
        std::fs::rename(sandbox.handler(file), sandbox.root().join(file)).unwrap();
    }
    daemon.says(&["handler removed", "hostile"]);
    for file in ["hostile.toml", "hostile.wasm"] {
        std::fs::rename(sandbox.root().join(file), sandbox.handler(file)).unwrap();
    }
    daemon.says(&["handler is live", "other"]);
    assert_eq!(seen(&store), ["a|1"]);
}
