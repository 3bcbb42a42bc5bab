//! H1, H2: a handler that is sent, gone back from and taken away by command; the folder and the commands agree.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Daemon, SOON, Sandbox, Store, eventually};

use crate::rig::{manifest, put_beside, seen, told};

/// The hostile handler's file with its own manifest inside and nothing beside it, told from others by `name`.
fn file(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.root().join(format!("{name}.wasm"));
    fs::write(&path, with_section(&built("hostile"), name)).unwrap();
    path
}

/// The same with a manifest beside it, whose setting the handler writes into its rows.
pub(crate) fn file_that_says(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = file(sandbox, name);
    let text = format!("{}[settings]\nversion = \"{name}\"\n", manifest("hostile", &[]));
    fs::write(path.with_extension("toml"), text).unwrap();
    path
}

/// Runs a command that is to work: what it printed.
pub(crate) fn works(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let out = sandbox.tidemill(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", errors(&out));
    String::from_utf8(out.stdout).unwrap()
}

/// Runs one that is to be refused: its one line.
pub(crate) fn refused(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let out = sandbox.tidemill(arguments);
    let errors = errors(&out);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{arguments:?}: {:?} {errors}", out.status);
    assert!(out.stdout.is_empty() && errors.lines().count() == 1 && errors.starts_with("error: "), "{errors}");
    errors
}

fn errors(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub(crate) fn deploy(sandbox: &Sandbox, file: &std::path::Path) -> Value {
    serde_json::from_str(&works(sandbox, &["deploy", "--json", file.to_str().unwrap()])).unwrap()
}

pub(crate) fn versions(sandbox: &Sandbox) -> Vec<String> {
    let all: Value = serde_json::from_str(&works(sandbox, &["versions", "hostile", "--json"])).unwrap();
    let row = |row: &Value| format!("{} {}", row["version"], row["status"].as_str().unwrap());
    all.as_array().unwrap().iter().map(row).collect()
}

/// What the folder holds, by name and content.
fn folder(sandbox: &Sandbox) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all: Vec<_> = fs::read_dir(sandbox.handler("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all.into_iter().map(|path| (path.clone(), fs::read(path).ok())).collect()
}

/// The version that writes rows, by a record that is sent now.
pub(crate) fn writes_as(daemon: &Daemon, store: &Store, id: &str) -> String {
    daemon.client().produce("hostile-in", &told(id, "insert"));
    store.until(&format!("SELECT count(*) FROM seen WHERE id = '{id}'"), 1);
    store.line(&format!("SELECT version FROM seen WHERE id = '{id}'"))
}

#[test]
fn h1_a_handler_is_deployed_by_command_under_load_and_no_record_is_lost_or_doubled() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    let first = deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    assert_eq!((&first["version"], &first["changed"]), (&json!(1), &json!(true)));
    assert!(sandbox.handler("hostile.wasm").exists() && sandbox.handler("hostile.toml").exists());
    let (client, store) = (daemon.client(), Store::open(&sandbox, "hostile"));
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) && sent < 8000 {
                client.produce_all("hostile-in", (sent..sent + 20).map(|n| told(&format!("r{n}"), "insert")));
                sent += 20;
            }
            sent
        });
        for number in 2..=4 {
            let name = format!("v{number}");
            assert_eq!(deploy(&sandbox, &file_that_says(&sandbox, &name))["version"], json!(number));
            store.until(&format!("SELECT count(*) > 0 FROM seen WHERE version = '{name}'"), 1);
        }
        let back = works(&sandbox, &["rollback", "hostile", "1"]);
        assert!(back.starts_with("version 5 of handler hostile"), "{back}");
        let again =
            "SELECT max(seq) > (SELECT max(seq) FROM seen b WHERE b.version = 'v4' AND b.partition = a.partition)
                     FROM seen a WHERE version = 'v1' GROUP BY partition ORDER BY 1 DESC LIMIT 1";
        store.until(again, 1);
        stop.store(true, Ordering::Relaxed);
        producer.join().unwrap()
    });
    store.until("SELECT count(DISTINCT id) FROM seen", sent);
    assert_eq!(store.count("SELECT count(*) FROM seen"), sent);
    // The folder's watch has found what runs, and made nothing of it.
    assert_eq!(store.count("SELECT count(*) FROM tm_deployment"), 5);
    assert_eq!(daemon.find(&["ERROR"]), None);
}

