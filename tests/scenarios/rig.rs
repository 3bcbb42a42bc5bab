//! What several scenarios need: settings for a shared cluster, the commands of the hostile handler, files made on the
//! spot.

use std::path::Path;

use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Kafka, Out, SOON, Sandbox, Store, eventually_some, sandbox};

/// The body of an order: two pieces at 25000.00.
pub(crate) const ORDER: &str = r#"{"items":[{"productId":1,"quantity":2,"price":"25000.00"}]}"#;

/// The order and the notification handler on a cluster, on a topic and in a group that no other test has.
pub(crate) struct Shop {
    pub(crate) sandbox: Sandbox,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) client: Client,
}

impl Shop {
    /// With the topic, of three partitions, made by the daemon.
    pub(crate) fn new(kafka: &Kafka) -> Self {
        Self::with(kafka, "")
    }

    /// The same, with more settings.
    pub(crate) fn with(kafka: &Kafka, more: &str) -> Self {
        let sandbox = Sandbox::with(&["order", "notification"]);
        let (topic, group) = (sandbox.unique("order-events"), sandbox.unique("notification"));
        let shop = Self { client: kafka.client(), sandbox, topic, group };
        shop.sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[[topic]]\nname = \"{topic}\"\n[handler.order.publish]\norder-events = \"{topic}\"\n\
             [handler.notification]\ntopics = [\"{topic}\"]\ngroup = \"{}\"\n{more}",
            kafka.bootstrap(),
            shop.group,
            topic = shop.topic,
        ));
        shop
    }
}

/// The hostile handler on a cluster, on topics and in a group that no other test has.
pub(crate) struct Hostile {
    pub(crate) sandbox: Sandbox,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) group: String,
    pub(crate) client: Client,
}

impl Hostile {
    /// With these settings of the handler, which stand in its table of `tidemill.toml`; both topics are there, with
    /// three partitions.
    pub(crate) fn new(kafka: &Kafka, more: &str) -> Self {
        let sandbox = Sandbox::with(&["hostile"]);
        let [input, output, group] = ["in", "out", "group"].map(|name| sandbox.unique(name));
        let client = kafka.client();
        client.create_topic(&input, 3);
        client.create_topic(&output, 3);
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[handler.hostile]\ntopics = [\"{input}\"]\ngroup = \"{group}\"\npublish = {{ out = \"{output}\" }}\n{more}",
            kafka.bootstrap()
        ));
        Self { sandbox, input, output, group, client }
    }

    /// Produces a record with these commands.
    pub(crate) fn send(&self, commands: &Value) -> (i32, i64) {
        self.client.produce(&self.input, &Out::new(commands.to_string()))
    }
}

/// A record that tells the hostile handler to do this, with rows of this id.
pub(crate) fn told(id: &str, what: &str) -> Out {
    Out::new(json!({ "do": what, "id": id }).to_string())
}

/// The dead letter on a topic, as soon as there is one.
pub(crate) fn first_on(client: &Client, topic: &str) -> tidemill_tests::Rec {
    eventually_some(SOON, &format!("a record is on {topic}"), || client.consume_all(topic).into_iter().next())
}

/// What went wrong each time, as the dead letter tells it.
pub(crate) fn attempts(dead_letter: &tidemill_tests::Rec) -> Vec<Value> {
    let history = dead_letter.header_text("kafka_dlt-exception-stacktrace").unwrap();
    serde_json::from_str::<Value>(&history).unwrap().as_array().unwrap().clone()
}

/// The messages of the user 7, oldest first.
pub(crate) fn messages(daemon: &Daemon, token: &str) -> Vec<String> {
    let all = daemon.get("/api/notifications", token).expect_status(200).json();
    let texts = all.as_array().unwrap().iter().map(|n| n["message"].as_str().unwrap().to_owned());
    texts.rev().collect()
}

/// The component of a handler with every name of the contract's version changed.
pub(crate) fn with_version(component: &[u8], version: &str) -> Vec<u8> {
    let mut bytes = component.to_vec();
    let (prefix, old) = (b"tidemill:handler/", b"@0.1.0");
    assert_eq!(version.len(), old.len() - 1);
    let mut changed = 0;
    let mut at = 0;
    while at + prefix.len() < bytes.len() {
        if bytes[at..].starts_with(prefix) {
            let window = &bytes[at..(at + 40).min(bytes.len())];
            if let Some(found) = window.windows(old.len()).position(|w| w == old) {
                bytes[at + found + 1..at + found + old.len()].copy_from_slice(version.as_bytes());
                changed += 1;
            }
        }
        at += 1;
    }
    assert!(changed > 3, "{changed} names were changed");
    bytes
}

/// The manifest inside a component, with some text replaced.
pub(crate) fn manifest(handler: &str, changes: &[(&str, &str)]) -> String {
    let file = ["handlers", "tests/guests"].map(|folder| sandbox::repository().join(folder).join(handler));
    let file = file.iter().map(|folder| folder.join("handler.toml")).find(|file| Path::exists(file)).unwrap();
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in the manifest of {handler}");
        text = text.replace(from, to);
    }
    text
}

/// The hostile handler under these names, each with its topic and where it publishes; no routes.
pub(crate) fn services(all: &[(&str, &str, &[&str])]) -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, from, to) in all {
        sandbox.deploy_bytes(&format!("{name}.wasm"), &sandbox::built("hostile"));
        let publish: String = to.iter().map(|topic| format!("{topic} = \"{topic}\"\n")).collect();
        let text = manifest(
            "hostile",
            &[
                ("name = \"hostile\"", &format!("name = \"{name}\"")),
                ("\"hostile-in\"", &format!("\"{from}\"")),
                ("out = \"hostile-out\"\n", &publish),
            ],
        );
        put_beside(&sandbox, &format!("{name}.toml"), &text[..text.find("[[route]]").unwrap()]);
    }
    let topics: String = all.iter().map(|(_, topic, _)| format!("[[topic]]\nname = \"{topic}\"\n")).collect();
    sandbox.write_toml(&topics);
    sandbox
}

/// Puts a file beside a handler's.
pub(crate) fn put_beside(sandbox: &Sandbox, file: &str, text: &str) {
    sandbox.deploy_bytes(file, text.as_bytes());
}

/// How many rows the hostile handler has for each id, as `id|count`, in order.
pub(crate) fn seen(store: &Store) -> Vec<String> {
    store.lines("SELECT id, count(*) FROM seen GROUP BY id ORDER BY id")
}
