//! H4: what one delivery may use. Each limit ends that delivery and no other, and is named where a person looks for the cause.

use std::time::{Duration, Instant};

use serde_json::json;
use tidemill_tests::{Daemon, Out, SOON, Sandbox, Store, eventually};

use crate::rig::{attempts, seen, services, told};

const ROWS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 51) SELECT i FROM n";

#[test]
fn h4_each_limit_ends_only_its_own_delivery_and_is_named_in_dead_letter_and_log() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(
        "[handler.hostile.retry]\nmax-attempts = 1\n\
         [handler.hostile.limits]\ntime = \"150ms\"\nmemory = \"8MiB\"\nsql-statements = 20\nsql-rows = 50\n\
         sql-bytes = \"4KiB\"\nevents = 5\nevent-bytes = \"1KiB\"\n",
    );
    let sql = |statements: Vec<&str>| json!({ "do": "sql", "statements": statements, "row": false });
    let one = "INSERT INTO once VALUES (random())";
    let over = [
        (json!({ "do": "loop" }), "TimeLimit", "time-limit", "limits.time"),
        (json!({ "do": "recursive-sql" }), "TimeLimit", "time-limit", "limits.time), in SQL"),
        (json!({ "do": "grow" }), "MemoryLimit", "memory-limit", "limits.memory"),
        (sql(vec![one; 21]), "EffectsLimit", "effects-limit", "limits.sql-statements"),
        (sql(vec![ROWS]), "EffectsLimit", "effects-limit", "limits.sql-rows"),
        (sql(vec!["SELECT hex(zeroblob(2049))"]), "EffectsLimit", "effects-limit", "limits.sql-bytes"),
        (json!({ "do": "publish", "count": 6 }), "EffectsLimit", "effects-limit", "limits.events"),
        (json!({ "do": "publish", "bytes": 1100 }), "EffectsLimit", "effects-limit", "limits.event-bytes"),
    ];
    let within = [sql(vec![one; 20]), sql(vec!["SELECT hex(zeroblob(2048))"]), json!({ "do": "publish", "count": 5 })];
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let records = over.iter().map(|(command, ..)| command).chain(&within);
    client.produce_all("hostile-in", records.map(|command| Out::new(command.to_string()).partition(0)));
    client.produce("hostile-in", &told("after", "insert").partition(0));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen WHERE id = 'after'", 1);
    assert_eq!(store.count("SELECT count(*) FROM once"), 20);
    assert_eq!(store.count("SELECT count(*) FROM seen"), 2);
    eventually(SOON, "a dead letter for each", || client.consume_all("hostile-in.DLT").len() == over.len());
    for (letter, (command, class, outcome, limit)) in client.consume_all("hostile-in.DLT").iter().zip(&over) {
        let cause = letter.header_text("kafka_dlt-exception-cause-fqcn").unwrap();
        assert_eq!(cause, format!("tidemill.{class}"), "{command}");
        let why = letter.header_text("kafka_dlt-exception-message").unwrap();
        assert!(why.contains(limit), "{command}: {why}");
        assert_eq!(attempts(letter).len(), 1);
        daemon.says(&["WARN", outcome, limit, "dead letter to hostile-in.DLT"]);
    }
    eventually(SOON, "the events within the limit", || client.consume_all("hostile-out").len() == 5);
}

#[test]
fn h4_a_response_that_is_too_large_is_an_error_and_keeps_nothing() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.limits]\nresponse-bytes = 200\n");
    let daemon = Daemon::start(&sandbox);
    // It answers with the id.
    let post = |id: &str| {
        let body = json!({ "do": "insert", "id": id }).to_string();
        daemon.call("POST", "/hostile").body(&body).send().status
    };
    assert_eq!((post("a"), post(&"long".repeat(50))), (200, 500));
    daemon.says(&["WARN", "effects-limit", "limits.response-bytes"]);
    assert_eq!(seen(&Store::open(&sandbox, "hostile")), ["a|1"]);
}

/// What a handler says is no reason to fail: the rest of it is left out, and that is said.
#[test]
fn h4_what_a_delivery_logs_beyond_its_limit_is_cut_and_nothing_else() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.limits]\nlog-bytes = \"1KiB\"\ntime = \"10s\"\n");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let flood = json!({ "do": "flood-log", "count": 20_000, "id": "flood" });
    client.produce_all("hostile-in", [Out::new(flood.to_string()), told("quiet", "insert")].map(|r| r.partition(0)));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen WHERE id IN ('flood', 'quiet')", 2);
    daemon.says(&["(cut: limits.log-bytes)"]);
    let said = daemon.log().lines().filter(|line| line.contains("xxxxxxxxxx")).count();
    assert!((1..20).contains(&said), "{said} lines of the flood");
}

