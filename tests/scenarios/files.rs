//! H1: a handler is a file in a folder, and one file is enough.

use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Daemon, SOON, Sandbox, Store, eventually, token};

use crate::rig::{ORDER, manifest, messages, put_beside, told};

#[test]
fn h1_dropped_files_run_with_no_restart() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    assert!(daemon.ready().contains("none yet"), "{}", daemon.ready());
    let user = token(&sandbox, "7");
    daemon.get("/api/orders", &user).expect_status(404);
    // One file each: manifest and migrations travel inside.
    sandbox.deploy("order");
    sandbox.deploy("notification");
    eventually(SOON, "the order handler is live", || daemon.get("/api/orders", &user).status == 200);
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    eventually(SOON, "the notification handler is live", || daemon.get("/api/notifications", &user).status == 200);
    eventually(SOON, "the notification", || messages(&daemon, &user).len() == 1);
    let version = Store::open(&sandbox, "order").line("SELECT version, status, length(sha256) FROM tm_deployment");
    assert_eq!(version, "1|live|64");
}

#[test]
fn h1_a_file_that_is_still_being_copied_is_left_alone_until_it_is_whole() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    let component = built("hostile");
    let (first, rest) = component.split_at(component.len() / 3);
    // As `cp` writes it, under its final name.
    let mut bytes = first.to_vec();
    std::fs::write(sandbox.handler("hostile.wasm"), &bytes).unwrap();
    for part in rest.chunks(rest.len() / 3 + 1) {
        bytes.extend(part);
        std::fs::write(sandbox.handler("hostile.wasm"), &bytes).unwrap();
    }
    daemon.client().produce("hostile-in", &told("a", "insert"));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen", 1);
}

#[test]
fn h1_a_manifest_beside_the_file_replaces_the_one_inside() {
    let sandbox = Sandbox::with(&["hostile"]);
    let route = "[[route]]\nmethod = \"GET\"\npath = \"/hostile/seen\"";
    let text = manifest("hostile", &[("\"hostile-in\"", "\"elsewhere\""), (route, "")]);
    put_beside(&sandbox, "hostile.toml", &format!("{text}[settings]\nversion = \"by the sibling\"\n"));
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("elsewhere", &told("a", "insert"));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 1);
    assert_eq!(store.line("SELECT topic, version FROM seen"), "elsewhere|by the sibling");
    assert_eq!(daemon.call("GET", "/hostile/seen").send().status, 404);
    assert!(store.line("SELECT manifest FROM tm_deployment").contains("elsewhere"));
}

#[test]
fn h1_two_files_of_one_name_and_two_handlers_of_one_group_are_refused() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    sandbox.deploy_bytes("copy.wasm", &with_section(&built("hostile"), "another"));
    let line = daemon.says(&["ERROR", "copy.wasm", "refused"]);
    for part in ["hostile.wasm", "hostile", "remove one", "another name"] {
        assert!(line.contains(part), "{part} in {line}");
    }

    put_beside(
        &sandbox,
        "order.toml",
        &manifest("order", &[("name = \"order\"", "name = \"order\"\ngroup = \"hostile\"\ntopics = [\"x\"]")]),
    );
    sandbox.deploy("order");
    let line = daemon.says(&["ERROR", "order.wasm", "refused", "group"]);
    for part in ["hostile", "another `group`", "hostile.wasm"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    // The first goes on.
    daemon.client().produce("hostile-in", &told("a", "insert"));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen", 1);
}

#[test]
fn h1_two_handlers_on_one_path_are_refused() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let clash = manifest(
        "order",
        &[("/api/orders/{id}", "/hostile/{what}"), ("path = \"/api/orders\"", "path = \"/hostile\"")],
    );
    put_beside(&sandbox, "order.toml", &clash);
    sandbox.deploy("order");
    let line = daemon.says(&["ERROR", "order.wasm", "refused"]);
    assert!(line.contains("/hostile") && line.contains("hostile"), "{line}");
    daemon.call("GET", "/hostile/seen").send().expect_status(200);
}

#[test]
fn h1_removing_the_file_stops_the_handler_and_putting_it_back_goes_on_from_there() {
    let sandbox = Sandbox::with(&["hostile", "order"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce_all("hostile-in", (0..10).map(|n| told(&format!("r{n}"), "insert")));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 10);
    sandbox.remove("hostile.wasm");
    daemon.says(&["INFO", "handler removed", "hostile.wasm"]);
    assert_eq!(daemon.call("GET", "/hostile/seen").send().status, 404);
    assert_eq!(store.line("SELECT status FROM tm_deployment"), "removed");
    client.produce_all("hostile-in", (10..20).map(|n| told(&format!("r{n}"), "insert")));
    // The others are not disturbed.
    daemon.post("/api/orders", &token(&sandbox, "7"), ORDER).expect_status(201);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 10);

    sandbox.deploy("hostile");
    store.until("SELECT count(*) FROM seen", 20);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), 20);
}
