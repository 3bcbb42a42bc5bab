//! S0.8: what was given up on is made good by the handler that began it.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, eventually};

use crate::rig::{Hostile, first_on, services};

fn sandbox(settings: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!(
        "[handler.hostile.retry]\nmax-attempts = 2\nbackoff = {{ kind = \"fixed\", interval = \"20ms\" }}\n{settings}"
    ));
    sandbox
}

/// A record that never succeeds, and is made good like this.
fn failing(undo: &Value) -> Out {
    Out::new(json!({ "do": "fail-n", "until": 99, "id": "failing", "undo": undo }).to_string()).key("k").partition(0)
}

fn insert(id: &str) -> Out {
    Out::new(json!({ "do": "insert", "id": id }).to_string()).key("k").partition(0)
}

fn seen(store: &Store) -> Vec<String> {
    store.lines("SELECT id || ' ' || attempt FROM seen ORDER BY seq")
}

#[test]
fn s0_8_what_cannot_be_consumed_is_made_good_before_later_records_of_its_key() {
    for order in ["partition", "key"] {
        let sandbox = sandbox(&format!("order = \"{order}\"\n"));
        let daemon = Daemon::start(&sandbox);
        let client = daemon.client();
        client.produce_all("hostile-in", [failing(&json!([{ "do": "publish", "id": "made-good" }])), insert("later")]);
        let store = Store::open(&sandbox, "hostile");
        store.until("SELECT count(*) FROM seen", 2);
        assert_eq!(seen(&store), ["made-good 1", "later 1"], "{order}");
        let event = first_on(&client, "hostile-out").json();
        assert_eq!(event["id"], "made-good");
        assert_eq!(first_on(&client, "hostile-in.DLT").key.as_deref(), Some(&b"k"[..]), "the dead letter is there too");
        assert_eq!(store.count("SELECT count(*) FROM tm_pending"), 0);
        daemon.says(&["made good, since retry: attempt 2 fails"]);
    }
}

#[test]
fn s0_8_a_compensation_has_attempts_of_its_own_that_a_kill_does_not_reset() {
    let sandbox = sandbox(
        "[handler.hostile.compensation]\nmax-attempts = 3\nbackoff = { kind = \"fixed\", interval = \"3s\" }\n",
    );
    let mut daemon = Daemon::start(&sandbox);
    daemon.client().produce_all(
        "hostile-in",
        [failing(&json!([{ "do": "fail-n", "until": 3, "id": "made-good" }])), insert("later")],
    );
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_pending WHERE purpose = 'compensate' AND attempts = 1", 1);
    daemon.kill9();
    let _daemon = Daemon::start(&sandbox);
    store.until("SELECT count(*) FROM seen", 2);
    assert_eq!(seen(&store), ["made-good 3", "later 1"]);
}

#[test]
fn s0_8_what_cannot_be_made_good_stays_for_a_person_and_lets_others_go_on() {
    let sandbox = sandbox("");
    let daemon = Daemon::start(&sandbox);
    let undo = json!([{ "do": "fail-n", "until": 99, "id": "made-good" }]);
    daemon.client().produce_all("hostile-in", [failing(&undo), insert("later")]);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 1);
    let row =
        store.line("SELECT kind, handler, source, topic, partition, key, json_extract(value, '$.id') FROM tm_fallback");
    assert_eq!(row, "compensation|hostile|hostile-in/0@0|hostile-in|0|k|failing");
    let cause = store.line("SELECT cause FROM tm_fallback");
    assert!(
        cause.contains("attempt 2 fails, 99 will not; it was given up on since: retry: attempt 2 fails"),
        "{cause}"
    );
    store.until("SELECT count(*) FROM seen WHERE id = 'later'", 1);
}

#[test]
fn s0_8_an_event_that_kafka_refuses_for_good_is_made_good_by_the_handler_that_enqueued_it() {
    let hostile = Hostile::new(Kafka::shared(), "");
    Kafka::shared().tool(
        "configs",
        &[
            "--alter",
            "--entity-type",
            "topics",
            "--entity-name",
            &hostile.output,
            "--add-config",
            "max.message.bytes=2000",
        ],
    );
    let _daemon = Daemon::start(&hostile.sandbox);
    let record = Out::new(json!({ "do": "publish", "id": "a", "bytes": 5000 }).to_string()).key("k").partition(1);
    hostile.client.produce(&hostile.input, &record);
    let store = Store::open(&hostile.sandbox, "hostile");
    eventually(LONG, "it was made good", || store.count("SELECT count(*) FROM once") == 1);
    let noted = store.line("SELECT id FROM once");
    assert!(noted.starts_with(&format!("lost k HOSTILE {}/1@0: ", hostile.input)), "{noted}");
    assert!(noted.contains("MessageSizeTooLarge"), "{noted}");
    assert_eq!(store.line("SELECT kind, length(value) FROM tm_fallback"), "event|5000", "the event is kept as well");
    store.until("SELECT count(*) FROM tm_pending", 0);
}

