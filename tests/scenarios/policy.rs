//! S0.2: what each outcome counts as, and how long a record waits between two attempts.

use std::collections::BTreeMap;

use serde_json::json;
use tidemill_tests::{Daemon, Out, SOON, Sandbox, eventually};

use crate::rig::{attempts, first_on};

/// Ways to fail, by the outcome that they are, and two of what they need to be quick.
const WAYS: [(&str, &str); 9] = [
    ("retry", r#"{"do":"fail-n","until":99}"#),
    ("reject", r#"{"do":"reject"}"#),
    ("undecodable", "not json"),
    ("trap", r#"{"do":"panic"}"#),
    ("time-limit", r#"{"do":"loop"}"#),
    ("time-limit", r#"{"do":"recursive-sql"}"#),
    ("memory-limit", r#"{"do":"grow"}"#),
    ("memory-limit", r#"{"do":"recurse"}"#),
    ("effects-limit", r#"{"do":"flood-events"}"#),
];
const LIMITS: &str = "[handler.hostile.limits]\nmemory = \"8MiB\"\nevents = 10\n";

/// The outcomes of each record's attempts, as its dead letter tells them.
fn tried(daemon: &Daemon) -> BTreeMap<String, Vec<String>> {
    let client = daemon.client();
    client.produce_all("hostile-in", WAYS.iter().map(|(_, value)| Out::new(value)));
    eventually(SOON, "all are dead letters", || client.consume_all("hostile-in.DLT").len() == WAYS.len());
    let outcome = |attempt: &serde_json::Value| attempt["outcome"].as_str().unwrap().to_owned();
    let dead = client.consume_all("hostile-in.DLT");
    dead.iter().map(|dead| (dead.text(), attempts(dead).iter().map(outcome).collect())).collect()
}

#[test]
fn s0_2_each_outcome_counts_as_the_policy_says_by_default() {
    let sandbox = Sandbox::with(&["hostile"]);
    let retry = "[defaults.retry]\nmax-attempts = 3\norder = \"none\"\n[handler.hostile.retry]\nmax-attempts = 3\n";
    sandbox.write_toml(&format!("{retry}{LIMITS}"));
    let tried = tried(&Daemon::start(&sandbox));
    for (outcome, value) in WAYS {
        let times = match outcome {
            "retry" => 3,
            "reject" | "undecodable" => 1,
            _ => 2,
        };
        assert_eq!(tried[value], vec![outcome; times], "{value}");
    }
}

#[test]
fn s0_2_the_operator_says_what_an_outcome_counts_as() {
    let sandbox = Sandbox::with(&["hostile"]);
    let retry = r#"
        [defaults.retry]
        max-attempts = 2
        order = "none"
        on.undecodable = { as = "retry" }
        [handler.hostile.retry.on]
        trap = { as = "reject" }
        time-limit.max-attempts = 3
        reject = { as = "retry", max-attempts = 4 }
    "#;
    sandbox.write_toml(&format!("{retry}{LIMITS}"));
    let tried = tried(&Daemon::start(&sandbox));
    for (outcome, value) in WAYS {
        let times = match outcome {
            "trap" => 1,
            "time-limit" => 3,
            "reject" => 4,
            _ => 2,
        };
        assert_eq!(tried[value], vec![outcome; times], "{value}");
    }
}

#[test]
fn s0_2_waits_grow_by_the_factor_up_to_the_cap() {
    let sandbox = Sandbox::with(&["hostile"]);
    let backoff = r#"{ kind = "exponential", interval = "50ms", factor = 3, max = "300ms", jitter = 0.5 }"#;
    sandbox.write_toml(&format!("[handler.hostile.retry]\nmax-attempts = 5\nbackoff = {backoff}\n"));
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce("hostile-in", &Out::new(r#"{"do":"fail-n","until":99}"#));
    let at: Vec<i64> =
        attempts(&first_on(&client, "hostile-in.DLT")).iter().map(|attempt| attempt["at"].as_i64().unwrap()).collect();
    let waits: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits.len(), 4);
    for (wait, least) in waits.iter().zip([50, 150, 300, 300]) {
        assert!(*wait >= least, "{waits:?}");
    }
    // Half a wait at most is added, so the log names no longer one.
    let longest = daemon
        .log()
        .lines()
        .filter_map(|line| line.split("tried again in ").nth(1)?.split(' ').next()?.parse().ok())
        .max();
    assert!(longest.is_some_and(|ms: i64| (300..=450).contains(&ms)), "{longest:?}");
}

#[test]
fn s0_2_a_handler_may_ask_for_a_longer_wait() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.retry]\nmax-attempts = 2\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce("hostile-in", &Out::new(json!({ "do": "fail-n", "until": 99, "after_ms": 700 }).to_string()));
    // The row in `tm_pending` is there for 700 ms only; what the dead letter and the log say of it stays.
    let tried = attempts(&first_on(&client, "hostile-in.DLT"));
    let [first, second] = [0, 1].map(|n| tried[n]["at"].as_i64().unwrap());
    assert!(second - first >= 700, "{tried:?}");
    assert!(daemon.log().contains("tried again in 700 ms"), "{}", daemon.log());
}
