//! What only a look at the whole of the settings shows: the environment on top, paths, and the documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::deploy::manifest::{self, Manifest, Spec};
use crate::policy::{Outcome, Treatment};

fn load(file: Option<&Path>, env: &[(&str, &str)]) -> Result<Settings, Problems> {
    Settings::load(file, env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidemill.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn variables_stand_above_the_file() {
    let (folder, path) = file("data = \"d\"\nhandlers = \"/h\"\n[kafka]\nbootstrap = \"a:1\"\n[http]\nmax-waiting = 5");
    let env = [
        ("TIDEMILL_KAFKA_BOOTSTRAP", "b:2, c:3"),
        ("TIDEMILL_KAFKA_KEEP_EMBEDDED", "true"),
        ("TIDEMILL_KAFKA_LIBS", "jars"),
        ("TIDEMILL_BIN", "tidemill"),
        ("TIDEMILL_WASM", "built"),
        ("TIDEMILL_CONFIG", "x"),
        ("TIDEMILL_TEST_SEED", "7"),
        ("TIDEMILL_HTTP_LISTEN", "[::1]:0"),
        ("TIDEMILL_HTTP_BODY_LIMIT", "2KiB"),
        ("TIDEMILL_DEFAULTS_RETRY_BACKOFF_INTERVAL", "3s"),
        ("TIDEMILL_DEFAULTS_DEAD_LETTER_PARTITION", "0"),
        ("TIDEMILL_KAFKA_LIBRDKAFKA_SASL_PASSWORD", "hush"),
        ("TIDEMILL_DEFAULTS_CONSUMER_LIBRDKAFKA_FETCH_MIN_BYTES", "9"),
        ("TIDEMILL_LOG_LEVEL", "warn,tidemill=trace"),
        ("HOME", "/"),
    ];
    let settings = load(Some(&path), &env).unwrap();
    assert_eq!(settings.kafka.bootstrap, Bootstrap::Servers("b:2,c:3".into()));
    assert_eq!(settings.kafka.librdkafka, BTreeMap::from([("sasl.password".into(), "hush".into())]));
    assert_eq!(settings.http.listen.to_string(), "[::1]:0");
    assert_eq!((settings.http.body_limit, settings.http.max_waiting), (2048, 5));
    assert_eq!(settings.defaults.retry.backoff, crate::policy::Backoff::fixed(Duration::from_secs(3)));
    assert_eq!(settings.defaults.dead_letter.partition, DeadLetterPartition::Fixed(0));
    assert_eq!(settings.defaults.consumer.librdkafka, BTreeMap::from([("fetch.min.bytes".into(), "9".into())]));
    assert_eq!(settings.log.level, "warn,tidemill=trace");
    assert_eq!((settings.data, settings.handlers), (folder.path().join("d"), PathBuf::from("/h")));
    let settings = load(Some(&path), &[("TIDEMILL_DATA", "here"), ("TIDEMILL_HANDLERS", "there")]).unwrap();
    assert_eq!((settings.data, settings.handlers), (PathBuf::from("here"), PathBuf::from("there")));
}

#[test]
fn wrong_variables_are_reported_with_the_rest() {
    let (_folder, path) = file("nonsense = 1\n[handler.mail.consumer.librdkafka]");
    let env = [
        ("TIDEMILL_KAFKA_BOOTSTRP", "a:1"),
        ("TIDEMILL_HTTP", "x"),
        ("TIDEMILL_HTTP_DEADLINE", "soon"),
        ("TIDEMILL_HTTP_MAX_WAITING", "0"),
        ("TIDEMILL_KAFKA_LIBRDKAFKA_GROUP_ID", "g"),
        ("TIDEMILL_OUTBOX_KEEP", ""),
        // Handlers are set in the file only.
        ("TIDEMILL_HANDLER_MAIL_CONSUMER_LIBRDKAFKA_CHECK_CRCS", "true"),
    ];
    let problems = load(Some(&path), &env).unwrap_err().to_string();
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), 8, "{problems}");
    assert!(lines[0].contains("tidemill.toml:1: unknown key `nonsense`"), "{problems}");
    for expected in [
        "TIDEMILL_KAFKA_BOOTSTRP: sets nothing; did you mean TIDEMILL_KAFKA_BOOTSTRAP?",
        "TIDEMILL_HANDLER_MAIL_CONSUMER_LIBRDKAFKA_CHECK_CRCS: sets nothing; unset it, or see the list of settings for its name",
        "TIDEMILL_HTTP: sets nothing; unset it, or see the list of settings for its name",
        "TIDEMILL_HTTP_DEADLINE: \"soon\" is not a duration; write a number and ms, s, m, h or d, like \"30s\" or \"250ms\"",
        "TIDEMILL_HTTP_MAX_WAITING: \"0\" is out of range: from 1 to 1000000",
        "TIDEMILL_KAFKA_LIBRDKAFKA_GROUP_ID: belongs to the host: every handler has a group of its own: set `group` in its manifest or under [handler.NAME]",
        "TIDEMILL_OUTBOX_KEEP: \"\" is not a duration; write a number and ms, s, m, h or d, like \"30s\" or \"250ms\"",
    ] {
        assert!(lines.contains(&expected), "missing {expected:?} in\n{problems}");
    }
}

