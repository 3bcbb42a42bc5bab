//! S3.2: a group, a topic or a partition that an operator has paused stands still, and goes on when it is told to.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Member, Out, SOON, Sandbox, Store, eventually};

use crate::rig::{Hostile, told};

/// `tidemill groups` with these arguments: what it printed, or its error.
fn groups(sandbox: &Sandbox, arguments: &[&str]) -> Result<String, String> {
    let output = sandbox.tidemill(&[&["groups"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn described(hostile: &Hostile) -> Value {
    let text = groups(&hostile.sandbox, &["describe", &hostile.group, "--json"]).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn lag(hostile: &Hostile) -> i64 {
    described(hostile)["partitions"].as_array().unwrap().iter().map(|p| p["lag"].as_i64().unwrap_or(-1)).sum()
}

/// One record on each partition.
fn produce(hostile: &Hostile, round: &str) {
    let records = (0..3).map(|n| told(&format!("{round}-{n}"), "insert").partition(n));
    hostile.client.produce_all(&hostile.input, records);
}

fn seen(store: &Store, round: &str) -> i64 {
    store.count(&format!("SELECT count(*) FROM seen WHERE id LIKE '{round}-%'"))
}

/// What goes on is done; so what was held back before it is held back.
fn passes(daemon: &Daemon) {
    let body = json!([{ "do": "insert", "id": "request" }]).to_string();
    daemon.call("POST", "/hostile").body(&body).send().expect_status(200);
}

#[test]
fn s3_2_a_paused_group_begins_nothing_over_a_kill_and_a_new_version_and_then_does_all_of_it_once() {
    let kafka = Kafka::shared();
    let timer = json!({ "do": "insert", "id": "timer" });
    let more = format!(
        "retry = {{ max-attempts = 1000, order = \"none\", backoff = {{ interval = \"20ms\" }} }}\nsettings = {{ version = \"1\", timer = '{timer}' }}\n\
         [[handler.hostile.schedule]]\nname = \"tick\"\ninterval = \"100ms\"\n"
    );
    let hostile = Hostile::new(kafka, &more);
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let group = &*hostile.group;
    produce(&hostile, "before");
    // One that waits for its next attempt, which has to wait as well.
    let fails = json!({ "do": "fail-n", "until": 999, "version": "1", "id": "fails-0" }).to_string();
    hostile.client.produce(&hostile.input, &Out::new(fails).partition(0));
    eventually(LONG, "records and timers are done", || seen(&store, "before") == 3);
    store.until("SELECT count(*) FROM tm_pending WHERE attempts > 1", 1);

    let said = groups(&hostile.sandbox, &["pause", group]).unwrap();
    assert!(said.contains(&format!("group {group} is paused: all of it, by ")), "{said}");
    let attempts = || store.count("SELECT attempts FROM tm_pending");
    let timers = || store.count("SELECT count(*) FROM seen WHERE topic = 'tick'");
    let stood = (attempts(), timers());
    produce(&hostile, "held");
    eventually(LONG, "the lag is told", || lag(&hostile) == 3);
    passes(&daemon);
    assert_eq!((seen(&store, "held"), attempts(), timers()), (0, stood.0, stood.1));

    // As long as nobody ends it, whatever becomes of the process and the version.
    daemon.kill9();
    let settings = std::fs::read_to_string(hostile.sandbox.toml()).unwrap();
    hostile.sandbox.write_toml(&settings.replace("version = \"1\"", "version = \"2\""));
    let mut daemon = Daemon::start(&hostile.sandbox);
    eventually(LONG, "its partitions are read again", || daemon.find(&["partitions assigned"]).is_some());
    let group_now = described(&hostile);
    assert_eq!(group_now["pauses"][0]["topic"], Value::Null);
    assert!(group_now["partitions"].as_array().unwrap().iter().all(|p| p["paused"] == true), "{group_now}");
    produce(&hostile, "more");
    eventually(LONG, "what came while it stood still is lag", || lag(&hostile) == 6);
    passes(&daemon);
    assert_eq!((seen(&store, "held"), seen(&store, "more"), attempts(), timers()), (0, 0, stood.0, stood.1));
    assert_eq!(hostile.sandbox.scrape().find("tidemill_pauses", &[("handler", "hostile")]), Some(1.0));
    let ready = hostile.sandbox.monitor("/readyz").send();
    assert_eq!(ready.status, 200, "a pause is no fault: {}", ready.text());

    let said = groups(&hostile.sandbox, &["resume", group]).unwrap();
    assert!(said.contains("goes on: all of it"), "{said}");
    eventually(LONG, "all goes on", || {
        seen(&store, "held") == 3 && seen(&store, "more") == 3 && seen(&store, "fails") == 1 && timers() > stood.1
    });
    store.until("SELECT count(*) FROM tm_pause", 0);
    eventually(SOON, "nothing is behind", || lag(&hostile) == 0);
    assert_eq!(store.count("SELECT count(*) FROM (SELECT 1 FROM seen WHERE topic = (SELECT topic FROM seen WHERE id = 'held-0') GROUP BY id HAVING count(*) > 1)"), 0);
    let acts: Vec<Value> = hostile.sandbox.audit().into_iter().filter(|a| a["action"] != "deploy").collect();
    let told: Vec<(&str, bool)> =
        acts.iter().map(|act| (act["action"].as_str().unwrap(), act["ok"].as_bool().unwrap())).collect();
    assert_eq!(told, [("pause-group", true), ("resume-group", true)]);
    daemon.terminate();
}

#[test]
fn s0_12_a_pause_takes_no_partition_from_anybody_and_holds_only_what_it_names() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let (group, topic) = (&*hostile.group, &*hostile.input);
    produce(&hostile, "before");
    eventually(LONG, "they are done", || seen(&store, "before") == 3);
    let other = Member::join(kafka.bootstrap(), group, topic, "cooperative-sticky");
    eventually(LONG, "the other member is given partitions", || !other.partitions().is_empty());
    let theirs = other.partitions();
    let mine = (0..3).find(|partition| !theirs.contains(partition)).unwrap();
    let rebalances = other.rebalances();

    let one = mine.to_string();
    groups(&hostile.sandbox, &["pause", group, "--topic", topic, "--partition", &one]).unwrap();
    let paused: Vec<i64> = described(&hostile)["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["paused"] == true)
        .map(|p| p["partition"].as_i64().unwrap())
        .collect();
    assert_eq!(paused, [i64::from(mine)]);
    let listed = groups(&hostile.sandbox, &["list"]).unwrap();
    assert!(listed.contains(&format!("{topic}/{mine}")), "{listed}");
    hostile.client.produce(topic, &told("held-0", "insert").partition(mine));
    eventually(LONG, "it is held back", || lag(&hostile) > 0);
    passes(&daemon);
    assert_eq!((other.rebalances(), other.partitions()), (rebalances, theirs.clone()), "nobody is asked to move");
    drop(other);
    // The partitions that come back are not paused, so what is on them is done.
    let others: Vec<Out> =
        theirs.iter().map(|partition| told(&format!("free-{partition}"), "insert").partition(*partition)).collect();
    hostile.client.produce_all(topic, others);
    eventually(LONG, "the others are done", || seen(&store, "free") == theirs.len() as i64);
    assert_eq!(seen(&store, "held"), 0);

    // A whole group that is paused cannot go on in part, and nothing is done.
    groups(&hostile.sandbox, &["pause", group]).unwrap();
    let error = groups(&hostile.sandbox, &["resume", group, "--topic", topic]).unwrap_err();
    assert!(error.contains("is held by a wider pause (all of it, by "), "{error}");
    assert_eq!(described(&hostile)["pauses"].as_array().unwrap().len(), 2);
    // Where it goes on can be set meanwhile.
    groups(&hostile.sandbox, &["reset", group, "--to", "latest", "--topic", topic, "--partition", &one]).unwrap();
    passes(&daemon);
    let said = groups(&hostile.sandbox, &["resume", group]).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    produce(&hostile, "after");
    eventually(LONG, "all of it goes on", || seen(&store, "after") == 3);
    assert_eq!(seen(&store, "held"), 0, "it was reset past this one");
    daemon.terminate();
}

#[test]
fn s3_2_of_two_operators_the_last_word_holds_and_each_is_told_what_was_there() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let mut daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let (sandbox, group, topic) = (&hostile.sandbox, &*hostile.group, &*hostile.input);
    store.until("SELECT count(*) FROM tm_offset", 3);
    let by = |user: &str, arguments: &[&str]| {
        let mut command = sandbox.command(&[&["groups"], arguments].concat());
        let output = command.env("USER", user).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = by("ann", &["pause", group]);
    assert!(code == Some(0) && said.contains("by ann@"), "{said}");
    let (code, said) = by("bob", &["pause", group, "--for", "1h"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("in the place of the pause of all of it, by ann@"), "{said}");
    assert!(said.contains("is paused: all of it, by bob@") && said.contains(", until "), "{said}");
    assert_eq!(store.line("SELECT count(*), min(who LIKE 'bob@%') FROM tm_pause"), "1|1");
    let (_, said) = by("ann", &["resume", group]);
    assert!(said.contains("goes on: all of it, by bob@"), "{said}");
    let (code, said) = by("bob", &["resume", group]);
    assert!(code == Some(0) && said.contains("was not paused there"), "{said}");

    // One whose time is over ends by itself.
    let (_, said) = by("ann", &["pause", group, "--topic", topic, "--for", "300ms"]);
    assert!(said.contains(&format!("is paused: {topic}, by ann@")), "{said}");
    produce(&hostile, "held");
    eventually(LONG, "it goes on by itself", || seen(&store, "held") == 3);
    store.until("SELECT count(*) FROM tm_pause", 0);
    daemon.says(&["INFO", "the time of a pause is over", topic]);

    for (arguments, why) in [
        (&["pause", group, "--topic", "another"][..], "has not read another"),
        (&["pause", group, "--topic", topic, "--partition", "3"], "has not read"),
        (&["pause", "nobody"], "reads as group nobody"),
        (&["pause", group, "--partition", "1"], "--topic"),
        (&["pause", group, "--for", "soon"], "soon"),
    ] {
        let (code, said) = by("ann", arguments);
        assert!(code.is_some_and(|code| code > 0) && said.contains(why), "{arguments:?}: {said}");
    }
    assert_eq!(store.count("SELECT count(*) FROM tm_pause"), 0);
    daemon.terminate();
}
