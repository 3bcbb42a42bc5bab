//! H5: a handler gets the secrets that its manifest asks for and the operator gives, and nobody else sees them.

use std::fs;

use serde_json::json;
use tidemill_tests::{Daemon, LONG, Out, Sandbox, Store, eventually};

use crate::rig::{first_on, manifest, put_beside};

const VALUE: &str = "sk_live_51Hq-very-secret";

/// The hostile handler, whose manifest asks for `api-key` and `other`, with what the operator gives of it.
fn asking(given: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let text = manifest("hostile", &[("start = ", "secrets = [\"api-key\", \"other\"]\nstart = ")]);
    put_beside(&sandbox, "hostile.toml", &text);
    sandbox.deploy("hostile");
    sandbox.write_toml(given);
    sandbox
}

#[test]
fn h5_a_secret_that_is_not_given_is_refused_with_the_lines_that_give_it() {
    let sandbox = asking("[handler.hostile.secrets]\napi-key = { env = \"TM_TEST_NOT_THERE\" }\n");
    let file = sandbox.handler("hostile.wasm");
    let checked = sandbox.tidemill(&["check", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(2));
    let (out, err) = (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(out.contains("secret api-key: given, from the variable TM_TEST_NOT_THERE"), "{out}");
    assert!(out.contains("secret other: not given, add to tidemill.toml: [handler.hostile.secrets] other = "), "{out}");
    let daemon = Daemon::start(&sandbox);
    for parts in [["`other`", "[handler.hostile.secrets]"], ["`api-key`", "TM_TEST_NOT_THERE"]] {
        assert!(err.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in {err}");
        daemon.says(&["ERROR", "hostile.wasm", "refused", parts[0], parts[1]]);
    }
}

#[test]
fn h5_a_secret_reaches_its_handler_and_nothing_else() {
    let sandbox = asking(
        "[handler.hostile.secrets]\napi-key = { file = \"keys/api\" }\nother = { env = \"TM_TEST_OTHER\" }\nunasked = { env = \"HOME\" }\n",
    );
    let key = sandbox.root().join("keys/api");
    fs::create_dir(sandbox.root().join("keys")).unwrap();
    fs::write(&key, format!("{VALUE}\n")).unwrap();
    let daemon = Daemon::start_with(&sandbox, |command| {
        command.env("TM_TEST_OTHER", "the-other-value");
    });
    let client = daemon.client();
    let look = |id: &str, name: &str| {
        let record = json!({ "do": "secret", "id": id, "name": name });
        client.produce("hostile-in", &Out::new(record.to_string()).partition(0));
    };
    look("first", "api-key");
    look("other", "other");
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM loose WHERE text IN ('first', 'other')", 2);
    let length = |id: &str| store.count(&format!("SELECT n FROM loose WHERE text = '{id}'"));
    assert_eq!((length("first"), length("other")), (VALUE.len() as i64, 15));
    // What it says about it is hidden: in its log, and in why it failed.
    let leak = json!({ "do": "secret", "name": "api-key", "leak": true, "row": false });
    client.produce("hostile-in", &Out::new(leak.to_string()).partition(1));
    let letter = first_on(&client, "hostile-in.DLT");
    assert_eq!(letter.header_text("kafka_dlt-exception-message").as_deref(), Some("the key is [secret]"));
    daemon.says(&["the key is [secret]"]);
    // Read again when a version is deployed.
    fs::write(&key, "another one, longer than the first").unwrap();
    sandbox
        .deploy_bytes("hostile.wasm", &tidemill_tests::sandbox::with_section(&tidemill_tests::built("hostile"), "v2"));
    eventually(LONG, "version 2 is live", || {
        store.count("SELECT count(*) FROM tm_deployment WHERE status = 'live' AND version = 2") == 1
    });
    look("again", "api-key");
    store.until("SELECT n FROM loose WHERE text = 'again'", 34);
    let inspected = sandbox.tidemill(&["inspect", sandbox.handler("hostile.wasm").to_str().unwrap()]);
    let checked = sandbox.tidemill(&["inspect", "hostile"]);
    let said = [inspected.stdout, inspected.stderr, checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("secret api-key: given, from the file "), "{said}");
    let mut everything = said.into_bytes();
    everything.extend(daemon.log().bytes());
    let mut folders = vec![sandbox.data()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { everything.extend(fs::read(path).unwrap_or_default()) }
        }
    }
    for value in [VALUE, "the-other-value", "another one, longer"] {
        let found = everything.windows(value.len()).any(|window| window == value.as_bytes());
        assert!(!found, "{value} was written somewhere");
    }
}
