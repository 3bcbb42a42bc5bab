//! H3, H4: what belongs to the host a handler cannot get wrong, and what it does wrong harms only its own record.

use serde_json::json;
use tidemill_tests::{Daemon, LONG, Out, SOON, Sandbox, Store, eventually};

use crate::rig::{seen, told};

#[test]
fn h3_the_hosts_tables_and_the_transaction_are_out_of_a_handlers_reach() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce("hostile-in", &told("before", "publish").partition(0));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 1);
    let statements = [
        "UPDATE tm_offset SET next_offset = 0",
        "DELETE FROM tm_inbox",
        "INSERT INTO tm_outbox (event_id, event_type, topic, headers, kind, handler, source, created_at) VALUES ('x', 'x', 'hostile-out', '[]', 'event', 'x', 'x', 0)",
        "SELECT value FROM tm_meta",
        "DROP TABLE seen",
        "CREATE TABLE mine (n)",
        "CREATE TEMP TABLE mine (n)",
        "ALTER TABLE seen RENAME TO unseen",
        "PRAGMA synchronous = OFF",
        "ATTACH DATABASE ':memory:' AS other",
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT mine",
        "RELEASE delivery",
        "ROLLBACK TO delivery",
    ];
    for (n, statement) in statements.iter().enumerate() {
        // Refused, whatever the handler makes of it: each is tried twice and given up on.
        let record = json!([{ "do": "sql", "statements": [statement], "id": format!("bad{n}") }]);
        client.produce("hostile-in", &Out::new(record.to_string()).partition(0));
    }
    // And with every error ignored the delivery is an ordinary one.
    let ignored =
        json!([{ "do": "sql", "statements": statements, "go_on": true, "id": "ignored" }, { "do": "publish" }]);
    client.produce("hostile-in", &Out::new(ignored.to_string()).partition(0));
    client.produce("hostile-in", &told("after", "publish").partition(0));
    store.until("SELECT count(*) FROM seen WHERE id = 'after'", 1);
    assert_eq!(seen(&store), ["after|1", "before|1", "ignored|1"]);
    eventually(SOON, "a dead letter for each", || client.consume_all("hostile-in.DLT").len() == statements.len());
    for (letter, statement) in client.consume_all("hostile-in.DLT").iter().zip(statements) {
        let why = letter.header_text("kafka_dlt-exception-message").unwrap();
        assert!(why.starts_with("Denied"), "{statement}: {why}");
    }
    eventually(SOON, "three events", || client.consume_all("hostile-out").len() == 3);
    assert_eq!(store.count("SELECT count(*) FROM sqlite_schema WHERE name IN ('mine', 'unseen')"), 0);
    let next = store.count("SELECT next_offset FROM tm_offset WHERE partition = 0");
    assert_eq!(next, statements.len() as i64 + 3);
}

#[test]
fn h3_the_relay_survives_a_handler_that_names_an_event_twice() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    // The second of one id is an error of that delivery, even while the first still waits.
    let twice = json!([{ "do": "publish", "event_id": "same", "id": "a" }, { "do": "publish", "event_id": "same" }]);
    client.produce_all("hostile-in", [Out::new(twice.to_string()).partition(0), told("b", "publish").partition(0)]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE id = 'b'", 1);
    assert_eq!(seen(&store), ["b|1"]);
    eventually(SOON, "one event", || client.consume_all("hostile-out").len() == 1);
}

#[test]
fn h4_a_delivery_that_goes_over_a_limit_harms_only_itself() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let bad = ["panic", "loop", "sleep", "recurse", "grow", "flood-events", "insert-or-rollback", "deferred-fk"];
    let records = bad.iter().flat_map(|what| [told(&format!("good-{what}"), "publish"), told(what, what)]);
    client.produce_all("hostile-in", records.map(|record| record.partition(1)));
    client.produce("hostile-in", &told("last", "publish").partition(1));
    let store = Store::open(&sandbox, "hostile");
    eventually(LONG, "the last record", || store.count("SELECT count(*) FROM seen WHERE id = 'last'") == 1);
    let mut expected: Vec<String> = bad.iter().map(|what| format!("good-{what}|1")).collect();
    expected.push("last|1".into());
    expected.sort();
    assert_eq!(seen(&store), expected);
    eventually(SOON, "a dead letter for each", || client.consume_all("hostile-in.DLT").len() == bad.len());
    let events = client.consume_all("hostile-out");
    assert_eq!(events.len(), bad.len() + 1);
    assert!(!daemon.log().contains("panicked at host/"), "{}", daemon.log());
}

#[test]
fn h4_a_get_route_cannot_write() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let command = "%7B%22do%22%3A%22sql%22%2C%22row%22%3Afalse%2C%22statements%22%3A%5B%22INSERT%20INTO%20seen%20(id%2Cattempt%2Cversion)%20VALUES%20('x'%2C1%2C'1')%22%5D%7D";
    let reply = daemon.call("GET", &format!("/hostile?command={command}")).send();
    assert!(reply.status >= 400, "{}", reply.text());
    assert_eq!(Store::open(&sandbox, "hostile").count("SELECT count(*) FROM seen"), 0);
    let publish = "%7B%22do%22%3A%22publish%22%2C%22row%22%3Afalse%7D";
    assert!(daemon.call("GET", &format!("/hostile?command={publish}")).send().status >= 400);
    let copy = sandbox.root().join("copy");
    let vacuum = format!(
        "%7B%22do%22%3A%22sql%22%2C%22row%22%3Afalse%2C%22statements%22%3A%5B%22VACUUM%20INTO%20'{}'%22%5D%7D",
        copy.display()
    );
    assert!(daemon.call("GET", &format!("/hostile?command={vacuum}")).send().status >= 400);
    assert!(!copy.exists());
    daemon.call("GET", "/hostile/seen").send().expect_status(200);
}

/// SQLite keeps the rows that such a statement has changed before it failed, and counts them nowhere.
#[test]
fn h4_a_statement_that_fails_half_way_leaves_nothing_behind() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.retry]\nmax-attempts = 3\n");
    let half = "UPDATE loose SET n = (SELECT value FROM json_each(CASE n WHEN 1 THEN '[9]' ELSE 'no JSON' END))";
    let sql = |id: &str, statement: &str| {
        let record = json!({ "do": "sql", "statements": [statement], "id": id, "row": false });
        Out::new(record.to_string()).partition(0)
    };
    let mut records = vec![sql("before", "INSERT INTO loose VALUES (1, 'a'), (2, 'b')")];
    records.extend(
        (0..20).map(|n| if n % 7 == 3 { sql("half", half) } else { told(&format!("n{n}"), "publish").partition(0) }),
    );
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce_all("hostile-in", records);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 17);
    eventually(SOON, "a dead letter for each", || client.consume_all("hostile-in.DLT").len() == 3);
    assert_eq!(store.lines("SELECT n, text FROM loose ORDER BY text"), ["1|a", "2|b"]);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), 17);
}
