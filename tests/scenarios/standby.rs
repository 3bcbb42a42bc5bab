//! S1.9: a second daemon on the same data folder stands by, and takes over when the first one ends.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemill_tests::{Daemon, Kafka, LONG, SOON, Sandbox, Store, eventually};

use crate::rig::{Hostile, told};

/// Makes a daemon listen there.
fn listen(address: &str) -> impl FnOnce(&mut Command) {
    move |command| {
        command.env("TIDEMILL_HTTP_LISTEN", address);
    }
}

/// A second daemon, once it waits.
fn waiting(sandbox: &Sandbox, address: &str) -> Daemon {
    let daemon = Daemon::launch(sandbox, |command| {
        command.arg("--standby");
        listen(address)(command);
    });
    daemon.says(&["INFO", "waiting as a standby", sandbox.data().to_str().unwrap()]);
    daemon
}

/// An address that nobody has at the moment.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn s1_9_a_standby_takes_over_within_seconds_and_nothing_is_lost_or_doubled() {
    const COUNT: usize = 6000;
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let address = free_address();
    hostile.client.produce_all(&hostile.input, (0..COUNT).map(|n| told(&format!("r{n}"), "publish")));
    // The first one has nobody to wait for.
    let mut live = Daemon::start_with(&hostile.sandbox, |command| {
        command.arg("--standby");
        listen(&address)(command);
    });
    assert_eq!(live.find(&["standby"]), None);
    let store = Store::open(&hostile.sandbox, "hostile");
    let count = || store.count("SELECT count(*) FROM seen");
    let mut before = 0;
    for orderly in [false, true, false] {
        let mut next = waiting(&hostile.sandbox, &address);
        eventually(LONG, "records are being done", || count() > before + 100);
        if orderly {
            live.terminate();
        } else {
            live.kill9();
        }
        let ended = Instant::now();
        before = count();
        next.wait_ready();
        next.says(&["INFO", "taking over"]);
        live = next;
        assert_eq!(live.url(), format!("http://{address}"));
        live.get("/hostile/seen", "").expect_status(200);
        eventually(LONG, "it goes on with the records", || count() > before);
        assert!(ended.elapsed() < Duration::from_secs(15), "it took {:?}", ended.elapsed());
    }
    assert!(before < COUNT as i64, "nothing was left to take over");
    store.until("SELECT count(DISTINCT id) FROM seen", COUNT as i64);
    assert_eq!(count(), COUNT as i64, "a record was applied twice");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let events = hostile.client.consume_all(&hostile.output);
    let ids: BTreeSet<String> = events.iter().map(|event| event.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), COUNT);
    live.terminate();
}

#[test]
fn s1_9_a_standby_finds_the_embedded_broker_that_a_killed_daemon_left() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut first = Daemon::start(&sandbox);
    let client = first.client();
    let bootstrap = first.bootstrap().to_owned();
    let mut second = waiting(&sandbox, "127.0.0.1:0");
    client.produce_all("hostile-in", (0..200).map(|n| told(&format!("r{n}"), "insert")));
    let store = Store::open(&sandbox, "hostile");
    eventually(SOON, "some records are done", || store.count("SELECT count(*) FROM seen") > 0);
    first.kill9();
    client.produce_all("hostile-in", (200..300).map(|n| told(&format!("r{n}"), "insert")));
    second.wait_ready();
    assert!(second.ready().contains("found running") && second.bootstrap() == bootstrap, "{}", second.ready());
    store.until("SELECT count(DISTINCT id) FROM seen", 300);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 300);
    // One that ends in order takes the broker along; whoever takes over then starts another.
    let mut third = waiting(&sandbox, "127.0.0.1:0");
    second.terminate();
    third.wait_ready();
    assert!(!third.ready().contains("found running"), "{}", third.ready());
    third.client().produce("hostile-in", &told("anew", "insert"));
    store.until("SELECT count(*) FROM seen WHERE id = 'anew'", 1);
    third.terminate();
}

#[test]
fn s1_9_a_waiting_standby_ends_at_once_when_told_to_and_disturbs_nobody() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut first = Daemon::start(&sandbox);
    let mut second = waiting(&sandbox, "127.0.0.1:0");
    let mut third = waiting(&sandbox, "127.0.0.1:0");
    let told_to = Instant::now();
    second.signal(Signal::TERM);
    assert_eq!(second.wait_exit().signal(), Some(15));
    assert!(told_to.elapsed() < Duration::from_secs(5), "{:?}", told_to.elapsed());
    assert_eq!(second.log().lines().count(), 1, "{}", second.log());
    // Without the word it is refused, standby or not.
    let (code, said) = Daemon::refused(&sandbox);
    assert!(code == 1 && said.contains("held by another daemon") && said.contains("--standby"), "{said}");
    first.get("/hostile/seen", "").expect_status(200);
    assert!(first.runs() && third.runs());
    first.kill9();
    third.wait_ready();
    third.get("/hostile/seen", "").expect_status(200);
    third.terminate();
}

#[test]
fn s1_9_a_standby_waits_a_moment_for_a_port_that_is_not_free_yet() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut first = Daemon::start(&sandbox);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut second = waiting(&sandbox, &taken.local_addr().unwrap().to_string());
    first.kill9();
    second.says(&["taking over"]);
    // Long enough for a try that fails, which must not end it.
    let since = Instant::now();
    eventually(SOON, "it has tried", || since.elapsed() > Duration::from_millis(300));
    assert!(second.runs(), "{}", second.log());
    drop(taken);
    second.wait_ready();
    second.terminate();
}
