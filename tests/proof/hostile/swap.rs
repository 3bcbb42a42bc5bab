//! A file that changes between the check and the load: what goes live is what was checked, or nothing.

use std::collections::HashSet;
use std::fs;

use serde_json::json;
use tidemill::id::sha256_hex;
use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Daemon, LONG, Out, Sandbox, Store, eventually};

use crate::dice::{Dice, full};

#[test]
fn h4_a_file_that_is_swapped_while_it_is_read_goes_live_as_it_was_checked_or_not_at_all() {
    let mut dice = Dice::new("swap");
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let good = built("hostile");
    // Another handler's tables are not given: this manifest is refused, whatever it comes with.
    let evil = fs::read_to_string(sandbox_manifest()).unwrap() + "[grant.tables]\nvault = \"write\"\n";
    let mut known = HashSet::from([sha256_hex(&good)]);
    let file = sandbox.handler("hostile.wasm");
    let rounds = if full() { 200 } else { 30 };
    for n in 0..rounds {
        let version = with_section(&good, &format!("v{n}"));
        known.insert(sha256_hex(&version));
        let beside = sandbox.handler("hostile.toml");
        match dice.below(4) {
            // In place and in two parts, as a copy over a network is.
            0 => {
                let half = version.len() / 2;
                fs::write(&file, &version[..half]).unwrap();
                std::thread::sleep(dice.within(std::time::Duration::from_millis(40)));
                fs::write(&file, &version).unwrap();
            }
            // The good component with the evil manifest, which is gone again at once.
            1 => {
                fs::write(&beside, &evil).unwrap();
                sandbox.deploy_bytes("hostile.wasm", &version);
                std::thread::sleep(dice.within(std::time::Duration::from_millis(40)));
                fs::remove_file(&beside).unwrap();
            }
            // Two versions at once.
            2 => {
                sandbox.deploy_bytes("hostile.wasm", &good);
                sandbox.deploy_bytes("hostile.wasm", &version);
            }
            _ => sandbox.deploy_bytes("hostile.wasm", &version),
        }
        client.produce("hostile-in", &Out::new(json!({ "do": "insert", "id": format!("r{n}") }).to_string()));
    }
    let last = with_section(&good, "last");
    known.insert(sha256_hex(&last));
    sandbox.deploy_bytes("hostile.wasm", &last);
    let store = Store::open(&sandbox, "hostile");
    let live = "SELECT sha256 FROM tm_deployment WHERE status = 'live'";
    eventually(LONG, "the last version is live", || store.lines(live) == [sha256_hex(&last)]);
    store.until("SELECT count(DISTINCT id) FROM seen", i64::from(rounds));
    assert_eq!(store.count("SELECT count(*) FROM seen"), i64::from(rounds));
    let were_live = store.lines("SELECT sha256, manifest FROM tm_deployment WHERE status <> 'failed'");
    for row in were_live {
        let (hash, manifest) = row.split_once('|').unwrap();
        assert!(known.contains(hash), "{hash} was never a whole file");
        assert!(!manifest.contains("vault"), "a manifest went live that asks for what is not given");
    }
}

fn sandbox_manifest() -> std::path::PathBuf {
    tidemill_tests::sandbox::repository().join("tests/guests/hostile/handler.toml")
}
