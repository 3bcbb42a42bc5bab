//! S0.12, invariant 2: topics that transactional producers write to: what is aborted is not delivered, and the offsets
//! that it and the transactions' marks take are no hole to fall into.

use tidemill_tests::{Daemon, Kafka, Out, Store, Transactional};

use crate::deploying::{file_that_says, works};
use crate::rig::{Hostile, seen, told};

const UNCOMMITTED: &str = "consumer = { isolation = \"read-uncommitted\" }\n";

/// A record for partition 0.
fn record(id: &str) -> Out {
    told(id, "insert").partition(0)
}

fn next_offset(store: &Store) -> i64 {
    store.count("SELECT next_offset FROM tm_offset WHERE partition = 0")
}

/// Ids in the order in which they were done.
fn done(store: &Store) -> Vec<String> {
    store.lines("SELECT id FROM seen ORDER BY seq")
}

/// Five committed records among seven aborted ones, with 5 marks between them: 17 offsets.
fn mixed(kafka: &Kafka, hostile: &Hostile) {
    let producer = Transactional::new(kafka.bootstrap(), &hostile.sandbox.unique("producer"));
    let transactions: [(&[&str], bool); 5] = [
        (&["aborted-1", "aborted-2"], false),
        (&["a", "b"], true),
        (&["aborted-3", "aborted-4", "aborted-5"], false),
        (&["c", "d", "e"], true),
        (&["aborted-6", "aborted-7"], false),
    ];
    for (ids, commits) in transactions {
        producer.begin(&hostile.input, ids.iter().map(|id| record(id)));
        if commits {
            producer.commit();
        } else {
            producer.abort();
        }
    }
}

#[test]
fn s0_12_aborted_records_are_not_delivered_and_their_offsets_are_passed_over() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    mixed(kafka, &hostile);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 5);
    // The gaps behind the last record are passed over by the next one; a restart in between reads from before them.
    assert_eq!(next_offset(&store), 13);
    daemon.kill9();
    daemon = Daemon::start(&hostile.sandbox);
    assert_eq!(hostile.client.produce(&hostile.input, &record("f")), (0, 17));
    store.until("SELECT count(*) FROM seen WHERE id = 'f'", 1);
    assert_eq!(done(&store), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(next_offset(&store), 18);
    mixed(kafka, &hostile);
    store.until("SELECT count(*) FROM seen", 11);
    daemon.terminate();
    assert_eq!(seen(&store), ["a|2", "b|2", "c|2", "d|2", "e|2", "f|1"]);
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
    assert_eq!(daemon.find(&["WARN"]), None, "{}", daemon.log());
}

#[test]
fn s0_12_read_uncommitted_sees_aborted_records_too() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, UNCOMMITTED);
    mixed(kafka, &hostile);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 12);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id LIKE 'aborted-%'"), 7);
    daemon.terminate();
}

#[test]
fn s0_12_an_open_transaction_holds_back_what_follows_it_until_it_ends() {
    let kafka = Kafka::shared();
    let committed = Hostile::new(kafka, "");
    let uncommitted = Hostile::new(kafka, UNCOMMITTED);
    for hostile in [&committed, &uncommitted] {
        hostile.client.produce(&hostile.input, &record("before"));
    }
    let producer = |hostile: &Hostile| {
        let producer = Transactional::new(kafka.bootstrap(), &hostile.sandbox.unique("producer"));
        producer.begin(&hostile.input, [record("within")]);
        hostile.client.produce(&hostile.input, &record("behind"));
        producer
    };
    let producers = [&committed, &uncommitted].map(producer);
    let mut daemons = [&committed, &uncommitted].map(|hostile| Daemon::start(&hostile.sandbox));
    let stores = [&committed, &uncommitted].map(|hostile| Store::open(&hostile.sandbox, "hostile"));
    stores[1].until("SELECT count(*) FROM seen", 3);
    stores[0].until("SELECT count(*) FROM seen", 1);
    // Another partition waits for nothing, and has all the time that the one would need.
    committed.client.produce(&committed.input, &told("beside", "insert").partition(1));
    stores[0].until("SELECT count(*) FROM seen WHERE id = 'beside'", 1);
    assert_eq!(done(&stores[0]), ["before", "beside"]);
    for producer in &producers {
        producer.commit();
    }
    stores[0].until("SELECT count(*) FROM seen", 4);
    assert_eq!(done(&stores[0]), ["before", "beside", "within", "behind"]);
    assert_eq!(done(&stores[1]), ["before", "within", "behind"]);
    daemons.iter_mut().for_each(Daemon::terminate);
}

/// Where a reader that waits for transactions sees the end is not the end: an offset beyond it is no sign of a topic
/// that has lost records, and none of a group that has to begin again.
#[test]
fn s0_12_an_offset_beyond_an_open_transaction_is_kept() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "start = \"earliest\"\n");
    hostile.client.produce_all(&hostile.input, ["done-1", "done-2"].map(record));
    let producer = Transactional::new(kafka.bootstrap(), &hostile.sandbox.unique("producer"));
    producer.begin(&hostile.input, [record("done-3")]);
    assert_eq!(hostile.client.produce(&hostile.input, &record("done-4")), (0, 3));
    // Another consumer, which waits for no transaction, has done four records of this group.
    hostile.client.commit(&hostile.group, &hostile.input, 0, 4);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_offset", 3);
    assert_eq!(next_offset(&store), 4);
    // And so has the store, when the daemon starts again meanwhile.
    daemon.terminate();
    daemon = Daemon::start(&hostile.sandbox);
    store.until("SELECT min(epoch) FROM tm_offset", 2);
    producer.commit();
    hostile.client.produce(&hostile.input, &record("new"));
    store.until("SELECT count(*) FROM seen", 1);
    assert_eq!(done(&store), ["new"]);
    assert_eq!(daemon.find(&["ERROR"]), None);
    daemon.terminate();
}

#[test]
fn h2_a_smoke_test_runs_no_aborted_record_and_disturbs_no_group() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    mixed(kafka, &hostile);
    let _daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 5);
    let epochs = || store.count("SELECT sum(epoch) FROM tm_offset");
    let before = epochs();
    let next = file_that_says(&hostile.sandbox, "v2");
    let said = works(&hostile.sandbox, &["deploy", "--smoke", "50", next.to_str().unwrap()]);
    assert!(said.starts_with("smoke test on a copy of the store: 5 records: 5 done\n"), "{said}");
    hostile.client.produce(&hostile.input, &record("f"));
    store.until("SELECT count(*) FROM seen WHERE id = 'f' AND version = 'v2'", 1);
    assert_eq!((done(&store).len(), epochs()), (6, before), "no partition was given up");
}
