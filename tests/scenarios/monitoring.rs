//! S2.10: the dashboard and the alert rules are asked of a real Prometheus, which scrapes a real daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tidemill_tests::prometheus::{monitoring, plain};
use tidemill_tests::sandbox::repository;
use tidemill_tests::{Authority, Daemon, LONG, Out, Prometheus, Sandbox, eventually, eventually_some};

use crate::rig::told;

/// Every query of the dashboard.
fn queries(of: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match of {
        Value::Object(fields) => {
            if let Some(Value::String(query)) = fields.get("expr") {
                found.push(plain(query, "1m"));
            }
            fields.values().for_each(|field| found.extend(queries(field)));
        }
        Value::Array(items) => items.iter().for_each(|item| found.extend(queries(item))),
        _ => {}
    }
    found
}

#[test]
fn s2_10_each_panel_of_the_dashboard_shows_something_and_each_rule_can_be_evaluated() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let prometheus = Prometheus::start(&sandbox, false);
    client.produce("hostile-in", &told("first", "publish"));
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(monitoring("dashboard.json")).unwrap()).unwrap();
    let asked = queries(&dashboard);
    assert!(asked.len() > 30, "{}", asked.len());
    let (mut empty, mut round) = (asked, 0);
    eventually(LONG, "each panel has something to show", || {
        // So that all that is a rate goes on.
        round += 1;
        for (n, what) in ["publish", "reject", "insert"].into_iter().enumerate() {
            client.produce("hostile-in", &told(&format!("r{round}-{n}"), what).partition(n as i32));
        }
        daemon.get("/hostile/seen", "").expect_status(200);
        empty.retain(|query| prometheus.query(query).is_empty());
        if round % 100 == 0 {
            eprintln!("nothing yet for {empty:#?}");
        }
        empty.is_empty()
    });

    let rules = eventually_some(LONG, "all rules were evaluated", || {
        let rules = prometheus.ask("rules")?["data"]["groups"][0]["rules"].as_array()?.clone();
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")).then_some(rules)
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    // One that is to be seen is.
    let down = json!([{ "do": "sql", "statements": ["INSERT INTO once VALUES ('shop')"], "row": false }]);
    daemon.call("POST", "/hostile").body(&down.to_string()).send().expect_status(200);
    client.produce("hostile-in", &Out::new(json!({ "do": "needs", "up": "shop" }).to_string()));
    eventually(LONG, "the circuit and the dead letters are alerts", || {
        let alerts = prometheus.ask("alerts").map(|answer| answer["data"]["alerts"].clone());
        let alerts = alerts.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
        ["TidemillCircuitOpen", "TidemillDeadLetters"].iter().all(|name| {
            alerts.iter().any(|alert| alert["labels"]["alertname"] == *name && alert["labels"]["handler"] == "hostile")
        })
    });
}

#[test]
fn s2_10_a_daemon_that_tells_its_metrics_over_tls_is_observed_by_its_authority() {
    let authority = Authority::new();
    authority.issue("localhost");
    let sandbox = Sandbox::new();
    let path = |name: &str| authority.path(name).display().to_string();
    sandbox.write_toml(&format!(
        "[metrics.tls]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n",
        path("localhost.pem"),
        path("localhost.key")
    ));
    let _daemon = Daemon::start(&sandbox);
    let why = Prometheus::set_up(&sandbox, &[]).unwrap_err();
    assert!(why.contains("over TLS: add CA=FILE") && why.contains("NAME=HOST"), "{why}");
    assert!(!sandbox.root().join("prometheus").exists());
    let prometheus = Prometheus::start_over_tls(&sandbox, &authority.path("ca.pem"), "localhost");
    eventually(LONG, "its numbers are there", || !prometheus.query("tidemill_ready").is_empty());
}

#[test]
fn s2_10_promtool_finds_no_fault_in_the_rules_and_each_family_they_name_is_there() {
    let checked = Command::new("promtool").args(["check", "rules"]).arg(monitoring("alerts.yml")).output();
    let checked = checked.expect("promtool; `make setup-tests` installs it");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let documented = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    for file in ["alerts.yml", "dashboard.json"] {
        let text = fs::read_to_string(Path::new(&monitoring(file))).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("tidemill_"))
        {
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
            assert!(documented.contains(&format!("| `{family}` |")), "{file} asks for {word}");
        }
    }
}
