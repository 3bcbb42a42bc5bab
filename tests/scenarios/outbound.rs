//! Calls to services outside: the lane waits, the store does not.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Out, SOON, Sandbox, Service, Store, eventually};

fn sandbox(service: &Service, settings: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("{settings}\n[handler.hostile.grant]\nhttp = [\"{}\"]\n", service.url()));
    sandbox
}

/// A command to call the service, before anything is written.
fn calling(service: &Service, id: &str) -> Value {
    json!({ "do": "call", "url": format!("{}/pay", service.url()), "body": id, "id": id, "row": false })
}

fn insert(id: &str) -> Value {
    json!({ "do": "insert", "id": id })
}

fn record(command: &Value, key: &str) -> Out {
    Out::new(command.to_string()).key(key)
}

/// How long the slow service holds its answers back is up to the test: until all others have passed.
#[test]
fn s0_10_a_hundred_deliveries_wait_for_a_service_while_thousands_pass_them() {
    const OTHERS: i64 = 5_000;
    let service = Service::start();
    service.close();
    let sandbox = sandbox(&service, "[handler.hostile]\nretry = { order = \"key\" }\nconsumer = { concurrency = 200 }");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce_all(
        "hostile-in",
        (0..100).map(|n| record(&calling(&service, &format!("slow{n:02}")), &format!("slow{n}"))),
    );
    let store = Store::open(&sandbox, "hostile");
    eventually(LONG, "a hundred wait", || service.waiting().0 == 100);
    // Those behind a slow one of their key wait with it, and all others pass.
    client.produce_all("hostile-in", (0..100).map(|n| record(&insert(&format!("behind{n:02}")), &format!("slow{n}"))));
    client.produce_all("hostile-in", (0..OTHERS).map(|n| record(&insert(&format!("r{n}")), &format!("k{}", n % 997))));
    store.until("SELECT count(*) FROM seen", OTHERS);
    assert_eq!(store.count("SELECT count(*) FROM seen WHERE id LIKE 'behind%'"), 0);
    assert_eq!(service.waiting(), (100, 100));
    assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 200);
    service.open();
    store.until("SELECT count(*) FROM seen", OTHERS + 100);
    assert_eq!(store.lines("SELECT id FROM once ORDER BY id LIMIT 2"), ["slow00: 200 slow00", "slow01: 200 slow01"]);
    assert_eq!((store.count("SELECT count(*) FROM once"), service.asked().len()), (100, 100));
    store.until("SELECT count(*) FROM tm_pending", 0);
}

#[test]
fn s0_10_no_more_deliveries_are_under_way_than_the_handler_allows() {
    let service = Service::start();
    service.close();
    let sandbox = sandbox(&service, "[handler.hostile]\nretry = { order = \"none\" }\nconsumer = { concurrency = 3 }");
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce_all("hostile-in", (0..20).map(|n| record(&calling(&service, &format!("c{n}")), "k")));
    eventually(LONG, "three wait", || service.waiting().0 == 3);
    // A request is a delivery too.
    let asking = daemon.call("POST", "/hostile").body(&insert("request").to_string());
    let answered = std::thread::spawn(move || asking.send());
    service.open();
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM once", 20);
    answered.join().unwrap().expect_status(200);
    assert_eq!(service.waiting().1, 3);
}

#[test]
fn s1_6_a_delivery_that_was_set_aside_survives_a_kill_and_asks_again_by_the_same_key() {
    for order in ["partition", "key"] {
        let service = Service::start();
        service.close();
        let sandbox = sandbox(&service, &format!("[handler.hostile]\nretry = {{ order = \"{order}\" }}"));
        let mut daemon = Daemon::start(&sandbox);
        let records = [record(&calling(&service, "a"), "k").partition(0), record(&insert("behind"), "k").partition(0)];
        daemon.client().produce_all("hostile-in", records);
        eventually(LONG, "it waits", || service.waiting().0 == 1);
        daemon.kill9();
        let _daemon = Daemon::start(&sandbox);
        eventually(LONG, "it asks again", || service.asked().len() == 2);
        let store = Store::open(&sandbox, "hostile");
        assert_eq!(store.count("SELECT (SELECT count(*) FROM seen) + (SELECT count(*) FROM once)"), 0);
        service.open();
        store.until("SELECT count(*) FROM seen WHERE id = 'behind'", 1);
        assert_eq!(store.lines("SELECT id FROM once"), ["a: 200 a"]);
        let keys: Vec<_> =
            service.asked().iter().map(|asked| asked.header("idempotency-key").unwrap().to_owned()).collect();
        assert_eq!(keys[0], keys[1]);
        assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
    }
}