#[test]
fn h2_a_refused_file_changes_nothing() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file(&sandbox, "v1"));
    let store = Store::open(&sandbox, "hostile");
    let before = folder(&sandbox);

    let good = built("hostile");
    let bad = sandbox.root().join("bad.wasm");
    let bad = bad.to_str().unwrap();
    assert!(refused(&sandbox, &["deploy", bad]).contains("No such file"));
    assert!(refused(&sandbox, &["deploy", sandbox.root().to_str().unwrap()]).contains("directory"));
    for (bytes, why) in [(&good[..good.len() / 2], "cut off"), (b"#!/bin/sh", "not WebAssembly"), (b"", "is empty")] {
        fs::write(bad, bytes).unwrap();
        assert!(refused(&sandbox, &["deploy", bad]).contains(why), "{why}");
        // Also where nobody has looked at it before.
        let reply = sandbox.admin("POST", "handlers").bytes("application/wasm", bytes.to_vec()).send();
        assert!(reply.status == 422 && reply.text().contains(why), "{} {}", reply.status, reply.text());
    }
    fs::write(bad, &good).unwrap();
    let toml = sandbox.root().join("bad.toml");
    for (change, why) in [
        (("\"hostile-in\"", "\"hostile-in\", \"hostile-in\""), "stands here twice"),
        (("name = \"hostile\"", "name = \"hostile\"\nstore = \"another\""), "would lose them"),
        (("time = \"250ms\"", "memory = \"64KiB\""), "limits.memory"),
    ] {
        fs::write(&toml, manifest("hostile", &[change])).unwrap();
        assert!(refused(&sandbox, &["deploy", bad]).contains(why), "{why}");
    }
    // A migration that fails was refused by the store, and is in the history with its reason.
    fs::remove_file(&toml).unwrap();
    let migrations = sandbox.root().join("bad.migrations");
    fs::create_dir(&migrations).unwrap();
    let own = tidemill_tests::sandbox::repository().join("tests/guests/hostile/migrations/0001_hostile.sql");
    fs::copy(own, migrations.join("0001_hostile.sql")).unwrap();
    fs::write(migrations.join("0002_bad.sql"), "CREATE TABLE half (n); INSERT INTO nowhere VALUES (1);").unwrap();
    assert!(refused(&sandbox, &["deploy", bad]).contains("0002_bad.sql"));
    let failed = "SELECT error FROM tm_deployment WHERE status = 'failed' ORDER BY id DESC LIMIT 1";
    assert!(store.line(failed).contains("0002_bad.sql"));
    assert_eq!(store.count("SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), 0);

    assert_eq!(folder(&sandbox), before);
    assert_eq!(versions(&sandbox).last().unwrap(), "1 live");
    assert_eq!(store.count("SELECT count(*) FROM tm_deployment WHERE status <> 'failed'"), 1);
    daemon.client().produce("hostile-in", &told("a", "insert"));
    store.until("SELECT count(*) FROM seen", 1);
}

#[test]
fn h2_what_stands_beside_the_file_in_the_folder_is_not_passed_over() {
    let sandbox = Sandbox::with(&["hostile"]);
    put_beside(&sandbox, "hostile.toml", &format!("{}[settings]\nversion = \"beside\"\n", manifest("hostile", &[])));
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let sent = file(&sandbox, "v2");
    let before = folder(&sandbox);
    let why = refused(&sandbox, &["deploy", sent.to_str().unwrap()]);
    assert!(why.contains("hostile.toml would replace the manifest inside") && why.contains("take it away"), "{why}");
    assert_eq!(folder(&sandbox), before);
    assert_eq!(writes_as(&daemon, &store, "a"), "beside");
    deploy(&sandbox, &file_that_says(&sandbox, "v3"));
    assert_eq!(writes_as(&daemon, &store, "b"), "v3");
    assert!(fs::read_to_string(sandbox.handler("hostile.toml")).unwrap().contains("v3"));

    // A folder that cannot be written is said before anything goes live. Root may write everywhere, so it is gone.
    let next = file_that_says(&sandbox, "v4");
    let away = sandbox.root().join("away");
    fs::rename(sandbox.handler(""), &away).unwrap();
    let why = refused(&sandbox, &["deploy", next.to_str().unwrap()]);
    assert!(why.contains("cannot be written, and nothing was changed"), "{why}");
    fs::rename(away, sandbox.handler("")).unwrap();
    assert_eq!(writes_as(&daemon, &store, "c"), "v3");
    // So is another handler's file.
    let other = sandbox.root().join("other.wasm");
    fs::write(&other, built("hostile")).unwrap();
    let text = manifest("hostile", &[("name = \"hostile\"", "name = \"x\"")]);
    fs::write(other.with_extension("toml"), text).unwrap();
    fs::write(sandbox.handler("x.wasm"), built("order")).unwrap();
    daemon.says(&["handler is live", "order"]);
    let why = refused(&sandbox, &["deploy", other.to_str().unwrap()]);
    assert!(why.contains("x.wasm holds handler order"), "{why}");
}

#[test]
fn h2_a_rollback_outlives_restarts_and_the_file_that_still_lies_in_the_folder() {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox);
    for name in ["v1", "v2", "v3"] {
        deploy(&sandbox, &file_that_says(&sandbox, name));
    }
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(writes_as(&daemon, &store, "a"), "v3");
    let before = folder(&sandbox);
    let said = works(&sandbox, &["rollback", "hostile"]);
    assert!(said.starts_with("version 4 of handler hostile") && said.contains("held back until it changes"), "{said}");
    assert_eq!(writes_as(&daemon, &store, "b"), "v2");
    assert_eq!(folder(&sandbox), before);
    assert_eq!(versions(&sandbox), ["4 live", "3 rolled-back", "2 replaced", "1 replaced"]);
    assert!(works(&sandbox, &["handlers"]).contains("rolled-back"));

    for kill in [false, true] {
        if kill {
            daemon.kill9()
        } else {
            daemon.terminate()
        }
        drop(daemon);
        daemon = Daemon::start(&sandbox);
        assert_eq!(writes_as(&daemon, &store, if kill { "d" } else { "c" }), "v2");
    }
    // A restart is no deployment, and a touch is no other content.
    let text = fs::read(sandbox.handler("hostile.wasm")).unwrap();
    sandbox.deploy_bytes("hostile.wasm", &text);
    assert_eq!(versions(&sandbox).len(), 4);
    // Once more goes back further.
    works(&sandbox, &["rollback", "hostile"]);
    assert_eq!(writes_as(&daemon, &store, "e"), "v1");
    let why = refused(&sandbox, &["rollback", "hostile"]);
    assert!(why.contains("no version before this one") && why.contains("tidemill versions hostile"), "{why}");
    assert!(refused(&sandbox, &["rollback", "hostile", "77"]).contains("no version 77"));
    assert!(refused(&sandbox, &["rollback", "hostile", "1"]).contains("that is what runs"));

    // Other content ends it, and a restart begins with that.
    put_beside(&sandbox, "hostile.toml", &format!("{}[settings]\nversion = \"v9\"\n", manifest("hostile", &[])));
    store.until("SELECT count(*) FROM tm_deployment WHERE status = 'live' AND manifest LIKE '%v9%'", 1);
    assert_eq!(writes_as(&daemon, &store, "f"), "v9");
    daemon.terminate();
    drop(daemon);
    let daemon = Daemon::start(&sandbox);
    assert_eq!(writes_as(&daemon, &store, "g"), "v9");
    // Forward again, to the version that was gone back from.
    works(&sandbox, &["rollback", "hostile", "3"]);
    assert_eq!(writes_as(&daemon, &store, "h"), "v3");
    assert_eq!(seen(&store).len(), 8);
}

