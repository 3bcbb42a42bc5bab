//! S0.4, H3: dead letters from the command line: found, looked at, replayed, published again and discarded, while the daemon runs.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Member, Out, Rec, SOON, Sandbox, Store, eventually};

use crate::rig::{Hostile, attempts, seen, told};
use crate::spring::spring;

const RETRY: &str = "retry = { max-attempts = 1 }\n";
/// The version that can do what the first one cannot.
const MENDED: &str = "[handler.hostile.settings]\nversion = \"2\"\n";

/// A record that version 1 never does.
fn failing(id: &str) -> Out {
    Out::new(json!({ "do": "fail-n", "until": 99, "version": "1", "id": id }).to_string())
}

/// `tidemill dlt` with these arguments: what it printed, and whether all went well; what it complained of is at the end.
fn dlt(sandbox: &Sandbox, arguments: &[&str]) -> (bool, String) {
    let output = sandbox.tidemill(&[&["dlt"], arguments].concat());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {text}", output.status);
    (output.status.success(), text)
}

fn done(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let (well, text) = dlt(sandbox, arguments);
    assert!(well, "{arguments:?}: {text}");
    text
}

fn refused(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let (well, text) = dlt(sandbox, arguments);
    assert!(!well, "{arguments:?}: {text}");
    text
}

fn json_of(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let output = sandbox.tidemill(&[&["dlt"], arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

/// The dead letters that a list has.
fn list(sandbox: &Sandbox, arguments: &[&str]) -> Vec<Value> {
    json_of(sandbox, &[&["list"], arguments].concat())["items"].as_array().unwrap().clone()
}

fn of(letter: &Value, field: &str) -> String {
    letter[field].as_str().unwrap_or_else(|| panic!("{field} of {letter}")).to_owned()
}

fn places(letters: &[Value]) -> Vec<String> {
    letters.iter().map(|letter| of(letter, "place")).collect()
}

/// The hostile handler on a cluster, with so many dead letters over three partitions, and nothing under way.
fn with_letters(kafka: &Kafka, more: &str, count: usize) -> (Hostile, Daemon, Store) {
    let hostile = Hostile::new(kafka, &format!("{RETRY}{more}"));
    let daemon = Daemon::start(&hostile.sandbox);
    let record = |n: usize| {
        let id = format!("r{n:03}");
        failing(&id).partition((n % 3) as i32).key(&id).header("ce_id", format!("event-{n}"))
    };
    hostile.client.produce_all(&hostile.input, (0..count).map(record));
    let store = Store::open(&hostile.sandbox, "hostile");
    until_letters(&hostile, &store, count);
    (hostile, daemon, store)
}

fn until_letters(hostile: &Hostile, store: &Store, count: usize) {
    eventually(LONG, "all are dead letters", || letters(hostile).len() == count);
    store.until("SELECT count(*) FROM tm_pending", 0);
    store.until("SELECT count(*) FROM tm_outbox", 0);
}

fn letters(hostile: &Hostile) -> Vec<Rec> {
    hostile.client.consume_all(&format!("{}.DLT", hostile.input))
}

/// The daemon again, with a version that can do it.
fn mend(hostile: &Hostile, daemon: &mut Daemon) {
    daemon.terminate();
    let text = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    hostile.sandbox.write_toml(&format!("{text}{MENDED}"));
    *daemon = Daemon::start(&hostile.sandbox);
}

fn each_once(store: &Store, count: usize) {
    store.until("SELECT count(*) FROM tm_pending", 0);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), count as i64, "{:?}", seen(store));
    assert_eq!(store.count("SELECT count(*) FROM seen"), count as i64, "{:?}", seen(store));
}

#[test]
fn h3_dead_letters_of_a_mended_handler_are_replayed_in_bulk_and_each_takes_effect_once() {
    const COUNT: usize = 130;
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "event-id = \"ce_id\"\n", COUNT);
    let sandbox = &hostile.sandbox;
    assert_eq!(list(sandbox, &[]).len(), 100, "a page");
    assert_eq!(list(sandbox, &["--limit", "1000"]).len(), COUNT);
    mend(&hostile, &mut daemon);
    let said = done(sandbox, &["replay", "--all-matching"]);
    assert!(said.contains("130 put back, 0 not"), "{said}");
    each_once(&store, COUNT);

    // They are out of the list, and nobody replays them twice by mistake.
    assert_eq!(list(sandbox, &[]), [] as [Value; 0]);
    let all = list(sandbox, &["--all", "--limit", "1000"]);
    assert!(all.len() == COUNT && all.iter().all(|letter| letter["fate"]["fate"] == "replayed"), "{all:?}");
    let said = done(sandbox, &["replay", "--all-matching"]);
    assert!(said.contains("there are no such dead letters"), "{said}");
    let place = of(&all[7], "place");
    let said = refused(sandbox, &["replay", &place]);
    assert!(
        said.contains("it was put back to handler hostile at 20") && said.contains("1 of 1 dead letters"),
        "{said}"
    );
    // By intent it is put back again, and the inbox knows its event.
    let duplicates = || sandbox.scrape().sum("tidemill_records_total", &[("outcome", "duplicate")]) as i64;
    assert_eq!(duplicates(), 0);
    done(sandbox, &["replay", "--again", &place]);
    eventually(SOON, "it is dropped as a duplicate", || duplicates() == 1);
    each_once(&store, COUNT);

    let acts: Vec<Value> = sandbox.audit().into_iter().filter(|l| l["action"] == "replay-dead-letters").collect();
    assert_eq!(acts.len(), 4, "two chunks, one refused, one again: {acts:?}");
    assert!(
        acts[2]["detail"].as_str().unwrap().starts_with(&format!("{place} (not done: it was put back")),
        "{acts:?}"
    );
    daemon.terminate();
}

