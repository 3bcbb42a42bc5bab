//! S0.12, S1.9: the daemon as one member of a group: what its session, its assignment and its membership mean to the
//! others.
//!
//! The others are no daemons and do nothing with what they are given, so it is all still to be done when they have left.

use std::time::{Duration, Instant};

use serde_json::json;
use tidemill_tests::{Daemon, Kafka, LONG, Member, Out, SOON, Store, eventually};

use crate::rig::{Hostile, manifest, put_beside, seen, told};

/// A member of the handler's group.
fn join(kafka: &Kafka, hostile: &Hostile, strategy: &str) -> Member {
    let member = Member::join(kafka.bootstrap(), &hostile.group, &hostile.input, strategy);
    eventually(LONG, "the other member is given partitions", || !member.partitions().is_empty());
    member
}

/// Records of these numbers, spread over the partitions.
fn produce(hostile: &Hostile, numbers: std::ops::Range<usize>) {
    let records = numbers.map(|n| told(&format!("r{n:04}"), "insert").partition((n % 3) as i32));
    hostile.client.produce_all(&hostile.input, records);
}

fn each_once(store: &Store, total: usize) {
    store.until("SELECT count(DISTINCT id) FROM seen WHERE topic IS NOT NULL", total as i64);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE topic IS NOT NULL"), total as i64, "{:?}", seen(store));
}

/// How the broker says that the group's partitions are assigned.
fn strategy(kafka: &Kafka, hostile: &Hostile) -> String {
    kafka.tool("consumer-groups", &["--describe", "--state", "--group", &hostile.group])
}

/// The number at the end of each log line that holds `what`.
fn numbers(daemon: &Daemon, what: &str) -> Vec<usize> {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains(what));
    lines.map(|line| line.split("partitions=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn s0_12_a_restarted_daemon_gets_its_partitions_back_and_no_other_member_notices() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "consumer = { session-timeout = \"60s\" }\n");
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_offset", 3);
    let other = join(kafka, &hostile, "cooperative-sticky");
    let theirs = other.partitions();
    let ours: Vec<i32> = (0..3).filter(|partition| !theirs.contains(partition)).collect();
    let mut done = 0;
    let mut told_to_each_of_ours = |store: &Store| {
        let records = ours.iter().map(|partition| told(&format!("{partition}-{done}"), "insert").partition(*partition));
        hostile.client.produce_all(&hostile.input, records);
        done += ours.len();
        each_once(store, done);
    };
    told_to_each_of_ours(&store);
    let before = other.rebalances();
    for orderly in [true, false] {
        if orderly {
            daemon.terminate();
        } else {
            daemon.kill9();
        }
        daemon = Daemon::start(&hostile.sandbox);
        told_to_each_of_ours(&store);
        assert_eq!((other.rebalances(), other.partitions()), (before, theirs.clone()), "orderly: {orderly}");
    }
    daemon.terminate();
}

#[test]
fn s0_12_without_static_membership_a_stop_is_a_rebalance_and_a_killed_member_is_waited_for_as_long_as_its_session() {
    let kafka = Kafka::shared();
    let consumer = "consumer = { session-timeout = \"6s\", heartbeat-interval = \"1s\", static-membership = false }\n";
    let hostile = Hostile::new(kafka, consumer);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_offset", 3);
    let other = join(kafka, &hostile, "cooperative-sticky");
    let before = other.rebalances();

    // In order: it leaves, and the other one has all at once.
    let stopped = Instant::now();
    daemon.terminate();
    eventually(SOON, "the other member has all partitions", || other.partitions().len() == 3);
    assert!(stopped.elapsed() < Duration::from_secs(6), "it took a session, {:?}", stopped.elapsed());
    assert!(other.rebalances() > before);
    daemon = Daemon::start(&hostile.sandbox);
    eventually(LONG, "the daemon has partitions again", || other.partitions().len() < 3);

    // Killed: nobody knows before the session ends. The default would be 45 s.
    let killed = Instant::now();
    daemon.kill9();
    eventually(LONG, "the other member has all partitions", || other.partitions().len() == 3);
    let after = killed.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(25)).contains(&after), "after {after:?}");
}

#[test]
fn s0_12_a_cooperative_rebalance_takes_only_what_moves() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    produce(&hostile, 0..300);
    each_once(&store, 300);
    let other = join(kafka, &hostile, "cooperative-sticky");
    let theirs = other.partitions().len();
    assert!(strategy(kafka, &hostile).contains("cooperative-sticky"));
    assert_eq!(numbers(&daemon, "partitions revoked").iter().sum::<usize>(), theirs);
    produce(&hostile, 300..600);
    drop(other);
    produce(&hostile, 600..900);
    each_once(&store, 900);
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
}

#[test]
fn s0_12_an_eager_rebalance_takes_everything_and_what_comes_back_is_read_on_from_the_store() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "consumer = { assignment = \"eager\" }\n");
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    produce(&hostile, 0..300);
    each_once(&store, 300);
    assert!(numbers(&daemon, "partitions revoked").is_empty());
    for round in 1..=3 {
        let other = join(kafka, &hostile, "range");
        if round == 1 {
            assert!(strategy(kafka, &hostile).contains("range"));
            assert_eq!(numbers(&daemon, "partitions revoked"), [3]);
        }
        produce(&hostile, round * 300..round * 300 + 150);
        drop(other);
        produce(&hostile, round * 300 + 150..round * 300 + 300);
    }
    each_once(&store, 1200);
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
    // And after a restart nothing is read twice.
    daemon = Daemon::start(&hostile.sandbox);
    produce(&hostile, 1200..1203);
    each_once(&store, 1203);
    daemon.terminate();
}

