//! Starts that must be refused, with what is wrong, where, and what to do; and a start without a broker.

use std::net::TcpListener;

use tidemill_tests::{Daemon, Sandbox, Store, token};

use crate::rig::ORDER;

/// One error, in these words.
fn refused(sandbox: &Sandbox, change: impl FnOnce(&mut std::process::Command), parts: &[&str]) {
    let (code, said) = Daemon::refused_with(sandbox, change);
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!((code, errors.len()), (1, 1), "{said}");
    for part in parts {
        assert!(errors[0].contains(part), "{part} in {}", errors[0]);
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn bad_input_a_port_that_is_taken() {
    let sandbox = Sandbox::with(&["order"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(
        &sandbox,
        |command| {
            command.env("TIDEMILL_HTTP_LISTEN", &address);
        },
        &[&address, "http.listen", "another process"],
    );
    assert!(sandbox.broker_state().is_none(), "no broker is left behind");
    drop(taken);
    Daemon::start(&sandbox).terminate();
}

#[test]
fn bad_input_a_data_folder_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    // Nobody makes a folder there, not even root.
    let change = |command: &mut std::process::Command| {
        command.env("TIDEMILL_DATA", "/sys/tidemill");
    };
    refused(&sandbox, change, &["/sys/tidemill", "`data`"]);
    let file = sandbox.root().join("file");
    std::fs::write(&file, "").unwrap();
    let change = |command: &mut std::process::Command| {
        command.env("TIDEMILL_DATA", &file);
    };
    refused(&sandbox, change, &[file.to_str().unwrap(), "`data`", "folder"]);
}

#[test]
fn bad_input_a_data_folder_that_another_daemon_holds() {
    let sandbox = Sandbox::with(&["order"]);
    let mut daemon = Daemon::start(&sandbox);
    let data = sandbox.data();
    refused(&sandbox, |_| {}, &[data.to_str().unwrap(), "held by another daemon", "`data`"]);
    // The first has not noticed.
    let user = token(&sandbox, "7");
    daemon.post("/api/orders", &user, ORDER).expect_status(201);
    daemon.kill9();
    // A killed one holds nothing.
    let daemon = Daemon::start(&sandbox);
    daemon.get("/api/orders/1", &user).expect_status(200);
}

#[test]
fn bad_input_every_mistake_of_the_settings_is_said_at_once() {
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml(
        "dat = \"x\"\n[http]\nlisten = \"everywhere\"\ndeadline = 30\n[kafka]\nbootstrap = \"localhost\"\n\
         [kafka.librdkafka]\nacks = 1\n[handler.order.retry]\nmax-attempts = 0\n[[topic]]\npartitions = 3\n",
    );
    for refusal in [Daemon::refused(&sandbox), {
        let out = sandbox.tidemill(&["check"]);
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
    }] {
        let (code, said) = refusal;
        assert_eq!(code, 2, "{said}");
        let expected =
            [(1, "did you mean `data`"), (4, "30s"), (6, "bootstrap"), (8, "acks"), (10, "max-attempts"), (11, "name")];
        for (line, part) in expected {
            let place = format!("tidemill.toml:{line}: ");
            let found = said.lines().any(|error| error.contains(&place) && error.contains(part));
            assert!(found, "{place}..{part} in {said}");
        }
    }
    assert!(!sandbox.data().exists(), "nothing was started");
    let (code, said) = Daemon::refused_with(&sandbox, |command| {
        command.env("TIDEMILL_CONFIG", sandbox.root().join("nothing.toml"));
    });
    assert!(code == 2 && said.contains("nothing.toml") && said.contains("--config"), "{said}");
}

#[test]
fn bad_input_a_broker_that_is_not_there_is_said_once_and_writes_are_served_meanwhile() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    sandbox.write_toml("[kafka]\nbootstrap = \"127.0.0.1:1\"\n[[topic]]\nname = \"order-events\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    for _ in 0..20 {
        daemon.post("/api/orders", &user, ORDER).expect_status(201);
    }
    let store = Store::open(&sandbox, "order");
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox WHERE status = 'waiting'"), 20);
    daemon.says(&["WARN", "127.0.0.1:1"]);
    daemon.get("/api/notifications", &user).expect_status(200);
    daemon.terminate();
    assert_eq!(store.count("SELECT count(*) FROM tm_outbox WHERE status = 'waiting'"), 20);
    let lines = daemon.stderr().lines().filter(|line| line.contains("127.0.0.1:1")).count();
    assert!(lines < 20, "{lines} lines say that the broker is not there:\n{}", daemon.log());
}