/// Without event ids nothing but the ledger keeps a record from being done twice.
#[test]
fn h3_two_operators_who_replay_the_same_dead_letters_at_once_put_each_back_once() {
    const COUNT: usize = 60;
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "", COUNT);
    mend(&hostile, &mut daemon);
    let both = places(&list(&hostile.sandbox, &[]));
    let arguments: Vec<&str> = ["replay"].into_iter().chain(both.iter().map(String::as_str)).collect();
    let said: Vec<Value> = std::thread::scope(|scope| {
        let one = || json_of(&hostile.sandbox, &arguments);
        let threads = [scope.spawn(one), scope.spawn(one)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap().as_array().unwrap().clone()).collect()
    });
    let (back, not): (Vec<&Value>, Vec<&Value>) = said.iter().partition(|outcome| outcome["error"].is_null());
    assert_eq!((back.len(), not.len()), (COUNT, COUNT));
    assert!(not.iter().all(|outcome| of(outcome, "error").contains("it was put back to handler hostile")), "{not:?}");
    each_once(&store, COUNT);
    daemon.terminate();
}

#[test]
fn h3_a_bulk_replay_that_a_kill_interrupts_loses_nothing_and_does_nothing_twice() {
    const COUNT: usize = 300;
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "", COUNT);
    mend(&hostile, &mut daemon);
    let interrupted = std::thread::scope(|scope| {
        let replaying = scope.spawn(|| dlt(&hostile.sandbox, &["replay", "--all-matching", "--rate", "40"]));
        store.until("SELECT count(*) > 0 FROM seen", 1);
        daemon.kill9();
        replaying.join().unwrap()
    });
    assert!(!interrupted.0 && interrupted.1.contains("call it again for the rest"), "{}", interrupted.1);
    let before = store.count("SELECT count(*) FROM tm_letter");
    assert!((1..COUNT as i64).contains(&before), "{before}");
    daemon = Daemon::start(&hostile.sandbox);
    done(&hostile.sandbox, &["replay", "--all-matching"]);
    store.until("SELECT count(*) FROM seen", COUNT as i64);
    each_once(&store, COUNT);
    daemon.terminate();
}

