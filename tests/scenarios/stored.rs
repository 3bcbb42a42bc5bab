//! H3: what lies in the stores from the command line: found, looked at, put back, tried now and taken out, while the daemon runs.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Sandbox, Service, Store, eventually};

use crate::fallback::deploy_consumer_of_dead_letters;
use crate::rig::{Hostile, attempts, first_on, told};

/// A wait that nobody would sit through.
const HOUR: &str = "retry = { max-attempts = 9, backoff = { kind = \"fixed\", interval = \"1h\" }";

/// `tidemill` with these words: what it printed, and whether all went well; what it complained of is at the end.
fn run(sandbox: &Sandbox, words: &str) -> (bool, String) {
    let output = sandbox.tidemill(&words.split(' ').collect::<Vec<_>>());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{words}: {}: {text}", output.status);
    (output.status.success(), text)
}

fn done(sandbox: &Sandbox, words: &str) -> String {
    let (well, text) = run(sandbox, words);
    assert!(well, "{words}: {text}");
    text
}

fn refused(sandbox: &Sandbox, words: &str, why: &str) {
    let (well, text) = run(sandbox, words);
    assert!(!well && text.contains(why), "{words}: {text}");
}

fn json_of(sandbox: &Sandbox, words: &str) -> Value {
    let output = sandbox.tidemill(&format!("{words} --json").split(' ').collect::<Vec<_>>());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words}: {error}: {output:?}"))
}

/// The rows that a list has.
fn list(sandbox: &Sandbox, words: &str) -> Vec<Value> {
    json_of(sandbox, words)["items"].as_array().unwrap().clone()
}

fn row(entry: &Value) -> &str {
    entry["row"].as_str().unwrap()
}

/// What the audit log has of an action.
fn noted(sandbox: &Sandbox, action: &str) -> Vec<String> {
    let lines = sandbox.audit().into_iter().filter(|line| line["action"] == action);
    lines.map(|line| line["detail"].as_str().unwrap().to_owned()).collect()
}

/// How many rows of the only store's table operators have dealt with so.
fn tended(sandbox: &Sandbox, table: &str, verb: &str) -> f64 {
    let page = sandbox.scrape();
    assert!(!page.labels("tidemill_tended_rows_total").is_empty(), "{}", page.text);
    page.sum("tidemill_tended_rows_total", &[("table", table), ("verb", verb)])
}

fn failing(id: &str) -> Out {
    Out::new(json!({ "do": "fail-n", "until": 99, "version": "1", "id": id }).to_string())
}

fn failing_twice(id: &str) -> Out {
    Out::new(json!({ "do": "fail-n", "until": 3, "id": id }).to_string())
}

