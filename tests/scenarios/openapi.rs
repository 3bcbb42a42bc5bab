//! H1: the admin API is as it is described, for tools that make clients of the description.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tidemill_tests::sandbox::repository;
use tidemill_tests::{Daemon, LONG, Sandbox, Store, eventually};

use crate::deploying::works;
use crate::rig::told;

#[test]
fn h1_the_description_of_the_admin_api_is_the_committed_one() {
    let sandbox = Sandbox::new();
    let printed = works(&sandbox, &["admin", "openapi"]);
    let committed = fs::read_to_string(repository().join("docs/openapi.json")).unwrap();
    assert!(printed == committed, "docs/openapi.json is of another API: `tidemill admin openapi >docs/openapi.json`");
    let _daemon = Daemon::start(&sandbox);
    sandbox.admin_without_token("GET", "openapi.json").send().expect_status(401);
    let served = sandbox.admin("GET", "openapi.json").send().expect_status(200).json();
    assert_eq!(served, serde_json::from_str::<Value>(&committed).unwrap());
}

/// Schemathesis makes requests of the description, good ones and bad ones, and holds the answers up to it, with all checks but one.
#[test]
fn h1_the_admin_api_keeps_to_its_description_whatever_it_is_asked() {
    const RECORDS: usize = 50;
    let long = std::env::var("TIDEMILL_PROOF").is_ok_and(|value| value == "full");
    let examples = if long { "400" } else { "15" };
    let seed = std::env::var("SEED").unwrap_or_else(|_| "1".to_owned());
    let sandbox = Sandbox::with(&["hostile", "order", "notification"]);
    sandbox.write_toml("[outbox]\nkeep = \"1d\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    daemon.client().produce_all("hostile-in", (0..RECORDS).map(|n| told(&format!("r{n}"), "insert")));
    let kept = "SELECT count(DISTINCT id) FROM seen WHERE id LIKE 'r%'";
    store.until(kept, RECORDS as i64);
    daemon.client().produce("hostile-in", &told("refused", "reject"));
    eventually(LONG, "there is a dead letter", || {
        let found = sandbox.admin("GET", "dead-letters?handler=hostile").send().expect_status(200).json();
        !found["items"].as_array().unwrap().is_empty()
    });
    let events = json!({ "events": [{ "destination": "out", "value": "{}" }] }).to_string();
    sandbox.admin("POST", "handlers/hostile/events").body(&events).send().expect_status(200);

    let read = |file: &str| fs::read_to_string(sandbox.data().join(file)).unwrap().trim().to_owned();
    let run = Command::new(repository().join("target/schemathesis/bin/schemathesis"))
        .current_dir(sandbox.root())
        .arg("--config-file")
        .arg(repository().join("tests/openapi/schemathesis.toml"))
        .args(["run", "--no-color", "--checks", "all", "--workers", "1", "--seed", &seed, "--max-examples", examples])
        // A handler that was undeployed is told as stopped: a rollback brings it back.
        .args(["--exclude-checks", "use_after_free"])
        .args(["--url", &format!("{}/admin/v1", read("admin.url"))])
        .args(["--header", &format!("Authorization: Bearer {}", read("admin.token"))])
        .arg(repository().join("docs/openapi.json"))
        .output()
        .expect("run schemathesis, which `.ci/setup tests` installs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let operations = tidemill::http::admin::operations::OPERATIONS.len();
    assert!(said.contains(&format!("Tested: {operations}")), "{said}");

    // The daemon runs, what was done is kept, and what is sent is done.
    assert!(daemon.runs());
    assert_eq!(daemon.find(&["panicked"]), None);
    assert_eq!(store.count(kept), RECORDS as i64);
    let mut ids = Vec::new();
    for line in sandbox.audit().iter().filter(|line| line["action"] == "publish" && line["ok"] == true) {
        ids.extend(line["detail"].as_str().unwrap().split(' ').map(str::to_owned));
    }
    let handlers = ["hostile", "order", "notification"].map(|name| Store::open(&sandbox, name));
    let rows: Vec<String> = handlers.iter().flat_map(|store| store.lines("SELECT event_id FROM tm_outbox")).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| rows.contains(id)), "{ids:?} {rows:?}");
    // It may have been asked to end the handler, or to make it another version.
    if sandbox.admin("GET", "handlers/hostile").send().expect_status(200).json()["state"] == "stopped" {
        works(&sandbox, &["rollback", "hostile"]);
    }
    eventually(LONG, "a record is done", || {
        daemon.client().produce("hostile-in", &told("afterwards", "insert"));
        store.count("SELECT count(*) FROM seen WHERE id = 'afterwards'") > 0
    });
}
