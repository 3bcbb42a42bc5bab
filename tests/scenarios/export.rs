//! What stands in the ledgers, as JSON lines: with the fields that are documented, beside a daemon that runs and without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use tidemill_tests::sandbox::repository;
use tidemill_tests::{Daemon, Out, Sandbox, Store};

use crate::deploying::{deploy, file_that_says, refused, works};

/// The fields of each listing, as `docs/records.md` has them.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(repository().join("docs/records.md")).unwrap();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| format!("`{line}"));
    let cells = |row: String| {
        let mut cells = row.split(" | ");
        let name = names(cells.next()?).pop()?;
        Some((name, names(cells.nth(1)?).into_iter().collect()))
    };
    rows.filter_map(cells).collect()
}

fn export(sandbox: &Sandbox, arguments: &[&str]) -> Vec<Value> {
    let text = works(sandbox, &[&["export"], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn s1_2_each_listing_has_the_fields_that_are_documented() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[outbox]\nkeep = \"1h\"\n[handler.hostile]\nevent-id = \"id\"\n");
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let command = |what: Value| Out::new(what.to_string()).header("id", what["id"].as_str().unwrap());
    let client = daemon.client();
    client.produce("hostile-in", &command(json!({ "do": "publish", "id": "done" })).partition(0));
    let waits = json!({ "do": "unavailable", "after_ms": 3_600_000, "id": "waits" });
    client.produce("hostile-in", &command(waits).key([0xff]).partition(1));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_pending", 1);
    store.until("SELECT count(*) FROM tm_outbox WHERE status = 'published'", 1);
    let post = daemon.call("POST", "/hostile").header("Idempotency-Key", "once");
    post.body(r#"{"do":"insert","id":"asked"}"#).send().expect_status(200);
    let documented = documented();
    let mut with_rows = BTreeSet::new();
    for (listing, fields) in &documented {
        for row in export(&sandbox, &[listing]) {
            let keys: BTreeSet<String> = row.as_object().unwrap().keys().cloned().collect();
            assert!(listing == "audit" && keys.is_subset(fields) || keys == *fields, "{listing}: {row}");
            with_rows.insert(listing.as_str());
        }
    }
    let expected =
        ["audit", "groups", "handlers", "inbox", "migrations", "outbox", "owners", "pending", "requests", "versions"];
    assert_eq!(with_rows, BTreeSet::from(expected));
    let [inbox] = &export(&sandbox, &["inbox"])[..] else { panic!("one id") };
    assert_eq!((&inbox["store"], &inbox["event_id"]), (&json!("hostile"), &json!("done")));
    assert!(inbox["done_at"].as_str().unwrap().ends_with('Z'), "{inbox}");
    daemon.terminate();
    let [pending] = &export(&sandbox, &["pending", "--handler", "hostile"])[..] else { panic!("one record") };
    assert_eq!((&pending["key"], &pending["headers"]), (&json!({ "hex": "ff" }), &json!([["id", "waits"]])));
    assert_eq!(pending["errors"][0]["outcome"], json!("unavailable"));
    assert!(export(&sandbox, &["pending", "--handler", "other"]).is_empty());
    assert!(export(&sandbox, &["outbox", "--store", "other"]).is_empty());
}

#[test]
fn s1_2_a_listing_of_nothing_that_is_there_says_what_to_do() {
    let sandbox = Sandbox::new();
    for listing in ["outbox", "audit"] {
        let line = refused(&sandbox, &["export", listing]);
        assert!(line.contains("data folder") && line.contains("--config"), "{line}");
    }
    let out = sandbox.tidemill(&["export", "everything"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2));
    assert!(said.contains("pending") && said.contains("audit"), "{said}");
}