fn ids(client: &tidemill_tests::Client, topic: &str) -> Vec<String> {
    client.consume_all(topic).iter().map(|event| event.json()["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn h3_what_is_in_the_fallback_goes_back_to_its_handler_whole_and_never_to_a_dlt_of_a_dlt() {
    let sandbox = Sandbox::with(&["hostile"]);
    deploy_consumer_of_dead_letters(&sandbox);
    sandbox.write_toml(
        "[handler.morgue]\nretry = { max-attempts = 1 }\n[handler.hostile]\nretry = { max-attempts = 1 }\n",
    );
    let mut daemon = Daemon::start(&sandbox);
    for id in ["a", "b"] {
        daemon.client().produce("hostile-in", &failing(id).key(id).partition(0).header("trace", id));
    }
    let morgue = Store::open(&sandbox, "morgue");
    morgue.until("SELECT count(*) FROM tm_fallback", 2);
    let all = list(&sandbox, "fallback list");
    let known = |entry: &Value| ["handler", "kind", "source"].map(|field| entry[field].as_str().unwrap().to_owned());
    assert_eq!(known(&all[0]), ["morgue", "dead-letter", "hostile-in.DLT/0@0"]);
    for (words, count) in [
        ("--handler morgue", 2),
        ("--handler hostile", 0),
        ("--key a", 1),
        ("--error WILL", 2),
        ("--error nothing", 0),
        ("--topic hostile-in.DLT.DLT", 2),
        ("--topic hostile-in", 0),
        ("--limit 1", 1),
    ] {
        assert_eq!(list(&sandbox, &format!("fallback list {words}")).len(), count, "{words}");
    }
    let next = json_of(&sandbox, "fallback list --limit 1")["next"].as_str().unwrap().to_owned();
    assert_eq!(list(&sandbox, &format!("fallback list --cursor {next}")), all[1..]);
    let shown = done(&sandbox, &format!("fallback show {}", row(&all[0])));
    assert!(shown.contains("header    trace: a") && shown.contains("\"id\": \"a\""), "{shown}");

    // What cannot be: each says why, and nothing has changed.
    let first = row(&all[0]).to_owned();
    refused(&sandbox, &format!("fallback replay --to-topic {first}"), "never goes to another one");
    refused(&sandbox, "fallback replay morgue/99-00000000", "there is no such row");
    refused(&sandbox, &format!("fallback discard {}", first.replace('-', "-f")), "there is no such row");
    refused(&sandbox, "fallback replay", "--all-matching");
    refused(&sandbox, "fallback show morgue/99-00000000", "there is no such row");
    assert!(done(&sandbox, "fallback replay --all-matching --dry-run").contains("would be put back"));
    assert_eq!(list(&sandbox, "fallback list"), all);
    assert_eq!(noted(&sandbox, "replay-fallback").len(), 2);

    // It fails again, as a dead letter that it still is.
    done(&sandbox, &format!("fallback replay {first}"));
    morgue.until("SELECT count(*) FROM tm_fallback WHERE key = 'a' AND headers LIKE '%put back by%'", 1);
    assert_eq!(daemon.client().partitions("hostile-in.DLT.DLT"), 0);
    daemon.terminate();
    sandbox.write_toml("[handler.morgue]\nretry = { max-attempts = 1 }\n[handler.morgue.settings]\nversion = \"2\"\n");
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("hostile-in.DLT", &told("after", "insert").partition(0));
    morgue.until("SELECT count(*) FROM seen", 1);
    // The embedded broker has forgotten its records, and the row has its own.
    let back = done(&sandbox, "fallback discard --all-matching --key a");
    assert!(back.contains("discarded"), "{back}");
    assert_eq!(morgue.lines("SELECT key FROM tm_fallback"), ["b"]);
    assert!(noted(&sandbox, "discard-fallback").last().unwrap().contains("(morgue, hostile-in.DLT/0@0)"));
    assert_eq!(tended(&sandbox, "fallback", "discard"), 1.0);
    assert_eq!(tended(&sandbox, "fallback", "replay"), 0.0, "since the start of the daemon");
}

#[test]
fn h3_a_dead_letter_that_its_topic_refused_is_done_by_its_mended_handler_or_published_once_it_is_taken() {
    let hostile = Hostile::new(Kafka::shared(), "retry = { max-attempts = 1 }\n");
    let (sandbox, client, dlt) = (&hostile.sandbox, &hostile.client, format!("{}.DLT", hostile.input));
    client.create_topic_with(&dlt, 3, &[("max.message.bytes", "3000")]);
    let mut daemon = Daemon::start(sandbox);
    let large = |id: &str| {
        let record = json!({ "do": "fail-n", "until": 99, "version": "1", "id": id, "pad": "x".repeat(10_000) });
        Out::new(record.to_string()).key(id).partition(1)
    };
    client.produce_all(&hostile.input, [large("a"), large("b")]);
    let store = Store::open(sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 2);
    let size = format!("--alter --entity-type topics --entity-name {dlt} --add-config max.message.bytes=100000");
    Kafka::shared().tool("configs", &size.split(' ').collect::<Vec<_>>());
    eventually(LONG, "the topic takes it", || {
        let (well, _) = run(sandbox, "fallback replay --all-matching --key a --to-topic");
        store.until("SELECT count(*) FROM tm_outbox", 0);
        assert!(well || store.count("SELECT count(*) FROM tm_fallback WHERE key = 'a'") == 0);
        client.consume_all(&dlt).len() == 1
    });
    assert_eq!(attempts(&first_on(client, &dlt)).len(), 1);
    daemon.terminate();
    let text = std::fs::read_to_string(sandbox.toml()).unwrap();
    sandbox.write_toml(&format!("{text}[handler.hostile.settings]\nversion = \"2\"\n"));
    let _daemon = Daemon::start(sandbox);
    let words = format!("fallback replay {}", row(&list(sandbox, "fallback list --key b")[0]));
    // Of two who do it at once one does.
    let both = std::thread::scope(|scope| {
        [scope.spawn(|| run(sandbox, &words)), scope.spawn(|| run(sandbox, &words))].map(|one| one.join().unwrap())
    });
    assert_eq!(both.iter().filter(|(well, _)| *well).count(), 1, "{both:?}");
    store.until("SELECT count(*) FROM seen", 1);
    store.until("SELECT count(*) FROM tm_pending", 0);
    assert_eq!(store.lines("SELECT id FROM seen"), ["b"]);
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
}

#[test]
fn h3_an_event_that_waits_is_taken_out_and_the_others_go_in_order_when_they_are_tried() {
    let hostile = Hostile::new(Kafka::shared(), "");
    let (sandbox, topic) = (&hostile.sandbox, hostile.sandbox.unique("later"));
    let settings = std::fs::read_to_string(sandbox.toml()).unwrap();
    sandbox.write_toml(&settings.replace(&hostile.output, &topic));
    let daemon = Daemon::start(sandbox);
    let record = |n| Out::new(json!({ "do": "publish", "id": format!("r{n}") }).to_string()).key("k").partition(0);
    hostile.client.produce_all(&hostile.input, (0..5).map(record));
    let store = Store::open(sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_outbox WHERE attempts > 0", 5);
    let all = list(sandbox, &format!("outbox list --topic {topic} --error unknown --handler hostile"));
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(list(sandbox, "outbox list --error elsewhere").is_empty());
    let second = row(&all[1]).to_owned();
    assert!(done(sandbox, &format!("outbox discard --dry-run {second}")).contains("would be discarded"));
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 5);
    done(sandbox, &format!("outbox discard {second}"));
    refused(sandbox, &format!("outbox discard {second}"), "there is no such row");
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 4);
    let kept = &list(sandbox, "fallback list")[0];
    assert_eq!((&kept["event-id"], &kept["kind"]), (&all[1]["event-id"], &json!("event")));
    assert!(kept["error"].as_str().unwrap().starts_with("discarded by "), "{kept}");

    hostile.client.create_topic(&topic, 1);
    eventually(LONG, "the others are out", || {
        done(sandbox, "outbox retry --all-matching");
        store.count("SELECT count(*) FROM tm_outbox") == 0
    });
    done(sandbox, "fallback replay --all-matching");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    eventually(SOON, "all are there", || ids(&hostile.client, &topic).len() == 5);
    assert_eq!(ids(&hostile.client, &topic), ["r0", "r2", "r3", "r4", "r1"]);
    let late = hostile.client.consume_all(&topic).pop().unwrap();
    assert_eq!(late.header_text("event-id"), all[1]["event-id"].as_str().map(str::to_owned), "under its own id");
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    assert!(noted(sandbox, "discard-outbox")[0].contains(&second), "{:?}", sandbox.audit());
    drop(daemon);
}

#[test]
fn h3_an_event_that_is_on_its_way_is_not_taken_out() {
    // Kafka has it and has not answered.
    let kafka = Kafka::start(1);
    let hostile = Hostile::new(&kafka, "");
    let daemon = Daemon::start(&hostile.sandbox);
    let store = Store::open(&hostile.sandbox, "hostile");
    let publish = |daemon: &Daemon, id: &str| {
        let event = json!({ "do": "publish", "id": id }).to_string();
        daemon.call("POST", "/hostile").body(&event).send().expect_status(200);
    };
    publish(&daemon, "before");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    kafka.pause();
    publish(&daemon, "e");
    eventually(SOON, "it is handed over", || {
        run(&hostile.sandbox, "outbox discard --all-matching --dry-run").1.contains("it is on its way")
    });
    refused(&hostile.sandbox, "outbox discard --all-matching", "it is on its way");
    kafka.unpause();
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert_eq!(ids(&hostile.client, &hostile.output).len(), 2);
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    drop(daemon);

    // So has a service; the one behind it, of its key, waits, and goes nowhere once it is taken out.
    let service = Service::start();
    service.close();
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!(
        "[[destination]]\ntopic = \"hostile-out\"\ntype = \"http\"\nurl = \"{}/in\"\n",
        service.url()
    ));
    let daemon = Daemon::start(&sandbox);
    let publish = |id: &str| {
        let event = json!({ "do": "publish", "id": id, "key": "k" }).to_string();
        daemon.call("POST", "/hostile").body(&event).send().expect_status(200);
    };
    publish("first");
    eventually(SOON, "it is asked", || service.waiting().0 == 1);
    publish("second");
    let rows = list(&sandbox, "outbox list");
    refused(&sandbox, &format!("outbox discard {} {}", row(&rows[0]), row(&rows[1])), "1 of 2 rows");
    service.open();
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    publish("third");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let bodies: Vec<String> = service.asked().iter().map(|asked| asked.body.clone()).collect();
    assert!(bodies.len() == 2 && bodies[0].contains("first") && bodies[1].contains("third"), "{bodies:?}");
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 1);
}

