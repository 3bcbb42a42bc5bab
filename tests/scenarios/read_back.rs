//! S1.4: with `outbox.clear = "read-back"` an event leaves the outbox only once its publisher's own group has read it
//! back from Kafka.

use serde_json::json;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Sandbox, Store, eventually};

use crate::rig::{Hostile, told};

const READ_BACK: &str = "[outbox]\nclear = \"read-back\"\n";
const EVENTS: &str = "SELECT count(*) FROM tm_outbox WHERE kind = 'event'";

fn post(daemon: &Daemon, id: &str) {
    let body = json!({ "do": "publish", "id": id }).to_string();
    daemon.call("POST", "/hostile").body(&body).send().expect_status(200);
}

/// How often each of these is on the topic.
fn times(client: &Client, topic: &str, ids: &[&str]) -> Vec<usize> {
    let all: Vec<_> = client.consume_all(topic).iter().map(|event| event.json()["id"].clone()).collect();
    ids.iter().map(|id| all.iter().filter(|found| *found == id).count()).collect()
}

#[test]
fn s1_4_what_was_read_back_is_cleared() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(READ_BACK);
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    // Events with and without key, delayed ones, and dead letters, which have no event id in their headers.
    let publish = |n: usize| {
        let after = n.is_multiple_of(10).then_some(300);
        Out::new(json!({ "do": "publish", "id": format!("r{n}"), "after_ms": after }).to_string())
    };
    client.produce_all("hostile-in", (0..500).map(publish).chain([told("dead", "reject"), told("gone", "panic")]));
    (0..50).for_each(|n| post(&daemon, &format!("p{n}")));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 550);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    eventually(LONG, "both dead letters", || client.consume_all("hostile-in.DLT").len() == 2);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert_eq!(client.consume_all("hostile-out").len(), 550, "each once");
    assert_eq!(daemon.find(&["WARN", "read back"]), None);
    daemon.terminate();
}

/// The group's reads are throttled by a quota of the broker's, so that acknowledgements come and records do not.
#[test]
fn s1_4_what_was_acknowledged_and_not_read_back_is_published_again() {
    let kafka = Kafka::start(1);
    let hostile = Hostile::new(&kafka, READ_BACK);
    let quota = |change: &[&str]| {
        let who = ["--entity-type", "clients", "--entity-name", "tidemill-read-back", "--alter"];
        kafka.tool("configs", &[&who, change].concat());
    };
    let throttle = || quota(&["--add-config", "consumer_byte_rate=1"]);
    let store = || Store::open(&hostile.sandbox, "hostile");
    let (client, topic) = (&hostile.client, hostile.output.as_str());
    throttle();
    let mut daemon = Daemon::start(&hostile.sandbox);
    // Even under the quota one answer may come.
    let first = ["a", "b", "c", "d"];
    for id in first {
        post(&daemon, id);
        eventually(LONG, "the event is on its topic", || times(client, topic, &[id]) == [1]);
    }
    // Each of the later requests has committed what the relay had to say of the earlier ones.
    assert!(store().count(EVENTS) >= 2, "acknowledged is not enough");
    let left = store().lines("SELECT payload ->> 'id' FROM tm_outbox WHERE status = 'waiting' ORDER BY id");
    daemon.kill9();

    quota(&["--delete-config", "consumer_byte_rate"]);
    let daemon = Daemon::start(&hostile.sandbox);
    store().until(EVENTS, 0);
    for id in first {
        let (found, again) = (times(client, topic, &[id])[0], left.contains(&id.to_owned()));
        assert!(if again { found > 1 } else { found == 1 }, "{id}: {found} times, of {left:?} that were left");
    }

    // What the topic no longer has when it is read is published again, to whatever has its name.
    throttle();
    let second = ["e", "f", "g", "h"];
    for id in second {
        post(&daemon, id);
        eventually(LONG, "the event is on its topic", || times(client, topic, &[id]) == [1]);
    }
    let left = store().lines("SELECT payload ->> 'id' FROM tm_outbox WHERE status = 'waiting' ORDER BY id");
    assert!(left.len() >= 2, "{left:?}");
    client.delete_topic(topic);
    client.create_topic(topic, 3);
    quota(&["--delete-config", "consumer_byte_rate"]);
    // The broker would hold the throttled connection back for minutes.
    kafka.stop();
    kafka.resume();
    store().until(EVENTS, 0);
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    // More than once, if the broker's restart was taken for another loss.
    let found = times(client, topic, &left);
    assert!(found.iter().all(|times| *times > 0), "{found:?} of {left:?}");
    daemon.says(&["WARN", "published again"]);
}