#[test]
fn s0_4_a_record_that_fails_again_becomes_a_dead_letter_again_with_its_whole_history() {
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "", 1);
    let sandbox = &hostile.sandbox;
    let first = of(&list(sandbox, &[])[0], "place");
    done(sandbox, &["replay", "--all-matching"]);
    until_letters(&hostile, &store, 2);
    let second = letters(&hostile).remove(1);
    let history = attempts(&second);
    let outcomes: Vec<&str> = history.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["retry", "replayed", "retry"], "{history:?}");
    assert!(history[1]["message"].as_str().unwrap().starts_with("put back by "), "{history:?}");
    let before = &letters(&hostile)[0];
    assert_eq!((&second.key, &second.value), (&before.key, &before.value));
    assert_eq!(second.header("kafka_dlt-original-offset"), before.header("kafka_dlt-original-offset"));

    // The list has the new one, which can be replayed, and not the old one, which cannot.
    let left = places(&list(sandbox, &[]));
    assert!(left.len() == 1 && left[0] != first, "{left:?}");
    refused(sandbox, &["replay", &first]);
    let shown = done(sandbox, &["show", &left[0]]);
    assert!(shown.matches(" attempt 1 retry: ").count() == 2 && shown.contains(" replayed: put back by "), "{shown}");
    mend(&hostile, &mut daemon);
    done(sandbox, &["replay", &left[0]]);
    store.until("SELECT count(*) FROM seen", 1);
    // A copy of the first one, as a relay may write that was killed, is of a record that was put back.
    let copy = before.headers.iter().fold(Out::new(before.text()).key(before.key_text()), |out, (name, value)| {
        out.header(name, value.as_deref().unwrap())
    });
    hostile.client.produce(&format!("{}.DLT", hostile.input), &copy.partition(0));
    let said = refused(sandbox, &["replay", "--all-matching"]);
    assert!(said.contains(&format!("by its dead letter {}", left[0])), "{said}");
    each_once(&store, 1);
    daemon.terminate();
}

