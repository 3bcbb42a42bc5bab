//! H5: a handler has what its own migrations made, and of another's what the operator gives; all else is out of reach.

use serde_json::json;
use tidemill_tests::{Daemon, Out, SOON, Sandbox, Store, eventually};

use crate::rig::{attempts, manifest, put_beside, told};

const VAULT: &str = "CREATE TABLE vault (id INTEGER PRIMARY KEY, secret TEXT, note TEXT);
    INSERT INTO vault (secret, note) VALUES ('the secret', 'n');
    CREATE VIEW vault_view AS SELECT secret FROM vault;";

/// The hostile handler twice on one store: `thief`, whose tables are the component's, and `victim`, which has a vault.
/// The thief's manifest asks for `asked`, and the operator gives `given`.
fn two(asked: &str, given: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, more) in [("thief", asked), ("victim", "")] {
        let text = manifest(
            "hostile",
            &[
                ("name = \"hostile\"", &format!("name = \"{name}\"\nstore = \"shared\"")),
                ("hostile-in", &format!("{name}-in")),
            ],
        );
        put_beside(&sandbox, &format!("{name}.toml"), &format!("{}{more}", &text[..text.find("[[route]]").unwrap()]));
    }
    let folder = sandbox.handler("victim.migrations");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("0001_vault.sql"), VAULT).unwrap();
    sandbox.write_toml(&format!("[[topic]]\nname = \"thief-in\"\n[[topic]]\nname = \"victim-in\"\n{given}"));
    for name in ["victim", "thief"] {
        sandbox.deploy_bytes(&format!("{name}.wasm"), &tidemill_tests::built("hostile"));
    }
    sandbox
}

fn sql(id: &str, statement: &str) -> Out {
    Out::new(json!({ "do": "sql", "statements": [statement], "id": id, "row": false }).to_string()).partition(0)
}

#[test]
fn h5_another_handlers_tables_are_out_of_reach_and_the_error_names_the_grant() {
    let sandbox = two("", "");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let statements = [
        ("SELECT secret FROM vault", "vault = \"read\""),
        ("SELECT secret FROM vault_view", "vault = \"read\""),
        ("INSERT INTO once SELECT secret FROM vault", "vault = \"read\""),
        ("UPDATE vault SET note = 'x'", "\"vault.note\" = \"write\""),
        ("DELETE FROM vault", "vault = \"write\""),
    ];
    client.produce_all(
        "thief-in",
        statements.iter().enumerate().map(|(n, (statement, _))| sql(&format!("t{n}"), statement)),
    );
    client.produce("thief-in", &told("after", "publish").partition(0));
    let store = Store::open(&sandbox, "shared");
    store.until("SELECT count(*) FROM seen WHERE id = 'after'", 1);
    eventually(SOON, "a dead letter for each", || client.consume_all("thief-in.DLT").len() == statements.len());
    for (letter, (statement, grant)) in client.consume_all("thief-in.DLT").iter().zip(statements) {
        let why = letter.header_text("kafka_dlt-exception-message").unwrap();
        assert!(why.starts_with("Denied"), "{statement}: {why}");
        for part in ["handler thief", "belongs to handler victim", "[handler.thief.grant] tables = { ", grant] {
            assert!(why.contains(part), "{statement}: {part} in {why}");
        }
        assert_eq!(attempts(letter).len(), 2);
    }
    assert_eq!(store.lines("SELECT secret, note FROM vault"), ["the secret|n"]);
    assert_eq!(store.count("SELECT count(*) FROM once"), 0);
    // Everybody's own is as it was.
    client.produce("victim-in", &sql("own", "UPDATE vault SET note = 'own' WHERE secret > 'a'"));
    store.until("SELECT count(*) FROM vault WHERE note = 'own'", 1);
    assert_eq!(store.lines("SELECT DISTINCT handler FROM tm_owner ORDER BY handler"), ["thief", "victim"]);
}

