//! `kill -9` of the daemon at random moments while records and requests flow.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemill_tests::{Daemon, Kafka, Store, eventually};

use crate::dice::{Dice, pass, records, rounds};
use crate::flow::Flow;
use crate::rig::{Rig, once_each};

/// Invariants 1, 2, 3: whatever moment it is killed at, every record's row is there once, every event is published, in
/// order for its key, and the offsets agree.
#[test]
fn s1_6_kill_at_any_moment_loses_nothing_and_doubles_nothing() {
    let mut dice = Dice::new("kill");
    let (rounds, records) = (rounds(3, 20), records(3_000, 20_000));
    let rig = Rig::new(Kafka::shared());
    let mut store: Option<Store> = None;
    for round in 0..rounds {
        let flow = Flow::start(&rig, round * records, (round + 1) * records, records / 20);
        if dice.once_in(4) {
            // In the middle of the start.
            let mut early = Daemon::launch(&rig.sandbox, |_| {});
            pass(dice.within(Duration::from_millis(600)));
            early.kill9();
        }
        let mut daemon = rig.start();
        let store = store.get_or_insert_with(|| rig.store());
        let seen = || store.count("SELECT count(*) FROM seen") as u64;
        // When so many of this round's records are done, and a moment later: in a group, a commit, a publication.
        let from = seen();
        let target = from + dice.below(((round + 1) * records).saturating_sub(from));
        eventually(Duration::from_secs(120), &format!("{target} records are done"), || seen() >= target);
        pass(dice.within(Duration::from_millis(30)));
        daemon.kill9();
        println!("round {round}: killed with {} of {} records done", seen(), flow.sent());
        flow.finish();
    }
    let mut daemon = rig.start();
    rig.settle(rounds * records);
    daemon.terminate();
}

/// Invariant 1 for requests: one that was answered is there, once; one that was not can be sent again under its
/// `Idempotency-Key`, and is there once afterwards.
#[test]
fn s1_6_a_request_repeated_after_a_kill_is_done_once() {
    let mut dice = Dice::new("kill-requests");
    let rounds = rounds(3, 20);
    let rig = Rig::new(Kafka::shared());
    let mut asked = 0;
    for _ in 0..rounds {
        let mut daemon = rig.start();
        let url = daemon.url().to_owned();
        let killer = {
            let moment = dice.within(Duration::from_millis(150));
            std::thread::spawn(move || {
                pass(moment);
                daemon.kill9();
            })
        };
        let post = |url: &str, n: u64| {
            let body = format!(r#"{{"do":"publish","id":"p{n}"}}"#);
            let call = tidemill_tests::Call::new("POST", &format!("{url}/hostile"));
            call.header("Idempotency-Key", &format!("key-{n}")).body(&body).try_send().map(|reply| reply.status)
        };
        while let Ok(status) = post(&url, asked) {
            assert_eq!(status, 200);
            asked += 1;
        }
        killer.join().unwrap();
        // The one that was not answered, and one that was.
        let mut daemon = rig.start();
        for n in [asked, asked.saturating_sub(1)] {
            assert_eq!(post(daemon.url(), n).unwrap(), 200);
        }
        asked += 1;
        daemon.kill9();
    }
    let mut daemon = rig.start();
    let store = rig.store();
    once_each(&store.lines("SELECT id FROM seen"), (0..asked).map(|n| format!("p{n}")));
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let mut events = rig.client.consume_all(&rig.output);
    let mut ids = std::collections::HashSet::new();
    events.retain(|event| ids.insert(event.header_text("event-id").unwrap()));
    let found: Vec<String> = events.iter().map(|event| event.json()["id"].as_str().unwrap().to_owned()).collect();
    once_each(&found, (0..asked).map(|n| format!("p{n}")));
    daemon.terminate();
    println!("{asked} requests over {rounds} kills");
}

/// Invariant 1, at every moment at once: a kill leaves what some snapshot of the store shows, so every snapshot must be
/// whole - as many rows as the offsets say.
#[test]
fn s1_6_every_snapshot_of_the_store_has_rows_and_offsets_together() {
    let total = records(5_000, 50_000);
    let rig = Rig::new(Kafka::shared());
    let mut daemon = rig.start();
    let store = rig.store();
    store.until("SELECT count(*) FROM tm_offset", crate::rig::PARTITIONS.into());
    let flow = Flow::start(&rig, 0, total, 500);
    let (mut looks, mut last) = (BTreeSet::new(), 0);
    while last < total as i64 {
        // One statement sees one snapshot.
        let line = store.line("SELECT (SELECT count(*) FROM seen), (SELECT sum(next_offset) FROM tm_offset)");
        let (rows, offsets) = line.split_once('|').unwrap();
        assert_eq!(rows, offsets, "rows, and what the offsets say");
        last = rows.parse().unwrap();
        looks.insert(last);
    }
    flow.finish();
    rig.settle(total);
    println!("{} different snapshots on the way", looks.len());
    assert!(looks.len() > 20, "{} different snapshots are too few to tell", looks.len());
    daemon.terminate();
}