#[test]
fn a_named_file_must_exist_and_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let error = load(Some(&path), &[]).unwrap_err().to_string();
    assert!(error.contains("none.toml: cannot be read"), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let error = load(Some(&path), &[]).unwrap_err().to_string();
    assert!(error.contains("is not UTF-8 text"), "{error}");
}

/// One part of `docs/settings.md`: section, key, default.
fn documented(part: &str) -> Vec<(String, String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let text = std::fs::read_to_string(path).unwrap();
    let part = text.split("\n## ").find(|p| p.starts_with(&format!("`{part}`"))).unwrap();
    let mut rows = Vec::new();
    for section in part.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap();
        let name = if title == "Top level" { "" } else { title.trim_matches(['`', '[', ']']) };
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let key = cells[0].trim_start_matches("| ").trim_matches('`');
            // One row for a key that each outcome has.
            let outcomes: &[Outcome] = if key.contains("OUTCOME") { &Outcome::ALL } else { &[Outcome::Retry] };
            for outcome in outcomes {
                rows.push((name.to_owned(), key.replace("OUTCOME", outcome.name()), cells[1].to_owned()));
            }
        }
    }
    rows
}

#[test]
fn every_outcome_is_documented_with_what_it_counts_as() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("\n## Outcomes").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        (cells[1], cells[3], cells[4])
    });
    let policy = crate::policy::Policy::default();
    let expected = Outcome::ALL.map(|outcome| match policy.classes.of(outcome).treatment {
        Treatment::Reject => (outcome.name(), "reject", ""),
        Treatment::Unavailable => (outcome.name(), "unavailable", ""),
        Treatment::Retry => match policy.attempts_for(outcome) {
            4 => (outcome.name(), "retry", "max-attempts"),
            3 => (outcome.name(), "retry", "3"),
            _ => (outcome.name(), "retry", "2 at most"),
        },
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected);
}

fn agree(rows: &[(String, String, String)], accepted: Vec<String>) {
    let dotted = |(section, key, _): &(String, String, String)| format!("{section}.{key}").trim_matches('.').to_owned();
    let documented: BTreeSet<String> = rows.iter().map(dotted).collect();
    assert_eq!(documented.len(), rows.len(), "a key is documented twice");
    assert_eq!(documented, accepted.into_iter().collect(), "docs/settings.md and the reader know different keys");
}

/// The documented defaults, written out as a file: those of top level first, each table once, arrays with what they require.
fn written(rows: &[(String, String, String)], arrays: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut current = "";
    for (section, key, default) in rows {
        if section != current {
            current = section;
            text += &match arrays.iter().find(|(array, _)| section == array) {
                Some((_, required)) => format!("[[{section}]]\n{required}\n"),
                None => format!("[{section}]\n"),
            };
        }
        if let Some(default) = default.strip_prefix('`').and_then(|default| default.strip_suffix('`')) {
            text += &format!("{key} = {default}\n");
        }
    }
    text
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let rows = documented("tidemill.toml");
    agree(&rows, reader::keys("[[topic]]\n[[destination]]", |root| drop(read::settings(root, Path::new("")))));

    let arrays =
        [("topic", "name = \"t\""), ("destination", "topic = \"t\"\ntype = \"http\"\nurl = \"http://a.example/\"")];
    let defaults = Settings::parse(&written(&rows, &arrays), "tidemill.toml").unwrap();
    let required = arrays.map(|(array, required)| format!("[[{array}]]\n{required}\n")).concat();
    let empty = Settings::parse(&required, "tidemill.toml").unwrap();
    assert_eq!(format!("{defaults:?}"), format!("{empty:?}"));
}

#[test]
fn every_key_of_a_manifest_is_documented_with_its_default() {
    let rows = documented("handler.toml");
    agree(&rows, reader::keys("[[route]]\n[[schedule]]", |root| drop(manifest::read::manifest(root))));

    let arrays = [("route", "method = \"GET\"\npath = \"/\""), ("schedule", "name = \"t\"\ncron = \"* * * * *\"")];
    let resolve = |text: &str| {
        let manifest = Manifest::parse(text, "handler.toml").unwrap();
        Spec::resolve(&manifest, &Settings::parse("", "tidemill.toml").unwrap().defaults, None).unwrap()
    };
    let documented = resolve(&format!("name = \"t\"\n{}", written(&rows, &arrays)));
    let required = arrays.map(|(array, required)| format!("[[{array}]]\n{required}\n")).concat();
    assert_eq!(documented, resolve(&format!("name = \"t\"\n{required}")));
}