/// Tells another service what to do.
fn tell(service: &str, id: &str, what: &Value) -> Value {
    json!({ "do": "publish", "destination": service, "id": id, "value": what })
}

/// Another state of what a row stands for.
fn becomes(state: &str, was: &str) -> Value {
    let update = format!("UPDATE seen SET id = '{state}' WHERE id = '{was}'");
    json!({ "do": "sql", "row": false, "statements": [update] })
}

/// Order and payment as a choreography: each reacts to the other's events, and the failed payment takes the order back.
#[test]
fn s0_8_a_choreography_takes_back_what_was_begun_elsewhere() {
    let sandbox = services(&[("order", "orders", &["payments"]), ("payment", "payments", &["orders"])]);
    let daemon = Daemon::start(&sandbox);
    // The order is placed and asks for a payment; that fails; its compensation tells the order, which is cancelled.
    let cancel = becomes("order cancelled", "order placed");
    let pay = json!({ "do": "fail-n", "until": 99, "id": "paid", "undo": [tell("orders", "payment failed", &cancel)] });
    daemon.client().produce("orders", &Out::new(tell("payments", "order placed", &pay).to_string()).key("7"));
    let orders = Store::open(&sandbox, "order");
    orders.until("SELECT count(*) FROM seen WHERE id = 'order cancelled'", 1);
    assert_eq!(orders.count("SELECT count(*) FROM seen"), 1);
    assert_eq!(Store::open(&sandbox, "payment").lines("SELECT id FROM seen"), ["payment failed"]);
    eventually(SOON, "the payment's record is a dead letter", || {
        daemon.client().consume_all("payments.DLT").len() == 1
    });
}

/// Stock, payment and delivery as an orchestration: only the saga knows the steps. It tells each service what to do, is told how
/// that ended, and takes back what was done, the last step first.
#[test]
fn s0_8_an_orchestration_takes_its_steps_back_in_reverse_order() {
    let sandbox = services(&[
        ("saga", "replies", &["stock", "payments", "deliveries"]),
        ("inventory", "stock", &["replies"]),
        ("payment", "payments", &["replies"]),
        ("delivery", "deliveries", &["replies"]),
    ]);
    let daemon = Daemon::start(&sandbox);
    // From the end to the beginning, since each command carries what follows it.
    let taken_back = becomes("saga: cancelled", "saga: took payment back");
    let released =
        json!([becomes("stock released", "stock reserved"), tell("replies", "told to release", &taken_back)]);
    let refunded = json!([
        becomes("payment refunded", "payment taken"),
        tell(
            "replies",
            "told to refund",
            &json!([becomes("saga: took payment back", "saga: delivery"), tell("stock", "-", &released)])
        ),
    ]);
    let failed = tell("payments", "saga: told of failure", &refunded);
    let deliver = json!({ "do": "fail-n", "until": 99, "id": "delivered", "undo": [tell("replies", "delivery failed", &failed)] });
    let pay = tell("replies", "payment taken", &tell("deliveries", "saga: delivery", &deliver));
    let reserve = tell("replies", "stock reserved", &tell("payments", "saga: payment", &pay));
    daemon.client().produce("replies", &Out::new(tell("stock", "saga: stock", &reserve).to_string()).key("7"));
    let state = |service: &str| Store::open(&sandbox, service).lines("SELECT id FROM seen ORDER BY seq");
    Store::open(&sandbox, "saga").until("SELECT count(*) FROM seen WHERE id = 'saga: cancelled'", 1);
    assert_eq!(state("saga"), ["saga: stock", "saga: payment", "saga: cancelled", "saga: told of failure"]);
    assert_eq!(state("inventory"), ["stock released"]);
    assert_eq!(state("payment"), ["payment refunded"]);
    assert_eq!(state("delivery"), ["delivery failed"]);
    assert_eq!(daemon.client().consume_all("deliveries.DLT").len(), 1);
}