#[test]
fn h2_a_deployment_that_is_killed_before_its_file_lies_in_the_folder_is_whole() {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file(&sandbox, "v1"));
    let store = Store::open(&sandbox, "hostile");
    daemon.terminate();
    drop(daemon);
    // The next version that goes live does so by command; the start goes on with the one that is live.
    let mut daemon = Daemon::start_with(&sandbox, |command| {
        command.env("TIDEMILL_TEST_KILL_AT", "switched:2");
    });
    let before = folder(&sandbox);
    let next = file(&sandbox, "v2");
    assert!(refused(&sandbox, &["deploy", next.to_str().unwrap()]).contains("no daemon answers"));
    daemon.wait_exit();
    drop(daemon);
    let names = |files: &[(PathBuf, Option<Vec<u8>>)]| {
        files
            .iter()
            .filter(|(path, _)| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&folder(&sandbox)), before, "the old file lies there");
    assert_eq!(store.line("SELECT max(version) FROM tm_deployment"), "2");
    // The file of the first version does not undo what has migrated and gone live.
    let _daemon = Daemon::start(&sandbox);
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
    assert!(works(&sandbox, &["handlers"]).contains("rolled-back"));
    // The same command again ends it.
    deploy(&sandbox, &next);
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
    assert!(!works(&sandbox, &["handlers"]).contains("rolled-back"));
    assert_eq!(fs::read(sandbox.handler("hostile.wasm")).unwrap(), fs::read(next).unwrap());
    assert_eq!(folder(&sandbox).len(), 1, "nothing unfinished is left");
}

