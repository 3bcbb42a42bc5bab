//! S3.4, H7: what endangers a daemon is found before it happens: each check is seen to say so, with its cause made here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;
use tidemill_tests::{Authority, Daemon, Kafka, LONG, Out, Sandbox, Store, eventually};

use crate::rig::{Hostile, told};

/// The exit code, and check, verdict and text of each finding.
type Told = (i32, Vec<(String, String, String)>);

fn doctor(sandbox: &Sandbox) -> Told {
    told_by(&sandbox.tidemill(&["doctor", "--json"]))
}

fn told_by(output: &Output) -> Told {
    let found: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let part = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let finding = |finding: &Value| {
        let said = format!("{}: {}", part(finding, "saw"), part(finding, "advice"));
        (part(finding, "check"), part(finding, "verdict"), said)
    };
    (output.status.code().unwrap(), found.iter().map(finding).collect())
}

/// That a check says this, in the only line of it that does; returns the exit code.
fn says(sandbox: &Sandbox, check: &str, verdict: &str, words: &[&str]) -> i32 {
    let (code, found) = doctor(sandbox);
    let of_check = found.iter().filter(|(name, as_bad, said)| {
        name == check && as_bad == verdict && words.iter().all(|word| said.contains(word))
    });
    assert_eq!(of_check.count(), 1, "{check} is to be {verdict} for {words:?}: {found:#?}");
    code
}

/// That all is well with a check.
fn well(sandbox: &Sandbox, check: &str) {
    let (_, found) = doctor(sandbox);
    let of_check: Vec<_> = found.iter().filter(|(name, ..)| name == check).collect();
    assert!(!of_check.is_empty() && of_check.iter().all(|(_, verdict, _)| verdict == "ok"), "{check}: {found:#?}");
}

const CHECKS: [&str; 20] = [
    "daemon",
    "settings",
    "data",
    "disk",
    "files",
    "clock",
    "secrets",
    "tokens",
    "certificates",
    "stores",
    "handlers",
    "kafka",
    "version",
    "topics",
    "partitions",
    "replication",
    "compaction",
    "sizes",
    "inbox",
    "retention",
];

#[test]
fn h7_where_nothing_is_wrong_each_check_says_so_with_a_daemon_and_without() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let sandbox = &hostile.sandbox;
    let mut daemon = Daemon::start(sandbox);
    let store = Store::open(sandbox, "hostile");
    hostile.client.produce(&hostile.input, &told("a", "insert"));
    store.until("SELECT count(*) FROM seen", 1);
    for runs in [true, false] {
        if !runs {
            daemon.terminate();
        }
        let (code, found) = doctor(sandbox);
        let worst: Vec<_> = found.iter().filter(|(_, verdict, _)| verdict != "ok").collect();
        // Whatever this machine's disk and clock are, the rest is well.
        let machine = ["disk", "data", "files", "clock"];
        assert!(worst.iter().all(|(check, ..)| machine.contains(&check.as_str())), "{worst:#?}");
        assert_eq!(code, if worst.is_empty() { 0 } else { code.max(3) }, "{found:#?}");
        for check in CHECKS.iter().chain(&["times"]) {
            assert!(found.iter().any(|(name, ..)| name == check), "{check} is missing: {found:#?}");
        }
        let said = found.iter().find(|(check, ..)| check == "daemon").unwrap();
        assert_eq!(said.2.contains("runs and is ready"), runs, "{said:?}");
    }
    let text = sandbox.tidemill(&["doctor"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("ok    stores")), "{text}");
}

