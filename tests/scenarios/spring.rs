//! S0.3, S0.4: dead letters are Spring Kafka's, byte for byte: held up to what its own classes write and read.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Rec, Sandbox, Store, eventually, sandbox};

/// What Spring's listener saw of one dead letter: its topic, and the columns that `Letters.java` prints.
type Seen = (String, Vec<String>);

/// Fails on every record of `topics` in Spring Kafka, which publishes to TOPIC-spring, and reads all dead letters with it.
pub(crate) fn spring(kafka: &Kafka, group: &str, topics: &[&str], letters: &[String], count: usize) -> Vec<Seen> {
    let script = sandbox::repository().join("tests/spring/spring");
    let arguments = [kafka.bootstrap(), group, &topics.join(","), &letters.join(","), &count.to_string()];
    let out = Command::new(script).arg("letters").args(arguments).output().expect("run Spring Kafka");
    let (said, complained) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{}\n{said}\n{complained}", out.status);
    let lines = said.lines().map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
    let lines = lines.filter(|columns| columns.len() == 13).map(|mut columns| (columns.remove(0), columns));
    lines.collect()
}

/// The dead letters on a topic by the place of their record.
fn by_place(client: &Client, topic: &str) -> BTreeMap<(i32, i64), Rec> {
    let place = |letter: &Rec| -> (i32, i64) {
        let bytes = |name: &str| letter.header(name).unwrap().to_vec();
        (
            i32::from_be_bytes(bytes("kafka_dlt-original-partition").try_into().unwrap()),
            i64::from_be_bytes(bytes("kafka_dlt-original-offset").try_into().unwrap()),
        )
    };
    client.consume_all(topic).into_iter().map(|letter| (place(&letter), letter)).collect()
}