#[test]
fn h2_a_rollback_across_a_migration_is_refused_unless_the_version_can_live_with_it() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file(&sandbox, "v1"));
    let lives = file(&sandbox, "v2");
    let text = manifest("hostile", &[("name = \"hostile\"", "name = \"hostile\"\nnewer-schema = true")]);
    fs::write(lives.with_extension("toml"), text).unwrap();
    deploy(&sandbox, &lives);
    let migrates = file_that_says(&sandbox, "v3");
    let migrations = migrates.with_extension("migrations");
    fs::create_dir(&migrations).unwrap();
    let own = tidemill_tests::sandbox::repository().join("tests/guests/hostile/migrations/0001_hostile.sql");
    fs::copy(own, migrations.join("0001_hostile.sql")).unwrap();
    fs::write(migrations.join("0002_more.sql"), "CREATE TABLE more (n);").unwrap();
    let dry = works(&sandbox, &["deploy", "--dry-run", migrates.to_str().unwrap()]);
    assert!(dry.contains("would go live") && dry.contains("migrations would run: 0002_more.sql"), "{dry}");
    assert_eq!(versions(&sandbox), ["2 live", "1 replaced"]);
    deploy(&sandbox, &migrates);

    let why = refused(&sandbox, &["rollback", "hostile", "1"]);
    assert!(why.contains("0002_more.sql") && why.contains("newer-schema = true"), "{why}");
    assert_eq!(versions(&sandbox), ["3 live", "2 replaced", "1 replaced"]);
    works(&sandbox, &["rollback", "hostile", "2"]);
    let store = Store::open(&sandbox, "hostile");
    daemon.client().produce("hostile-in", &told("a", "insert"));
    store.until("SELECT count(*) FROM seen", 1);
    assert_eq!(store.count("SELECT count(*) FROM more"), 0, "what a migration has made stays");
}

#[test]
fn h2_undeploy_takes_the_file_away_and_a_rollback_brings_it_back() {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox);
    deploy(&sandbox, &file_that_says(&sandbox, "v1"));
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(writes_as(&daemon, &store, "a"), "v1");
    let said = works(&sandbox, &["undeploy", "hostile"]);
    assert!(said.contains("handler hostile has ended") && said.contains("tidemill rollback hostile"), "{said}");
    assert_eq!(folder(&sandbox), []);
    assert_eq!(versions(&sandbox), ["1 removed"]);
    assert!(works(&sandbox, &["handlers"]).contains("stopped"));
    assert!(refused(&sandbox, &["undeploy", "hostile"]).contains("does not run"));
    daemon.client().produce("hostile-in", &told("meanwhile", "insert"));
    daemon.terminate();
    drop(daemon);
    let daemon = Daemon::start(&sandbox);
    assert_eq!(folder(&sandbox), []);
    works(&sandbox, &["rollback", "hostile"]);
    assert_eq!(folder(&sandbox).len(), 2);
    assert_eq!(writes_as(&daemon, &store, "b"), "v1");
    assert!(seen(&store).starts_with(&["a|1".to_owned(), "b|1".to_owned()]));
    assert_eq!(versions(&sandbox), ["2 live", "1 removed"]);
}