#[test]
fn h3_dead_letters_are_found_by_what_they_are_shown_and_discarded_and_a_dry_run_changes_nothing() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("[handler.hostile]\n{RETRY}"));
    let mut daemon = Daemon::start(&sandbox);
    let reject = |why: &str| Out::new(json!({ "do": "reject", "message": why, "id": why }).to_string());
    let client = daemon.client();
    client.produce(
        "hostile-in",
        &reject("No Stock").key("a").partition(0).header("tenant", "one").header("tenant", "two"),
    );
    client.produce("hostile-in", &reject("no price").key("b").partition(1).header("tenant", "two"));
    let store = Store::open(&sandbox, "hostile");
    eventually(LONG, "two dead letters", || client.consume_all("hostile-in.DLT").len() == 2);
    let between = list(&sandbox, &[]).iter().map(|letter| of(letter, "written")).max().unwrap();
    client.produce("hostile-in", &reject("later").key([0u8, 255]).partition(2));
    eventually(LONG, "the third", || client.consume_all("hostile-in.DLT").len() == 3);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let keys = |arguments: &[&str]| -> Vec<Value> {
        list(&sandbox, arguments).iter().map(|letter| letter["key"].clone()).collect()
    };
    let (a, b, c) = (json!("a"), json!("b"), json!({ "hex": "00ff" }));
    assert_eq!(keys(&[])[2], c, "the oldest first");
    for (arguments, found) in [
        (&["--handler", "hostile"][..], vec![&a, &b, &c]),
        (&["--topic", "hostile-in"], vec![&a, &b, &c]),
        (&["--topic", "hostile-in.DLT"], vec![&a, &b, &c]),
        (&["--topic", "nowhere"], vec![]),
        (&["--error", "NO STOCK"], vec![&a]),
        (&["--error", "reject"], vec![&a, &b, &c]),
        (&["--key", "b"], vec![&b]),
        (&["--header", "tenant=two"], vec![&a, &b]),
        (&["--header", "tenant=one"], vec![]),
        (&["--header", "tenant=two", "--key", "a"], vec![&a]),
        (&["--since", "2099-01-01T00:00:00Z"], vec![]),
        (&["--until", "2099-01-01T00:00:00Z", "--error", "later"], vec![&c]),
    ] {
        let mut keys = keys(arguments);
        keys.sort_by_key(ToString::to_string);
        let mut found: Vec<Value> = found.into_iter().cloned().collect();
        found.sort_by_key(ToString::to_string);
        assert_eq!(keys, found, "{arguments:?}");
    }
    assert!(keys(&["--until", &between]).len() < 2 && keys(&["--since", &between]).len() >= 2);
    assert!(refused(&sandbox, &["list", "--handler", "nobody"]).contains("there is no handler nobody"));

    // In pages.
    let first = json_of(&sandbox, &["list", "--limit", "2"]);
    let (next, page) = (of(&first, "next"), first["items"].as_array().unwrap().clone());
    client.produce("hostile-in", &reject("not there when the first page was read").partition(0));
    eventually(LONG, "a fourth", || client.consume_all("hostile-in.DLT").len() == 4);
    let second = json_of(&sandbox, &["list", "--limit", "2", "--cursor", &next]);
    assert_eq!(second["next"], Value::Null);
    let pages: Vec<Value> = [&page[..], second["items"].as_array().unwrap()].concat();
    assert_eq!(pages, list(&sandbox, &[])[..3]);

    // All of one.
    let place = of(&list(&sandbox, &["--key", "a"])[0], "place");
    let shown = json_of(&sandbox, &["show", &place]);
    assert_eq!((&shown["value"]["message"], &shown["attempts"][0]["outcome"]), (&json!("No Stock"), &json!("reject")));
    assert_eq!(shown["headers"], json!([["tenant", "one"], ["tenant", "two"]]));
    let text = done(&sandbox, &["show", &place]);
    for part in ["of        hostile-in/0@0", "key       a", "header    tenant: one", "\"message\": \"No Stock\""] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = refused(&sandbox, &["show", "hostile-in.DLT/0@77"]);
    assert!(said.contains("hostile-in.DLT/0@77: Kafka has no record there: the partition goes from 0 to 2"), "{said}");

    // What it would do.
    for arguments in [&["replay", "--all-matching", "--dry-run"], &["discard", "--all-matching", "--dry-run"]] {
        assert!(done(&sandbox, arguments).contains(" would be "), "{arguments:?}");
    }
    assert_eq!(store.count("SELECT count(*) FROM tm_letter") + store.count("SELECT count(*) FROM tm_pending"), 0);
    assert_eq!(list(&sandbox, &[]).len(), 4);
    assert!(sandbox.audit().iter().all(|line| !line["action"].as_str().unwrap().ends_with("dead-letters")));

    done(&sandbox, &["discard", "--all-matching", "--header", "tenant=two"]);
    assert_eq!(list(&sandbox, &[]).len(), 2);
    let discarded = list(&sandbox, &["--all", "--key", "a"]);
    assert_eq!(discarded[0]["fate"]["fate"], "discarded");
    assert!(refused(&sandbox, &["replay", &place]).contains("it was discarded at "), "{place}");
    assert!(refused(&sandbox, &["replay"]).contains("--all-matching"));
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
    daemon.terminate();
}

