//! S3.3, S1.6, H2: a backup under load, restored in the place of a data folder that is lost; and what is no backup.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::OFlags;
use rustix::process::Signal;
use serde_json::{Value, json};
use tidemill_tests::sandbox::program;
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Sandbox, Store, eventually};

use crate::deploying::{deploy, file_that_says, refused, versions, works, writes_as};
use crate::rig::{Hostile, seen, services, told};

const INPUT: &str = "backup-in";
const MIDDLE: &str = "backup-middle";

fn folder(sandbox: &Sandbox, name: &str) -> String {
    sandbox.root().join(name).to_str().unwrap().to_owned()
}

/// Every file and folder under this one.
fn all(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(all(&path));
        }
        found.push(path);
    }
    found
}

/// Produces records until it is told to stop: how many they were. Each is to be paid once, and told to the next handler.
fn load(client: &Client, stop: &AtomicBool) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let batch = (sent..sent + 20).map(|n| {
            let told =
                json!({ "do": "publish", "destination": MIDDLE, "value": { "do": "insert", "id": n.to_string() } });
            Out::new(json!([{ "do": "pay", "id": n.to_string() }, told]).to_string()).key(n.to_string())
        });
        client.produce_all(INPUT, batch.collect::<Vec<_>>());
        sent += 20;
    }
    sent
}

#[test]
fn s3_3_what_came_after_a_backup_is_read_again_and_published_with_the_same_ids() {
    let kafka = Kafka::shared();
    let client = kafka.client();
    // The command that pays publishes too, to a topic of which nothing is asked here.
    let sandbox = services(&[("teller", INPUT, &[MIDDLE, "out"]), ("taker", MIDDLE, &[])]);
    let topics: String = [INPUT, MIDDLE, "out"].map(|topic| format!("[[topic]]\nname = \"{topic}\"\n")).concat();
    let ids = "[handler.taker]\nevent-id = \"event-id\"\n";
    sandbox.write_toml(&format!("[kafka]\nbootstrap = \"{}\"\n{topics}{ids}", kafka.bootstrap()));
    let backup = folder(&sandbox, "backup");
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let mut daemon = Daemon::start(&sandbox);
        eventually(LONG, "the topic is there", || client.partitions(INPUT) > 0);
        let load = scope.spawn(|| load(&client, &stop));
        let taker = Store::open(&sandbox, "taker");
        taker.until("SELECT count(*) > 100 FROM seen", 1);
        let out = sandbox.tidemill(&["backup", &backup]);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && told.contains("copy stores/taker.db: "), "{told}");
        // Neither handler was held up, and both have gone on.
        let now = taker.count("SELECT count(*) FROM seen");
        taker.until(&format!("SELECT count(*) > {} FROM seen", now + 200), 1);
        daemon.kill9();
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    // Each store is what it was at one moment: as many rows as its offsets say.
    for name in ["teller", "taker"] {
        let file = Path::new(&backup).join(format!("stores/{name}.db"));
        let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let count = |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let done = count("SELECT count(*) FROM seen");
        assert!(done > 100, "{done}");
        assert_eq!(done, count("SELECT sum(next_offset) FROM tm_offset"), "{name}");
    }
    fs::rename(sandbox.data(), sandbox.root().join("lost")).unwrap();
    assert!(works(&sandbox, &["backup", "verify", &backup]).contains("is whole: 2 stores (taker, teller)"));
    works(&sandbox, &["restore", &backup, "--data", sandbox.data().to_str().unwrap()]);
    let before = client.consume_all(MIDDLE).len();
    let mut daemon = Daemon::start(&sandbox);
    let [teller, taker] = ["teller", "taker"].map(|name| Store::open(&sandbox, name));
    for store in [&teller, &taker] {
        store.until("SELECT count(*) FROM seen", sent as i64);
        store.until("SELECT count(*) FROM tm_outbox", 0);
        let more: Vec<String> = seen(store).into_iter().filter(|line| !line.ends_with("|1")).collect();
        assert_eq!((more.len(), seen(store).len()), (0, sent), "each once: {more:?}");
    }
    teller.until("SELECT count(*) FROM orders WHERE status = 'PAID'", sent as i64);
    // What the backup knew nothing of was published again, and is the same events.
    let events = client.consume_all(MIDDLE);
    let ids: BTreeSet<_> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    assert_eq!(ids.len(), sent);
    assert!(events.len() > sent && events.len() > before, "{} records of {sent} events", events.len());
    daemon.terminate();
}