#[test]
fn h2_so_many_versions_are_kept_as_the_settings_say() {
    let sandbox = Sandbox::new();
    sandbox.write_toml("[versions]\nkeep = 2\n");
    let _daemon = Daemon::start(&sandbox);
    for name in ["v1", "v2", "v3", "v4"] {
        deploy(&sandbox, &file(&sandbox, name));
    }
    let kept = || fs::read_dir(sandbox.data().join("versions")).unwrap().count();
    assert_eq!(kept(), 2);
    let why = refused(&sandbox, &["rollback", "hostile", "1"]);
    assert!(why.contains("is gone: deploy its file again"), "{why}");
    let all = works(&sandbox, &["versions", "hostile"]);
    assert_eq!(all.matches("not kept").count(), 2, "{all}");
    // What is held back stays, whatever comes after it.
    works(&sandbox, &["rollback", "hostile"]);
    assert_eq!(kept(), 2);
    // A damaged copy is told from a good one.
    let hash =
        sandbox.audit().iter().find(|line| line["version"] == 4).unwrap()["artifact"].as_str().unwrap().to_owned();
    fs::write(sandbox.data().join(format!("versions/{hash}.wasm")), built("hostile")).unwrap();
    let why = refused(&sandbox, &["rollback", "hostile", "4"]);
    assert!(why.contains("is damaged: deploy its file again"), "{why}");
}