#[test]
fn h3_a_record_that_waits_is_tried_now_or_given_up_and_what_waits_for_it_goes_on() {
    for order in ["partition", "key"] {
        let service = Service::start();
        service.close();
        let sandbox = Sandbox::with(&["hostile"]);
        let grant = format!("[handler.hostile.grant]\nhttp = [\"{}\"]\n", service.url());
        sandbox.write_toml(&format!("[handler.hostile]\n{HOUR}, order = \"{order}\" }}\n{grant}"));
        let daemon = Daemon::start(&sandbox);
        let (client, store) = (daemon.client(), Store::open(&sandbox, "hostile"));
        let of_key = |record: Out| record.key("k").partition(0);
        client.produce_all("hostile-in", [of_key(failing_twice("a")), of_key(told("behind", "insert"))]);
        store.until("SELECT count(*) FROM tm_pending WHERE attempts = 1", 1);
        let first = list(&sandbox, "pending list --key k --topic hostile-in --error will")[0].clone();
        assert_eq!((&first["source"], &first["attempts"]), (&json!("hostile-in/0@0"), &json!(1)), "{first}");
        let retry = format!("pending retry {}", row(&first));
        done(&sandbox, &retry);
        store.until("SELECT attempts FROM tm_pending WHERE due IS NOT NULL", 2);
        done(&sandbox, &retry);
        store.until("SELECT count(*) FROM seen", 2);
        assert_eq!(store.lines("SELECT id FROM seen ORDER BY seq"), ["a", "behind"], "{order}");
        refused(&sandbox, &retry, "there is no such row");

        // Given up.
        client.produce_all("hostile-in", [of_key(failing("b")), of_key(told("behind b", "insert"))]);
        store.until("SELECT count(*) FROM tm_pending WHERE attempts = 1", 1);
        let given = list(&sandbox, "pending list --error fails")[0].clone();
        let shown = done(&sandbox, &format!("pending show {}", row(&given)));
        assert!(shown.contains(" retry: attempt 1 fails") && shown.contains("\"id\": \"b\""), "{shown}");
        assert!(
            done(&sandbox, "pending discard --all-matching --dry-run")
                .contains("would be discarded; it is a dead letter")
        );
        assert_eq!(store.count("SELECT count(*) FROM tm_pending WHERE attempts = 1"), 1);
        done(&sandbox, &format!("pending discard {}", row(&given)));
        store.until("SELECT count(*) FROM seen", 3);
        store.until("SELECT count(*) FROM tm_pending", 0);
        let dead = first_on(&client, "hostile-in.DLT");
        assert!(dead.header_text("kafka_dlt-exception-message").unwrap().starts_with("discarded by "));
        let tried = attempts(&dead);
        assert_eq!(
            tried.iter().map(|one| one["outcome"].as_str().unwrap()).collect::<Vec<_>>(),
            ["retry", "discarded"]
        );
        assert!(noted(&sandbox, "discard-pending")[0].contains("(hostile, hostile-in/0@2)"));
        let left = ["done", "dead-letter", "fallback"]
            .map(|outcome| sandbox.scrape().sum("tidemill_records_total", &[("outcome", outcome)]));
        assert_eq!(left, [3.0, 1.0, 0.0], "each of four records is counted once");
        assert_eq!(["retry", "discard"].map(|verb| tended(&sandbox, "pending", verb)), [2.0, 1.0]);

        // Under way.
        let call =
            json!({ "do": "call", "url": format!("{}/pay", service.url()), "body": "c", "id": "c", "row": false });
        client.produce_all("hostile-in", [of_key(Out::new(call.to_string())), of_key(told("behind c", "insert"))]);
        eventually(SOON, "the call is made", || service.waiting().0 == 1);
        for verb in ["retry", "discard"] {
            let nothing = done(&sandbox, &format!("pending {verb} --all-matching --error nothing"));
            assert!(nothing.contains("there are no such rows"), "{nothing}");
            let words = format!("pending {verb} {}", row(&list(&sandbox, "pending list")[0]));
            refused(&sandbox, &words, "a call to a service outside is under way");
        }
        if order == "key" {
            store.until("SELECT count(*) FROM tm_pending", 2);
            let behind = row(&list(&sandbox, "pending list")[1]).to_owned();
            refused(&sandbox, &format!("pending retry {behind}"), "it stands behind another record of its key");
            done(&sandbox, &format!("pending discard {behind}"));
        }
        service.open();
        store.until("SELECT count(*) FROM once", 1);
        store.until("SELECT count(*) FROM tm_pending", 0);
        assert_eq!(service.asked().len(), 1, "{order}: it ran once beside what was refused");
        assert_eq!(store.count("SELECT count(*) FROM seen WHERE id = 'behind c'"), i64::from(order == "partition"));
    }
}

