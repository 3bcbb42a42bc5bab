//! S1.8, S0.11: who waits for a record that failed.

use serde_json::json;
use tidemill_tests::{Daemon, Out, SOON, Sandbox, Store, eventually};

/// A record that fails `n` times before it is done.
fn fails(id: &str, key: Option<&str>, n: u32) -> Out {
    let record = Out::new(json!({ "do": "fail-n", "until": n + 1, "id": id }).to_string()).partition(0);
    match key {
        Some(key) => record.key(key),
        None => record,
    }
}

fn sandbox(retry: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("[handler.hostile.retry]\nmax-attempts = 4\n{retry}"));
    sandbox
}

fn done(store: &Store) -> Vec<String> {
    store.lines("SELECT id FROM seen ORDER BY seq")
}

#[test]
fn s1_8_under_key_the_records_of_a_failing_key_wait_in_order_and_others_go_on() {
    let sandbox = sandbox("order = \"key\"\nbackoff = { kind = \"fixed\", interval = \"3s\" }\n");
    let mut daemon = Daemon::start(&sandbox);
    let records = [
        fails("a1", Some("a"), 2),
        fails("b1", Some("b"), 0),
        fails("a2", Some("a"), 0),
        fails("none1", None, 3),
        fails("a3", Some("a"), 1),
        fails("none2", None, 0),
        fails("b2", Some("b"), 0),
        fails("empty", Some(""), 0),
        fails("a4", Some("a"), 0),
    ];
    daemon.client().produce_all("hostile-in", records);
    let store = Store::open(&sandbox, "hostile");
    // What need not wait is done while a1 waits for its first retry; a record without a key holds up nobody.
    store.until("SELECT count(*) FROM seen", 4);
    assert_eq!(done(&store), ["b1", "none2", "b2", "empty"]);
    assert_eq!(
        store.lines("SELECT scope, count(*) FROM tm_pending GROUP BY scope ORDER BY scope"),
        ["key|4", "none|1"]
    );
    assert_eq!(
        store.lines("SELECT attempts, due IS NULL FROM tm_pending WHERE key = 'a' ORDER BY id"),
        ["1|0", "0|1", "0|1", "0|1"]
    );
    assert_eq!(store.count("SELECT next_offset FROM tm_offset WHERE partition = 0"), 9);
    // The order is in the store, so a kill does not change it.
    daemon.kill9();
    let _daemon = Daemon::start(&sandbox);
    store.until("SELECT count(*) FROM seen", 9);
    let of_a: Vec<String> = store.lines("SELECT id || '|' || attempt FROM seen WHERE id LIKE 'a%' ORDER BY seq");
    assert_eq!(of_a, ["a1|3", "a2|1", "a3|2", "a4|1"]);
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
}

#[test]
fn s1_8_under_key_a_dead_letter_lets_those_behind_it_go_on() {
    let sandbox = sandbox("order = \"key\"\nbackoff = { kind = \"fixed\", interval = \"200ms\" }\n");
    let daemon = Daemon::start(&sandbox);
    daemon
        .client()
        .produce_all("hostile-in", [fails("a1", Some("a"), 99), fails("a2", Some("a"), 0), fails("a3", Some("a"), 0)]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 2);
    assert_eq!(done(&store), ["a2", "a3"]);
    eventually(SOON, "a1 is a dead letter", || daemon.client().consume_all("hostile-in.DLT").len() == 1);
}

#[test]
fn s1_8_under_none_nobody_waits() {
    let sandbox = sandbox("order = \"none\"\nbackoff = { kind = \"fixed\", interval = \"500ms\" }\n");
    let daemon = Daemon::start(&sandbox);
    daemon
        .client()
        .produce_all("hostile-in", [fails("a1", Some("a"), 1), fails("a2", Some("a"), 0), fails("b1", Some("b"), 0)]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 3);
    assert_eq!(done(&store), ["a2", "b1", "a1"]);
}

#[test]
fn s1_8_at_its_bound_a_partition_waits_instead_of_growing() {
    let sandbox = sandbox("order = \"key\"\nmax-pending = 3\nbackoff = { kind = \"fixed\", interval = \"3s\" }\n");
    let daemon = Daemon::start(&sandbox);
    let failing = (0..6).map(|n| fails(&format!("f{n}"), Some(&format!("key {n}")), 1));
    daemon.client().produce_all("hostile-in", failing.chain([fails("last", Some("other"), 0)]));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_pending", 3);
    // The fourth is not tried before there is room for it.
    assert_eq!(store.count("SELECT next_offset FROM tm_offset WHERE partition = 0"), 3);
    store.until("SELECT count(*) FROM seen", 7);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id LIKE 'f%' AND attempt = 2"), 6);
}

#[test]
fn s1_8_another_order_takes_effect_with_a_reload_and_keeps_the_old_promise() {
    let sandbox = sandbox("order = \"key\"\nbackoff = { kind = \"fixed\", interval = \"3s\" }\n");
    let mut daemon = Daemon::start(&sandbox);
    daemon.client().produce_all("hostile-in", [fails("a1", Some("a"), 2), fails("a2", Some("a"), 0)]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_pending", 2);
    daemon.terminate();
    sandbox.write_toml("[kafka]\nkeep-embedded = true\n[handler.hostile.retry]\nmax-attempts = 4\norder = \"none\"\n");
    let _daemon = Daemon::start(&sandbox);
    store.until("SELECT count(*) FROM seen", 2);
    assert_eq!(done(&store), ["a1", "a2"], "a2 was behind a1 when it was put aside");
}