#[test]
fn h1_the_admin_api_wants_its_token_and_answers_no_other_page() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let mode = |file: &str| fs::metadata(sandbox.data().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("admin.token"), 0o600);
    for (method, path) in
        [("GET", "handlers"), ("POST", "handlers"), ("DELETE", "handlers/hostile"), ("GET", "nothing")]
    {
        let without = sandbox.admin_without_token(method, path);
        let reply = without.clone().send().expect_status(401);
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        without.token(&"0".repeat(64)).send().expect_status(401);
    }
    let evil = sandbox.admin("DELETE", "handlers/hostile").header("Origin", "http://evil.example");
    evil.send().expect_status(403);
    // The handlers' own listener knows nothing of it, whatever token it is shown.
    let token = fs::read_to_string(sandbox.data().join("admin.token")).unwrap();
    daemon.call("GET", "/admin/v1/handlers").token(token.trim()).send().expect_status(404);

    let all = sandbox.admin("GET", "handlers").send().expect_status(200).json()["items"].take();
    let artifact = all[0]["artifact"].clone();
    let expected = json!({"handler": "hostile", "state": "live", "version": 1, "who": "folder", "instead_of": null});
    expected.as_object().unwrap().iter().for_each(|(key, value)| assert_eq!(all[0][key], *value, "{key}"));
    let one = sandbox.admin("GET", "handlers/hostile").send().expect_status(200).json();
    assert_eq!((&one["description"]["artifact"], &one["versions"][0]["artifact"]), (&artifact, &artifact));
    assert_eq!(one["description"]["topics"], json!(["hostile-in"]));
    for (method, path, status) in [
        ("GET", "handlers/nobody", 404),
        ("GET", "handlers/nobody/versions", 404),
        ("DELETE", "handlers/nobody", 404),
        ("POST", "handlers/nobody/rollback", 404),
        ("GET", "handlers/hostile/more", 404),
        ("GET", "elsewhere", 404),
        ("PUT", "handlers", 405),
        ("POST", "handlers", 415),
        ("GET", "handlers?dry-run=true", 400),
    ] {
        let reply = sandbox.admin(method, path).send();
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
    }
    for query in ["dry-run=perhaps", "dry-run=true&dry-run=true", "smoke=-1", "wet-run=true"] {
        let reply = sandbox.admin("POST", &format!("handlers?{query}")).bytes("application/wasm", vec![0]).send();
        assert_eq!(reply.status, 400, "{query}: {}", reply.text());
    }
    let url = fs::read_to_string(sandbox.data().join("admin.url")).unwrap();
    // More than any component may have is refused before it comes.
    let mut stream = TcpStream::connect(url.trim().strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "POST /admin/v1/handlers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/wasm\r\nContent-Length: 1000000000\r\n\r\n", token.trim()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    let odd = json!({"wasm": "AA==", "migrations": [{"name": "../../x.sql", "sql": ""}]}).to_string();
    sandbox.admin("POST", "handlers").body(&odd).send().expect_status(422);

    // By plain HTTP as by the command.
    let next = with_section(&built("hostile"), "next");
    let dry = sandbox.admin("POST", "handlers?dry-run=true").bytes("application/wasm", next.clone());
    assert_eq!(dry.send().expect_status(200).json()["version"], Value::Null);
    let done = sandbox.admin("POST", "handlers").bytes("application/wasm", next).send().expect_status(200).json();
    assert_eq!((&done["version"], &done["changed"], &done["handler"]), (&json!(2), &json!(true), &json!("hostile")));
    let back = sandbox.admin("POST", "handlers/hostile/rollback").body("{\"version\":1}").send().expect_status(200);
    assert_eq!(back.json()["artifact"], artifact);
    sandbox.admin("POST", "handlers/hostile/rollback").body("{\"version\":2,\"x\":1}").send().expect_status(400);
    sandbox.admin("DELETE", "handlers/hostile").send().expect_status(200);

    // With another token, and without a daemon.
    let out = sandbox.command(&["handlers"]).env("TIDEMILL_ADMIN_TOKEN", "wrong").output().unwrap();
    assert!(out.status.code() == Some(1) && errors(&out).contains("does not take this token"), "{}", errors(&out));
    let why = refused(&sandbox, &["handlers", "--daemon", url.trim()]);
    assert!(why.contains("TIDEMILL_ADMIN_TOKEN"), "{why}");
    let out = sandbox
        .command(&["handlers", "--daemon", url.trim(), "--json"])
        .env("TIDEMILL_ADMIN_TOKEN", token.trim())
        .output();
    assert!(out.unwrap().status.success());
    let foreign =
        sandbox.command(&["handlers", "--daemon", daemon.url()]).env("TIDEMILL_ADMIN_TOKEN", "x").output().unwrap();
    assert_eq!(foreign.status.code(), Some(1), "{}", errors(&foreign));
    assert_eq!(sandbox.tidemill(&["versions", "../../x"]).status.code(), Some(2));
    daemon.terminate();
    let why = refused(&sandbox, &["handlers"]);
    assert!(why.contains("no daemon runs") && why.contains("tidemill run"), "{why}");
    let mut daemon = Daemon::start(&sandbox);
    daemon.kill9();
    assert!(refused(&sandbox, &["handlers"]).contains("no daemon answers"));

    // A port of one's own, and none.
    sandbox.write_toml("[admin]\nlisten = \"off\"\n");
    let _daemon = Daemon::start(&sandbox);
    assert!(!sandbox.data().join("admin.url").exists());
    assert!(refused(&sandbox, &["handlers"]).contains("the admin API is off"));
}