#[test]
fn h2_a_backup_of_a_stopped_daemon_holds_versions_secrets_and_handlers_and_is_its_owners() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[http]\n");
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    deploy(&sandbox, &file_that_says(&sandbox, "v2"));
    writes_as(&daemon, &Store::open(&sandbox, "hostile"), "before");
    tidemill_tests::token(&sandbox, "7");
    daemon.terminate();
    let backup = folder(&sandbox, "backup");
    let told: Value = serde_json::from_str(&works(&sandbox, &["backup", "--json", &backup])).unwrap();
    assert!(told["settings"].as_str().unwrap().ends_with("tidemill.toml"), "{told}");
    let names: BTreeSet<&str> = told["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    for name in ["stores/hostile.db", "id", "jwt.secret", "admin.token", "audit.log", "handlers/hostile.wasm"] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("tidemill.toml")), "its secrets stay where they are");
    for path in all(Path::new(&backup)).into_iter().chain([PathBuf::from(&backup)]) {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    let [data, handlers] = [sandbox.data(), sandbox.handler("")].map(|path| path.to_str().unwrap().to_owned());
    for folder in [&data, &handlers] {
        fs::rename(folder.trim_end_matches('/'), format!("{}.lost", folder.trim_end_matches('/'))).unwrap();
    }
    works(&sandbox, &["restore", &backup, "--data", &data, "--handlers", &handlers]);
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(seen(&store), ["before|1"]);
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
    for secret in ["jwt.secret", "admin.token", "id"] {
        let before = fs::read(sandbox.root().join("data.lost").join(secret)).unwrap();
        assert_eq!(fs::read(sandbox.data().join(secret)).unwrap(), before, "{secret}");
    }
    works(&sandbox, &["rollback", "hostile"]);
    assert_eq!(writes_as(&daemon, &store, "after"), "v1");
}

/// How a daemon elsewhere is named.
fn there(sandbox: &Sandbox) -> [String; 4] {
    let url = fs::read_to_string(sandbox.data().join("admin.url")).unwrap();
    let token = sandbox.data().join("admin.token").to_str().unwrap().to_owned();
    ["--daemon".to_owned(), url.trim().to_owned(), "--token-file".to_owned(), token]
}

fn daemon_counts(sandbox: &Sandbox, result: &str) -> Option<f64> {
    sandbox.scrape().find("tidemill_audited_actions_total", &[("action", "backup"), ("result", result)])
}

fn start(sandbox: &Sandbox, arguments: &[&str]) -> std::process::Child {
    let mut command = sandbox.command(arguments);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

#[test]
fn h2_what_cannot_be_written_or_is_damaged_is_no_backup_and_is_told_in_a_line() {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let [first, second, full] = ["first", "second", "full"].map(|name| folder(&sandbox, name));
    // The disk is full: a limit on the size of files stands for it.
    let limited = format!("ulimit -f 16; exec {} backup {full}", program().display());
    let mut shell = Command::new("bash");
    shell.args(["-c", &limited]).envs(sandbox.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out: Output = shell.current_dir(sandbox.root()).output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!((out.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("Free disk space") && error.contains("full/stores/hostile.db"), "{error}");
    assert!(!Path::new(&full).exists(), "nothing of it is left");
    // Two at once: each has a folder of its own, or one of them none.
    for folders in [[&first, &second], [&full, &full]] {
        let ended =
            folders.map(|folder| start(&sandbox, &["backup", folder])).map(|child| child.wait_with_output().unwrap());
        let worked = ended.iter().filter(|out| out.status.success()).count();
        assert!(worked == 2 || folders[0] == folders[1] && worked == 1, "{ended:?}");
        folders.iter().for_each(|folder| drop(works(&sandbox, &["backup", "verify", folder])));
    }
    let line = refused(&sandbox, &["backup", &first]);
    assert!(line.contains("is not empty: name a folder"), "{line}");
    let elsewhere = folder(&sandbox, "elsewhere");
    let data = sandbox.data().to_str().unwrap().to_owned();
    let line = refused(&sandbox, &["restore", &first, "--data", &data]);
    assert!(line.contains("a daemon runs on data folder"), "{line}");
    daemon.terminate();
    let line = refused(&sandbox, &["restore", &first, "--data", &data]);
    assert!(line.contains("is not empty: move it away"), "{line}");
    // One byte of a store.
    let store = Path::new(&first).join("stores/hostile.db");
    let mut bytes = fs::read(&store).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&store, bytes).unwrap();
    for arguments in [&["backup", "verify", &first][..], &["restore", &first, "--data", &elsewhere]] {
        let line = refused(&sandbox, arguments);
        assert!(line.contains("stores/hostile.db is not as it was written"), "{line}");
    }
    // One that was cut off before its end.
    fs::remove_file(Path::new(&second).join("backup.json")).unwrap();
    let line = refused(&sandbox, &["restore", &second, "--data", &elsewhere]);
    assert!(line.contains("is no backup: backup.json, which is written last, is not in it"), "{line}");
    assert!(!Path::new(&elsewhere).exists(), "nothing was restored");
    // A manifest that was made to lead out of the backup.
    let manifest = Path::new(&full).join("backup.json");
    let text = fs::read_to_string(&manifest).unwrap().replace("\"id\"", "\"../id\"");
    fs::write(&manifest, text).unwrap();
    let line = refused(&sandbox, &["restore", &full, "--data", &elsewhere]);
    assert!(line.contains("names \"../id\", which is outside of the backup"), "{line}");
    // A restore that was cut off is no data folder.
    fs::write(sandbox.data().join("restoring"), "").unwrap();
    let (code, line) = Daemon::refused(&sandbox);
    assert!(code == 1 && line.contains("was cut off: remove that folder, and run `tidemill restore` again"), "{line}");
}

#[test]
fn h2_a_backup_that_is_asked_for_from_elsewhere_is_on_the_daemons_machine_and_in_its_audit_log() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    assert_eq!(daemon_counts(&sandbox, "done"), Some(0.0), "the series is there from the start");
    let there = there(&sandbox);
    let there = there.each_ref().map(String::as_str);
    let told = works(&sandbox, &[&["backup", "before-friday"], &there[..]].concat());
    let place = sandbox.data().join("backups/before-friday");
    assert!(told.contains(&format!("{} on the daemon's machine: 1 stores (hostile)", place.display())), "{told}");
    works(&sandbox, &["backup", "verify", place.to_str().unwrap()]);
    let whole = sandbox.admin("GET", "backup/before-friday").send().expect_status(200).json();
    assert_eq!(whole["state"], "whole");
    let json = works(&sandbox, &[&["backup", "--json", "again"], &there[..]].concat());
    let manifest: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(manifest["files"].as_array().unwrap().len(), whole["manifest"]["files"].as_array().unwrap().len());
    fs::remove_dir_all(sandbox.data().join("backups/again")).unwrap();
    sandbox.admin("GET", "backup/nobody").send().expect_status(404);
    for (name, said) in [("before-friday", "is not empty"), ("../out", "name")] {
        let line = refused(&sandbox, &[&["backup", name], &there[..]].concat());
        assert!(line.contains(said), "{name}: {line}");
    }
    let acts = sandbox.audit();
    let noted: Vec<bool> =
        acts.iter().filter(|act| act["action"] == json!("backup")).map(|act| act["ok"].as_bool().unwrap()).collect();
    assert_eq!(noted, [true, true, false], "{acts:?}");
    let backups = |result| daemon_counts(&sandbox, result);
    assert_eq!([backups("done"), backups("refused")], [Some(2.0), Some(1.0)]);
    // A backup of the folder does not hold the backups in it.
    let next = folder(&sandbox, "next");
    works(&sandbox, &["backup", &next]);
    assert!(!Path::new(&next).join("backups").exists());
    drop(daemon);
}

/// Stands among the versions, and holds up who reads it until somebody writes to it.
fn gate(sandbox: &Sandbox) -> PathBuf {
    let gate = sandbox.data().join("versions/gate.sql");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    gate
}

/// Lets who waits there go on.
fn open_gate(gate: &Path) {
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    eventually(LONG, "somebody waits there", || {
        fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(gate).is_ok()
    });
}

#[test]
fn h2_a_backup_tells_how_far_it_is_and_goes_on_to_its_end_without_the_client_that_asked_for_it() {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let state = |name: &str| sandbox.admin("GET", &format!("backup/{name}")).send().expect_status(200).json();
    let gate = gate(&sandbox);
    let there = there(&sandbox);
    let there = there.each_ref().map(String::as_str);
    let mut client = start(&sandbox, &[&["backup", "monday"], &there[..]].concat());
    let copied = |name: &str| {
        eventually(LONG, "the stores are copied", || {
            let answer = sandbox.admin("GET", &format!("backup/{name}")).send();
            answer.status == 200 && {
                let progress = &answer.json()["progress"];
                !progress.is_null() && progress["done"] == progress["of"]
            }
        });
    };
    copied("monday");
    let now = state("monday");
    let progress = &now["progress"];
    assert_eq!(
        (&now["state"], &progress["doing"], &progress["file"]),
        (&json!("running"), &json!("copy"), &json!("stores/hostile.db"))
    );
    assert_eq!((&progress["number"], &progress["files"]), (&json!(1), &json!(1)), "{now}");
    assert!(progress["of"].as_u64().unwrap() > 4_096, "{now}");
    // There is one at a time, and it waits for nobody.
    let line = refused(&sandbox, &[&["backup", "another"], &there[..]].concat());
    assert!(line.contains("the backup monday is being written"), "{line}");
    client.kill().unwrap();
    let said = client.wait_with_output().unwrap();
    assert!(said.stdout.is_empty(), "{said:?}");
    assert_eq!(state("monday")["state"], "running");
    open_gate(&gate);
    eventually(LONG, "it is whole", || state("monday")["state"] == "whole");
    let place = sandbox.data().join("backups/monday");
    works(&sandbox, &["backup", "verify", place.to_str().unwrap()]);

    // A daemon that stops leaves no half of one.
    let waits = start(&sandbox, &[&["backup", "tuesday"], &there[..]].concat());
    copied("tuesday");
    daemon.signal(Signal::TERM);
    daemon.says(&["the backup that is being written is given up", "tuesday"]);
    open_gate(&gate);
    assert!(daemon.wait_exit().success());
    assert!(!sandbox.data().join("backups/tuesday").exists());
    assert!(!waits.wait_with_output().unwrap().status.success());
    let acts: Vec<Value> = sandbox.audit().into_iter().filter(|act| act["action"] == json!("backup")).collect();
    let noted: Vec<bool> = acts.iter().map(|act| act["ok"].as_bool().unwrap()).collect();
    assert_eq!(noted, [false, true, false], "{acts:?}");
    assert!(acts[2]["error"].as_str().unwrap().contains("since the daemon stops: nothing of it is left"), "{acts:?}");
}

#[test]
fn h2_records_that_kafka_removed_since_a_backup_are_told_and_counted_and_the_rest_is_read() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let (sandbox, input) = (&hostile.sandbox, &hostile.input);
    let produce = |ids: std::ops::Range<usize>| {
        hostile.client.produce_all(input, ids.map(|n| told(&format!("r{n}"), "insert").partition(0)));
    };
    let remove_before = |offset: usize| {
        let places = sandbox.root().join("places.json");
        let text = json!({ "version": 1, "partitions": [{ "topic": input, "partition": 0, "offset": offset }] });
        fs::write(&places, text.to_string()).unwrap();
        kafka.tool("delete-records", &["--offset-json-file", places.to_str().unwrap()]);
    };
    let lost = || sandbox.scrape().find("tidemill_records_lost_total", &[("handler", "hostile")]);
    let mut daemon = Daemon::start(sandbox);
    let store = Store::open(sandbox, "hostile");
    produce(0..10);
    store.until("SELECT count(*) FROM seen", 10);
    assert_eq!(lost(), Some(0.0));
    let backup = folder(sandbox, "backup");
    works(sandbox, &["backup", &backup]);
    produce(10..30);
    store.until("SELECT count(*) FROM seen", 30);
    daemon.terminate();
    fs::rename(sandbox.data(), sandbox.root().join("lost")).unwrap();
    remove_before(25);
    works(sandbox, &["restore", &backup, "--data", sandbox.data().to_str().unwrap()]);

    // It is seen before the daemon goes past it.
    let doctor = String::from_utf8(sandbox.tidemill(&["doctor"]).stdout).unwrap();
    let place = format!("handler hostile is at {input}/0@10, and Kafka has nothing before 25: 15 records are gone");
    assert!(doctor.contains(&place), "{doctor}");
    let daemon = Daemon::start(sandbox);
    let store = Store::open(sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 15);
    daemon.says(&["WARN", input, "15 records (10 to 24) were removed from the topic before they were read"]);
    assert_eq!(lost(), Some(15.0));
    assert_eq!(store.line("SELECT next_offset FROM tm_offset WHERE partition = 0"), "30");

    // What somebody has kept is published again.
    produce(10..25);
    store.until("SELECT count(*) FROM seen", 30);
    assert_eq!(store.count("SELECT count(DISTINCT id) FROM seen"), 30);
}
