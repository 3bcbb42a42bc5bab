//! Hot reload many times while records flow.

use std::time::Duration;

use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Kafka, LONG, eventually};

use crate::dice::{Dice, full, pass, rounds};
use crate::flow::Flow;
use crate::rig::{Rig, manifest};

/// H2: new settings, other bytes, another consumer: no record is lost or applied twice, and every version is seen in
/// the rows.
#[test]
fn h2_reload_under_load_loses_nothing_and_doubles_nothing() {
    let mut dice = Dice::new("reload");
    let reloads = rounds(10, 50);
    let rig = Rig::new(Kafka::shared());
    let mut daemon = rig.start();
    let store = rig.store();
    let flow = Flow::start(&rig, 0, u64::MAX, if full() { 400 } else { 100 });
    store.until("SELECT count(*) > 0 FROM seen", 1);
    let manifest = manifest();
    let component = built("hostile");
    let deployed = || store.count("SELECT count(*) FROM tm_deployment WHERE status <> 'failed'");
    for n in 1..=reloads {
        let before = deployed();
        match n % 5 {
            // Other bytes, and nothing else.
            0 => rig.sandbox.deploy_bytes("hostile.wasm", &with_section(&component, &format!("proof {n}"))),
            // A consumer that is closed and opened again.
            1 => {
                let consumer = format!("[consumer]\nhigh-mark = {}\n", 100 + n);
                rig.sandbox.deploy_bytes("hostile.toml", versioned(&manifest, n, &consumer).as_bytes());
            }
            _ => rig.sandbox.deploy_bytes("hostile.toml", versioned(&manifest, n, "").as_bytes()),
        }
        eventually(LONG, &format!("reload {n} is live"), || deployed() > before);
        if n % 5 != 0 {
            store.until(&format!("SELECT count(*) > 0 FROM seen WHERE version = 'v{n}'"), 1);
        }
        pass(dice.within(Duration::from_millis(100)));
    }
    let total = flow.stop();
    rig.settle(total);
    let versions = store.count("SELECT count(DISTINCT version) FROM seen");
    assert_eq!(versions as u64, 1 + reloads - reloads / 5, "the first version, and one for each new manifest");
    // Of one partition, no record of an older version comes after one of a newer.
    let mixed = "SELECT count(*) FROM (SELECT CAST(substr(version, 2) AS INTEGER) AS v,
                 lag(CAST(substr(version, 2) AS INTEGER)) OVER (PARTITION BY partition ORDER BY \"offset\") AS before
                 FROM seen WHERE version LIKE 'v%') WHERE v < before";
    assert_eq!(store.count(mixed), 0, "an older version ran after a newer one");
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
}

fn versioned(manifest: &str, n: u64, more: &str) -> String {
    format!("{manifest}\n[settings]\nversion = \"v{n}\"\n{more}")
}