fn names(letter: &Rec) -> Vec<&str> {
    let mut names: Vec<&str> = letter.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

fn own(letter: &Rec) -> Vec<&(String, Option<Vec<u8>>)> {
    letter.headers.iter().filter(|(name, _)| !name.starts_with("kafka_dlt-")).collect()
}

#[test]
fn s0_3_dead_letters_are_byte_for_byte_as_spring_kafka_writes_them_and_it_reads_them() {
    const WHY: &str = "주문이 없습니다";
    let kafka = Kafka::shared();
    let client = kafka.client();
    let sandbox = Sandbox::with(&["hostile"]);
    let [created, appended, group] = ["created", "appended", "group"].map(|name| sandbox.unique(name));
    client.create_topic(&created, 3);
    client.create_topic_with(&appended, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let spring_topics = [&created, &appended].map(|topic| format!("{topic}-spring"));
    client.create_topic(&spring_topics[0], 3);
    client.create_topic(&spring_topics[1], 1);
    let settings = |topics: &[&String], more: &str| {
        format!(
            "[kafka]\nbootstrap = \"{}\"\n[handler.hostile]\ntopics = {topics:?}\ngroup = \"{group}\"\n{more}",
            kafka.bootstrap()
        )
    };
    sandbox.write_toml(&settings(&[&created, &appended], "retry = { max-attempts = 1 }\n"));

    let reject = serde_json::json!({ "do": "reject", "message": WHY }).to_string();
    let records = [
        Out::new(&reject).partition(2).timestamp(1_767_322_245_678),
        Out::new(&reject).key([0u8, 159, 146, 150]).partition(2).header("trace", "one").null_header("trace"),
        Out::tombstone().key("gone").partition(0).header("bytes", [0u8, 255]),
        Out::tombstone().partition(1),
        Out::new("").key("").partition(1).header("", "").header("kafka_dlt", "no").header("이름", "값"),
    ];
    let count = records.len() + 1;
    client.produce_all(&created, records);
    client.produce(&appended, &Out::new(&reject).key("k"));

    let ours = [&created, &appended].map(|topic| format!("{topic}.DLT"));
    let mut daemon = Daemon::start(&sandbox);
    eventually(LONG, "all are dead letters", || {
        ours.iter().map(|topic| client.consume_all(topic).len()).sum::<usize>() == count
    });
    daemon.terminate();
    let letters = [&ours[..], &spring_topics[..]].concat();
    let seen = spring(kafka, &format!("{group}-spring"), &[&created, &appended], &letters, 2 * count);

    for (topic, spring_topic) in ours.iter().zip(&spring_topics) {
        let (mine, theirs) = (by_place(&client, topic), by_place(&client, spring_topic));
        assert!(!mine.is_empty() && mine.keys().eq(theirs.keys()), "{:?} {:?}", mine.keys(), theirs.keys());
        for (place, mine) in &mine {
            let theirs = &theirs[place];
            assert_eq!((mine.partition, &mine.key, &mine.value), (theirs.partition, &theirs.key, &theirs.value));
            assert_eq!(names(mine), names(theirs), "{place:?}");
            assert_eq!(own(mine), own(theirs), "{place:?}");
            for name in names(mine).into_iter().filter(|name| name.starts_with("kafka_dlt-")) {
                let (mine, theirs) = (mine.header(name).unwrap(), theirs.header(name).unwrap());
                if name.starts_with("kafka_dlt-exception-") {
                    // What went wrong is each one's own; that it is text in UTF-8 is not.
                    for text in [mine, theirs] {
                        assert!(std::str::from_utf8(text).is_ok_and(|text| !text.is_empty()), "{name}: {text:?}");
                    }
                } else if name == "kafka_dlt-original-consumer-group" {
                    assert_eq!([mine, b"-spring"].concat(), theirs, "{name}");
                } else {
                    assert_eq!(mine, theirs, "{name} of {place:?}");
                }
            }
        }
    }

    // Spring's own listener, with the types that its users write, reads both alike.
    assert_eq!(seen.len(), 2 * count, "{seen:?}");
    let of = |topics: &[String]| -> BTreeSet<Vec<String>> {
        let of = seen.iter().filter(|(topic, _)| topics.contains(topic));
        // Without the group, the exception, and what it says.
        of.map(|(_, columns)| [&columns[..5], &columns[10..]].concat()).collect()
    };
    assert_eq!(of(&ours), of(&spring_topics));
    for (_, columns) in seen.iter().filter(|(topic, columns)| ours.contains(topic) && columns[3] == "1767322245678") {
        assert_eq!(columns[..6], [&created, "2", "0", "1767322245678", "CreateTime", &group].map(str::to_owned));
        assert_eq!(columns[6..9], ["tidemill.DeliveryFailed", "tidemill.Reject", WHY]);
        assert!(columns[9].parse::<usize>().unwrap() > 0, "{columns:?}");
    }
    let types: BTreeSet<&str> = seen.iter().map(|(_, columns)| columns[4].as_str()).collect();
    assert_eq!(types, BTreeSet::from(["CreateTime", "LogAppendTime"]));

    // What Spring has given up on, our handler may read; what it gives up on as well is no dead letter again.
    let other = sandbox.unique("reader");
    sandbox.remove("hostile.wasm");
    let reader = Sandbox::with(&["hostile"]);
    reader.write_toml(&settings(&[&spring_topics[0]], "retry = { max-attempts = 1 }\n").replace(&group, &other));
    let _daemon = Daemon::start(&reader);
    let store = Store::open(&reader, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", count as i64 - 1);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    assert_eq!(client.partitions(&format!("{}.DLT", spring_topics[0])), 0);
    let row = "SELECT partition, key, value, headers FROM tm_fallback WHERE headers LIKE '%\"trace\"%'";
    let row = store.line(row);
    assert!(row.starts_with(&format!("2|\0\u{fffd}\u{fffd}\u{fffd}|{reject}|")), "{row}");
    let headers: Vec<(String, serde_json::Value)> = serde_json::from_str(&row[row.find('[').unwrap()..]).unwrap();
    let both: Vec<&serde_json::Value> =
        headers.iter().filter(|(name, _)| name == "kafka_dlt-original-topic").map(|(_, value)| value).collect();
    assert_eq!(both, [&created, &spring_topics[0]], "first where it came from, then where it was read");
}
