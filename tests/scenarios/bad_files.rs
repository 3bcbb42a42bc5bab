//! Bad handler files: each gets one clear error that names the file, what is wrong and what to do, and harms nobody.

use std::fs::File;

use tidemill_tests::{Daemon, Sandbox, Store, built};

use crate::rig::{manifest, put_beside, told, with_version};

/// The smallest component that exports nothing.
const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// The smallest core module.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

#[test]
fn bad_input_every_bad_file_is_refused_with_its_reason_and_the_others_run() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut order = built("order");
    sandbox.deploy_bytes("foreign.wasm", &with_version(&order, "0.9.0"));
    sandbox.deploy_bytes("core-module.wasm", EMPTY_MODULE);
    sandbox.deploy_bytes("text.wasm", b"(component)");
    sandbox.deploy_bytes("empty.wasm", b"");
    sandbox.deploy_bytes("bare.wasm", EMPTY_COMPONENT);
    put_beside(&sandbox, "exports-nothing.toml", "name = \"exports-nothing\"\ntopics = [\"x\"]\n");
    sandbox.deploy_bytes("exports-nothing.wasm", EMPTY_COMPONENT);
    let middle = order.len() / 2;
    sandbox.deploy_bytes("truncated.wasm", &order[..middle]);
    // Whole, but with something else in the middle of its code.
    order[middle..middle + 64].fill(0xff);
    sandbox.deploy_bytes("damaged.wasm", &order);
    // Takes no room on the disk.
    let large = File::create(sandbox.handler(".large")).unwrap();
    large.set_len((128 << 20) + 1).unwrap();
    std::fs::rename(sandbox.handler(".large"), sandbox.handler("large.wasm")).unwrap();

    let daemon = Daemon::start(&sandbox);
    let cases: [(&str, &[&str]); 9] = [
        ("foreign.wasm", &["tidemill:handler/", "@0.9.0", "tidemill:handler@0.1.0", "build it against that version"]),
        ("core-module.wasm", &["core module", "wasm32-wasip2"]),
        ("text.wasm", &["not WebAssembly", "wasm32-wasip2"]),
        ("empty.wasm", &["empty"]),
        ("bare.wasm", &["no manifest", "bare.toml"]),
        ("exports-nothing.wasm", &["neither `records` nor `http`"]),
        ("truncated.wasm", &["cut off"]),
        ("damaged.wasm", &[]),
        ("large.wasm", &["134217729", "134217728", "strip"]),
    ];
    for (file, parts) in cases {
        let line = daemon.says(&["ERROR", file, "refused"]);
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
        let count = daemon.log().lines().filter(|line| line.contains("ERROR") && line.contains(file)).count();
        assert_eq!(count, 1, "{file} has one error");
    }
    daemon.client().produce("hostile-in", &told("a", "insert"));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen", 1);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn bad_input_every_problem_of_a_manifest_is_said_at_once_with_its_line() {
    let sandbox = Sandbox::with(&["order"]);
    let text = manifest(
        "hostile",
        &[("topics =", "topcs ="), ("interval = \"50ms\"", "interval = \"soon\""), ("time = \"250ms\"", "time = 250")],
    );
    put_beside(&sandbox, "hostile.toml", &text);
    sandbox.deploy("hostile");
    let mut daemon = Daemon::start(&sandbox);
    daemon.says(&["ERROR", "hostile.wasm", "refused"]);
    let log = daemon.log();
    let line_of = |what: &str| text.lines().position(|line| line.contains(what)).unwrap() + 1;
    for (key, part) in [("topcs", "did you mean `topics`"), ("interval", "soon"), ("time = 250", "250ms")] {
        let place = format!("hostile.toml:{}", line_of(key));
        assert!(log.contains(&place) && log.contains(part), "{place} and {part} in {log}");
    }
    // Nothing of it has begun.
    assert!(!sandbox.store_file("hostile").exists());
    assert!(daemon.runs());

    put_beside(&sandbox, "hostile.toml", &manifest("hostile", &[]));
    daemon.says(&["INFO", "handler is live", "hostile.wasm"]);
}

#[test]
fn bad_input_check_tells_good_from_bad_and_starts_nothing() {
    let sandbox = Sandbox::with(&["order", "notification", "hostile"]);
    sandbox.write_toml("[[topic]]\nname = \"order-events\"\npartitions = 6\n");
    let good = sandbox.tidemill(&["check"]);
    let said = String::from_utf8_lossy(&good.stdout);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    for part in ["order.wasm", "notification.wasm", "hostile.wasm", "order-events", "6 partitions", "embedded"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!sandbox.data().exists(), "nothing was started, and nothing written");

    put_beside(&sandbox, "order.toml", &manifest("order", &[("name = \"order\"", "name = \"hostile\"")]));
    put_beside(
        &sandbox,
        "notification.toml",
        &manifest("notification", &[("interval = \"1s\"", "interval = \"1 day\"")]),
    );
    sandbox.deploy_bytes("text.wasm", b"not a component");
    sandbox
        .write_toml("[[topic]]\nname = \"order-events\"\npartitions = 6\n[handler.nobody.retry]\nmax-attempts = 2\n");
    let bad = sandbox.tidemill(&["check"]);
    let said = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(2), "{said}");
    for part in ["notification.toml", "1 day", "text.wasm", "not WebAssembly", "order.wasm", "nobody"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(said.lines().all(|line| line.starts_with("error: ")), "{said}");
    assert!(!sandbox.data().exists());
}