/// What is read already goes on where it was when another partition joins it, paused or not, and however the
/// assignment is made.
#[test]
fn s0_12_a_partition_whose_leader_is_away_holds_up_no_other() {
    // More than the poll thread takes at once.
    const BEHIND: usize = 1500;
    let kafka = Kafka::start(3);
    let shops = ["cooperative", "eager"].map(|assignment| {
        let more = format!(
            "consumer = {{ assignment = \"{assignment}\", high-mark = 20 }}\n\
             retry = {{ max-attempts = 100000, backoff = {{ kind = \"fixed\", interval = \"100ms\" }} }}\n"
        );
        Hostile::new(&kafka, &more)
    });
    // The broker that leads one partition of one of the topics goes; which partitions it leads of the other is no matter.
    let away = kafka.client().leaders(&shops[0].input)[2];
    let mut running = Vec::new();
    for shop in &shops {
        let leaders = kafka.client().leaders(&shop.input);
        let lost: Vec<i32> = (0..3).filter(|p| leaders[*p as usize] == away).collect();
        assert_eq!(lost.len(), 1, "{leaders:?}");
        running.push((shop, lost[0]));
    }
    kafka.kill_one(away as u32);
    let wait = "SELECT json(CASE WHEN EXISTS (SELECT 1 FROM once WHERE id = 'go') THEN '1' ELSE 'wait' END)";
    let start = |(shop, lost): (_, i32)| {
        let shop: &Hostile = shop;
        let others: Vec<i32> = (0..3).filter(|partition| *partition != lost).collect();
        for partition in &others {
            // The second record waits for a retry, with more behind it than the lane takes: the partition is paused.
            let waits = json!({ "do": "sql", "statements": [wait], "id": format!("waits-{partition}") });
            let behind = (0..BEHIND).map(|n| told(&format!("behind-{partition}-{n}"), "insert"));
            let records = [told(&format!("first-{partition}"), "insert"), Out::new(waits.to_string())];
            let records = records.into_iter().chain(behind).map(|record| record.partition(*partition));
            shop.client.produce_all(&shop.input, records);
        }
        let daemon = Daemon::start_with(&shop.sandbox, |command| {
            command.env("TIDEMILL_LOG_LEVEL", "info,tidemill::kafka=debug");
        });
        let store = Store::open(&shop.sandbox, "hostile");
        store.until("SELECT count(*) FROM seen WHERE id LIKE 'first-%'", 2);
        for partition in &others {
            daemon.says(&[&format!("partition={partition} pause=true")]);
        }
        (shop, lost, daemon, store)
    };
    let running: Vec<_> = running.into_iter().map(start).collect();
    kafka.resume_one(away as u32);
    for (shop, lost, mut daemon, store) in running {
        shop.client.produce_all(&shop.input, (0..50).map(|n| told(&format!("lost-{n}"), "insert").partition(lost)));
        store.until("SELECT count(*) FROM seen WHERE id LIKE 'lost-%'", 50);
        let go = r#"{"do":"sql","statements":["INSERT INTO once (id) VALUES ('go')"],"row":false}"#;
        daemon.call("POST", "/hostile").body(go).send().expect_status(200);
        each_once(&store, 50 + 2 * (2 + BEHIND));
        assert_eq!(daemon.find(&["ERROR"]), None);
        assert_eq!(daemon.find(&["looked at anew"]), None);
        daemon.terminate();
    }
}

#[test]
fn s0_12_another_assignment_takes_hold_once_the_old_members_session_has_ended() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "consumer = { session-timeout = \"6s\" }\n");
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    produce(&hostile, 0..30);
    each_once(&store, 30);
    let eager = format!("{}\n[consumer]\nassignment = \"eager\"\n", manifest("hostile", &[]));
    put_beside(&hostile.sandbox, "hostile.toml", &eager);
    daemon.says(&["partitions assigned", "partitions=3"]);
    produce(&hostile, 30..60);
    each_once(&store, 60);
    eventually(LONG, "the group assigns by ranges", || strategy(kafka, &hostile).contains("range"));
    produce(&hostile, 60..90);
    each_once(&store, 90);
}

#[test]
fn s1_9_among_fewer_equal_or_more_members_than_partitions_the_daemon_does_its_share_and_takes_over() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let mut others: Vec<Member> =
        (0..3).map(|_| Member::join(kafka.bootstrap(), &hostile.group, &hostile.input, "cooperative-sticky")).collect();
    let settled = |others: &[Member], each: usize| others.iter().all(|member| member.partitions().len() == each);
    eventually(LONG, "each of three members has one of three partitions", || settled(&others, 1));
    // One member too many: it stands by.
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    produce(&hostile, 0..30);
    eventually(LONG, "the group knows the daemon", || {
        let members = ["--describe", "--members", "--group", &hostile.group];
        kafka.tool("consumer-groups", &members).contains("tidemill-hostile")
    });
    assert!(settled(&others, 1));
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0);
    // As many as partitions, then fewer, then the daemon alone: from the first record, since nobody has done any.
    while let Some(gone) = others.pop() {
        drop(gone);
        let theirs = || others.iter().map(|member| member.partitions().len() as i64).sum::<i64>();
        let ours = || store.count("SELECT count(DISTINCT partition) FROM seen");
        eventually(LONG, "the daemon does what the others have not", || ours() >= 1 && ours() + theirs() == 3);
    }
    each_once(&store, 30);
    daemon.terminate();
}