#[test]
fn h5_what_the_operator_gives_is_there_and_no_more() {
    let ask = "[grant.tables]\n\"vault.note\" = \"write\"\n";
    let give = "[handler.thief.grant.tables]\n\"vault.note\" = \"write\"\n";
    let sandbox = two(ask, give);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let records = [
        sql("note", "UPDATE vault SET note = 'given' WHERE note = 'n' RETURNING note"),
        sql("secret", "UPDATE vault SET note = 'x' RETURNING secret"),
        sql("all", "SELECT * FROM vault"),
    ];
    client.produce_all("thief-in", records);
    let store = Store::open(&sandbox, "shared");
    store.until("SELECT count(*) FROM vault WHERE note = 'given'", 1);
    eventually(SOON, "a dead letter for each of the others", || client.consume_all("thief-in.DLT").len() == 2);
    assert_eq!(store.lines("SELECT secret, note FROM vault"), ["the secret|given"]);
}

#[test]
fn h5_a_manifest_that_asks_for_what_the_operator_does_not_give_is_refused() {
    let sandbox = two(
        "[grant.tables]\nvault = \"read\"\n\"vault.note\" = \"write\"\n",
        "[handler.thief.grant.tables]\nvault = \"read\"\n",
    );
    let checked = sandbox.tidemill(&["check"]);
    assert_eq!(checked.status.code(), Some(2));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    for part in ["handler `thief`", "[handler.thief.grant]", "tables = { \"vault.note\" = \"write\" }"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let daemon = Daemon::start(&sandbox);
    let line = daemon.says(&["ERROR", "thief.wasm", "refused"]);
    assert!(line.contains("tables = { \"vault.note\" = \"write\" }"), "{line}");
    daemon.says(&["INFO", "handler is live", "victim.wasm"]);
    assert_eq!(Store::open(&sandbox, "shared").count("SELECT count(*) FROM tm_deployment WHERE handler = 'thief'"), 0);
}

#[test]
fn h5_a_migration_that_reaches_for_another_handlers_table_is_refused_whole() {
    let sandbox = two("", "");
    let folder = sandbox.handler("thief.migrations");
    std::fs::create_dir(&folder).unwrap();
    let own = include_str!("../guests/hostile/migrations/0001_hostile.sql");
    std::fs::write(folder.join("0001_hostile.sql"), own).unwrap();
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "shared");
    store.until("SELECT count(*) FROM vault", 1);
    for reach in [
        "CREATE TABLE copy AS SELECT * FROM vault",
        "CREATE TRIGGER ambush AFTER INSERT ON vault BEGIN INSERT INTO once VALUES (new.secret); END",
        "ALTER TABLE vault RENAME TO copy",
        "CREATE TABLE copy (id INTEGER REFERENCES vault (id))",
        "DROP TABLE vault",
    ] {
        let live = "SELECT count(*) FROM tm_deployment WHERE handler = 'thief' AND status = 'live'";
        store.until(live, 1);
        let failed = store.count("SELECT count(*) FROM tm_deployment WHERE handler = 'thief' AND status = 'failed'");
        std::fs::write(folder.join("0002_reach.sql"), format!("CREATE TABLE first (n); {reach}")).unwrap();
        store.until("SELECT count(*) FROM tm_deployment WHERE handler = 'thief' AND status = 'failed'", failed + 1);
        let why = store.line("SELECT error FROM tm_deployment WHERE status = 'failed' ORDER BY id DESC LIMIT 1");
        assert!(why.contains("belongs to handler victim"), "{reach}: {why}");
        assert_eq!(store.count("SELECT count(*) FROM sqlite_schema WHERE name IN ('first', 'copy', 'ambush')"), 0);
        assert_eq!(store.count(live), 1);
    }
    daemon.client().produce("thief-in", &told("still", "insert"));
    store.until("SELECT count(*) FROM seen WHERE id = 'still'", 1);
    assert!(daemon.runs());
}
