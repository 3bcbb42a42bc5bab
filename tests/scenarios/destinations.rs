//! S4.6: by which way events leave is the operator's choice: to Kafka, or to a service by HTTP, by the same rules.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Out, SOON, Sandbox, Service, Store, eventually, token};

use crate::rig::first_on;

const POST: &str = r#"{"title":"The first","content":"Hello."}"#;

/// What stands in `tidemill.toml` for a destination of the hostile handler.
fn by_http(service: &Service, more: &str) -> String {
    format!(
        "[[destination]]\ntopic = \"hostile-out\"\ntype = \"http\"\nurl = \"{}/in\"\nbackoff = {{ kind = \"fixed\", interval = \"30ms\" }}\n{more}\n",
        service.url()
    )
}

/// The hostile handler, whose events go to the service.
fn sandbox(service: &Service, more: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&by_http(service, more));
    sandbox
}

fn publish(daemon: &Daemon, command: &Value) {
    daemon.call("POST", "/hostile").body(&command.to_string()).send().expect_status(200);
}

/// Bodies that the service has taken, for each key in their order.
fn taken(service: &Service) -> BTreeMap<String, Vec<i64>> {
    let mut taken = BTreeMap::<String, Vec<i64>>::new();
    for asked in service.asked().iter().filter(|asked| asked.status == Some(200)) {
        let key = asked.header("event-key").unwrap_or_default().to_owned();
        taken.entry(key).or_default().push(serde_json::from_str::<Value>(&asked.body).unwrap()["id"].as_i64().unwrap());
    }
    taken
}

