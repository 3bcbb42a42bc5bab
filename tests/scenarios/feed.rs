//! S4: posts and what becomes of them: a topic for each day, two versions of events, and nothing twice.

use serde_json::{Value, json};
use tidemill_tests::{Daemon, Kafka, LONG, Out, SOON, Sandbox, Store, eventually, token};

use crate::rig::{attempts, first_on, told};

const POST: &str = r#"{"title":"The first","content":"Hello."}"#;
/// 2025-12-31T00:00:00 in Seoul.
const MIDNIGHT: i64 = 1_767_106_800_000;

fn activities(daemon: &Daemon, token: &str) -> Vec<Value> {
    daemon.get("/api/activities", token).expect_status(200).json().as_array().unwrap().clone()
}

#[test]
fn s4_1_a_post_is_stored_and_becomes_one_activity_of_its_member() {
    let sandbox = Sandbox::with(&["posts", "activity"]);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let post = daemon.post("/api/posts", &user, POST).expect_status(201).json();
    eventually(LONG, "the activity", || activities(&daemon, &user).len() == 1);
    let activity = activities(&daemon, &user).remove(0);
    assert_eq!((&activity["title"], &activity["occurredAt"]), (&post["title"], &post["createdAt"]));
    assert_eq!(daemon.get("/api/posts/1", &user).expect_status(200).json(), post);
    let topic = Store::open(&sandbox, "activity").line("SELECT DISTINCT topic FROM tm_offset");
    let day: String = post["createdAt"].as_str().unwrap().chars().take(10).filter(char::is_ascii_digit).collect();
    assert_eq!(topic, format!("post-activity-{day}"));

    // The same event comes again, and the same again under another key: no second row.
    let client = daemon.client();
    let event = first_on(&client, &topic);
    client.produce(&topic, &Out::new(event.value.as_ref().unwrap()).key("post-1"));
    client.produce(&topic, &Out::new(event.value.as_ref().unwrap()).key("post-1, once more"));
    let store = Store::open(&sandbox, "activity");
    store.until("SELECT sum(next_offset) FROM tm_offset", 3);
    assert_eq!(store.count("SELECT count(*) FROM activities"), 1);
}

#[test]
fn s4_2_while_no_broker_is_there_posts_are_taken_and_their_events_kept_and_drained_later() {
    let kafka = Kafka::shared();
    let sandbox = Sandbox::with(&["posts"]);
    let topic = sandbox.unique("posts");
    let settings = |bootstrap: &str| {
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{bootstrap}\"\n[[topic]]\nname = \"{topic}-{{date:%Y}}\"\npartitions = 2\n\
             [handler.posts.publish]\nactivity = \"{topic}-{{date:%Y}}\"\n"
        ));
    };
    settings("127.0.0.1:1");
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    for _ in 0..3 {
        daemon.post("/api/posts", &user, POST).expect_status(201);
    }
    let store = Store::open(&sandbox, "posts");
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox WHERE status = 'waiting'"), 3);
    let topic = store.line("SELECT DISTINCT topic FROM tm_outbox");
    daemon.kill9();
    settings(kafka.bootstrap());
    let daemon = Daemon::start(&sandbox);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let client = kafka.client();
    let mut ids: Vec<i64> =
        client.consume_all(&topic).iter().map(|event| event.json()["post"]["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(client.partitions(&topic), 2, "it was made as [[topic]] says");
    daemon.says(&["INFO", &topic, "topic created"]);
}

/// The day is that of the record that the event is published for, in the operator's zone, however late that is; the
/// consumer is there before the topics are.
#[test]
fn s4_5_each_day_has_its_topic_which_is_made_and_read_without_a_restart() {
    let kafka = Kafka::shared();
    let sandbox = Sandbox::with(&["hostile", "activity"]);
    let [input, days, group] = ["in", "days", "group"].map(|name| sandbox.unique(name));
    kafka.client().create_topic(&input, 1);
    sandbox.write_toml(&format!(
        "[kafka]\nbootstrap = \"{}\"\n[[topic]]\nname = \"{days}-{{date:%Y%m%d}}\"\npartitions = 2\n\
         [handler.hostile]\ntopics = [\"{input}\"]\ngroup = \"{group}-h\"\ntime-zone = \"Asia/Seoul\"\npublish = {{ out = \"{days}-{{date:%Y%m%d}}\" }}\n\
         [handler.activity]\npattern = '^{days}-\\d{{8}}$'\ngroup = \"{group}-a\"\nconsumer = {{ discovery-interval = \"500ms\" }}\n",
        kafka.bootstrap()
    ));
    let daemon = Daemon::start(&sandbox);
    let client = kafka.client();
    let publish = |post: i64, at: i64| {
        let event = json!({
            "version": 2, "eventType": "POST_CREATED", "occurredAt": "2025-12-30T15:00:00.000Z",
            "member": { "id": "7" }, "post": { "id": post, "title": "t" },
        });
        let command = json!({ "do": "publish", "id": post.to_string(), "value": event });
        client.produce(&input, &Out::new(command.to_string()).key(format!("post-{post}")).timestamp(at));
    };
    let store = Store::open(&sandbox, "activity");
    let user = token(&sandbox, "7");
    for (post, at, day) in
        [(1, MIDNIGHT - 1, "20251230"), (2, MIDNIGHT, "20251231"), (3, MIDNIGHT + 86_400_000, "20260101")]
    {
        publish(post, at);
        eventually(LONG, &format!("the post of {day} is read"), || activities(&daemon, &user).len() == post as usize);
        let topic = format!("{days}-{day}");
        assert_eq!((client.consume_all(&topic).len(), client.partitions(&topic)), (1, 2));
    }
    // What comes late has the day that it is of.
    publish(4, MIDNIGHT - 2);
    eventually(SOON, "the late post is read", || activities(&daemon, &user).len() == 4);
    assert_eq!(client.consume_all(&format!("{days}-20251230")).len(), 2);
    assert_eq!(store.count("SELECT count(*) FROM tm_offset"), 6);
}

#[test]
fn s4_5_a_day_that_is_over_is_told_by_the_record_however_often_it_is_tried() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile]\npublish = { out = \"day-{date:%Y-%m-%d}\" }\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let commands = json!([{ "do": "fail-n", "until": 2, "id": "a" }, { "do": "publish", "id": "a" }]);
    client.produce("hostile-in", &Out::new(commands.to_string()).timestamp(MIDNIGHT));
    assert_eq!(first_on(&client, "day-2025-12-30").json()["id"], "a");
    client.produce("hostile-in", &told("b", "publish").timestamp(MIDNIGHT + 9 * 3_600_000));
    assert_eq!(first_on(&client, "day-2025-12-31").json()["id"], "b");
}