#[test]
fn h7_settings_secrets_and_certificates_that_endanger_data_are_told() {
    let sandbox = Sandbox::new();
    let file = |name: &str, mode: u32| {
        let path = sandbox.root().join(name);
        fs::write(&path, "k".repeat(40)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let authority = Authority::new();
    authority.issue("localhost");
    for name in ["localhost.pem", "localhost.key"] {
        fs::copy(authority.path(name), sandbox.root().join(name)).unwrap();
    }
    fs::set_permissions(sandbox.root().join("localhost.key"), fs::Permissions::from_mode(0o600)).unwrap();
    sandbox.write_toml("[store]\nsynchronous = \"normal\"\n");
    assert_eq!(says(&sandbox, "settings", "bad", &["power cut", "\"full\""]), 4);
    sandbox.write_toml("[kafka]\nacks = 1\n");
    says(&sandbox, "settings", "bad", &["kafka.acks is 1"]);
    sandbox.write_toml("");
    says(&sandbox, "settings", "warn", &["embedded broker", "forgets"]);

    sandbox.write_toml("[admin]\ntoken-file = \"token\"\n");
    file("token", 0o644);
    says(&sandbox, "secrets", "bad", &["/token can be read by everybody (mode 644)", "chmod 600"]);
    file("token", 0o640);
    says(&sandbox, "secrets", "warn", &["its group"]);
    file("token", 0o600);
    well(&sandbox, "secrets");

    sandbox.write_toml("[http.tls]\ncertificate-file = \"localhost.pem\"\nkey-file = \"localhost.key\"\n");
    // The authority's are made for 30 days, of which the first has begun.
    says(&sandbox, "certificates", "warn", &["localhost.pem ends in 29 days", "renew it"]);
    well(&sandbox, "secrets");
}

#[test]
fn h7_certificates_that_no_listener_can_use_are_told_of_each() {
    let [ours, foreign] = [Authority::new(), Authority::new()];
    [&ours, &foreign].into_iter().for_each(|authority| authority.issue_for("localhost", 60));
    ours.issue_for("ended", -1);
    let sandbox = Sandbox::new();
    let with = |of: &str, certificate: &Path, key: &Path, more: &str| {
        let (certificate, key) = (certificate.display(), key.display());
        sandbox.write_toml(&format!("[{of}.tls]\ncertificate-file = \"{certificate}\"\nkey-file = \"{key}\"\n{more}"));
    };
    let (good, key) = (ours.path("localhost.pem"), ours.path("localhost.key"));
    for of in ["http", "admin", "metrics"] {
        let named = format!("{of}.tls: ");
        with(of, &good, &key, "");
        well(&sandbox, "certificates");
        with(of, &good, &foreign.path("localhost.key"), "");
        assert_eq!(says(&sandbox, "certificates", "bad", &[&named, "do not go together"]), 4);
        with(of, &good, Path::new("nothing.key"), "");
        says(&sandbox, "certificates", "bad", &[&named, "nothing.key"]);
        with(of, &key, &key, "");
        says(&sandbox, "certificates", "bad", &[&named, "holds no certificate"]);
        with(of, &ours.path("ended.pem"), &ours.path("ended.key"), "");
        says(&sandbox, "certificates", "bad", &["ended.pem has ended at", "renew it"]);
        with(of, &good, &key, &format!("client-ca-file = \"{}\"\n", ours.path("ca.pem").display()));
        says(&sandbox, "certificates", "warn", &["ca.pem ends in 29 days"]);
    }
}

#[test]
fn h7_files_of_secrets_and_tokens_that_others_can_read_or_write_are_told() {
    let authority = Authority::new();
    authority.issue("localhost");
    let sandbox = Sandbox::with(&["hostile"]);
    let mode = |name: &str, mode: u32| {
        let path = sandbox.root().join(name);
        if !path.exists() {
            fs::write(&path, "k".repeat(40)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::copy(authority.path("localhost.pem"), sandbox.root().join("localhost.pem")).unwrap();
    let tls = |of: &str| {
        fs::copy(authority.path("localhost.key"), sandbox.root().join(format!("{of}.key"))).unwrap();
        format!("[{of}.tls]\ncertificate-file = \"localhost.pem\"\nkey-file = \"{of}.key\"\n")
    };
    let oauth = |what: &str| {
        format!(
            "[kafka]\nbootstrap = \"127.0.0.1:1\"\n[kafka.security]\nprotocol = \"SASL_SSL\"\nmechanism = \"OAUTHBEARER\"\n[kafka.security.oauth]\n{what}"
        )
    };
    let cases = [
        ("http.key", tls("http")),
        ("admin.key", tls("admin")),
        ("metrics.key", tls("metrics")),
        ("scrapes", "[metrics]\ntoken-file = \"scrapes\"\n".to_owned()),
        ("jwt", "[http.jwt]\nsecret-file = \"jwt\"\n".to_owned()),
        ("bearer", oauth("token-file = \"bearer\"\n")),
        (
            "client",
            oauth("token-url = \"http://127.0.0.1:1/\"\nclient-id = \"i\"\nclient-secret-file = \"client\"\n"),
        ),
        ("collector", "[traces]\nsecret-headers = { authorization = { file = \"collector\" } }\n".to_owned()),
        (
            "service",
            "[[destination]]\ntopic = \"t\"\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\nsecret-headers = { authorization = { file = \"service\" } }\n".to_owned(),
        ),
    ];
    for (file, toml) in cases {
        sandbox.write_toml(&toml);
        mode(file, 0o600);
        well(&sandbox, "secrets");
        mode(file, 0o604);
        assert_eq!(says(&sandbox, "secrets", "bad", &[&format!("/{file} can be read by everybody (mode 604)")]), 4);
        mode(file, 0o640);
        says(&sandbox, "secrets", "warn", &[&format!("/{file} can be read by its group (mode 640)"), "chmod 600"]);
    }

    // Of the admin API's tokens the file holds hashes alone: who reads it has none, and who writes it gives himself one.
    sandbox.write_toml("[admin]\nnamed-tokens-file = \"who.tokens\"\n");
    assert!(sandbox.tidemill(&["admin", "token", "new", "ci", "--role", "deploy"]).status.success());
    well(&sandbox, "tokens");
    mode("who.tokens", 0o646);
    says(&sandbox, "tokens", "bad", &["who.tokens can be written by everybody (mode 646)", "chmod 600"]);
    mode("who.tokens", 0o664);
    says(&sandbox, "tokens", "warn", &["who.tokens can be written by its group"]);
    mode("who.tokens", 0o644);
    well(&sandbox, "tokens");
    fs::write(sandbox.root().join("who.tokens"), "half read abc\n").unwrap();
    says(&sandbox, "tokens", "bad", &["who.tokens:1: write a name, a role", "no daemon starts"]);
}

/// What the kernel says of the clock is said by this in its place: a number, as adjtimex(2) returns it.
const CLOCK: &str =
    "#include <stdlib.h>\nint adjtimex(void *time) { (void)time; return atoi(getenv(\"TM_TEST_CLOCK\")); }\n";

#[test]
fn h7_a_clock_that_nothing_keeps_right_is_told() {
    let sandbox = Sandbox::new();
    let [source, library] = ["clock.c", "clock.so"].map(|name| sandbox.root().join(name));
    fs::write(&source, CLOCK).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let of_clock = |state: &str| {
        let mut command = sandbox.command(&["doctor", "--json"]);
        let told = told_by(&command.env("LD_PRELOAD", &library).env("TM_TEST_CLOCK", state).output().unwrap());
        let clock: Vec<_> = told.1.into_iter().filter(|(check, ..)| check == "clock").collect();
        let [(_, verdict, said)] = &clock[..] else { panic!("{clock:?}") };
        (verdict.clone(), said.clone())
    };
    // TIME_OK, TIME_INS (a leap second is to come), TIME_ERROR, and a kernel that does not answer.
    for (state, verdict, word) in [
        ("0", "ok", "and the clock is kept right"),
        ("1", "ok", "and the clock is kept right"),
        ("5", "warn", "nothing that keeps the clock right: it may be slow or fast: run systemd-timesyncd"),
        ("-1", "ok", "whether anything keeps the clock right cannot be seen"),
    ] {
        let (is, said) = of_clock(state);
        assert!(is == verdict && said.contains(word), "{state}: {is} {said}");
    }
}

#[test]
fn h7_the_brokers_release_is_told_by_what_it_understands() {
    let hostile = Hostile::new(Kafka::shared(), "");
    // That of the tests is a later one, and brought nothing that tells it.
    says(&hostile.sandbox, "version", "ok", &["understands what came with Kafka 4.0: it is that, or later"]);
}

#[test]
fn h7_a_store_that_is_damaged_or_from_another_time_is_told_whether_a_daemon_has_it_open_or_not() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM tm_deployment", 1);
    well(&sandbox, "stores");
    let path = sandbox.store_file("hostile");
    let open = || Connection::open(&path).unwrap();
    // As a person with sqlite3 could leave it.
    open()
        .execute_batch(
            "PRAGMA foreign_keys = OFF; CREATE TABLE elder (id INTEGER PRIMARY KEY); CREATE TABLE younger (of REFERENCES elder);
             INSERT INTO younger VALUES (7);",
        )
        .unwrap();
    assert_eq!(says(&sandbox, "stores", "bad", &["1 rows refer to what is not there", "table younger"]), 4);
    daemon.terminate();
    says(&sandbox, "stores", "bad", &["table younger"]);
    open().execute_batch("DROP TABLE younger").unwrap();
    well(&sandbox, "stores");

    open()
        .execute_batch(
            "INSERT INTO tm_outbox (event_id, event_type, topic, headers, kind, handler, source, created_at, not_before)
             VALUES ('e', 't', 't', '[]', 'event', 'hostile', 's', 4102444800000, 4102444800000)",
        )
        .unwrap();
    says(&sandbox, "clock", "bad", &["2100-01-01T00:00:00", "set the clock right"]);
    let known: i64 = open().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    open().execute_batch("DELETE FROM tm_outbox; PRAGMA user_version = 999").unwrap();
    says(&sandbox, "stores", "bad", &["a newer Tidemill (ledger 999"]);
    open().execute_batch(&format!("PRAGMA user_version = {known}; PRAGMA wal_checkpoint(TRUNCATE)")).unwrap();

    // A page in the middle that is no page.
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    says(&sandbox, "stores", "bad", &["store hostile", "restore a backup"]);
}

#[test]
fn h7_a_folder_that_is_not_what_runs_is_told() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    well(&sandbox, "handlers");
    sandbox.deploy_bytes("broken.wasm", b"no component");
    says(&sandbox, "handlers", "bad", &["broken.wasm", "tidemill check"]);
    sandbox.remove("broken.wasm");
    // What is refused lies there all the same.
    let manifest =
        crate::rig::manifest("hostile", &[("name = \"hostile\"", "name = \"hostile\"\nstore = \"another\"")]);
    crate::rig::put_beside(&sandbox, "hostile.toml", &manifest);
    daemon.says(&["ERROR", "hostile.wasm", "refused"]);
    assert_eq!(
        says(&sandbox, "handlers", "bad", &["is not what runs of handler hostile", "tidemill versions hostile"]),
        4
    );
    fs::remove_file(sandbox.handler("hostile.toml")).unwrap();
    daemon.terminate();
    well(&sandbox, "handlers");
    sandbox.remove("hostile.wasm");
    says(&sandbox, "handlers", "warn", &["handler hostile was live", "put its file back"]);
}

#[test]
fn h7_a_cluster_that_does_not_answer_is_told_and_all_else_is_looked_at() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[kafka]\nbootstrap = \"127.0.0.1:1\"\n");
    assert_eq!(says(&sandbox, "kafka", "bad", &["127.0.0.1:1 does not answer", "kafka.bootstrap"]), 4);
    well(&sandbox, "handlers");
}

#[test]
fn s3_4_topics_that_lose_records_or_take_no_events_are_told() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "event-id = \"ce_id\"\n");
    let sandbox = &hostile.sandbox;
    let dead_letters = format!("{}.DLT", hostile.input);
    let tune = |topic: &str, setting: &str| {
        kafka.tool("configs", &["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", setting]);
    };
    well(sandbox, "topics");
    says(sandbox, "inbox", "ok", &[]);
    let (input, output) = (&*hostile.input, &*hostile.output);
    tune(input, "retention.ms=2000000000");
    says(sandbox, "inbox", "warn", &[input, "inbox.keep is 7d", "hostile"]);
    tune(input, "cleanup.policy=compact");
    says(sandbox, "compaction", "warn", &[input, "only the last record"]);
    tune(input, "cleanup.policy=delete");
    tune(output, "min.insync.replicas=2");
    assert_eq!(says(sandbox, "replication", "bad", &[output, "1 copies", "min.insync.replicas is 2"]), 4);
    tune(output, "min.insync.replicas=1");
    well(sandbox, "replication");
    tune(output, "max.message.bytes=1000");
    says(sandbox, "sizes", "warn", &[output, "takes 1000 bytes"]);
    hostile.client.create_topic_with(&dead_letters, 1, &[("cleanup.policy", "compact"), ("max.message.bytes", "1000")]);
    says(sandbox, "compaction", "bad", &[&dead_letters]);
    says(sandbox, "sizes", "warn", &[input, &dead_letters, "gets 1000 at most"]);
    says(sandbox, "partitions", "bad", &[&dead_letters, "has 1 partitions", "one of 3"]);
    let toml = fs::read_to_string(sandbox.toml()).unwrap();
    sandbox.write_toml(&toml.replace(&format!("\"{output}\""), "\"nowhere-at-all\""));
    says(sandbox, "topics", "bad", &["nowhere-at-all, which hostile publishes to", "[[topic]]"]);
    sandbox.write_toml(&format!(
        "{toml}consumer = {{ concurrency = 2 }}\n[[topic]]\nname = \"{input}\"\npartitions = 5\n"
    ));
    says(sandbox, "partitions", "warn", &[input, "may be at 2 at once"]);
    says(sandbox, "partitions", "warn", &[input, "[[topic]] says 5"]);
}

