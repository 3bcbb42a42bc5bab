//! The daemon while it runs, told by signals and commands: another log level, settings read again, an end in order, in its time or at once; and
//! what the service manager hears of all that.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidemill_tests::sandbox::repository;
use tidemill_tests::{Daemon, LONG, Out, Sandbox, Service, Store, eventually, eventually_some};

use crate::rig::{attempts, first_on, told};

fn hostile(settings: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(settings);
    sandbox
}

fn ended(out: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

/// Stands for systemd: what it is told.
struct Manager {
    name: String,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    /// With a socket in a folder, or in the abstract namespace.
    fn new(sandbox: &Sandbox, is_abstract: bool) -> Self {
        use std::os::linux::net::SocketAddrExt as _;
        let path = sandbox.root().join("notify");
        let (socket, name) = match is_abstract {
            true => {
                let name = format!("tidemill-{}", sandbox.unique("notify"));
                let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
                (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
            }
            false => (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
        };
        let told = Arc::<Mutex<Vec<String>>>::default();
        let shared = told.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                shared.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        Self { name, told }
    }

    fn start(&self, sandbox: &Sandbox) -> Daemon {
        Daemon::start_with(sandbox, |command| {
            command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", "100000");
        })
    }

    /// The next thing that it is told which is like that; what came before is forgotten.
    fn hears(&self, wanted: &str) -> String {
        eventually_some(LONG, &format!("it is told {wanted}"), || {
            let mut told = self.told.lock().unwrap();
            let at = told.iter().position(|text| text.lines().any(|line| line.starts_with(wanted)))?;
            told.drain(..=at).next_back()
        })
    }

    fn beats(&self) -> usize {
        self.told.lock().unwrap().iter().filter(|text| *text == "WATCHDOG=1").count()
    }
}

#[test]
fn what_is_logged_can_be_another_level_for_a_while() {
    let sandbox = hostile("");
    let daemon = Daemon::start(&sandbox);
    let log = |arguments: &[&str]| ended(&sandbox.tidemill(&[&["log"], arguments].concat()));
    assert_eq!(log(&[]), (0, "info".to_owned(), String::new()));
    let (code, _, error) = log(&["loud"]);
    assert_eq!(code, 1);
    assert!(error.starts_with("error: \"loud\" is not a filter; write error, warn"), "{error}");
    let (code, _, error) = log(&["debug", "--for", "soon"]);
    assert!(code == 2 && error.contains("is not a duration"), "{error}");
    let (code, out, error) = log(&["info,tidemill::host=trace", "--for", "600ms"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(out, "info,tidemill::host=trace (for 1s, then info)", "a part of a second is not none");
    daemon.says(&["logs go by the usual filter again", "info"]);
    assert_eq!(log(&[]).1, "info");
    assert_eq!(log(&["error"]).1, "error");
    let lines = || daemon.stderr().lines().count();
    let before = lines();
    daemon.client().produce("hostile-in", &Out::new(r#"{"do":"reject"}"#));
    first_on(&daemon.client(), "hostile-in.DLT");
    assert_eq!(lines(), before, "a warning is no error");
    let set =
        sandbox.admin("PUT", "log").body(&json!({ "filter": "warn" }).to_string()).send().expect_status(200).json();
    assert_eq!(set, json!({ "filter": "warn", "then": Value::Null }));
    daemon.client().produce("hostile-in", &Out::new(r#"{"do":"reject"}"#));
    daemon.says(&["WARN", "topic=hostile-in", "reject"]);
}

#[test]
fn settings_are_read_again_and_what_can_hold_does_at_once() {
    let before = "[handler.hostile.retry]\nmax-attempts = 1\n[log]\nlevel = \"info\"\n";
    let sandbox = hostile(before);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let fails = |n: usize| {
        client.produce("hostile-in", &Out::new(r#"{"do":"fail-n","until":99}"#).partition(0));
        let all = eventually_some(LONG, "a dead letter", || {
            Some(client.consume_all("hostile-in.DLT")).filter(|all| all.len() == n)
        });
        attempts(&all[n - 1]).len()
    };
    assert_eq!(fails(1), 1);
    assert_eq!(ended(&sandbox.tidemill(&["reload"])), (0, "nothing has changed".to_owned(), String::new()));

    sandbox.write_toml(
        "[handler.hostile.retry]\nmax-attempts = 3\n[log]\nlevel = \"debug\"\n[http]\nbody-limit = \"2MiB\"\n",
    );
    daemon.signal(Signal::HUP);
    daemon.says(&["INFO", "settings read again: applied: handler.hostile.retry.max-attempts, log.level"]);
    daemon.says(&["INFO", "settings read again: needs a restart: http.body-limit"]);
    daemon.says(&["INFO", "settings read again: handler hostile goes on with it (version 1)"]);
    assert_eq!(fails(2), 3);
    assert!(daemon.find(&["DEBUG"]).is_some());

    // A broken file, and one with which a handler could not go on, change nothing.
    for (text, why) in [
        ("[handler.hostile.retry]\nmax-attempts = 7\nnonsense = 1\n", "unknown key `handler.hostile.retry.nonsense`"),
        ("[handler.hostile]\nretry = { max-attempts = 7 }\ngroup = \"another\"\n", "would read everything again"),
    ] {
        sandbox.write_toml(text);
        let (code, out, error) = ended(&sandbox.tidemill(&["reload"]));
        // The command reads the same file to find the daemon.
        assert!(code != 0 && out.is_empty() && error.contains(why), "{error}");
        let last = daemon.log().matches("nothing has changed").count();
        daemon.signal(Signal::HUP);
        eventually(LONG, "it says why", || daemon.log().matches("nothing has changed").count() > last);
        assert!(daemon.find(&["ERROR", "nothing has changed", why]).is_some(), "{}", daemon.log());
    }
    assert_eq!(fails(3), 3);

    // What waits for a restart is told until there is one.
    sandbox.write_toml("[handler.hostile.retry]\nmax-attempts = 2\n[http]\nbody-limit = \"2MiB\"\n");
    let told = sandbox.tidemill(&["reload", "--json"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["restart"], &told["handlers"]), (&json!(["http.body-limit"]), &json!([["hostile", 1]])));
    assert_eq!(fails(4), 2);
    let acts: Vec<(Value, Value)> = sandbox
        .audit()
        .into_iter()
        .filter(|line| line["action"] == "reload")
        .map(|line| (line["who"].clone(), line["ok"].clone()))
        .collect();
    assert_eq!(acts.first(), Some(&(json!("token"), json!(true))));
    assert!(acts.contains(&(json!("signal"), json!(false))), "{acts:?}");
}

#[test]
fn the_service_manager_hears_of_start_reload_life_and_stop() {
    for is_abstract in [false, true] {
        let sandbox = hostile("");
        let manager = Manager::new(&sandbox, is_abstract);
        let mut daemon = manager.start(&sandbox);
        let ready = manager.hears("READY=1");
        assert!(ready.contains("STATUS=running: 1 handlers, 127.0.0.1:"), "{ready}");
        // It listens by then.
        daemon.call("GET", "/hostile/seen").send().expect_status(200);
        manager.hears("WATCHDOG=1");
        daemon.signal(Signal::HUP);
        let reloading = manager.hears("RELOADING=1");
        let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(at.parse::<u64>().unwrap() > 0, "{reloading}");
        manager.hears("READY=1");
        daemon.terminate();
        manager.hears("STOPPING=1");
    }
}

#[test]
fn a_daemon_that_hangs_is_not_said_to_live() {
    let sandbox = hostile("[metrics]\nstuck-after = \"1s\"\n[handler.hostile.limits]\ntime = \"1h\"\n");
    let manager = Manager::new(&sandbox, false);
    let daemon = manager.start(&sandbox);
    manager.hears("WATCHDOG=1");
    daemon.client().produce("hostile-in", &Out::new(r#"{"do":"loop"}"#));
    daemon.says(&["ERROR", "the service manager is not told that it lives", "at one thing"]);
    let before = manager.beats();
    // More than ten beats were due until the probe has said so, too.
    let livez = || sandbox.monitor("/livez").send().status;
    (0..20).for_each(|_| assert_eq!(livez(), 503));
    daemon.client().produce_all("hostile-in", (0..100).map(|n| told(&format!("r{n}"), "insert")));
    assert_eq!(manager.beats(), before);
}

#[test]
fn a_stop_reads_nothing_new_and_finishes_what_runs() {
    let service = Service::start();
    service.close();
    let sandbox =
        hostile(&format!("[kafka]\nkeep-embedded = true\n[handler.hostile.grant]\nhttp = [\"{}\"]\n", service.url()));
    let mut daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let call = json!({ "do": "call", "url": format!("{}/pay", service.url()), "id": "c", "row": false });
    let request = daemon.call("POST", "/hostile").body(&call.to_string());
    let answered = std::thread::spawn(move || request.send());
    eventually(LONG, "the request's call is made", || service.waiting().0 == 1);
    daemon.signal(Signal::TERM);
    daemon.says(&["stopping: requests under way are answered"]);
    eventually(LONG, "it has stopped to read", || {
        client.produce("hostile-in", &told("late", "insert"));
        daemon.runs()
    });
    let seen = || Store::open(&sandbox, "hostile").count("SELECT count(*) FROM seen");
    let before = seen();
    client.produce_all("hostile-in", (0..50).map(|n| told(&format!("later{n}"), "insert")));
    service.open();
    answered.join().unwrap().expect_status(200);
    assert!(daemon.wait_exit().success(), "{}", daemon.log());
    assert_eq!(seen(), before);
    // Nothing is lost.
    let _daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    eventually(LONG, "all are done", || {
        store.count("SELECT count(DISTINCT id) FROM seen WHERE id LIKE 'later%'") == 50
    });
    assert_eq!(store.count("SELECT count(*) FROM once"), 1);
}

#[test]
fn a_stop_ends_in_its_time_and_says_what_it_left_and_a_second_signal_ends_it_at_once() {
    for twice in [false, true] {
        let service = Service::start();
        service.close();
        let within = if twice { "1h" } else { "1s" };
        let sandbox = hostile(&format!(
            "stop-within = \"{within}\"\n[http]\ndeadline = \"1h\"\n[kafka]\nbootstrap = \"127.0.0.1:1\"\n[handler.hostile.grant]\nhttp = [\"{}\"]\n[handler.hostile.outbound]\ntimeout = \"1h\"\n",
            service.url()
        ));
        let mut daemon = Daemon::start(&sandbox);
        daemon.call("POST", "/hostile").body(r#"{"do":"publish","id":"kept"}"#).send().expect_status(200);
        let call = json!({ "do": "call", "url": format!("{}/pay", service.url()), "id": "c", "row": false });
        let request = daemon.call("POST", "/hostile").body(&call.to_string());
        let asking = std::thread::spawn(move || request.try_send().is_ok());
        eventually(LONG, "the request's call is made", || service.waiting().0 == 1);
        daemon.signal(Signal::TERM);
        daemon.says(&["stopping: requests under way are answered"]);
        if twice {
            daemon.signal(Signal::TERM);
        }
        let status = daemon.wait_exit();
        match twice {
            true => {
                assert_eq!((status.code(), status.signal()), (Some(143), None));
                daemon.says(&["WARN", "told to stop again: the daemon ends at once"]);
            }
            false => {
                assert_eq!(status.code(), Some(1));
                let line = daemon.says(&["ERROR", "the daemon was not done within 1s (stop-within)"]);
                assert!(
                    line.contains("requests under way are answered") && line.contains("events_not_published=1"),
                    "{line}"
                );
            }
        }
        assert!(!asking.join().unwrap());
        let store = Store::open(&sandbox, "hostile");
        assert_eq!(store.lines("SELECT id FROM seen"), ["kept"]);
        assert_eq!(store.count("SELECT count(*) FROM tm_outbox"), 1, "nothing that was committed is lost");
    }
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit = repository().join("docs/systemd/tidemill.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in
        ["Type=notify", "ExecReload=", "WatchdogSec=", "Restart=", "ProtectSystem=strict", "NoNewPrivileges=yes"]
    {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}");
    }
    // It names the program where a package puts it.
    let sandbox = Sandbox::new();
    let copy = sandbox.root().join("tidemill.service");
    std::fs::write(
        &copy,
        text.replace("/usr/local/bin/tidemill", tidemill_tests::sandbox::program().to_str().unwrap()),
    )
    .unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no", copy.to_str().unwrap()]).output() {
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            // Other units of the machine may be at fault.
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("tidemill")).collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
    }
}