#[test]
fn s4_5_what_is_no_template_or_no_zone_is_refused_with_its_line() {
    let sandbox = Sandbox::with(&["posts"]);
    for (settings, wrong) in [
        (
            "[handler.posts.publish]\nactivity = \"a-{day}\"\n",
            ":2: `handler.posts.publish.activity`: \"a-{day}\": only a date",
        ),
        (
            "[handler.posts]\ntime-zone = \"Asia/Soul\"\n",
            ":2: `handler.posts.time-zone`: \"Asia/Soul\" is no time zone",
        ),
        ("[[topic]]\nname = \"a-{date:%y}\"\n", ":2: `topic.name`: \"a-{date:%y}\": a date has %Y, %m, %d"),
    ] {
        sandbox.write_toml(settings);
        let (_, error) = Daemon::refused(&sandbox);
        assert!(error.contains(wrong), "{error}");
    }
}

#[test]
fn s4_7_versions_are_handled_side_by_side_and_an_unknown_one_is_a_clear_dead_letter() {
    let sandbox = Sandbox::with(&["activity"]);
    sandbox.write_toml("[[topic]]\nname = \"post-activity-20251230\"\n");
    let daemon = Daemon::start(&sandbox);
    let at = "2025-12-30T15:00:00.000Z";
    let event = |version: Option<u32>, post: i64| match version {
        None => json!({ "eventType": "POST_CREATED", "memberId": "7", "postId": post, "createdAt": at }),
        Some(version) => json!({
            "version": version, "eventType": "POST_CREATED", "occurredAt": at,
            "member": { "id": "7" }, "post": { "id": post, "title": "t" },
        }),
    };
    let client = daemon.client();
    let versions = [(None, 1), (Some(2), 2), (Some(3), 3), (None, 4), (Some(2), 5)];
    let records = versions
        .map(|(version, post)| Out::new(event(version, post).to_string()).key(format!("post-{post}")).partition(0));
    eventually(LONG, "the topic", || client.partitions("post-activity-20251230") == 3);
    client.produce_all("post-activity-20251230", records);
    let user = token(&sandbox, "7");
    eventually(LONG, "the four that are understood", || activities(&daemon, &user).len() == 4);
    let dead = first_on(&client, "post-activity.DLT");
    assert_eq!((dead.key_text().as_str(), dead.json()["version"].as_i64()), ("post-3", Some(3)));
    let history = attempts(&dead);
    assert_eq!(history.len(), 1, "it is not tried again");
    assert_eq!(
        dead.header_text("kafka_dlt-exception-message").unwrap(),
        "version 3 of POST_CREATED is not known here: 1 and 2 are"
    );
}