#[test]
fn h3_a_dead_letter_that_is_published_again_is_read_from_its_topic_as_it_came_and_tells_its_history() {
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "event-id = \"ce_id\"\n", 2);
    mend(&hostile, &mut daemon);
    done(&hostile.sandbox, &["replay", "--all-matching", "--key", "r001", "--to-topic"]);
    store.until("SELECT count(*) FROM seen", 1);
    let records = hostile.client.consume_all(&hostile.input);
    let [before, again] = [0, 1].map(|offset| {
        records
            .iter()
            .find(|record| record.partition == 1 && record.offset == offset)
            .unwrap_or_else(|| panic!("{records:?}"))
    });
    assert_eq!((&again.key, &again.value), (&before.key, &before.value));
    let names: Vec<&str> = again.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ce_id", "tidemill-replay-errors", "tidemill-replay-of"]);
    assert_eq!(again.header_text("tidemill-replay-of").unwrap(), format!("{}.DLT/1@0", hostile.input));
    let history: Value = serde_json::from_str(&again.header_text("tidemill-replay-errors").unwrap()).unwrap();
    assert_eq!(history[0]["outcome"], "retry");
    // A second time by mistake does nothing, and by intent the inbox drops it.
    let place = format!("{}.DLT/1@0", hostile.input);
    let said = refused(&hostile.sandbox, &["replay", &place]);
    assert!(said.contains("it was published again at "), "{said}");
    done(&hostile.sandbox, &["replay", &place, "--again", "--to-topic"]);
    store.until(&format!("SELECT next_offset FROM tm_offset WHERE topic = '{}' AND partition = 1", hostile.input), 3);
    each_once(&store, 1);
    daemon.terminate();
}

#[test]
fn h3_dead_letters_of_a_handler_that_is_gone_are_listed_and_wait_until_it_is_there_or_another_has_them() {
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "", 2);
    let sandbox = &hostile.sandbox;
    hostile.client.produce(&hostile.input, &told("done before", "insert").partition(2));
    store.until("SELECT count(*) FROM seen", 1);
    let stranger = Out::new(json!({ "do": "insert", "id": "stranger" }).to_string())
        .header("kafka_dlt-original-topic", &hostile.input)
        .header("kafka_dlt-original-partition", 2i32.to_be_bytes())
        .header("kafka_dlt-original-offset", 0i64.to_be_bytes())
        .header("kafka_dlt-original-consumer-group", "somebody-else");
    hostile.client.produce(&format!("{}.DLT", hostile.input), &stranger.partition(2));
    mend(&hostile, &mut daemon);
    assert!(sandbox.tidemill(&["undeploy", "hostile"]).status.success());
    assert_eq!(list(sandbox, &[]).len(), 3);
    let said = refused(sandbox, &["replay", "--all-matching", "--handler", "hostile"]);
    assert_eq!(said.matches("handler hostile does not run: deploy it").count(), 2, "{said}");
    assert!(said.contains("2 of 2 dead letters"), "{said}");
    assert!(refused(sandbox, &["replay", "--all-matching", "--on", "nobody"]).contains("there is no handler nobody"));
    assert_eq!(store.count("SELECT count(*) FROM tm_letter"), 0);

    sandbox.deploy("hostile");
    eventually(LONG, "it runs again", || dlt(sandbox, &["replay", "--all-matching", "--handler", "hostile"]).0);
    store.until("SELECT count(*) FROM seen", 3);
    // Of a group that nobody here has.
    let left = places(&list(sandbox, &[]));
    let said = refused(sandbox, &["replay", &left[0]]);
    assert!(said.contains("no handler here has read as group somebody-else"), "{said}");
    done(sandbox, &["replay", &left[0], "--on", "hostile"]);
    store.until("SELECT count(*) FROM seen WHERE id = 'stranger'", 1);
    each_once(&store, 4);
    daemon.terminate();
}