#[test]
fn what_a_service_does_wrong_is_an_answer_or_an_error_and_never_a_redirect() {
    let service = Service::start();
    let outbound = "[handler.hostile.outbound]\nmax-attempts = 3\nbody-limit = 100\nbackoff = { kind = \"fixed\", interval = \"10ms\" }\n";
    let sandbox = sandbox(&service, &format!("{outbound}[handler.hostile.retry]\norder = \"none\"\n"));
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let store = Store::open(&sandbox, "hostile");
    let say = |id: &str, answers: &[(&str, &str)]| {
        answers.iter().for_each(|(head, body)| service.answer(head, body));
        client.produce("hostile-in", &record(&calling(&service, id), "k"));
        store.until(&format!("SELECT count(*) FROM once WHERE id LIKE '{id}:%'"), 1);
        store.line(&format!("SELECT id FROM once WHERE id LIKE '{id}:%'"))
    };
    // A status that may pass is asked for again; all tries carry the same key.
    assert_eq!(say("busy", &[("503 Busy", ""), ("429 Slow down", ""), ("201 Made", "done")]), "busy: 201 done");
    let asked = service.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|each| each.header("idempotency-key") == asked[0].header("idempotency-key")));
    assert_eq!(say("gone", &[("404 Not Found", "no")]), "gone: 404 no");
    assert_eq!(say("moved", &[("302 Found\r\nlocation: http://127.0.0.1:1/", "")]), "moved: 302 ");

    let rejected = |command: &Value, kind: &str| {
        let before = client.consume_all("hostile-in.DLT").len();
        client.produce("hostile-in", &record(command, "k"));
        eventually(SOON, &format!("a dead letter for {kind}"), || client.consume_all("hostile-in.DLT").len() > before);
        let dead = client.consume_all("hostile-in.DLT");
        let found = dead.iter().any(|dead| dead.header_text("kafka_dlt-exception-message").unwrap().starts_with(kind));
        assert!(found, "{kind}: {:?}", dead.last().map(|dead| dead.header_text("kafka_dlt-exception-message")));
    };
    service.answer("200 OK", &"x".repeat(101));
    rejected(&calling(&service, "large"), "Limit: POST");
    rejected(
        &json!({ "do": "call", "url": "http://127.0.0.1:1/", "row": false }),
        "Denied: http://127.0.0.1:1 is not granted",
    );
    rejected(&json!({ "do": "call", "url": service.url() }), "Late: the delivery has written or sent already");
    rejected(&json!([{ "do": "publish", "row": false }, { "do": "call", "url": service.url() }]), "Late:");
    service.close();
    rejected(&json!({ "do": "call", "url": service.url(), "timeout_ms": 50, "row": false }), "Timeout: POST");
    assert_eq!(service.asked().len(), 3 + 1 + 1 + 1 + 3);
    service.open();
}

#[test]
fn a_request_waits_for_a_service_and_holds_up_nobody() {
    let service = Service::start();
    service.close();
    let sandbox = sandbox(&service, "");
    let daemon = Daemon::start(&sandbox);
    let call = daemon.call("POST", "/hostile").body(&calling(&service, "r").to_string());
    let waiting = std::thread::spawn(move || call.send());
    eventually(SOON, "it waits", || service.waiting().0 == 1);
    daemon.call("POST", "/hostile").body(&insert("other").to_string()).send().expect_status(200);
    service.open();
    waiting.join().unwrap().expect_status(200);
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(store.lines("SELECT id FROM once"), ["r: 200 r"]);
    // A request that only reads has no attempt to set aside.
    let reading = format!("/hostile?command={{\"do\":\"call\",\"url\":\"{}\",\"row\":false}}", service.url());
    let answer = daemon.call("GET", &reading.replace('"', "%22").replace('{', "%7B").replace('}', "%7D")).send();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(service.asked().len(), 1);
}
