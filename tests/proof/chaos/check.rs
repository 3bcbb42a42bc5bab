//! What must be true at the end, from the store and from every topic read from its start.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tidemill_tests::Rec;

use super::faults::Scene;
use super::records::{Kind, key, kind};
use crate::rig::{in_order_for_each_key, once_each};

/// Processes that a record may end until it is given up on.
const CRASHES: u64 = 3;

/// Holds records 0 to `total` up to it.
pub(super) fn check(scene: &Scene<'_>, later: &str, total: u64, clock_was_forward: bool) {
    let (rig, store) = (scene.host.rig, &scene.store);
    let of = |wanted: fn(Kind) -> bool| (0..total).filter(move |n| wanted(kind(*n)));
    let writes: fn(Kind) -> bool = |kind| kind.is_applied() && kind != Kind::Calls;
    let publishes: fn(Kind) -> bool = |kind| kind.is_applied() && kind != Kind::Delays;
    let given_up: fn(Kind) -> bool = |kind| kind.given_up().is_some();

    let left = ["tm_pending", "tm_fallback", "tm_crash"].map(|table| store.lines(&format!("SELECT * FROM {table}")));
    assert!(left.iter().all(Vec::is_empty), "left over: {left:#?}");
    let rows = store.lines("SELECT id FROM seen ORDER BY seq");
    once_each(&rows, of(writes).map(|n| format!("r{n}")).chain(of(given_up).map(|n| format!("u{n}"))));
    let called = store.lines("SELECT id FROM once");
    once_each(&called, of(|kind| kind == Kind::Calls).map(|n| format!("r{n}: 200 r{n}")));
    let mut last: HashMap<String, u64> = HashMap::new();
    for id in &rows {
        let number: u64 = id[1..].parse().unwrap();
        let before = last.insert(key(number), number);
        assert!(before.is_none_or(|before| before < number), "key {}: {id} ran after {before:?}", key(number));
    }
    // No fault but the record's own costs it an attempt.
    for row in store.lines("SELECT id, attempt FROM seen") {
        let (id, attempt) = row.split_once('|').unwrap();
        let expected = match kind(id[1..].parse().unwrap()) {
            Kind::Recovers(fails) => fails + 1,
            _ => 1,
        };
        assert_eq!(attempt.parse(), Ok(expected), "the attempt at which {id} was done");
    }
    let events = [scene.events.as_slice(), &rig.client.consume_all(&rig.output)].concat();
    once_each(&in_order_for_each_key(&events), of(publishes).map(|n| format!("r{n}")));
    let delayed = delayed(&rig.client.consume_all(later), clock_was_forward);
    once_each(&delayed, of(|kind| kind == Kind::Delays).map(|n| format!("r{n}")));
    let letters = dead_letters(&rig.client.consume_all(&format!("{}.DLT", rig.input)));
    let expected: BTreeMap<u64, (Vec<u64>, String)> = (0..total)
        .filter_map(|n| {
            kind(n).given_up().map(|(attempts, outcome)| (n, ((1..=attempts).collect(), outcome.to_owned())))
        })
        .collect();
    assert_eq!(letters, expected);
    // A run is counted before it begins, but where the process before has ended in order: there the first one is not. A
    // kill by the schedule may be the end of a counted run, in place of the record's own.
    let (ends, aborts, kills) = (of(|kind| kind == Kind::Ends).count() as u64, scene.host.aborts, scene.host.kills);
    let bounds = (CRASHES * ends).saturating_sub(kills)..=(CRASHES + 1) * ends;
    assert!(bounds.contains(&aborts), "{ends} records have ended the daemon {aborts} times, not {bounds:?}");

    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    (0..total).for_each(|n| *kinds.entry(kind(n).name()).or_default() += 1);
    println!("records: {kinds:?}");
    println!(
        "{total} records and {} repeated; {} events for {} ids, {} delayed; {} given up on, each after its attempts, and compensated; \
         the daemon was ended {aborts} times by {ends} records and killed {kills} times; 0 violations",
        scene.produced - total,
        events.len(),
        of(publishes).count(),
        delayed.len(),
        expected.len()
    );
}

/// The records of delayed events, each event id once. A clock that was set forward shows in what they say of themselves.
fn delayed(events: &[Rec], clock_was_forward: bool) -> Vec<String> {
    let mut known = HashSet::new();
    let dues: Vec<i64> = events.iter().map(|event| event.json()["due"].as_i64().unwrap()).collect();
    let spread = dues.iter().max().unwrap_or(&0) - dues.iter().min().unwrap_or(&0);
    assert!(!clock_was_forward || spread > 3_600_000, "the clock was set forward, and no delivery has seen it");
    let first = events.iter().filter(|event| known.insert(event.header_text("event-id").unwrap()));
    first.map(|event| event.json()["id"].as_str().unwrap().to_owned()).collect()
}

/// The attempts and the last outcome of each record that was given up on. What appears twice must say the same.
fn dead_letters(records: &[Rec]) -> BTreeMap<u64, (Vec<u64>, String)> {
    let mut letters = BTreeMap::new();
    for record in records {
        let number: u64 = record.header_text("eid").unwrap()[1..].parse().unwrap();
        let errors: Vec<Value> =
            serde_json::from_str(&record.header_text("kafka_dlt-exception-stacktrace").unwrap()).unwrap();
        let attempts: Vec<u64> = errors.iter().map(|error| error["attempt"].as_u64().unwrap()).collect();
        let last = errors.last().unwrap();
        let outcome = last["outcome"].as_str().unwrap().to_owned();
        let crashes = format!("has ended {CRASHES} times");
        assert!(outcome != "crash" || last["message"].as_str().unwrap().contains(&crashes), "{last}");
        let letter = (attempts, outcome);
        let before = letters.insert(number, letter.clone());
        assert!(before.is_none_or(|before| before == letter), "record {number} was given up on twice");
    }
    letters
}
