//! What a delivery finds in its instance's memory: nothing, unless the handler has its instances reused.

use serde_json::json;
use tidemill_tests::{Daemon, LONG, Out, Sandbox, Store, eventually};

use crate::rig::first_on;

const RECORDS: usize = 300;

/// What each delivery found in memory, in their order: how many it remembered.
fn found(settings: &str) -> (Vec<(String, i64)>, String) {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("[log]\nlevel = \"debug\"\n[handler.hostile]\nretry.max-attempts = 1\n{settings}"));
    let daemon = Daemon::start(&sandbox);
    let record = |n: usize| {
        let remember = json!({ "do": "remember", "id": format!("r{n:03}"), "row": false });
        let then = if n % 50 == 25 { vec![remember, json!({ "do": "reject" })] } else { vec![remember] };
        Out::new(json!(then).to_string()).partition(0)
    };
    daemon.client().produce_all("hostile-in", (0..RECORDS).map(record));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM loose", (RECORDS - RECORDS / 50) as i64);
    let rows = store.lines("SELECT text, n FROM loose ORDER BY rowid");
    let pair = |row: &String| row.split_once('|').map(|(id, n)| (id.to_owned(), n.parse().unwrap())).unwrap();
    (rows.iter().map(pair).collect(), daemon.log())
}

#[test]
fn h4_a_delivery_finds_nothing_of_another_in_memory() {
    let (found, _) = found("");
    assert!(found.iter().all(|(_, n)| *n == 0), "{found:?}");
}

/// Another handler's failure undoes the group, and with it what this handler's instance was told.
#[test]
fn h4_a_reused_instance_goes_with_a_group_that_is_rolled_back() {
    const FLOW: i64 = 400;
    let sandbox = Sandbox::with(&["hostile", "bench"]);
    // A group takes a second, in which both records of the other handler arrive for the next one.
    sandbox.write_toml(
        "[log]\nlevel = \"debug\"\n[store]\ngroup-time = \"1s\"\n[handler.hostile]\nstore = \"shared\"\ninstances = \"reused\"\n\
         [handler.bench]\nstore = \"shared\"\nlimits.event-bytes = 400\nretry.max-attempts = 1\n",
    );
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let store = Store::open(&sandbox, "shared");
    let slow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT max(i) FROM n";
    let remember = |n: i64| {
        let slow = json!({ "do": "sql", "statements": [slow], "row": false, "id": format!("r{n}") });
        Out::new(json!([slow, { "do": "remember" }]).to_string()).partition(0)
    };
    client.produce_all("hostile-in", (0..FLOW).map(remember));
    eventually(LONG, "the first group has committed", || store.count("SELECT count(*) FROM loose") > 0);
    // The second comes after one of the others in its group, and writes a row; then its event is refused.
    let order = |user: &str| {
        let order = json!({ "eventId": user, "orderId": 1, "userId": user, "totalAmount": "1" });
        Out::new(order.to_string()).partition(0)
    };
    client.produce_all("bench-in", [order("short"), order(&"long".repeat(200))]);
    store.until("SELECT count(*) FROM loose", FLOW);
    first_on(&client, "bench-in.DLT");
    assert_eq!(store.count("SELECT count(*) FROM entries"), 1);
    daemon.says(&["runs again with savepoints"]);
    let mut before = -1;
    for row in store.lines("SELECT n, text FROM loose ORDER BY rowid") {
        let n: i64 = row.split('|').next().unwrap().parse().unwrap();
        assert!(n == 0 || n == before + 1, "{row} follows {before}");
        before = n;
    }
}

#[test]
fn h4_a_reused_instance_remembers_what_was_kept_and_nothing_that_was_undone() {
    let (found, log) = found("instances = \"reused\"\n");
    let mut before = -1;
    for (id, n) in &found {
        // With a delivery that was undone, its instance went.
        let fresh = id.trim_start_matches('r').parse::<usize>().unwrap() % 50 == 26;
        assert!(*n == 0 || (*n == before + 1 && !fresh), "{id} remembers {n}: {found:?}");
        before = *n;
    }
    assert!(found.iter().any(|(_, n)| *n > 10), "no instance served again: {found:?}");
    // What it prints goes through a handle that the instance has kept.
    assert!(log.contains("remembers 11 deliveries"), "{log}");
}