#[test]
fn h4_a_handlers_words_stay_one_line_of_the_log() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let forged = "no\r\n2026-01-01T00:00:00.000000Z ERROR tidemill: forged\u{1b}[2J";
    let record = json!({ "do": "reject", "message": forged, "row": false });
    daemon.client().produce("hostile-in", &Out::new(record.to_string()));
    let line = daemon.says(&["WARN", "forged"]);
    assert!(line.contains("no\\r\\n2026-01-01") && !line.contains('\u{1b}'), "{line}");
}

/// A handler whose deliveries take long has as much of the store's time as one whose deliveries are short, and not as many turns.
#[test]
fn h4_a_slow_handler_does_not_starve_a_fast_one_in_its_store() {
    const SLOW: usize = 40;
    let sandbox = services(&[("slow", "slow-in", &[]), ("fast", "fast-in", &[])]);
    let topics = std::fs::read_to_string(sandbox.toml()).unwrap();
    let shared = "store = \"shared\"\n";
    sandbox.write_toml(&format!(
        "{topics}[handler.fast]\n{shared}[handler.slow]\n{shared}limits.time = \"10s\"\ngrant.tables = {{ \"*\" = \"write\" }}\n"
    ));
    // The first alphabetically makes the tables; the other has no migrations.
    std::fs::create_dir(sandbox.handler("slow.migrations")).unwrap();
    let long = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) SELECT max(i) FROM n";
    let slow = |n: usize| {
        let commands = json!([{ "do": "insert", "id": format!("slow{n}") }, { "do": "sql", "statements": [long] }]);
        Out::new(commands.to_string()).partition(0)
    };
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let store = Store::open(&sandbox, "shared");
    client.produce_all("slow-in", (0..SLOW).map(slow));
    store.until("SELECT count(*) > 0 FROM seen", 1);
    client.produce_all("fast-in", (0..500).map(|n| told(&format!("fast{n}"), "insert").partition(0)));
    store.until("SELECT count(*) FROM seen WHERE id LIKE 'fast%'", 500);
    // Turn by turn it would be all that are left.
    let between =
        "SELECT count(*) FROM seen, (SELECT min(seq) AS first, max(seq) AS last FROM seen WHERE id LIKE 'fast%')
                   WHERE id LIKE 'slow%' AND seq BETWEEN first AND last";
    let slow_ones = store.count(between);
    assert!(slow_ones < 15, "{slow_ones} slow deliveries among 500 fast ones");
    store.until("SELECT count(*) FROM seen WHERE id LIKE 'slow%'", SLOW as i64);
}

/// A loop takes 100 ms, and so a twentieth of a processor for two seconds, one of which may be owed.
#[test]
fn h4_a_handler_whose_records_fail_has_no_more_of_a_processor_than_its_limits_say() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(
        "[handler.hostile.retry]\nmax-attempts = 1\n[handler.hostile.limits]\ntime = \"100ms\"\nfailing-cpu = 0.05\n",
    );
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    client.produce_all("hostile-in", [told("a", "loop"), told("b", "loop"), told("c", "loop")].map(|r| r.partition(0)));
    eventually(SOON, "a dead letter for each", || client.consume_all("hostile-in.DLT").len() == 3);
    let begun: Vec<i64> =
        client.consume_all("hostile-in.DLT").iter().map(|letter| attempts(letter)[0]["at"].as_i64().unwrap()).collect();
    assert!(begun[1] - begun[0] >= 900 && begun[2] - begun[0] >= 2_900, "{begun:?}");
}

#[test]
fn h4_a_handler_whose_records_succeed_has_no_more_of_a_processor_than_its_limits_say() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.limits]\ntime = \"30s\"\ncpu = 0.01\n");
    let daemon = Daemon::start(&sandbox);
    // On the fastest machine it takes more than 15 ms, and so a hundredth of a processor for 1.5 s, one of which may be owed.
    let count =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n";
    let command = json!({ "do": "sql", "statements": [count] }).to_string();
    let began = Instant::now();
    daemon.client().produce_all("hostile-in", [0; 3].map(|_| Out::new(command.clone()).partition(0)));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen", 3);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn h4_requests_that_read_and_fail_have_no_more_of_a_processor_than_their_limits_say() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile.limits]\ntime = \"100ms\"\nfailing-cpu = 0.01\n");
    let daemon = Daemon::start(&sandbox);
    let get = |what: &str| {
        let path = format!("/hostile?command=%7B%22do%22%3A%22{what}%22%7D");
        daemon.call("GET", &path).send()
    };
    get("insert").expect_status(200);
    get("loop").expect_status(500);
    let rests = get("insert");
    assert_eq!((rests.status, rests.header("retry-after")), (503, Some("1")));
    assert!(rests.text().contains("limits.failing-cpu"), "{}", rests.text());
}
