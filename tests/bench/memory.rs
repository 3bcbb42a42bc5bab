//! Memory and threads: of the host at rest, and of one with 100 handlers, with the time that it takes to start.
//!
//! "At rest" is a while after the last work was done. Resident memory counts the program's own file too, which
//! the kernel can drop and read again; the part that is the process's own stands beside it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Daemon, Kafka, LONG, Out, Sandbox, Store, eventually, token};

use crate::load;
use crate::process::{self, Weight};
use crate::report::{Report, say};

/// How long nothing happens before memory is looked at.
const REST: Duration = Duration::from_secs(3);
/// Orders between the two looks.
const ORDERS: usize = 1_000;
/// Handlers of the large host.
const HANDLERS: usize = 100;

/// The host as a newcomer starts it: both example handlers, embedded broker.
pub(crate) fn at_rest(report: &mut Report) -> Result<()> {
    report.section("memory, two handlers, embedded broker");
    let sandbox = Sandbox::with(&["order", "notification"]);
    let mut daemon = Daemon::start(&sandbox);
    report.line("ready after", seconds(daemon.ready_after()), daemon.ready_after().as_secs_f64());
    let broker = sandbox.broker_state().and_then(|state| state.get("pid")?.as_u64()).context("the broker's process")?;
    let broker = u32::try_from(broker)?;
    std::thread::sleep(REST);
    weigh(report, "daemon, before any work", process::weight(daemon.pid())?);
    weigh(report, "broker, before any work", process::weight(broker)?);
    let token = token(&sandbox, "7");
    for _ in 0..ORDERS {
        let body = r#"{"items":[{"productId":1,"quantity":2,"price":"25000.00"}]}"#;
        daemon.post("/api/orders", &token, body).expect_status(201);
    }
    let store = Store::open(&sandbox, "notification");
    store.until("SELECT count(*) FROM notifications", ORDERS as i64);
    std::thread::sleep(REST);
    weigh(report, &format!("daemon, after {ORDERS} orders"), process::weight(daemon.pid())?);
    weigh(report, &format!("broker, after {ORDERS} orders"), process::weight(broker)?);
    daemon.terminate();
    Ok(())
}

fn weigh(report: &mut Report, name: &str, weight: Weight) {
    let Weight { resident, own, threads } = weight;
    let text = format!("{resident:>7.1} MiB resident   {own:>7.1} MiB of its own   {threads:>4} threads");
    say(&format!("memory, {name}: {text}"));
    report.line(name, text, json!({ "resident_mib": resident, "own_mib": own, "threads": threads }));
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A hundred handlers, each from a file of its own that no other is equal to, all reading one topic.
pub(crate) fn many_handlers(kafka: &Kafka, report: &mut Report) -> Result<()> {
    report.section(&format!("{HANDLERS} handlers, Apache Kafka"));
    kafka.client().create_topic("many", 3);
    let sandbox = Sandbox::new();
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n", kafka.bootstrap()));
    let component = built("notification");
    let names: Vec<String> = (1..=HANDLERS).map(|n| format!("n-{n:03}")).collect();
    for name in &names {
        let manifest =
            format!("name = \"{name}\"\ntopics = [\"many\"]\nstart = \"earliest\"\nevent-id = \"/eventId\"\n");
        sandbox.deploy_bytes(&format!("{name}.toml"), manifest.as_bytes());
        sandbox.deploy_bytes(&format!("{name}.wasm"), &with_section(&component, name));
    }
    for (round, cache) in [(1, "cold"), (2, "warm")] {
        let (key, value) = load::order(round, false);
        kafka.client().produce("many", &Out::new(value).key(key));
        let began = Instant::now();
        let mut daemon = Daemon::start(&sandbox);
        let ready = daemon.ready_after();
        for name in &names {
            let store = Store::open(&sandbox, name);
            eventually(LONG, &format!("{name} has done its record"), || rows(&store) == round as i64);
        }
        let done = began.elapsed();
        report.line(&format!("ready, {cache} cache of compiled code"), seconds(ready), ready.as_secs_f64());
        report.line(&format!("a record done by all, {cache} cache"), seconds(done), done.as_secs_f64());
        std::thread::sleep(REST);
        weigh(report, &format!("daemon, {cache} cache"), process::weight(daemon.pid())?);
        daemon.terminate();
    }
    for name in &names {
        let found = rows(&Store::open(&sandbox, name));
        ensure!(found == 2, "{name} has {found} notifications of 2 records");
    }
    Ok(())
}

fn rows(store: &Store) -> i64 {
    store.count("SELECT count(*) FROM notifications")
}