#[test]
fn s4_6_events_go_to_a_service_with_the_same_handler_and_leave_the_outbox() {
    let service = Service::start();
    let sandbox = Sandbox::with(&["posts"]);
    sandbox.write_toml(&format!(
        "[[destination]]\ntopic = \"post-activity-{{date:%Y%m%d}}\"\ntype = \"http\"\nurl = \"{}/api/activity?from=posts\"\nmethod = \"PUT\"\n\
         headers = {{ x-source = \"posts\" }}\nsecret-headers = {{ authorization = {{ env = \"TM_TEST_FEED_TOKEN\" }} }}\n",
        service.url()
    ));
    let daemon = Daemon::start_with(&sandbox, |command| {
        command.env("TM_TEST_FEED_TOKEN", "Bearer feed-token-of-the-test");
    });
    daemon.post("/api/posts", &token(&sandbox, "7"), POST).expect_status(201);
    let store = Store::open(&sandbox, "posts");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let [asked] = &service.asked()[..] else { panic!("one request: {:?}", service.asked()) };
    assert_eq!(asked.line, "PUT /api/activity?from=posts");
    let event: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!((&event["eventType"], &event["member"]["id"]), (&json!("POST_CREATED"), &json!("7")));
    let day: String = event["occurredAt"].as_str().unwrap().chars().take(10).filter(char::is_ascii_digit).collect();
    for (name, value) in [
        ("event-type", "POST_CREATED"),
        ("event-id", event["eventId"].as_str().unwrap()),
        ("idempotency-key", event["eventId"].as_str().unwrap()),
        ("event-key", "post-1"),
        ("event-topic", &format!("post-activity-{day}")),
        ("content-type", "application/json"),
        ("x-source", "posts"),
        ("authorization", "Bearer feed-token-of-the-test"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    assert_eq!(daemon.client().partitions(&format!("post-activity-{day}")), 0, "Kafka knows nothing of it");
    assert!(!daemon.log().contains("feed-token"), "{}", daemon.log());
}

#[test]
fn s4_6_the_receiver_may_be_a_route_of_another_daemon_and_a_kill_of_either_doubles_nothing() {
    let receiver = Sandbox::with(&["activity"]);
    let mut activity = Daemon::start(&receiver);
    let port = activity.url().rsplit(':').next().unwrap().to_owned();
    let sender = Sandbox::with(&["posts"]);
    sender.write_toml(&format!(
        "[kafka]\nbootstrap = \"127.0.0.1:1\"\n[[destination]]\ntopic = \"post-activity-{{date:%Y%m%d}}\"\ntype = \"http\"\nurl = \"http://127.0.0.1:{port}/api/activity\"\nbackoff = {{ interval = \"50ms\" }}\n"
    ));
    let mut posts = Daemon::start(&sender);
    let user = token(&sender, "7");
    let post = |daemon: &Daemon| daemon.post("/api/posts", &user, POST).expect_status(201);
    (0..20).for_each(|_| drop(post(&posts)));
    activity.kill9();
    (0..20).for_each(|_| drop(post(&posts)));
    posts.kill9();
    let posts = Daemon::start(&sender);
    let outbox = Store::open(&sender, "posts");
    assert!(outbox.count("SELECT count(*) FROM tm_outbox") >= 20);
    let activity = Daemon::start_with(&receiver, |command| {
        command.env("TIDEMILL_HTTP_LISTEN", format!("127.0.0.1:{port}"));
    });
    (0..20).for_each(|_| drop(post(&posts)));
    outbox.until("SELECT count(*) FROM tm_outbox", 0);
    let rows = Store::open(&receiver, "activity").lines("SELECT target_id FROM activities ORDER BY target_id");
    assert_eq!(rows, (1..=60).map(|id| id.to_string()).collect::<Vec<_>>());
    assert_eq!(outbox.count("SELECT count(*) FROM tm_fallback"), 0);
    drop(activity);
}

#[test]
fn s4_6_whatever_the_service_answers_each_event_arrives_and_those_of_a_key_in_their_order() {
    const EVENTS: i64 = 60;
    let service = Service::start();
    let sandbox = sandbox(&service, "timeout = \"2s\"\nconcurrency = 4");
    let daemon = Daemon::start(&sandbox);
    for n in 0..40 {
        match n % 5 {
            0 => service.answer("503 Busy", "not now"),
            1 => service.answer("", ""),
            2 => service.answer("200 OK", ""),
            3 => service.answer("500 Oh no", ""),
            _ => service.answer("302 Found\r\nlocation: http://127.0.0.1:1/", ""),
        }
    }
    let store = Store::open(&sandbox, "hostile");
    let all: Vec<Value> = (0..EVENTS)
        .map(|n| json!({ "do": "publish", "key": format!("k{}", n % 3), "value": { "id": n }, "row": false }))
        .collect();
    publish(&daemon, &json!(all));
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let taken = taken(&service);
    for (key, of_key) in (0..3).map(|key| (key, &taken[&format!("k{key}")])) {
        assert_eq!(*of_key, (0..EVENTS).filter(|n| n % 3 == key).collect::<Vec<_>>());
    }
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 0);
    daemon.says(&["WARN", "hostile-out", "a destination does not take events"]);
    daemon.says(&["INFO", "hostile-out", "the destination takes events again"]);
}

#[test]
fn s4_6_a_service_that_asks_for_time_gets_it_and_one_that_says_nothing_is_asked_again() {
    let service = Service::start();
    let sandbox = sandbox(&service, "timeout = \"300ms\"");
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    service.answer("429 Slow down\r\nretry-after: 2", "");
    publish(&daemon, &json!({ "do": "publish", "id": "first" }));
    store.until("SELECT count(*) FROM tm_outbox WHERE attempts = 1", 1);
    let began = Instant::now();
    publish(&daemon, &json!({ "do": "publish", "id": "second" }));
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert!(began.elapsed() > Duration::from_millis(1_500), "neither of them was sent before");
    assert_eq!(service.asked().len(), 3);

    service.close();
    publish(&daemon, &json!({ "do": "publish", "id": "third" }));
    store.until("SELECT count(*) FROM tm_outbox WHERE attempts > 0 AND last_error LIKE '%no answer within 300ms'", 1);
    service.open();
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let third: Vec<_> = service.asked().into_iter().skip(3).collect();
    assert!(
        third.len() > 1 && third.iter().all(|asked| asked.header("idempotency-key") == third[0].header("event-id"))
    );
}

#[test]
fn s4_6_what_is_wrong_with_an_event_goes_to_the_fallback_and_is_made_good_and_the_next_goes_on() {
    let service = Service::start();
    let sandbox = sandbox(&service, "");
    let daemon = Daemon::start(&sandbox);
    service.answer("400 Bad Request", "no such member");
    let event = |id: &str| Out::new(json!({ "do": "publish", "id": id }).to_string()).key("k").partition(0);
    daemon.client().produce_all("hostile-in", [event("bad"), event("good")]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM once", 1);
    let noted = store.line("SELECT id FROM once");
    assert!(
        noted.starts_with("lost k HOSTILE hostile-in/0@0: ") && noted.contains("answers 400: no such member"),
        "{noted}"
    );
    let kept = store.line("SELECT kind, topic, key, json_extract(value, '$.id'), cause FROM tm_fallback");
    assert_eq!(kept, format!("event|hostile-out|k|bad|{}/in answers 400: no such member", service.url()));
    eventually(SOON, "the next event of the key", || service.asked().len() == 2);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    daemon.says(&["ERROR", "hostile-out", "kept in tm_fallback"]);
}

#[test]
fn s4_6_an_event_that_fails_alone_holds_up_its_key_and_nobody_else() {
    let service = Service::start();
    let sandbox = sandbox(&service, "concurrency = 1");
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let event = |key: &str, id: i64| json!({ "do": "publish", "key": key, "value": { "id": id }, "row": false });
    // It fails, others pass, and it fails again: from then on it is to blame.
    for answer in ["500 Oh no", "200 OK", "200 OK", "500 Oh no"] {
        service.answer(answer, "");
    }
    let all = json!([event("bad", 0), event("a", 1), event("b", 2), event("bad", 3), event("a", 4)]);
    publish(&daemon, &all);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    daemon.says(&["WARN", "hostile-out", "takes other events, and not this one"]);
    assert_eq!(taken(&service)["bad"], [0, 3]);
    assert_eq!(taken(&service)["a"], [1, 4]);
}

#[test]
fn s4_6_a_service_that_is_down_slows_neither_kafka_nor_another_service() {
    let [down, up] = [Service::start(), Service::start()];
    down.close();
    let sandbox = Sandbox::with(&["hostile"]);
    let other = by_http(&up, "").replace("hostile-out", "up");
    sandbox.write_toml(&format!(
        "{}{other}[handler.hostile.publish]\nup = \"up\"\nkafka = \"to-kafka\"\n[outbox]\nsweep = \"1h\"\n",
        by_http(&down, "concurrency = 2")
    ));
    let daemon = Daemon::start(&sandbox);
    let to = |destination: &str, count: i64| json!({ "do": "publish", "destination": destination, "count": count, "row": false });
    publish(&daemon, &json!([to("out", 900), to("up", 20), to("kafka", 20)]));
    eventually(SOON, "all for the other service", || up.asked().len() == 20);
    let client = daemon.client();
    eventually(SOON, "all for Kafka", || client.consume_all("to-kafka").len() == 20);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_outbox", 900);
    assert_eq!(down.waiting(), (2, 2), "no more are under way than may be");
    down.open();
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert_eq!(client.partitions("hostile-out"), 0, "that topic is none of Kafka's");
}

#[test]
fn s4_6_while_kafka_is_away_events_for_a_service_go_out() {
    let service = Service::start();
    let sandbox =
        sandbox(&service, "[kafka]\nbootstrap = \"127.0.0.1:1\"\n[handler.hostile.publish]\nkafka = \"to-kafka\"");
    let daemon = Daemon::start(&sandbox);
    let kafka = json!({ "do": "publish", "destination": "kafka", "count": 900, "row": false });
    // More than the relay hands to Kafka at once.
    (0..7).for_each(|_| publish(&daemon, &kafka));
    publish(&daemon, &json!({ "do": "publish", "id": "a" }));
    eventually(SOON, "the event for the service", || service.asked().len() == 1);
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM tm_outbox", 6_300);
}

#[test]
fn s4_6_a_kill_between_loses_no_event_and_repeats_one_with_its_key() {
    let service = Service::start();
    let sandbox = sandbox(&service, "");
    let mut daemon = Daemon::start(&sandbox);
    service.close();
    publish(
        &daemon,
        &json!([{ "do": "publish", "key": "k", "value": { "id": 1 } }, { "do": "publish", "key": "k", "value": { "id": 2 } }]),
    );
    eventually(SOON, "the first is sent, and the second waits for it", || service.waiting().0 == 1);
    daemon.kill9();
    service.open();
    let _daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let asked = service.asked();
    assert_eq!(taken(&service)["k"], [1, 1, 2]);
    assert_eq!(asked[0].header("idempotency-key"), asked[1].header("idempotency-key"));
    assert_ne!(asked[0].header("idempotency-key"), asked[2].header("idempotency-key"));
}

#[test]
fn s4_6_a_delayed_event_goes_when_it_is_due_and_a_dead_letter_like_any_event() {
    let service = Service::start();
    let dead = by_http(&service, "").replace("hostile-out", "hostile-in.DLT").replace("/in\"", "/dead\"");
    let sandbox = sandbox(&service, &dead);
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    publish(&daemon, &json!({ "do": "publish", "id": "later", "after_ms": 1_500 }));
    publish(&daemon, &json!({ "do": "publish", "id": "now" }));
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let bodies: Vec<Value> = service.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
    assert_eq!(bodies.iter().map(|body| body["id"].as_str().unwrap()).collect::<Vec<_>>(), ["now", "later"]);
    let due = bodies[1]["due"].as_i64().unwrap();
    assert!(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 >= due);

    daemon.client().produce("hostile-in", &Out::new(json!({ "do": "reject", "id": "r" }).to_string()).key("k"));
    eventually(LONG, "the dead letter", || service.asked().iter().any(|asked| asked.line == "POST /dead"));
    let asked = service.asked().pop().unwrap();
    assert_eq!(asked.header("kafka_dlt-original-topic"), Some("hostile-in"));
    assert_eq!(asked.header("kafka_dlt-original-offset-bin"), Some("AAAAAAAAAAA="));
    assert_eq!((asked.header("event-type"), asked.header("event-key")), (None, Some("k")));
}

#[test]
fn s4_6_what_goes_past_the_outbox_does_not_go_by_http_and_says_so() {
    let service = Service::start();
    let sandbox = sandbox(&service, "");
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("hostile-in", &Out::new(json!({ "do": "publish", "id": "a", "send": "now" }).to_string()));
    let dead = first_on(&daemon.client(), "hostile-in.DLT");
    let why = dead.header_text("kafka_dlt-exception-message").unwrap();
    assert!(why.contains("`send` to hostile-out") && why.contains("enqueue it"), "{why}");
    daemon
        .client()
        .produce("hostile-in", &Out::new(json!({ "do": "publish", "id": "b", "send": "async" }).to_string()));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE id = 'b'", 1);
    eventually(SOON, "what became of it", || {
        store.lines("SELECT id FROM once").iter().any(|told| told.contains("enqueue it"))
    });
    assert_eq!(service.asked().len(), 0);
}

#[test]
fn s4_6_a_destination_that_is_wrong_is_refused_with_its_line() {
    let sandbox = Sandbox::with(&["hostile"]);
    let http = "[[destination]]\ntopic = \"t\"\ntype = \"http\"\n";
    for (settings, wrong) in [
        ("[[destination]]\ntopic = \"t\"\n".to_owned(), ":1: `destination.type` is missing"),
        (http.to_owned(), ":1: `destination.url`: is missing; say where events go"),
        (format!("{http}url = \"feed\"\n"), ":4: `destination.url`: \"feed\" is not a URL"),
        (format!("{http}url = \"http://u:p@feed/\"\n"), "has a user or a password in it"),
        (
            format!("{http}url = \"http://feed/\"\nheaders = {{ event-id = \"x\" }}\n"),
            "the header `event-id` is set by the host",
        ),
        (
            "[[destination]]\ntopic = \"t\"\ntype = \"kafka\"\nurl = \"http://feed/\"\n".to_owned(),
            "goes with `type = \"http\"` only",
        ),
        (format!("{http}url = \"http://feed/\"\n{http}url = \"http://feed/\"\n"), "\"t\" is listed above already"),
        (
            format!(
                "{http}url = \"http://feed/\"\nsecret-headers = {{ authorization = {{ env = \"TM_TEST_NOT_THERE\" }} }}\n"
            ),
            "destination t: the secret header `authorization` is in the variable TM_TEST_NOT_THERE, which the daemon does not have",
        ),
    ] {
        sandbox.write_toml(&settings);
        let (_, error) = Daemon::refused(&sandbox);
        assert!(error.contains(wrong), "{wrong} in {error}");
        assert!(!error.contains("u:p@"), "{error}");
    }
}