#[test]
fn h2_every_change_and_every_refusal_is_in_the_audit_log() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox);
    let path = file(&sandbox, "v1");
    let out = sandbox.command(&["deploy", path.to_str().unwrap()]).env("USER", "alice").output().unwrap();
    assert!(out.status.success(), "{}", errors(&out));
    let first = sandbox.audit().pop().unwrap();
    assert_eq!(
        (&first["who"], &first["action"], &first["handler"]),
        (&json!("token"), &json!("deploy"), &json!("hostile"))
    );
    assert!(
        first["claimed"].as_str().unwrap().starts_with("alice@") && first["peer"].as_str().unwrap().starts_with("127.")
    );
    assert_eq!(
        (&first["version"], &first["ok"], first["artifact"].as_str().unwrap().len()),
        (&json!(1), &json!(true), 64)
    );
    assert!(works(&sandbox, &["versions", "hostile"]).contains("alice@"));

    refused(&sandbox, &["rollback", "hostile", "7"]);
    let line = sandbox.audit().pop().unwrap();
    assert_eq!((&line["action"], &line["ok"], &line["version"]), (&json!("rollback"), &json!(false), &Value::Null));
    assert!(line["error"].as_str().unwrap().contains("no version 7"));

    // The folder's own doings.
    sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), "v2"));
    sandbox.deploy_bytes("broken.wasm", b"#!/bin/sh");
    let by_folder = |action: &str, ok: bool| {
        let found = |line: &Value| line["who"] == "folder" && line["action"] == action && line["ok"] == ok;
        sandbox.audit().into_iter().find(found)
    };
    eventually(SOON, "both are noted", || by_folder("deploy", true).is_some() && by_folder("deploy", false).is_some());
    assert_eq!(by_folder("deploy", true).unwrap()["version"], json!(2));
    assert!(by_folder("deploy", false).unwrap()["file"].as_str().unwrap().ends_with("broken.wasm"));
    sandbox.remove("hostile.wasm");
    eventually(SOON, "the removal is noted", || by_folder("undeploy", true).is_some());

    // What cannot be noted is not done.
    let log = sandbox.data().join("audit.log");
    fs::rename(&log, sandbox.root().join("audit.log.1")).unwrap();
    fs::create_dir(&log).unwrap();
    let why = refused(&sandbox, &["deploy", path.to_str().unwrap()]);
    assert!(why.contains("nothing was done") && why.contains("audit.log"), "{why}");
    assert!(!sandbox.handler("hostile.wasm").exists());
    drop(daemon);
}

#[test]
fn h1_inspect_says_what_is_in_a_file_without_a_daemon_and_what_is_live_with_one() {
    let sandbox = Sandbox::new();
    let path = file_that_says(&sandbox, "v1");
    let told = works(&sandbox, &["inspect", path.to_str().unwrap()]);
    for part in [
        "hostile-in",
        "tidemill:handler/records@",
        "tidemill:handler/sql@",
        "wasi:",
        "GET /hostile/seen",
        "out = hostile-out",
        "0001_hostile.sql",
        "time = 250ms",
        "version",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    // As the operator's settings have it; a value may be a secret.
    sandbox.write_toml("[handler.hostile]\ntopics = [\"elsewhere\"]\nsettings = { version = \"hush\" }\n");
    let described: Value =
        serde_json::from_str(&works(&sandbox, &["inspect", "--json", path.to_str().unwrap()])).unwrap();
    assert_eq!((&described["topics"], &described["settings"]), (&json!(["elsewhere"]), &json!(["version"])));
    assert!(!described.to_string().contains("hush"));
    for (name, bytes, why) in [("empty", &b""[..], "is empty"), ("script", b"#!/bin/sh", "not WebAssembly")] {
        let path = sandbox.root().join(format!("{name}.wasm"));
        fs::write(&path, bytes).unwrap();
        assert!(refused(&sandbox, &["inspect", path.to_str().unwrap()]).contains(why));
    }
    assert!(refused(&sandbox, &["inspect", "./nothing.wasm"]).contains("No such file"));
    assert!(refused(&sandbox, &["inspect", "hostile"]).contains("no daemon runs"));

    let _daemon = Daemon::start(&sandbox);
    assert!(refused(&sandbox, &["inspect", "hostile"]).contains("there is no handler hostile"));
    let done = deploy(&sandbox, &path);
    deploy(&sandbox, &file_that_says(&sandbox, "v2"));
    works(&sandbox, &["rollback", "hostile"]);
    let told = works(&sandbox, &["inspect", "hostile"]);
    for part in ["rolled-back", "and is held back", "elsewhere", done["artifact"].as_str().unwrap(), "2        "] {
        assert!(told.contains(part), "{part} in {told}");
    }
}