#[test]
fn s3_4_records_that_are_about_to_be_deleted_or_come_from_the_future_are_told() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(kafka, "");
    let (sandbox, topic) = (&hostile.sandbox, hostile.sandbox.unique("aged"));
    hostile.client.create_topic_with(
        &topic,
        1,
        &[("retention.ms", "-1"), ("message.timestamp.after.max.ms", "9000000000000")],
    );
    let toml = fs::read_to_string(sandbox.toml()).unwrap().replace(&hostile.input, &topic);
    sandbox.write_toml(&toml);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    const HOUR: i64 = 3_600_000;
    let at =
        |id: &str, time: i64| Out::new(format!("{{\"do\":\"insert\",\"id\":\"{id}\"}}")).partition(0).timestamp(time);
    hostile.client.produce(&topic, &at("first", now - 30 * HOUR));
    let mut daemon = Daemon::start(sandbox);
    let store = Store::open(sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 1);
    assert!(sandbox.tidemill(&["groups", "pause", &hostile.group]).status.success());
    hostile.client.produce_all(&topic, [at("waits", now - 20 * HOUR), at("newer", now - HOUR)]);
    well(sandbox, "retention");
    let keep = |hours: i64| {
        let setting = format!("retention.ms={}", hours * HOUR);
        kafka.tool(
            "configs",
            &["--alter", "--entity-type", "topics", "--entity-name", &topic, "--add-config", &setting],
        );
    };
    let place = format!("handler hostile is at {topic}/0@1");
    keep(100);
    well(sandbox, "retention");
    keep(30);
    says(sandbox, "retention", "warn", &[&place, "older than half"]);
    keep(19);
    assert_eq!(says(sandbox, "retention", "bad", &[&place, "older than", "(19h)"]), 4);
    // And once they are gone.
    let places = sandbox.root().join("places.json");
    fs::write(
        &places,
        format!("{{\"version\":1,\"partitions\":[{{\"topic\":\"{topic}\",\"partition\":0,\"offset\":2}}]}}"),
    )
    .unwrap();
    kafka.tool("delete-records", &["--offset-json-file", path(&places)]);
    says(sandbox, "retention", "bad", &[&place, "has nothing before 2"]);

    well(sandbox, "times");
    keep(1_000);
    hostile.client.produce(&topic, &at("tomorrow", now + 24 * HOUR));
    eventually(LONG, "it is there", || hostile.client.consume_all(&topic).len() == 2);
    says(sandbox, "times", "bad", &[&format!("a record of {topic}/0"), "set the clocks right"]);
    daemon.terminate();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
