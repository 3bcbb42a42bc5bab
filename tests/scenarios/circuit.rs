//! While something that a handler needs is down its records wait, and none is blamed.

use serde_json::json;
use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Daemon, Out, SOON, Sandbox, Store, eventually};

use crate::rig::{attempts, first_on};

/// A record that needs the service `shop`.
fn needs(id: &str, retry: bool) -> Out {
    Out::new(json!({ "do": "needs", "up": "shop", "id": id, "retry": retry }).to_string())
}

fn sql(daemon: &Daemon, statement: &str) {
    let command = json!({ "do": "sql", "statements": [statement], "row": false });
    daemon.call("POST", "/hostile").body(&command.to_string()).send().expect_status(200);
}

fn down(daemon: &Daemon) {
    sql(daemon, "INSERT INTO once VALUES ('shop')");
}

fn up(daemon: &Daemon) {
    sql(daemon, "DELETE FROM once WHERE id = 'shop'");
}

fn sandbox(settings: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!(
        "[handler.hostile.retry]\nmax-attempts = 2\nbackoff = {{ kind = \"fixed\", interval = \"20ms\" }}\n{settings}"
    ));
    sandbox
}

const QUICK: &str = "[handler.hostile.circuit]\nwait = \"50ms\"\nmax-wait = \"100ms\"\n";

/// How often the handler was asked in vain, from the rows that wait.
const PROBES: &str = "SELECT coalesce(sum(json_array_length(errors)), 0) FROM tm_pending";

#[test]
fn s0_2_an_outage_counts_no_attempt_makes_no_dead_letter_and_keeps_the_order() {
    let sandbox = sandbox(QUICK);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    down(&daemon);
    client.produce_all("hostile-in", (0..30).map(|n| needs(&format!("r{n:02}"), false).partition(n % 3)));
    let store = Store::open(&sandbox, "hostile");
    // Far more probes than a record has attempts.
    eventually(SOON, "it was tried many times", || store.count(PROBES) > 12);
    daemon.says(&["WARN", "the circuit opens"]);
    assert_eq!(store.count("SELECT coalesce(max(attempts), 0) FROM tm_pending"), 0);
    assert!(store.count("SELECT count(*) FROM tm_pending") <= 3, "the head of each partition, and nothing behind it");
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0);
    up(&daemon);
    store.until("SELECT count(*) FROM seen WHERE attempt = 1", 30);
    daemon.says(&["INFO", "the circuit is closed"]);
    for partition in 0..3 {
        let ids = store.lines(&format!("SELECT id FROM seen WHERE partition = {partition} ORDER BY seq"));
        assert!(ids.is_sorted(), "{ids:?}");
    }
    assert!(client.consume_all("hostile-in.DLT").is_empty());
}

#[test]
fn s2_9_a_record_that_alone_stays_unavailable_is_a_dead_letter_while_others_pass() {
    let sandbox = sandbox(QUICK);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let alone = Out::new(r#"{"do":"unavailable","id":"alone"}"#).partition(0);
    let others = (0..20).map(|n| needs(&format!("r{n}"), false).partition(n % 3));
    client.produce_all("hostile-in", std::iter::once(alone).chain(others));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE attempt = 1", 20);
    let dead = first_on(&client, "hostile-in.DLT");
    assert_eq!(dead.text(), r#"{"do":"unavailable","id":"alone"}"#);
    let counted: Vec<u64> = attempts(&dead).iter().map(|attempt| attempt["attempt"].as_u64().unwrap()).collect();
    assert_eq!((counted.first(), counted.last()), (Some(&1), Some(&2)), "{counted:?}");
}

#[test]
fn s2_9_the_same_where_it_holds_up_the_only_partition() {
    let sandbox = sandbox(QUICK);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce("hostile-in", &Out::new(r#"{"do":"unavailable"}"#).partition(0));
    let store = Store::open(&sandbox, "hostile");
    // Nobody is there to tell an outage from a wrong record.
    eventually(SOON, "it was tried many times", || store.count(PROBES) > 6);
    assert_eq!(store.count("SELECT attempts FROM tm_pending"), 0);
    client.produce("hostile-in", &needs("behind", false).partition(0));
    store.until("SELECT count(*) FROM seen WHERE id = 'behind'", 1);
    assert_eq!(store.line("SELECT attempt FROM seen"), "1", "what was tried in rehearsal left nothing behind");
    first_on(&client, "hostile-in.DLT");
}

#[test]
fn s2_9_a_rate_of_failures_opens_it_too_and_drains_nothing_into_the_dead_letter_topic() {
    let sandbox = sandbox(&format!(
        "{QUICK}failure-rate = 0.5\nwindow = 10\n[handler.hostile.retry.on.retry]\nmax-attempts = 100\n"
    ));
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce_all("hostile-in", (0..20).map(|n| needs(&format!("before{n}"), true).partition(n % 3)));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 20);
    down(&daemon);
    client.produce_all("hostile-in", (0..20).map(|n| needs(&format!("r{n}"), true).partition(n % 3)));
    daemon.says(&["WARN", "the circuit opens"]);
    let attempts = store.count("SELECT sum(attempts) FROM tm_pending");
    let probes = store.count(PROBES);
    eventually(SOON, "it is tried on and on", || store.count(PROBES) > probes + 10);
    assert_eq!(store.count("SELECT sum(attempts) FROM tm_pending"), attempts, "none is counted while it is open");
    up(&daemon);
    store.until("SELECT count(*) FROM seen", 40);
    assert!(client.consume_all("hostile-in.DLT").is_empty());
}

#[test]
fn s2_9_another_version_closes_it() {
    let sandbox = sandbox("[handler.hostile.circuit]\nwait = \"1h\"\nmax-wait = \"1h\"\n");
    let daemon = Daemon::start(&sandbox);
    down(&daemon);
    daemon.client().produce("hostile-in", &needs("r", false).partition(0));
    daemon.says(&["WARN", "the circuit opens"]);
    up(&daemon);
    sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), "new"));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE id = 'r'", 1);
}