#[test]
fn h3_what_is_no_dead_letter_or_has_broken_headers_is_told_and_passed_over() {
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "", 2);
    let (sandbox, dead) = (&hostile.sandbox, format!("{}.DLT", hostile.input));
    let broken = Out::new("{}").partition(0).header("kafka_dlt-original-topic", &hostile.input);
    hostile.client.produce(&dead, &broken.header("kafka_dlt-original-partition", "0"));
    hostile.client.produce(&dead, &Out::new("somebody's own").partition(0));
    mend(&hostile, &mut daemon);
    let listed = done(sandbox, &["list"]);
    assert!(listed.contains("kafka_dlt-original-partition is missing, or not as Kafka writes it"), "{listed}");
    assert!(listed.contains("it is no dead letter"), "{listed}");
    let said = refused(sandbox, &["replay", "--all-matching"]);
    assert!(said.contains("2 of 4 dead letters: not put back"), "{said}");
    for (offset, why) in [(1, "kafka_dlt-original-partition is missing"), (2, "it is no dead letter")] {
        let line = said.lines().find(|line| line.starts_with(&format!("{dead}/0@{offset} "))).unwrap();
        assert!(line.contains("not put back: ") && line.contains(why), "{said}");
    }
    store.until("SELECT count(*) FROM seen", 2);
    // So that they are out of the way.
    assert!(done(sandbox, &["discard", "--all-matching"]).contains("discarded"));
    assert_eq!(list(sandbox, &[]).len(), 0);
    assert_eq!(list(sandbox, &["--all"]).len(), 4);
    each_once(&store, 2);
    daemon.terminate();
}

/// A team that moves over from Spring Kafka: its group goes on here, and what it had given up on is done here.
#[test]
fn s0_4_a_dead_letter_of_spring_kafka_is_replayed_by_the_handler_that_took_its_group_over() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, &format!("{RETRY}dead-letter = {{ topic = \"{{topic}}-spring\" }}\n"));
    let letters = format!("{}-spring", hostile.input);
    hostile.client.create_topic(&letters, 3);
    let record = |n: i32| told(&format!("r{n}"), "insert").key(format!("k{n}")).partition(n).header("trace", "7");
    hostile.client.produce_all(&hostile.input, (0..3).map(record));
    // Its listener fails on every record.
    spring(kafka, &hostile.group, &[&hostile.input], std::slice::from_ref(&letters), 3);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_offset WHERE next_offset = 1", 3);
    let found = list(&hostile.sandbox, &[]);
    assert_eq!(found.len(), 3, "{found:?}");
    for letter in &found {
        assert_eq!((of(letter, "handler"), of(letter, "group")), ("hostile".to_owned(), hostile.group.clone()));
        assert!(of(letter, "outcome").contains("Exception"), "{letter}");
    }
    done(&hostile.sandbox, &["replay", "--all-matching"]);
    store.until("SELECT count(*) FROM seen", 3);
    assert_eq!(
        store.lines("SELECT id, partition, \"offset\", attempt FROM seen ORDER BY id"),
        ["r0|0|0|1", "r1|1|0|1", "r2|2|0|1"]
    );
    refused(&hostile.sandbox, &["replay", &of(&found[0], "place")]);
    daemon.terminate();
}

