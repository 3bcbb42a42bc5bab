//! The broker in a thread of the test, and the daemon's side of it. That it is a process of its own, and outlives a
//! killed daemon, is shown end to end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tempfile::TempDir;

use super::serve::{Broker, Ended, Options};
use super::*;
use crate::kafka::config::Connection;
use crate::kafka::topics::{Admin, Ensured};

struct Running {
    folder: TempDir,
    thread: JoinHandle<Ended>,
    state: State,
}

fn serve(lease: Option<Duration>) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(Options {
        state: folder.path().join(STATE_FILE),
        control: folder.path().join(SOCKET_FILE),
        lease,
    })
    .unwrap();
    let state = broker.state().clone();
    Running { folder, thread: std::thread::spawn(move || broker.run()), state }
}

fn find(running: &Running, keep: bool) -> Embedded {
    // A program that cannot be started: the broker must be found, or the test fails.
    Embedded::start_from(Path::new("/nonexistent"), running.folder.path(), keep).unwrap()
}

fn connection(embedded: &Embedded) -> Connection {
    Connection {
        bootstrap: embedded.bootstrap().to_owned(),
        incarnation: Some(embedded.incarnation().to_owned()),
        ..Connection::default()
    }
}

#[test]
fn a_broker_is_found_by_its_file_and_ends_on_stop() {
    let running = serve(None);
    let embedded = find(&running, false);
    assert!(embedded.found());
    assert_eq!(embedded.incarnation(), running.state.incarnation);
    embedded.ping().unwrap();
    embedded.stop().unwrap();
    assert_eq!(running.thread.join().unwrap(), Ended::Asked);
    assert!(!running.folder.path().join(STATE_FILE).exists());
    assert!(!running.folder.path().join(SOCKET_FILE).exists());
}

#[test]
fn with_keep_it_stays_and_is_found_again() {
    let running = serve(Some(Duration::from_secs(2)));
    let first = find(&running, true);
    first.stop().unwrap();
    let second = find(&running, false);
    assert_eq!(second.incarnation(), first.incarnation());
    second.stop().unwrap();
    assert_eq!(running.thread.join().unwrap(), Ended::Asked);
}

#[test]
fn alone_for_the_length_of_its_lease_it_ends_and_cleans_up() {
    let running = serve(Some(Duration::from_millis(100)));
    assert_eq!(running.thread.join().unwrap(), Ended::Alone);
    assert!(!running.folder.path().join(STATE_FILE).exists());
}

#[test]
fn a_file_whose_broker_is_gone_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let state = State {
        incarnation: "gone".to_owned(),
        bootstrap: "127.0.0.1:1".to_owned(),
        // Alive, which must not count.
        pid: std::process::id(),
        control: folder.path().join(SOCKET_FILE),
    };
    state.write(&folder.path().join(STATE_FILE)).unwrap();
    let error = Embedded::start_from(Path::new("/nonexistent"), folder.path(), false).unwrap_err();
    assert!(format!("{error:#}").contains("start the embedded broker: /nonexistent broker"), "{error:#}");
    assert!(!folder.path().join(STATE_FILE).exists());
}

#[test]
fn another_incarnation_on_the_socket_is_not_taken_for_the_one_in_the_file() {
    let running = serve(Some(Duration::from_millis(500)));
    let other = State { incarnation: "another".to_owned(), ..running.state.clone() };
    let error = attach(&other, false).unwrap_err();
    assert!(error.to_string().contains("instead of another"), "{error:#}");
    assert_eq!(running.thread.join().unwrap(), Ended::Alone);
}

#[test]
fn a_torn_state_file_is_not_a_reason_to_fail() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(STATE_FILE);
    fs::write(&file, "{\"incarnation\":").unwrap();
    assert_eq!(State::read(&file).unwrap(), None);
}

#[test]
fn a_program_that_ends_at_once_is_named_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let error = Embedded::start_from(Path::new("/bin/ls"), folder.path(), false).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("ended at once") && text.contains(LOG_FILE) && text.contains("unrecognized option"),
        "{text}"
    );
}

#[test]
fn a_topic_is_created_once_and_keeps_its_partitions() {
    let running = serve(None);
    let embedded = Arc::new(find(&running, false));
    let admin = Admin::new(connection(&embedded), Some(Arc::clone(&embedded)));
    assert_eq!(admin.partitions("orders"), Ok(None));
    assert_eq!(admin.ensure("orders", 3, 1), Ok(Ensured::Created));
    assert_eq!(admin.ensure("orders", 5, 1), Ok(Ensured::Present { partitions: 3 }));
    assert_eq!(admin.partitions("orders"), Ok(Some(3)));
    let error = embedded.create_topic("many", 1_000_000).unwrap_err();
    assert!(error.to_string().contains("1000000 partitions"), "{error}");
    embedded.stop().unwrap();
    assert!(embedded.ping().is_err());
}

#[test]
fn nonsense_on_the_control_socket_is_refused_and_harms_nobody() {
    let running = serve(None);
    let embedded = find(&running, false);
    let mut stream = UnixStream::connect(&running.state.control).unwrap();
    stream.write_all(b"{\"do\":\"format-disk\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("refused"), "{answer}");
    embedded.ping().unwrap();
    embedded.stop().unwrap();
}

#[test]
fn records_go_in_and_come_out_and_a_group_starts_within_a_second() {
    let running = serve(None);
    let embedded = Arc::new(find(&running, false));
    let connection = connection(&embedded);
    Admin::new(connection.clone(), Some(Arc::clone(&embedded))).ensure("orders", 1, 1).unwrap();
    let producer: BaseProducer = connection.client("producer").create().unwrap();
    producer.send(BaseRecord::to("orders").key("k").payload("v")).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    let consumer: BaseConsumer =
        connection.client("consumer").set("group.id", "g").set("auto.offset.reset", "earliest").create().unwrap();
    consumer.subscribe(&["orders"]).unwrap();
    let begun = Instant::now();
    let record = loop {
        if let Some(polled) = consumer.poll(Duration::from_millis(100)) {
            break polled.unwrap().detach();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no record");
    };
    assert_eq!(record.payload(), Some(&b"v"[..]));
    // The mock cluster's own delay for a first member is 3 s.
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    drop(consumer);
    embedded.stop().unwrap();
}

#[test]
fn a_path_too_long_for_a_socket_moves_it_into_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let socket = socket_path(&deep).unwrap();
    assert!(socket.as_os_str().len() <= SOCKET_PATH_MAX, "{}", socket.display());
    let state_file = deep.join(STATE_FILE);
    let broker =
        Broker::open(Options { state: state_file.clone(), control: socket.clone(), lease: Some(Duration::ZERO) })
            .unwrap();
    assert_eq!(broker.run(), Ended::Alone);
    assert!(!state_file.exists() && !socket.parent().unwrap().exists());
}