#[test]
fn h3_records_that_two_operators_give_up_with_a_kill_in_the_middle_are_one_dead_letter_each() {
    const COUNT: usize = 200;
    let hostile = Hostile::new(Kafka::shared(), &format!("{HOUR}, order = \"none\" }}\n"));
    let sandbox = &hostile.sandbox;
    let mut daemon = Daemon::start(sandbox);
    let store = Store::open(sandbox, "hostile");
    let record = |n: usize| failing(&format!("r{n}")).partition((n % 3) as i32);
    hostile.client.produce_all(&hostile.input, (0..COUNT).map(record));
    store.until("SELECT count(*) FROM tm_pending WHERE attempts = 1", COUNT as i64);
    let discard = "pending discard --all-matching --rate 20";
    let both = std::thread::scope(|scope| {
        let operators = [scope.spawn(|| run(sandbox, discard)), scope.spawn(|| run(sandbox, discard))];
        // More than a chunk, so that one of them has had an answer.
        eventually(LONG, "some are given up", || store.count("SELECT count(*) FROM tm_pending") < COUNT as i64 - 20);
        daemon.kill9();
        operators.map(|one| one.join().unwrap())
    });
    assert!(both.iter().all(|(well, _)| !well), "{both:?}");
    assert!(both.iter().any(|(_, said)| said.contains("call it again for the rest")), "{both:?}");
    let left = store.count("SELECT count(*) FROM tm_pending");
    assert!((1..COUNT as i64).contains(&left), "{left}");
    let _daemon = Daemon::start(sandbox);
    eventually(LONG, "the partitions are read again", || run(sandbox, "pending discard --all-matching").0);
    store.until("SELECT count(*) FROM tm_pending", 0);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let letters = hostile.client.consume_all(&format!("{}.DLT", hostile.input));
    let mut ids: Vec<String> = letters.iter().map(|letter| letter.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), COUNT);
}