#[test]
fn h3_a_replayed_record_passes_one_that_blocks_its_partition_and_is_not_put_back_where_it_is_still_to_be_read() {
    let more = "retry = { max-attempts = 2, backoff = { interval = \"1h\" } }\n";
    let hostile = Hostile::new(Kafka::shared(), more);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let undone = json!([{ "do": "reject", "message": "no" }]).to_string();
    hostile.client.produce(&hostile.input, &Out::new(undone).partition(0).key("poison"));
    let store = Store::open(&hostile.sandbox, "hostile");
    until_letters(&hostile, &store, 1);
    // The lane waits for this one, for an hour.
    hostile.client.produce_all(&hostile.input, [failing("blocks").partition(0), told("behind", "insert").partition(0)]);
    store.until("SELECT count(*) FROM tm_pending", 1);
    let place = of(&list(&hostile.sandbox, &[])[0], "place");
    done(&hostile.sandbox, &["replay", &place]);
    eventually(LONG, "it has run, and is a dead letter again", || letters(&hostile).len() == 2);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0, "what is behind the other still waits");
    store.until("SELECT count(*) FROM tm_pending", 1);

    // A group that goes back reads it again, as soon as nothing blocks: it is not to run from two places.
    daemon.terminate();
    let sql = rusqlite::Connection::open(hostile.sandbox.store_file("hostile")).unwrap();
    sql.execute("UPDATE tm_offset SET next_offset = 0 WHERE partition = 0", []).unwrap();
    drop(sql);
    daemon = Daemon::start(&hostile.sandbox);
    let again = places(&list(&hostile.sandbox, &[]));
    let said = refused(&hostile.sandbox, &["replay", &again[0]]);
    assert!(said.contains("stands at offset 0 of") && said.contains("has the record still before it"), "{said}");
    daemon.terminate();
}

/// The inbox that knows of the event is the handler's own, and not that of a replay which does not go back so far.
#[test]
fn h3_a_dead_letter_whose_event_was_done_meanwhile_is_a_duplicate_also_after_its_group_was_moved() {
    let (hostile, mut daemon, store) = with_letters(Kafka::shared(), "event-id = \"ce_id\"\n", 1);
    let record = |id: &str, event: &str| told(id, "insert").partition(0).header("ce_id", event);
    hostile.client.produce(&hostile.input, &record("other", "other"));
    store.until("SELECT count(*) FROM seen WHERE id = 'other'", 1);
    let reset = ["groups", "reset", &hostile.group, "--to", "1", "--partition", "0", "--duplicates", "run"];
    let output = hostile.sandbox.tidemill(&reset);
    assert!(output.status.success(), "{output:?}");
    store.until("SELECT count(*) FROM seen WHERE id = 'other'", 2);
    // The event of the dead letter, once more.
    hostile.client.produce(&hostile.input, &record("sent again", "event-0"));
    store.until("SELECT count(*) FROM seen WHERE id = 'sent again'", 1);
    mend(&hostile, &mut daemon);
    done(&hostile.sandbox, &["replay", "--all-matching"]);
    store.until("SELECT count(*) FROM tm_pending", 0);
    assert_eq!(seen(&store), ["other|2", "sent again|1"]);
    let duplicates = || hostile.sandbox.scrape().sum("tidemill_records_total", &[("outcome", "duplicate")]);
    eventually(SOON, "it is counted as a duplicate", || duplicates() == 1.0);
    daemon.terminate();
}

/// Where another member of the group has the partition, the record waits here until it comes back.
#[test]
fn h3_a_record_of_a_partition_that_another_member_has_waits_until_it_is_read_here_again() {
    let kafka = Kafka::shared();
    let (hostile, mut daemon, store) = with_letters(kafka, "", 3);
    mend(&hostile, &mut daemon);
    store.until("SELECT count(*) FROM tm_offset", 3);
    let other = Member::join(kafka.bootstrap(), &hostile.group, &hostile.input, "cooperative-sticky");
    eventually(LONG, "the other has one, and the daemon has given it up", || !other.partitions().is_empty());
    let theirs = other.partitions();
    let mut waits = String::new();
    eventually(LONG, "the daemon knows that it has given them up", || {
        let waiting = json_of(&hostile.sandbox, &["replay", "--all-matching", "--dry-run"]);
        waits = waiting.to_string();
        waits.matches("it waits until the partition is read here again").count() == theirs.len()
    });
    done(&hostile.sandbox, &["replay", "--all-matching"]);
    store.until("SELECT count(*) FROM seen", 3 - theirs.len() as i64);
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), theirs.len() as i64);
    drop(other);
    store.until("SELECT count(*) FROM seen", 3);
    each_once(&store, 3);
    daemon.terminate();
}
